"""Names of cells and nets as the source has them; paths step by step; cells by submodule."""

import pytest

from synthesis.paths import path_summary, source_name, unit_table
from tests.synthesis.fake_tools import hop


@pytest.mark.parametrize("name, source", [
    ("shell.unit.array.total_0_0_TRELLIS_FF_Q_11_DI_CCU2C_S1_CIN_CCU2C_COUT$CCU2_COMB0",
     "array.total_0_0"),
    ("shell.unit.sums.high_12[3]", "sums.high_12[3]"),
    ("shell.result_TRELLIS_FF_Q_22_DI_L6MUX21_Z_D1", "result"),
    ("shell.unit.bank.memory.0.0_DP16KD", "bank.memory.0.0"),
    ("shell.unit.lut4_flag_LUT4_Z", "lut4_flag"),
    ("shell.unit.mult$12", "mult"),
    ("shell.unit.a<0>_TRELLIS_FF_Q_2", "a[0]"),
    ("$auto$simplemap.cc:1", "$auto"),
    ("LUT4", "LUT4"),
])
def test_source_names(name, source):
    assert source_name(name) == source


def test_a_carry_chain_is_one_step():
    chain = [f"shell.unit.sum_CCU2C_S0_{k}" for k in range(3)]
    path = [hop("clk-to-q", 0.5, "shell.unit.a_TRELLIS_FF_Q", "shell.unit.a_TRELLIS_FF_Q"),
            hop("routing", 1.25, "shell.unit.a_TRELLIS_FF_Q", chain[0], "shell.unit.a[0]"),
            hop("logic", 0.5, chain[0], chain[0]),
            hop("routing", 0.0, chain[0], chain[1], f"{chain[0]}_COUT"),
            hop("logic", 0.25, chain[1], chain[1]),
            hop("routing", 0.25, chain[1], "shell.unit.sum_TRELLIS_FF_Q", f"{chain[1]}_COUT"),
            hop("setup", 0.0, "shell.unit.sum_TRELLIS_FF_Q", "shell.unit.sum_TRELLIS_FF_Q")]
    summary = path_summary(path)
    assert {key: summary[key] for key in ("from", "to", "ns", "logic_ns", "routing_ns")} == {
        "from": "a", "to": "sum", "ns": 2.75, "logic_ns": 1.25, "routing_ns": 1.5}
    assert [(step["signal"], step["logic_ns"], step["routing_ns"]) for step in summary["steps"]
            ] == [("a[0]", 0.5, 1.25), ("sum", 0.75, 0.25)]


def test_a_report_without_a_path_is_incomplete():
    with pytest.raises(KeyError):
        path_summary([])


def test_cells_by_submodule():
    cells = {"shell.unit.array.p_0_0": "MULT18X18D", "shell.unit.array.sum_CCU2C_S0": "CCU2C",
             "shell.unit.array.sum_TRELLIS_FF_Q": "TRELLIS_FF",
             "shell.unit.bank.m_DP16KD": "DP16KD",
             "shell.done_TRELLIS_FF_Q": "TRELLIS_FF", "received_TRELLIS_FF_Q": "TRELLIS_FF",
             "shell.unit.array": "$scopeinfo"}
    assert unit_table({name: {"type": kind} for name, kind in cells.items()}) == [
        {"unit": "array", "luts": 2, "ffs": 1, "dsps": 1, "brams": 0},
        {"unit": "bank", "luts": 0, "ffs": 0, "dsps": 0, "brams": 1},
        {"unit": "top", "luts": 0, "ffs": 1, "dsps": 0, "brams": 0}]

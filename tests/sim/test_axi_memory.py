"""The memory of the testbench, driven by cocotbext-axi: an AXI4 master that we did not write."""

from pathlib import Path

import pytest

from sim.runner import SimulationError, build, run_cocotb

SOURCE = Path(__file__).parents[2] / "sim" / "axi_memory.sv"
BENCH = "tests.sim.axi_memory_bench"


def memory(bus_bits):
    return build([SOURCE], "axi_memory", parameters={
        "BUS_BITS": bus_bits, "BYTES": 1 << 16, "BASE": 0x8000_0000, "READ_LATENCY": 7})


@pytest.mark.slow
@pytest.mark.parametrize(("bus_bits", "stalls"), [
    (128, 0), (128, 40), *(pytest.param(64, share, marks=pytest.mark.long) for share in (0, 40))])
def test_keeps_what_is_written(bus_bits, stalls):
    run_cocotb(memory(bus_bits), BENCH, testcase="keeps_what_is_written",
               plusargs={"axi_stalls": stalls, "axi_seed": 5, "axi_outstanding": 4},
               env={"LOCKSTEP_SEED": "3", "LOCKSTEP_STALLS": str(stalls / 100)})


@pytest.mark.slow
def test_refuses_a_window_and_what_it_does_not_hold():
    run_cocotb(memory(128), BENCH, testcase="refuses_a_window_and_what_it_does_not_hold",
               plusargs={"axi_refuse_base": "80001000", "axi_refuse_limit": "80001100"})


@pytest.mark.slow
@pytest.mark.parametrize("latency", [1, 40])
def test_answers_after_its_latency(latency):
    run_cocotb(memory(128), BENCH, testcase="answers_after_its_latency",
               plusargs={"axi_read_latency": latency}, env={"LOCKSTEP_LATENCY": str(latency)})


@pytest.mark.slow
def test_ends_the_simulation_where_a_master_breaks_the_rules():
    with pytest.raises(SimulationError, match="ended prematurely"):
        run_cocotb(memory(128), BENCH, testcase="sees_an_unaligned_burst")

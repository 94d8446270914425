"""The pyverilator driver shows the same bits, cycle by cycle."""

import subprocess
import sys
from pathlib import Path

import pytest

from sim.pyverilator_driver import PyVerilatorUnit
from tests.sim.units import Increment


@pytest.fixture
def unit(tmp_path):
    unit = PyVerilatorUnit(Increment(), vcd=tmp_path / "trace.vcd")
    yield unit
    unit.close()


@pytest.mark.slow
def test_ports_ticks_and_waveform(unit, tmp_path):
    unit["i__valid"], unit["o__ready"] = 1, 0
    unit["i__payload"] = {"a": -5, "b": [1, -2, 3]}
    assert (unit["i__ready"], unit["o__valid"]) == (1, 0)
    unit.tick()
    assert unit.cycle == 1
    assert (unit["i__ready"], unit["o__valid"]) == (0, 1)
    assert unit["o__payload"] == {"a": -4, "b": [1, -2, 3]}
    with pytest.raises(ValueError, match="Payload must be in"):
        unit["i__payload"] = {"a": 200, "b": [0, 0, 0]}
    with pytest.raises(KeyError, match="nothing"):
        unit["nothing"]
    unit.close()
    assert "o__payload" in (tmp_path / "trace.vcd").read_text().replace("o___05F", "o__")


@pytest.mark.long
def test_the_example_agrees_with_golden(capsys):
    import runpy

    example = runpy.run_path(str(Path(__file__).parents[2] / "examples" / "rescaler_cycles.py"))
    example["main"]([])
    assert "hardware [-3, 7, -13, 127, -3]" in capsys.readouterr().out


@pytest.mark.long
def test_two_units_trace_side_by_side_in_one_process(unit, tmp_path):
    """In a process of its own: a crash would end the test run."""
    script = ("import sys\nfrom sim.pyverilator_driver import PyVerilatorUnit\n"
              "from hw.rtl.lanes.rescaler import Rescaler\nfrom tests.sim.units import Increment\n"
              "units = [PyVerilatorUnit(make(), vcd=f'{sys.argv[1]}/{k}.vcd')\n"
              "         for k, make in enumerate((Rescaler, Increment))]\n"
              "for unit in units:\n    unit.tick()\n    unit.close()\nprint('both')\n")
    result = subprocess.run([sys.executable, "-c", script, str(tmp_path)], text=True, check=False,
                            capture_output=True, cwd=Path(__file__).parents[2])
    assert result.returncode == 0, result.stderr
    assert "both" in result.stdout

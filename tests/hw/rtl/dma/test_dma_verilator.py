# amaranth: UnusedElaboratable=no
"""The engines on Verilator against cocotbext-axi's memory, which we did not write."""

import pytest

from hw.targets import Target
from sim.runner import build, run_cocotb
from sim.unit import component_verilog
from tests.hw.rtl.dma.dma_path import TransferPath

DEPTH = 512


@pytest.mark.slow
@pytest.mark.parametrize(("noise", "stalls"), [
    pytest.param(0, 0.0, marks=pytest.mark.long), (1, 0.4)])
@pytest.mark.parametrize(("columns", "bus_bits"), [
    (8, 64), *(pytest.param(*shape, marks=pytest.mark.long) for shape in ((16, 64), (16, 128)))])
def test_there_and_back(columns, bus_bits, stalls, noise, tmp_path):
    target = Target(name="test", rows=2, columns=columns, bus_bits=bus_bits,
                    bank_words=(DEPTH,) * 4, parameter_words=16, instruction_words=256)
    text, name = component_verilog(TransferPath(target))
    source = tmp_path / f"{name}.v"
    source.write_text(text)
    run_cocotb(build([source], name), "tests.hw.rtl.dma.dma_bench",
               env={"LOCKSTEP_SEED": f"{columns + bus_bits}", "LOCKSTEP_STALLS": str(stalls),
                    "LOCKSTEP_NOISE": str(noise), "LOCKSTEP_WORD": str(columns),
                    "LOCKSTEP_DEPTH": str(DEPTH - 1)})

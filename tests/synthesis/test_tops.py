"""Every part that --top names can be made, and the accelerator is the simulated one."""

import pytest

from hw.targets import get_target
from synthesis.tops import TOPS, top_design


@pytest.mark.parametrize("top", [
    pytest.param(top, marks=pytest.mark.slow if top == "lanes" else pytest.mark.long)
    for top in TOPS if top != "accelerator"])
def test_parts(top):
    design = top_design(top, get_target("sim-4x4"))
    assert f"module {top}(" in design.verilog
    assert design.widths("in")
    assert design.widths("out")


@pytest.mark.slow
def test_the_accelerator_is_the_one_that_is_simulated():
    from sim.design import accelerator_verilog

    target = get_target("sim-4x4")
    design = top_design("accelerator", target)
    assert design.verilog == accelerator_verilog(target)
    for name, (way, width) in design.ports.items():
        vector = f"[{width - 1}:0] " if width > 1 else ""
        assert f"  {way}put {vector}{name};\n" in design.verilog

"""Random programs on the RTL do what the instruction-set model says; and a difference is found."""

import pytest

from hw.machine import Machine
from hw.targets import get_target
from sim.design import build_accelerator
from sim.fuzz import fuzz, small_memories

PLUSARGS = {"axi_stalls": 20}


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sim-4x4", "sim-8x8-axi"])
def test_random_programs_are_as_the_model(name, monkeypatch):
    target = small_memories(get_target(name))
    build = build_accelerator(target)
    found = fuzz(build, target, n_programs=150, seed=1, plusargs=PLUSARGS)
    assert not found, "\n".join(map(str, found))
    right = Machine.rescale
    monkeypatch.setattr(Machine, "rescale", lambda *what: right(*what) ^ 1)
    found = fuzz(build, target, n_programs=40, seed=1, plusargs=PLUSARGS)
    assert any("differs" in one.what for one in found)

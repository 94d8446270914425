"""Random programs on the RTL do what the instruction-set model says; and a difference is found."""

import pytest

from hw.machine import Machine
from sim.design import build_accelerator
from sim.fuzz import fuzz, small_memories
from tests.targets import AXI, ON_CHIP

PLUSARGS = {"axi_stalls": 20}


def assert_as_the_model(target, n_programs):
    found = fuzz(build_accelerator(target), target, n_programs=n_programs, seed=1,
                 plusargs=PLUSARGS)
    assert not found, "\n".join(map(str, found))


@pytest.mark.slow
def test_random_programs_are_as_the_model(monkeypatch):
    assert_as_the_model(AXI, 60)
    right = Machine.rescale
    monkeypatch.setattr(Machine, "rescale", lambda *what: right(*what) ^ 1)
    found = fuzz(build_accelerator(AXI), AXI, n_programs=30, seed=1, plusargs=PLUSARGS)
    assert any("differs" in one.what for one in found)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("target", [*map(small_memories, (AXI, ON_CHIP))], ids=lambda t: t.name)
def test_many_random_programs_are_as_the_model(target):
    assert_as_the_model(target, 3000)

"""The second simulator, with its own front end and model of events, agrees with the first."""

import numpy as np
import pytest

from golden.errors import LockstepError
from hw.compiler import compile_program
from hw.targets import get_target
from sim import cxxrtl
from sim.commands import play
from sim.design import build_accelerator
from sim.images import ImageRuns
from tests import programs


@pytest.mark.long
@pytest.mark.timeout(900)
def test_both_simulators_give_the_same_answers_in_the_same_cycles(monkeypatch):
    # gcc takes minutes to optimise this model.
    monkeypatch.setattr("sim.cxxrtl.COMPILE", (
        *(word for word in cxxrtl.COMPILE if word != "-O2"), "-O0"))
    target = get_target("sim-4x4")
    image = compile_program(programs.residual_net(), target)
    runs = ImageRuns(image)
    for codes in programs.random_codes(programs.residual_net(), 1):
        runs.add({image.inputs[0]: codes[None]}, traced=True)
    first, second = (play(build_accelerator(target, simulator=name), runs.commands)
                     for name in ("verilator", "cxxrtl"))
    runs.check(second)
    assert first.cycles == second.cycles
    assert np.array_equal(first.words, second.words)


def test_external_memory_is_refused():
    with pytest.raises(LockstepError, match="verilator only"):
        build_accelerator(get_target("sim-8x8-axi"), simulator="cxxrtl")

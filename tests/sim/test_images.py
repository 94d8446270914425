"""Runs of images, without hardware: what is read of its answers."""

import numpy as np

from hw.compiler import compile_program
from hw.isa import Counter
from hw.targets import get_target
from sim.commands import Answers
from sim.images import ImageRuns
from tests import programs


def test_counters_have_64_bits():
    program = programs.linear_net()
    image = compile_program(program, get_target("sim-4x4"))
    runs = ImageRuns(image)
    runs.add({image.inputs[0]: programs.random_codes(program, 1)}, traced=False)
    words = np.arange(1, 1 + runs.commands.n_answers, dtype="<u4")
    counters = runs.counters(Answers(words=words, cycles=0), 0)
    assert list(counters) == [counter.name.lower() for counter in Counter]
    low = counters[Counter(0).name.lower()] & 0xFFFFFFFF
    assert list(counters.values()) == [low + 2 * k | low + 2 * k + 1 << 32
                                       for k in range(len(Counter))]

"""Random programs of every operator and odd sizes, compiled, run on the model, as golden."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hw.isa import N_WORDS, decode, encode
from hw.targets import get_target
from tests import programs
from tests.hw.compiler.compiled import assert_as_golden, run_image
from tests.hw.random_programs import convolutions, networks

TARGETS = ["sim-4x4", "sim-8x8", "array-2x8", "ecp5-85k", "ecp5-85k-packed"]


def codes(program, n=1):
    return programs.random_codes(program, n)


@pytest.mark.slow
@settings(max_examples=120, deadline=None)
@given(convolutions(), st.sampled_from(TARGETS))
def test_any_convolution_is_as_golden(program, target):
    assert_as_golden(program, get_target(target), codes(program))


@pytest.mark.slow
@settings(max_examples=80, deadline=None)
@given(networks(), st.sampled_from(TARGETS), st.integers(1, 3))
def test_any_network_is_as_golden(program, target, batch):
    assert_as_golden(program, get_target(target), codes(program, batch), batch)


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("make", [
    lambda m: m.conv(m.input, 20, kernel=(15, 15), padding=(7,) * 4),
    lambda m: m.conv(m.input, 5, kernel=(1, 13), padding=(0, 15, 0, 6), stride=(2, 3)),
    lambda m: m.conv(m.input, 5, kernel=(13, 1), padding=(15, 0, 15, 0)),
    lambda m: m.conv(m.input, 3, groups=3, kernel=(5, 1), padding=(2, 0, 2, 0)),
    lambda m: m.conv(m.input, 3, groups=3, padding=(1, 1, 1, 1), stride=(1, 5)),
    lambda m: m.conv(m.input, 3, groups=3, padding=(18, 17, 0, 0), stride=(17, 16)),
    lambda m: m.average_pool(m.input, (20, 19), (17, 18)),
    lambda m: m.max_pool(m.input, (15, 15), (3, 2), (7, 0, 7, 14)),
    lambda m: m.code_average_pool(m.input, (20, 19), (17, 18)),
    lambda m: m.code_average_pool(m.input, (4, 5), (1, 1), (3, 4, 2, 1)),
    lambda m: m.code_average_pool(m.input, (5, 3), (3, 4), (0, 2, 4, 0), low=-100, high=50),
], ids=["15x15", "1x13", "13x1", "depthwise 5x1", "depthwise stride 5", "depthwise far",
        "average far", "max 15x15", "codes far", "codes padded", "codes strided"])
def test_large_windows_are_as_golden(make, target):
    maker = programs.Maker("window", (3, 21, 20), 0)
    program = maker.program(make(maker))
    assert_as_golden(program, get_target(target), codes(program))


def test_a_planted_fault_is_seen():
    """A bit of a weight, a parameter, a field: each changes the result."""
    make = programs.Maker("fault", (8, 6, 6), 0)
    program, target = make.program(make.conv(make.input, 8)), get_target("sim-8x8")
    x = codes(program)
    image = assert_as_golden(program, target, x)
    good = run_image(image, program.quantize_input(x))

    def changes():
        return not np.array_equal(run_image(image, program.quantize_input(x)), good)

    assert not changes()
    image.blocks[0].words[0, 0] ^= 64
    assert changes()
    image.blocks[0].words[0, 0] ^= 64
    image.parameters[0, 0] += 1 << 20
    assert changes()
    image.parameters[0, 0] -= 1 << 20
    fields = decode([int(word) for word in image.instructions[:N_WORDS]])
    image.instructions[:N_WORDS] = encode(**fields | {"a_k1_step": fields["a_k1_step"] + 1})
    assert changes()

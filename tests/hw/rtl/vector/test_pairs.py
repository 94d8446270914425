# amaranth: UnusedElaboratable=no
"""MUL: corners of the product, both kinds of second input, and in how many cycles."""

import itertools

import numpy as np
import pytest

from golden.arith import INT8_MAX, INT8_MIN
from hw.isa import Opcode
from tests.hw.rtl.vector.test_vector import check, instruction, steady, target_of
from tests.hw.rtl.vector.vector_bench import run
from tests.hw.rtl.vector.vector_model import Memories, model

pytestmark = pytest.mark.slow

CORNERS = (INT8_MIN, INT8_MIN + 1, -1, 0, 1, INT8_MAX)


@pytest.mark.parametrize(("zero_points", "scale"), [
    ((INT8_MIN, INT8_MIN), {"shift_2": 38}),  # up to 255 * 255
    ((INT8_MIN, INT8_MAX), {"shift_2": 39, "gemmlowp": 1}),  # down to -255 * 255
    ((0, 0), {"shift_2": 31}),  # half of the product: every odd one is a tie
    ((0, 0), {"shift_2": 32, "gemmlowp": 1}),
    ((0, 0), {"shift_2": 36, "low": -5, "high": 3}),
])
def test_products_of_corners(zero_points, scale):
    pairs = np.array([*itertools.product(CORNERS, CORNERS)], np.int8)  # 36, nine words of four
    target = target_of(4)
    memories = Memories(target)
    memories.banks[0][100:109], memories.banks[3][300:309] = pairs.T.reshape(2, 9, 4)
    f = instruction(Opcode.MUL, 4, out_width=9, n_chunks=1, out_step=1, zero_point=0,
                    zero_point_0=zero_points[0], zero_point_1=zero_points[1],
                    **{"low": INT8_MIN, "high": INT8_MAX, **scale})
    expected = model(memories, f)
    run(target, memories, [f], stalls=0.2)
    assert (memories.banks[2] == expected.banks[2]).all()


@pytest.mark.parametrize("broadcast", [0, 1])
@pytest.mark.parametrize(("columns", "lanes", "n_channels"), [
    (4, 4, 11), (8, 4, 20), (8, 8, 20), (16, 4, 40), (16, 8, 39)])
def test_several_chunks_and_pixels(columns, lanes, n_channels, broadcast):
    """The last chunk has fewer groups than the others; the first three channels are masked."""
    f = instruction(Opcode.MUL, columns, n_chunks=3, out_step=4, out_width=9,
                    n_channels=n_channels, first_channel=3, broadcast=broadcast)
    report = check(columns, [f, f | {"broadcast": 1 - broadcast, "out_base": 100}], lanes=lanes,
                   stalls=0.2)
    groups = sum(-(-min(columns, n_channels - first) // lanes)
                 for first in range(0, 3 * columns, columns))
    assert len(report.items) == 2 * 9 * groups, "a group takes one item"


@pytest.mark.parametrize(("columns", "lanes", "cycles"), [
    (4, 4, 5), (8, 4, 6), (16, 4, 8), (8, 8, 5), (16, 8, 6)])
def test_cycles_of_a_word(columns, lanes, cycles):
    f = instruction(Opcode.MUL, columns, n_chunks=1, out_step=1, out_width=20)
    assert steady(check(columns, [f], lanes=lanes)) <= 20 * cycles + 12


def test_a_pixel_never_begins_before_its_input_is_there():
    f = instruction(Opcode.MUL, 4, out_width=12, broadcast=1)
    check(4, [f], unit_cycles=60)
    with pytest.raises(AssertionError, match="read before it was there"):
        check(4, [f], unit_cycles=60, ignore_units=True)

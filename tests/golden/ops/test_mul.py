"""Products of tensors against Python ints, whole and broadcast over pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import ops
from golden.arith import Rounding
from tests.golden import literal

CODES = st.integers(-128, 127)


def mul(zero_points=(3, -4), factor=0.01, zero_point=5, **fields):
    return ops.Mul(input_zero_points=zero_points,
                   rescale=ops.Rescale.from_factors(factor, zero_point=zero_point, **fields))


@given(CODES, CODES, CODES, CODES, CODES, st.floats(1e-6, 40), st.sampled_from(list(Rounding)))
def test_products_are_the_literal_ones(first, second, z1, z2, zero_point, factor, rounding):
    op = mul((z1, z2), factor, zero_point, rounding=rounding)
    y = op(np.array([[first]], np.int8), np.array([[second]], np.int8))
    assert y.dtype == np.int8
    assert y[0, 0] == literal.mul(op, first, second)
    (low, high), raw = op.accumulators(((first, 127), (-128, second)))
    assert low <= (first - z1) * (second - z2) <= high
    assert raw is None


def test_one_value_per_channel_meets_all_its_pixels():
    rng = np.random.default_rng(0)
    x, gate = (rng.integers(-128, 128, (2, 3, *size), dtype=np.int8) for size in ((4, 5), (1, 1)))
    op = mul(factor=1 / 64, rounding="gemmlowp", low=-100)
    y = op(x, gate)
    for index in np.ndindex(x.shape):
        assert y[index] == literal.mul(op, int(x[index]), int(gate[index[0], index[1], 0, 0]))
    assert (y == op(x, np.broadcast_to(gate, x.shape))).all()


def test_bounds_are_reached_at_the_corners():
    op = mul((127, -128), 1e-3)
    (low, high), _ = op.accumulators(((-128, 127), (-128, 127)))
    assert (low, high) == (-255 * 255, 0)
    assert op.accumulate(np.array([[-128]], np.int8), np.array([[127]], np.int8)) == low


def test_rows_of_a_broadcast_input():
    op = mul()
    assert op.input_rows(2, 5, (3, 9, 4), (3, 9, 4)) == ((2, 5), (2, 5))
    assert op.input_rows(2, 5, (3, 9, 4), (3, 1, 1)) == ((2, 5), (0, 1))


@pytest.mark.parametrize(("shapes", "message"), [
    (((3, 4, 5), (3, 1, 5)), r"shape \(3, 4, 5\) or \(3, 1, 1\), not \(3, 1, 5\)"),
    (((3, 4, 5), (1, 1, 1)), r"shape \(3, 4, 5\) or \(3, 1, 1\), not \(1, 1, 1\)"),
    (((3, 4, 5), (3,)), r".*not \(3,\)"),
    (((3,), (1,)), r"shape \(3,\), not \(1,\)"),
])
def test_shapes_are_checked(shapes, message):
    with pytest.raises(ValueError, match=f"Mul must get a second input of {message}"):
        mul().output_shape(*shapes)


def test_fields_are_checked():
    with pytest.raises(ValueError, match="Input zero points must have 2 entries, not 1"):
        mul((3,))
    with pytest.raises(ValueError, match="Rescale must have 1 or 1 multipliers, not 2"):
        mul(factor=[1, 2])

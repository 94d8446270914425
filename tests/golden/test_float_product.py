"""Multipliers that round as a float64 product does, at every step and beside it."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden import arith
from golden.float_product import float_product
from tests.golden import literal


def rounded(acc, factor, low, high):
    """C's round of the float64 product, clamped."""
    product = acc * factor
    return np.clip(np.copysign(np.floor(np.abs(product) + 0.5), product), low, high).astype(int)


def beside_the_steps(factor, low, high):
    halves = np.arange(low - 1, high + 1) + 0.5
    values = np.concatenate([np.floor(halves / factor) + d for d in (-1, 0, 1, 2)])
    return values[np.abs(values) < 2**31].astype(np.int64)


def assert_as_float(factor, low, high):
    acc = beside_the_steps(factor, low, high)
    multiplier, shift, wrong = float_product(factor, low, high)
    assert wrong == 0
    got = arith.requantize(acc, multiplier, shift, 0, low, high)
    assert (got == rounded(acc, factor, low, high)).all()


@settings(max_examples=60, deadline=None)
@given(st.floats(-10, 2).map(lambda e: 2.0**e), st.integers(-255, 0), st.integers(0, 255))
def test_every_step_is_where_the_float_product_has_it(factor, low, high):
    assert_as_float(factor, low, high)


@pytest.mark.parametrize("factor", [1 / 2, 1 / 4, 3 / 4, 1 / 1024, 1.0, 2.0, 1 / 3, 0.1, 4097.0])
def test_exact_ties_go_away_from_zero(factor):
    assert_as_float(factor, -255, 255)


def test_the_nearest_multiplier_alone_would_be_wrong():
    acc = np.array([-3, -1, 1, 3])
    nearest = arith.requantize(acc, *arith.multiplier_and_shift(0.5), 0, -9, 9)
    multiplier, shift, _ = float_product(0.5, -9, 9)
    assert nearest.tolist() == [-1, 0, 1, 2]
    assert arith.requantize(acc, multiplier, shift, 0, -9, 9).tolist() == [-2, -1, 1, 2]


def test_steps_that_no_multiplier_can_have_are_counted():
    """A factor of 2**-22 has more than a step per unit of the multiplier's last bit."""
    wrong = [float_product(factor, -255, 255)[2] for factor in (1.1 * 2**-22, 1.3 * 2**-22)]
    assert max(wrong) > 0
    # Sums that cannot occur bind nothing.
    assert float_product(1.1 * 2**-22, -255, 255, -1000, 1000)[2] == 0


@pytest.mark.parametrize("count", [*range(1, 70), 255, 256, 257, 1024, 49 * 49, 2**16 - 1, 2**16])
def test_averages_are_c_divisions(count):
    multiplier, shift = arith.average_factor(count)
    assert 2**30 < multiplier < 2**31
    rng = np.random.default_rng(count)
    halves = np.arange(-128, 128) * count + count // 2
    totals = np.concatenate([np.arange(-200, 201), halves - 1, halves, halves + 1,
                             rng.integers(-128 * count, 127 * count + 1, 500)])
    totals = totals.clip(-128 * count, 127 * count)
    got = arith.requantize(totals, int(multiplier), int(shift), 0, -128, 127)
    assert got.tolist() == [literal.divide_half_away(int(total), count) for total in totals]


def test_average_factors_of_an_array():
    multiplier, shift = arith.average_factor(np.array([[1, 2], [3, 4]]))
    assert multiplier.tolist() == [[2**30 + 1, 2**30 + 1], [math.floor(2**32 / 3) + 1, 2**30 + 1]]
    assert shift.tolist() == [[30, 31], [32, 32]]

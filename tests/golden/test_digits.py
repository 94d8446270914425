"""Balanced byte digits of 16-bit gradients."""

import numpy as np

from golden import digits


def test_every_gradient_is_the_sum_of_its_digits():
    gradient = np.arange(-(1 << 15), 1 << 15)
    low, high = digits.split(gradient)
    assert low.dtype == high.dtype == np.int8
    expected = np.minimum(gradient, 32639)
    assert np.array_equal(digits.combine(low, high), expected)
    assert digits.GRADIENT_MAX == 32639


def test_the_clamp_is_where_the_high_digit_ends():
    low, high = digits.split([32639, 32640, 1 << 20, -(1 << 20)])
    assert high.tolist() == [127, 127, 127, -128]
    assert low.tolist() == [127, 127, 127, 0]
    unclamped = 32640
    assert (unclamped - ((unclamped + 128 & 0xFF) - 128)) >> 8 == 128  # would not fit


def test_the_largest_sums_fit():
    assert digits.MAX_TERMS == 131071
    assert digits.MAX_TERMS * (1 << 14) < 1 << 31 <= (digits.MAX_TERMS + 1) * (1 << 14)
    worst = -digits.MAX_TERMS * (1 << 14)
    assert digits.combine(worst, worst) == worst * 257

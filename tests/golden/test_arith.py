"""golden.arith against plain Python integers and the definitions of gemmlowp."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden import arith
from golden.arith import Rounding, requantize
from tests.golden import literal

accumulators = st.integers(-2**31, 2**31 - 1) | st.integers(-300, 300)
multipliers = st.integers(0, 2**31 - 1) | st.sampled_from([0, 1, 2**30, 2**30 + 1, 2**31 - 1])
shifts = st.integers(0, 62)
LITERAL = {Rounding.HALF_UP: literal.half_up, Rounding.GEMMLOWP: literal.gemmlowp}


@given(accumulators, multipliers, shifts, st.integers(-128, 127), st.sampled_from(list(Rounding)))
def test_requantize_is_the_literal_definition(acc, multiplier, shift, zero_point, rounding):
    for low, high in ((-128, 127), (-2**31, 2**31 - 1), (zero_point, 127)):
        expected = LITERAL[rounding](acc, multiplier, shift, zero_point, low, high)
        scalars = requantize(acc, multiplier, shift, zero_point, low, high, rounding)
        arrays = requantize(np.array([acc]), np.array([multiplier]), np.array([shift]),
                            zero_point, low, high, rounding)
        assert scalars == expected
        assert arrays.dtype == np.int64
        assert arrays[0] == expected


CORNERS = (-2**31, -2**31 + 1, -2**30, -3, -2, -1, 0, 1, 2, 3, 2**30 - 1, 2**30, 2**31 - 1)


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize("shift", [0, 1, 29, 30, 31, 32, 33, 40, 61, 62])
def test_requantize_corners(rounding, shift):
    for multiplier in (0, 1, 2**30 - 1, 2**30, 2**30 + 1, 3 << 29, 2**31 - 1):
        got = requantize(np.array(CORNERS), multiplier, shift, 0, -2**31, 2**31 - 1, rounding)
        expected = [LITERAL[rounding](acc, multiplier, shift, 0, -2**31, 2**31 - 1)
                    for acc in CORNERS]
        assert got.tolist() == expected


def test_ties_of_both_roundings():
    acc = np.array([-5, -3, -1, 1, 3, 5])           # acc / 2 is a tie
    assert requantize(acc, 1 << 30, 31, 0, -9, 9).tolist() == [-2, -1, 0, 1, 2, 3]
    # TFLite: the high multiplication rounds ties up, the shift afterwards rounds them away from 0.
    assert requantize(acc, 1 << 30, 31, 0, -9, 9, Rounding.GEMMLOWP).tolist() == [
        -2, -1, 0, 1, 2, 3]
    acc = np.array([-10, -6, -2, 2, 6, 10])         # acc / 4, ties at the second rounding
    assert requantize(acc, 1 << 30, 32, 0, -9, 9, Rounding.GEMMLOWP).tolist() == [
        -3, -2, -1, 1, 2, 3]
    assert requantize(acc, 1 << 30, 32, 0, -9, 9).tolist() == [-2, -1, 0, 1, 2, 3]


def test_double_rounding_differs_where_it_should():
    # 0.46875: the first rounding makes 1 of 0.9375, the second 1 of 1 / 2.
    acc, multiplier, shift = 1, (1 << 31) - (1 << 27), 32
    assert requantize(acc, multiplier, shift, 0, -9, 9) == 0
    assert requantize(acc, multiplier, shift, 0, -9, 9, Rounding.GEMMLOWP) == 1


def test_left_shift_saturates():
    assert requantize(2**20, 1 << 30, 10, 0, -2**31, 2**31 - 1) == 2**30
    assert requantize(-2**40, 1 << 30, 31, 0, -2**31, 2**31 - 1) == -2**30


def test_requantize_rejects_floats():
    with pytest.raises(TypeError, match="not float64"):
        requantize(np.array([1.0]), 1, 31, 0, -128, 127)
    with pytest.raises(TypeError, match="not float"):
        requantize(1.5, 1, 31, 0, -128, 127)
    with pytest.raises(ValueError, match="half_even"):
        requantize(1, 1, 31, 0, -128, 127, "half_even")


@given(st.floats(2.0**-31, 2.0**30))
def test_multiplier_and_shift_is_nearest(factor):
    multiplier, shift = arith.multiplier_and_shift(factor)
    assert 2**30 <= multiplier < 2**31
    assert 0 <= shift <= 62
    error = abs(Fraction(multiplier, 2**shift) - Fraction(factor))
    assert error <= Fraction(1, 2**(shift + 1))


def test_multiplier_and_shift_limits():
    assert arith.multiplier_and_shift(0) == (0, 31)
    assert arith.multiplier_and_shift(1.0) == (1 << 30, 30)
    assert arith.multiplier_and_shift(math.nextafter(1.0, 0)) == (1 << 30, 30)
    assert arith.multiplier_and_shift(2.0**-32) == (1 << 30, 62)
    for bad in (-1.0, math.inf, math.nan, 2.0**-33, 2.0**31):
        with pytest.raises(ValueError, match="Rescale factor must be"):
            arith.multiplier_and_shift(bad)


def test_quantize():
    x = np.array([-np.inf, -1.5, -0.5, 0.0, 0.5, 1.5, 400.0, np.inf], np.float32)
    assert arith.quantize(x, 1.0, 3).tolist() == [-128, 2, 3, 3, 4, 5, 127, 127]
    with pytest.raises(ValueError, match="NaN"):
        arith.quantize([math.nan], 1.0, 0)
    with pytest.raises(ValueError, match="Scale must be finite and above 0, not 0"):
        arith.quantize([1.0], 0, 0)
    assert arith.dequantize(np.array([5], np.int8), 0.5, 3).tolist() == [1.0]


@given(st.integers(-2**40, 2**40), st.integers(1, 16))
def test_stochastic_shift_is_unbiased(x, n):
    if n <= 8:
        total = sum(arith.stochastic_shift(x, r, n) for r in range(1 << n))
        assert total == x
    assert arith.stochastic_shift(x, 0, n) == x >> n
    assert arith.stochastic_shift(x, (1 << n) - 1, n) == -(-x >> n)


def test_torch_tensors_give_the_same_numbers():
    torch = pytest.importorskip("torch")
    torch.set_num_threads(1)
    acc = np.random.default_rng(0).integers(-2**31, 2**31, 4096)
    for rounding in Rounding:
        for shift in (20, 31, 33, 40):
            expected = requantize(acc, 0x5A5A5A5A, shift, 3, -128, 127, rounding)
            got = requantize(torch.from_numpy(acc), torch.tensor(0x5A5A5A5A), torch.tensor(shift),
                             3, -128, 127, rounding)
            assert (got.numpy() == expected).all()

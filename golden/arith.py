"""Integer arithmetic: the only place that defines rounding, shifting and clamping.

The integer functions use `+ - *`, compare and floor shift, which mean the same on a Python int,
an int64 numpy array, an int64 torch tensor and in hardware; numpy integers of other widths are
widened to int64. Rounding is "add half, shift right".

Sources: Jacob et al. 2017, arXiv 1712.05877 (multiplier and shift); google/gemmlowp,
fixedpoint/fixedpoint.h (SaturatingRoundingDoublingHighMul, RoundingDivideByPOT).
"""

import math
from enum import Enum
from typing import TypeVar

import numpy as np

from golden import validate

__all__ = ["INT32_MAX", "INT32_MIN", "INT8_MAX", "INT8_MIN", "MULTIPLIER_MAX", "MULTIPLIER_WIDTH",
           "Rounding", "SHIFT_MAX", "as_int64", "average_factor", "bit_length", "clamp",
           "dequantize", "floor_divide", "lanes", "multiplier_and_shift", "quantize", "requantize",
           "round_divide", "round_shift", "saturate", "split_shift", "stochastic_shift"]

INT8_MIN, INT8_MAX = -(1 << 7), (1 << 7) - 1
INT32_MIN, INT32_MAX = -(1 << 31), (1 << 31) - 1
MULTIPLIER_WIDTH = 31           # unsigned
MULTIPLIER_MAX = (1 << MULTIPLIER_WIDTH) - 1
SHIFT_MAX = 62

_Kind = TypeVar("_Kind")        # a Python int, an int64 array or an int64 tensor


class Rounding(str, Enum):
    """How `requantize` rounds.

    HALF_UP: one rounding, ties towards plus infinity.
    GEMMLOWP: two roundings in sequence, as TFLite's reference convolution kernels do.
    """

    HALF_UP = "half_up"
    GEMMLOWP = "gemmlowp"


def as_int64(x: _Kind) -> _Kind:
    """Returns x as a Python int, an int64 array or an int64 tensor; TypeError for anything else."""
    if isinstance(x, int) and not isinstance(x, bool):
        return x
    if isinstance(x, (np.ndarray, np.generic, list, tuple)):
        x = np.asarray(x)
        if x.dtype.kind not in "iu":
            raise TypeError(f"Integer arithmetic takes integers, not {x.dtype}")
        return x.astype(np.int64, copy=False)[()]
    if str(getattr(x, "dtype", "")) == "torch.int64":
        return x
    raise TypeError(f"Integer arithmetic takes integers, not {type(x).__name__}")


def clamp(x: _Kind, low, high) -> _Kind:
    """Limits x to [low, high], elementwise."""
    if hasattr(x, "clip"):
        return x.clip(low, high)
    return max(low, min(high, x))


def saturate(x: _Kind, bits) -> _Kind:
    """Limits x to the range of a signed integer of `bits` bits."""
    return clamp(x, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def round_shift(x: _Kind, n) -> _Kind:
    """x / 2**n rounded to the nearest integer, ties towards plus infinity. n >= 0."""
    return (x + ((1 << n) >> 1)) >> n


def stochastic_shift(x: _Kind, r, n) -> _Kind:
    """floor((x + r) / 2**n): stochastic rounding for r uniform in [0, 2**n)."""
    return (x + r) >> n


def floor_divide(x: _Kind, divisor) -> _Kind:
    """floor(x / divisor), divisor > 0."""
    return x // divisor


def round_divide(x: _Kind, divisor) -> _Kind:
    """floor((x + floor(divisor / 2)) / divisor), divisor > 0: nearest, halves upwards if even."""
    return (x + (divisor >> 1)) // divisor


def bit_length(x: _Kind) -> _Kind:
    """The number of bits of x, 0..2**62, elementwise; 0 for 0."""
    length = 0
    for n in (32, 16, 8, 4, 2, 1):
        step = clamp(x >> n, 0, 1) * n
        length, x = length + step, x >> step
    return length + x


def split_shift(shift: _Kind) -> tuple[_Kind, _Kind]:
    """Splits a shift of 0..62 into (left, right): left before the product, right after it.

    The product with the multiplier is always shifted right by 31 + right.
    """
    return clamp(31 - shift, 0, 31), clamp(shift - 31, 0, 31)


def _product(acc, multiplier, shift):
    """The product of the lanes, at most 2**62, and the shift to the right that follows 31."""
    left, right = split_shift(shift)
    return saturate(saturate(acc, 32) << left, 32) * multiplier, right


def requantize(acc: _Kind, multiplier, shift, zero_point, low, high,
               rounding=Rounding.HALF_UP) -> _Kind:
    """Rescales an accumulator: clamp(round(acc * multiplier * 2**-shift) + zero_point).

    acc: integers; values beyond int32 saturate first, and so does the left shift (shift < 31)
    multiplier: 0..2**31-1, a scalar or an array that broadcasts against acc
    shift: 0..62, likewise
    zero_point, low, high: output zero point and the inclusive clamp bounds
    Returns integers of the kind of acc (int64 for numpy).
    Raises TypeError for operands that are not integers, ValueError for an unknown rounding.
    """
    rounding = Rounding(rounding)
    product, right = _product(as_int64(acc), as_int64(multiplier), as_int64(shift))
    if rounding is Rounding.HALF_UP:
        y = round_shift(product, 31 + right)
    else:
        high_half = round_shift(product, 31)
        # Ties away from zero: one less before the floor where negative, unless nothing is shifted.
        negative = (high_half >> 63) * clamp(right, 0, 1)
        y = (high_half + ((1 << right) >> 1) + negative) >> right
    return clamp(y + zero_point, low, high)


def lanes(acc: _Kind, multiplier, shift, random=None) -> _Kind:
    """`requantize` before the zero point and the clamp, for shifts that are data. Fits int32.

    acc: integers, saturated to int32; multiplier: limited to 0..2**31-1
    shift: any; above 62 the result is 0, below 0 counts as 0 (where the result saturates anyway)
    random: integers of 0..255, or None to round half up. The rounding constant is
        (2 random + 1) / 512 of the last place instead of one half: its mean, so that the error of
        9 and more dropped bits has mean 0. The integer training step rounds its gradients so.
    """
    acc, multiplier, shift = as_int64(acc), as_int64(multiplier), as_int64(shift)
    kept = 1 - clamp(shift - SHIFT_MAX, 0, 1)
    product, right = _product(acc, clamp(multiplier, 0, MULTIPLIER_MAX) * kept,
                              clamp(shift, 0, SHIFT_MAX))
    if random is None:
        return round_shift(product, 31 + right)
    return stochastic_shift(product, (2 * as_int64(random) + 1) << (22 + right), 31 + right)


def multiplier_and_shift(factor) -> tuple[int, int]:
    """The nearest multiplier and shift of a real factor: factor ~ multiplier * 2**-shift.

    factor: 0 (gives (0, 31)) or a float whose multiplier is in [2**30, 2**31) for a shift in
        0..62, that is about 2.4e-10 to 2.1e9
    Returns (int, int). Raises ValueError for a factor that is negative, not finite or outside.
    """
    factor = float(factor)
    if not math.isfinite(factor) or factor < 0:
        raise ValueError(f"Rescale factor must be finite and not negative, not {factor}")
    if factor == 0:
        return 0, 31
    mantissa, exponent = math.frexp(factor)
    multiplier = math.floor(math.ldexp(mantissa, MULTIPLIER_WIDTH) + 0.5)
    if multiplier > MULTIPLIER_MAX:
        multiplier, exponent = multiplier >> 1, exponent + 1
    shift = MULTIPLIER_WIDTH - exponent
    if not 0 <= shift <= SHIFT_MAX:
        raise ValueError(f"Rescale factor must be in 2**-32..2**31, not {factor}")
    return multiplier, shift


def average_factor(count) -> tuple[np.ndarray | np.int64, np.ndarray | np.int64]:
    """(multiplier, shift) whose half-up `requantize` is sum / count, ties away from zero.

    count: integers of 1..2**16, a scalar or an array; sums of that many int8 codes.
    The multiplier lies above 2**shift / count by at most one: that takes ties away from zero on
    both sides, and is an error below 2**-22 where a tie is at least 2**-17 away.
    """
    count = as_int64(count)
    shift = 30 + np.frexp(count - 1)[1].astype(np.int64)    # 2**(shift - 30) >= count
    return (1 << shift) // count + 1, shift


def quantize(x, scale, zero_point, low=INT8_MIN, high=INT8_MAX) -> np.ndarray | np.int64:
    """Real values to codes: clamp(floor(float64(x) / scale + 0.5) + zero_point), int64.

    Infinities go to the bounds; NaN raises ValueError.
    """
    scale = validate.positive("Scale", scale)
    x = np.asarray(x, dtype=np.float64)
    if np.isnan(x).any():
        raise ValueError("Values to quantize must not hold NaN")
    with np.errstate(over="ignore"):
        return np.clip(np.floor(x / scale + 0.5) + zero_point, low, high).astype(np.int64)


def dequantize(codes, scale, zero_point) -> np.ndarray | np.float64:
    """Codes to real values: scale * (code - zero_point), float64."""
    return scale * (np.asarray(codes).astype(np.float64) - zero_point)

"""From real factors to the integer operators of a Program; what lowering and import share."""

import numpy as np

from golden import arith, ops
from golden.ops import Rescale

__all__ = ["CODE_SPAN", "add_op", "identity_conv", "product_fields", "shift_op"]

ADD_LEFT_SHIFT = 20
SMALLEST_FACTOR = 2.0**-32      # what arith.multiplier_and_shift can express
CODE_SPAN = 256 + 128           # bounds |q - Z| and, for products of raw codes, |q| + |Z|


def product_fields(codes, unit, factor_signs, offset, source, target) -> tuple[dict, np.ndarray]:
    """Integers of ``y = sum(weight * x) + offset`` per output channel.

    codes: int64 (O, ...); unit: float64 (O,), what one accumulator step is worth; factor_signs:
    (O,), channels below 0 are negated; offset: float64 (O,), real; source, target: `Quantization`s
    Returns (fields weights, bias and input_zero_point of Conv2d and Linear, factors (O,) for the
    Rescale). A channel whose factor is 0, or whose bias does not fit int32, becomes weight 0 and
    the code of its constant.
    """
    per_channel = (-1,) + (1,) * (codes.ndim - 1)
    codes = codes * np.where(factor_signs < 0, -1, 1).reshape(per_channel)
    codes = np.minimum(codes, arith.INT8_MAX)   # 128, of -128 negated, is no code
    factors = unit / target.scale
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bias = np.floor(offset / unit + 0.5)
    largest = np.abs(codes).reshape(len(codes), -1).sum(axis=1) * CODE_SPAN
    fits = (factors >= SMALLEST_FACTOR) & (np.abs(bias) + largest <= arith.INT32_MAX)
    constant = arith.quantize(offset, target.scale, target.zero_point) - target.zero_point
    fields = {"weights": np.where(fits.reshape(per_channel), codes, 0).astype(np.int8),
              "bias": np.where(fits, np.where(fits, bias, 0), constant).astype(np.int32),
              "input_zero_point": source.zero_point}
    return fields, np.where(fits, factors, 1.0)


def add_op(first, second, target, make_rescale) -> ops.Add:
    """The Add of two quantized tensors.

    first, second, target: `Quantization`s; make_rescale(factor): the Rescale of the output
    """
    twice = 2 * max(first.scale, second.scale)

    def share(scale):  # below 2**-32 an input is less than nothing to the sum
        factor = scale / twice
        return arith.multiplier_and_shift(factor if factor >= SMALLEST_FACTOR else 0)
    return ops.Add(input_zero_points=(first.zero_point, second.zero_point),
                   left_shift=ADD_LEFT_SHIFT,
                   input_rescales=(share(first.scale), share(second.scale)),
                   rescale=make_rescale(twice / (2**ADD_LEFT_SHIFT * target.scale)))


def shift_op(source, target) -> ops.Rescaling:
    """The Rescaling from one quantization to another."""
    rescale = Rescale.from_factors(source.scale / target.scale, zero_point=target.zero_point)
    return ops.Rescaling(input_zero_point=source.zero_point, rescale=rescale)


def identity_conv(channels, zero_point, padding=(0, 0, 0, 0), added=(0, 0)) -> ops.Conv2d:
    """A convolution that copies codes and pads with the zero point.

    added: channels of the zero point in front of the others and behind them; they make the weights
    a square, so that the caller must bound them
    """
    before, after = added
    weights = np.ones((channels, 1, 1, 1), np.int8)
    if before or after:
        weights = np.eye(channels + before + after, channels, -before, np.int8)[:, :, None, None]
    one = Rescale(multiplier=[1 << 30], shift=[30], zero_point=zero_point)
    return ops.Conv2d(weights=weights, bias=np.zeros(len(weights), np.int32),
                      groups=1 if before or after else channels, input_zero_point=zero_point,
                      padding=padding, rescale=one)

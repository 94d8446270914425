"""AVERAGE_POOL_2D, MAX_POOL_2D and MEAN over all pixels.

Sources: reference/integer_ops/pooling.h and reference/reduce.h (QuantizedMeanOrSum).
"""

import numpy as np

from golden import ops
from golden.arith import INT8_MAX, INT8_MIN, Rounding
from sw.formats.tflite.builder import Builder, activation_bounds, tflite_factor
from sw.formats.tflite.graph import OperatorInfo, TensorInfo, check_activation
from sw.formats.tflite.registry import converts, factor
from sw.formats.tflite.windows import WINDOW, padding_of, strides

__all__ = ["average_pool_2d", "max_pool_2d", "mean"]

POOL = {"options": "Pool2DOptions", "fields": (*WINDOW, "FilterHeight", "FilterWidth")}
MOST_SHIFT = 31     # of MultiplyByQuantizedMultiplier, to the right


def _window(operator: OperatorInfo, x: TensorInfo) -> dict:
    kernel = operator.options["FilterHeight"], operator.options["FilterWidth"]
    return {"kernel": kernel, "stride": strides(operator),
            "padding": padding_of(operator, x.shape[1:3], kernel, strides(operator))}


@converts("AVERAGE_POOL_2D", **POOL)
def average_pool_2d(builder: Builder, operator: OperatorInfo) -> None:
    """Codes are averaged as they are; the divisor counts real pixels."""
    x = operator.activation(0, rank=4)
    builder.same_quantization(operator, x)
    low, high = activation_bounds(operator)
    op = ops.CodeAveragePool(**_window(operator, x), low=low, high=high)
    builder.emit(operator, op, [builder.name(x)])


@converts("MAX_POOL_2D", **POOL)
def max_pool_2d(builder: Builder, operator: OperatorInfo) -> None:
    """The activation, if there is one, is a Clamp behind it."""
    x = operator.activation(0, rank=4)
    builder.same_quantization(operator, x)
    op, source = ops.MaxPool(**_window(operator, x)), builder.name(x)
    low, high = activation_bounds(operator)
    if (low, high) != (INT8_MIN, INT8_MAX):
        source = builder.emit_part(operator, "pool", op, [source], x)
        op = ops.Clamp(low=low, high=high)
    builder.emit(operator, op, [source])


@converts("MEAN", precision=np.float64)
def mean(builder: Builder, operator: OperatorInfo) -> None:
    """The kernel folds 1 / count into the multiplier of S_in / S_out, cutting it off."""
    x = operator.activation(0)
    rank, axes = len(x.shape), operator.constant(1, "axes", ("int32",)).reshape(-1)
    pixels = list(range(1, rank - 1))
    if not pixels or sorted({int(axis) % rank for axis in axes}) != pixels:
        operator.refuse(f"the mean is taken over the axes between batch and channels, here "
                        f"{pixels}, not over axes {axes.tolist()}")
    check_activation(operator.output)
    source, window = builder.image_of(operator, x)
    count = window[0] * window[1]
    multiplier, shift = tflite_factor(factor(operator, x.scale,
                                             over=operator.output.scale))
    exponent = min(count.bit_length() - 1, 32, MOST_SHIFT + 31 - shift)
    rescale = ops.Rescale(
        multiplier=np.array([(multiplier << exponent) // count]),
        shift=np.array([shift + exponent]), zero_point=operator.output.zero_point,
        rounding=Rounding.GEMMLOWP)
    op = ops.GlobalAveragePool(input_zero_point=x.zero_point, rescale=rescale, window=window)
    builder.emit_shaped(operator, "mean", op, [source])

"""LOGISTIC, TANH, LEAKY_RELU and HARD_SWISH: functions of one code, taken as tables of 256.

Each table is the reference kernel run on all codes, so that it holds whatever that does in int32
and int16. Sources: kernels/activations.cc (LUTPopulate), reference/leaky_relu.h,
reference/hard_swish.h; common.cc and fixedpoint.h for the rescales.
"""

from collections.abc import Callable

import numpy as np

from golden import arith, ops
from golden.arith import INT8_MAX, INT8_MIN, INT32_MAX, INT32_MIN, Rounding
from sw.formats.tflite.builder import Builder, tflite_factor
from sw.formats.tflite.graph import OperatorInfo, TensorInfo, check_activation
from sw.formats.tflite.registry import converts, factor

__all__ = ["CODES", "hard_swish", "leaky_relu", "logistic", "put_table", "rescaled", "tanh"]

CODES = np.arange(INT8_MIN, INT8_MAX + 1)
INT16_MIN, INT16_MAX = -(1 << 15), (1 << 15) - 1
HIRES = 7               # fraction bits of HARD_SWISH's input
RELUISH_SCALE = np.float32(3 / 32768)


def put_table(builder: Builder, operator: OperatorInfo, x: TensorInfo, values: np.ndarray,
              bounds: tuple = (INT8_MIN, INT8_MAX)) -> None:
    """The Lookup that writes the operator's output. values: its codes before the clamp, (256,)."""
    table = np.clip(values.astype(np.int32), *bounds).astype(np.int8)
    builder.emit(operator, ops.Lookup(table=table), [builder.name(x)])


def _operands(operator: OperatorInfo) -> tuple[TensorInfo, np.ndarray]:
    """The input, and its codes less the zero point, int64 (256,)."""
    x = operator.activation(0)
    check_activation(operator.output)
    return x, CODES - x.zero_point


def _float_table(builder: Builder, operator: OperatorInfo, function: Callable) -> None:
    """function: of float32 to float32. What it gives is divided by a float32 scale and rounded,
    ties away from zero."""
    x, codes = _operands(operator)
    output = operator.output
    values = function(np.float32(x.scale) * codes.astype(np.float32))
    values = (values * (np.float32(1) / np.float32(output.scale))).astype(np.float64)
    rounded = np.copysign(np.floor(np.abs(values) + 0.5), values) + output.zero_point
    put_table(builder, operator, x, np.clip(rounded, INT32_MIN, INT32_MAX))


def _rounded(function: Callable) -> Callable:
    """The function in double, rounded to float32: next to the C library's, on every machine."""
    return lambda x: function(x.astype(np.float64)).astype(np.float32)


@converts("LOGISTIC")
def logistic(builder: Builder, operator: OperatorInfo) -> None:
    """1 / (1 + exp(-x)) in float32."""
    exp, one = _rounded(np.exp), np.float32(1)
    with np.errstate(over="ignore"):
        _float_table(builder, operator, lambda x: one / (one + exp(-x)))


@converts("TANH")
def tanh(builder: Builder, operator: OperatorInfo) -> None:
    """tanh in float32."""
    _float_table(builder, operator, _rounded(np.tanh))


def rescaled(values: np.ndarray, real_factor: float) -> np.ndarray:
    """MultiplyByQuantizedMultiplier of common.cc; its left shift wraps around in int32."""
    multiplier, shift = tflite_factor(real_factor)
    left, _ = arith.split_shift(shift)
    shifted = (values << left).astype(np.int32).astype(np.int64)
    return arith.requantize(shifted, multiplier, max(shift, arith.MULTIPLIER_WIDTH), 0, INT32_MIN,
                            INT32_MAX, Rounding.GEMMLOWP)


@converts("LEAKY_RELU", options="LeakyReluOptions", fields=("Alpha",), precision=np.float32)
def leaky_relu(builder: Builder, operator: OperatorInfo) -> None:
    """A factor for either sign."""
    x, codes = _operands(operator)
    output = operator.output
    above = rescaled(codes, factor(operator, x.scale, over=output.scale))
    below = rescaled(codes, factor(operator, x.scale, operator.options["Alpha"],
                                    over=output.scale))
    put_table(builder, operator, x, np.where(codes >= 0, above, below) + output.zero_point)


def _times(values: np.ndarray, multiplier: int) -> np.ndarray:
    """SaturatingRoundingDoublingHighMul of int16: half of the product's last bit goes away."""
    product = values * multiplier
    product = product + np.where(product >= 0, 1 << 14, 1 - (1 << 14))
    return np.where(product >= 0, product >> 15, -(-product >> 15))


def _divided(values: np.ndarray, exponent: int) -> np.ndarray:
    """RoundingDivideByPOT: ties away from zero."""
    half = (1 << exponent) >> 1
    return np.where(values >= 0, (values + half) >> exponent, -((-values + half) >> exponent))


def _int16_factor(real_factor: float) -> tuple[int, int]:
    """(multiplier of 15 bits, exponent) of DownScaleInt32ToInt16Multiplier."""
    multiplier, shift = tflite_factor(real_factor)
    return min((multiplier + (1 << 15)) >> 16, INT16_MAX), arith.MULTIPLIER_WIDTH - shift


@converts("HARD_SWISH", precision=np.float32)
def hard_swish(builder: Builder, operator: OperatorInfo) -> None:
    """x * relu6(x + 3) / 6 in int16: x on the output's scale, times a gate on that of 3 / 2**15."""
    x, codes = _operands(operator)
    output, hires = operator.output, codes << HIRES
    scales = x.scale, 1 / (1 << HIRES)
    multiplier, exponent = _int16_factor(factor(operator, *scales, over=output.scale))
    if exponent > 0:
        operator.refuse(f"the output's scale must be at least {scales[0] * scales[1]:.3g} for this "
                        f"input, or the reference kernel shifts by less than 0")
    value = _times(hires, multiplier)
    multiplier, gate_exponent = _int16_factor(factor(operator, *scales, over=RELUISH_SCALE))
    gate = hires
    if gate_exponent > 0:       # in two steps, so that the second one saturates
        gate = np.clip(hires << gate_exponent - 1, INT16_MIN, INT16_MAX)
    gate = _times(gate, multiplier)
    if gate_exponent > 0:
        gate = np.clip(gate << 1, INT16_MIN, INT16_MAX)
    else:
        gate = _divided(gate, -gate_exponent)
    gate = (gate + (1 << 15)) >> 1
    product = gate * value
    product = np.where(product >= 0, product >> 15, -(-product >> 15))
    put_table(builder, operator, x, _divided(product, -exponent) + output.zero_point)

"""ADD, RELU, RELU6 and QUANTIZE between int8 tensors.

Sources: kernels/add.cc and reference/integer_ops/add.h, kernels/activations.cc (QuantizedReluX),
reference/requantize.h.
"""

import numpy as np

from golden import ops
from golden.arith import INT8_MAX, INT8_MIN
from sw.formats.tflite.builder import (
    Builder,
    activation_bounds,
    gemmlowp_rescale,
    tflite_factor,
)
from sw.formats.tflite.graph import OperatorInfo, check_activation
from sw.formats.tflite.registry import converts, factor

__all__ = ["add", "quantize", "relu"]

LEFT_SHIFT = 20         # of ADD


@converts("ADD", options="AddOptions", fields=("FusedActivationFunction",), precision=np.float64)
def add(builder: Builder, operator: OperatorInfo) -> None:
    """Both inputs are rescaled to half of the larger scale's grid, then their sum is."""
    first, second = operator.activation(0), operator.activation(1)
    check_activation(operator.output)
    if first.shape != second.shape:
        operator.refuse(f"inputs must have equal shapes, not {list(first.shape)} and "
                        f"{list(second.shape)}")
    twice = 2 * max(first.scale, second.scale)
    total = factor(operator, twice, over=(1 << LEFT_SHIFT) * operator.output.scale)
    if total >= 1:
        operator.refuse(f"the output's scale must be above {twice / (1 << LEFT_SHIFT):.3g} for "
                        f"these inputs, or the reference kernel stops")
    op = ops.Add(
        input_zero_points=(first.zero_point, second.zero_point), left_shift=LEFT_SHIFT,
        input_rescales=tuple(tflite_factor(factor(operator, x.scale, over=twice))
                              for x in (first, second)),
        rescale=gemmlowp_rescale(total, operator.output, activation_bounds(operator)))
    builder.emit(operator, op, [builder.name(first), builder.name(second)])


def _rescaling(builder: Builder, operator: OperatorInfo, bounds: tuple) -> None:
    x = operator.activation(0)
    check_activation(operator.output)
    op = ops.Rescaling(input_zero_point=x.zero_point, rescale=gemmlowp_rescale(
        factor(operator, x.scale, over=operator.output.scale), operator.output, bounds))
    builder.emit(operator, op, [builder.name(x)])


@converts("RELU", "RELU6", precision=np.float32)
def relu(builder: Builder, operator: OperatorInfo) -> None:
    """RELU and RELU6 on their own may change the scale."""
    check_activation(operator.output)
    _rescaling(builder, operator, activation_bounds(operator, operator.kind))


@converts("QUANTIZE", precision=np.float64)
def quantize(builder: Builder, operator: OperatorInfo) -> None:
    """From one int8 quantization to another."""
    _rescaling(builder, operator, (INT8_MIN, INT8_MAX))

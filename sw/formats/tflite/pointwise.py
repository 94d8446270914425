"""ADD, MUL, the RELU family and QUANTIZE between int8 tensors.

Sources: kernels/add.cc and reference/integer_ops/add.h, kernels/mul.cc and
reference/integer_ops/mul.h, kernels/activations.cc (QuantizedReluX), reference/requantize.h.
"""

import numpy as np

from golden import ops
from golden.arith import INT8_MAX, INT8_MIN
from sw.formats.tflite.builder import (
    Builder,
    activation_bounds,
    gemmlowp_rescale,
    program_shape,
    tflite_factor,
)
from sw.formats.tflite.graph import OperatorInfo, TensorInfo, check_activation
from sw.formats.tflite.registry import converts, factor
from sw.formats.tflite.tables import CODES, put_table, rescaled

__all__ = ["add", "mul", "quantize", "relu"]

LEFT_SHIFT = 20         # of ADD


@converts("ADD", options="AddOptions", fields=("FusedActivationFunction",), precision=np.float64)
def add(builder: Builder, operator: OperatorInfo) -> None:
    """Both inputs are rescaled to half of the larger scale's grid, then their sum is."""
    first, second = _operands(operator)
    if second.data is None and first.shape != second.shape:
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
    if second.data is not None:
        constant = np.full((1, len(CODES)), second.data.reshape(()))
        return put_table(builder, operator, first, op(CODES.astype(np.int8)[None], constant)[0])
    builder.emit(operator, op, [builder.name(first), builder.name(second)])


@converts("MUL", options="MulOptions", fields=("FusedActivationFunction",), precision=np.float32)
def mul(builder: Builder, operator: OperatorInfo) -> None:
    """Of two tensors of one shape, or of a tensor and one value per channel."""
    first, second = _operands(operator)
    if second.data is None and first.shape != second.shape:
        first, second = sorted((first, second), key=lambda x: (x.size, len(x.shape)))[::-1]
        if len(first.shape) != 4 or not second.size == second.shape[-1] == first.shape[-1]:
            operator.refuse(f"beside an input of shape {list(first.shape)} the other must have the "
                            f"same one or, of 4 dimensions, one value per channel, not shape "
                            f"{list(second.shape)}")
    output, bounds = operator.output, activation_bounds(operator)
    scale = factor(operator, first.scale, second.scale, over=output.scale)
    if second.data is not None:
        products = (CODES - first.zero_point) * (int(second.data.item()) - second.zero_point)
        return put_table(builder, operator, first, rescaled(products, scale) + output.zero_point,
                         bounds)
    source, channels = builder.name(second), (first.shape[-1], 1, 1)
    if second.shape != first.shape and program_shape(second.shape) != channels:
        source = builder.emit_part(operator, "gate", builder.reshape(source, channels), [source],
                                   second)
    op = ops.Mul(input_zero_points=(first.zero_point, second.zero_point),
                 rescale=gemmlowp_rescale(scale, output, bounds))
    builder.emit(operator, op, [builder.name(first), source])


def _operands(operator: OperatorInfo) -> tuple[TensorInfo, TensorInfo]:
    """Two computed inputs, or a computed one and a constant of one value."""
    check_activation(operator.output)
    position = next((i for i, info in enumerate(operator.inputs[:2])
                     if info and info.data is not None), None)
    if position is None:
        return operator.activation(0), operator.activation(1)
    constant = operator.inputs[position]
    check_activation(constant, is_constant=True)
    if constant.size != 1:
        operator.refuse(f"a constant operand must have one value, not shape "
                        f"{list(constant.shape)} (tensor {constant.name!r})")
    return operator.activation(1 - position), constant      # both operators commute


def _rescaling(builder: Builder, operator: OperatorInfo, bounds: tuple) -> None:
    x = operator.activation(0)
    check_activation(operator.output)
    op = ops.Rescaling(input_zero_point=x.zero_point, rescale=gemmlowp_rescale(
        factor(operator, x.scale, over=operator.output.scale), operator.output, bounds))
    builder.emit(operator, op, [builder.name(x)])


@converts("RELU", "RELU6", "RELU_N1_TO_1", precision=np.float32)
def relu(builder: Builder, operator: OperatorInfo) -> None:
    """On their own they may change the scale."""
    check_activation(operator.output)
    _rescaling(builder, operator, activation_bounds(operator, operator.kind))


@converts("QUANTIZE", precision=np.float64)
def quantize(builder: Builder, operator: OperatorInfo) -> None:
    """From one int8 quantization to another."""
    _rescaling(builder, operator, (INT8_MIN, INT8_MAX))

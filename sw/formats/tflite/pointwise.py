"""ADD, RELU, RELU6, QUANTIZE between int8 tensors, CONCATENATION, RESHAPE and PAD.

Sources: kernels/add.cc and reference/integer_ops/add.h, kernels/activations.cc (QuantizedReluX),
reference/requantize.h, kernels/concatenation.cc, kernels/pad.cc.
"""

import numpy as np

from golden import ops
from golden.arith import INT8_MAX, INT8_MIN
from sw.formats.tflite.builder import (
    activation_bounds,
    gemmlowp_rescale,
    program_shape,
    tflite_factor,
)
from sw.formats.tflite.graph import check_activation
from sw.lower.integer_form import identity_conv

LEFT_SHIFT = 20         # of ADD
MOST_PADDED = 4096      # channels of a PAD, which becomes a square of weights


def add(builder, operator):
    """Both inputs are rescaled to half of the larger scale's grid, then their sum is."""
    first, second = operator.activation(0), operator.activation(1)
    check_activation(operator.output)
    if first.shape != second.shape:
        operator.refuse(f"inputs must have equal shapes, not {list(first.shape)} and "
                        f"{list(second.shape)}")
    twice = 2 * max(first.scale, second.scale)
    op = ops.Add(
        input_zero_points=(first.zero_point, second.zero_point), left_shift=LEFT_SHIFT,
        input_rescales=tuple(tflite_factor(x.scale / twice) for x in (first, second)),
        rescale=gemmlowp_rescale(twice / ((1 << LEFT_SHIFT) * operator.output.scale),
                                 operator.output, activation_bounds(operator)))
    builder.emit(operator, op, [builder.name(first), builder.name(second)])


def _rescaling(builder, operator, bounds):
    x = operator.activation(0)
    check_activation(operator.output)
    op = ops.Rescaling(input_zero_point=x.zero_point, rescale=gemmlowp_rescale(
        x.scale / operator.output.scale, operator.output, bounds))
    builder.emit(operator, op, [builder.name(x)])


def relu(builder, operator):
    """RELU and RELU6 on their own may change the scale."""
    check_activation(operator.output)
    _rescaling(builder, operator, activation_bounds(operator, operator.kind))


def quantize(builder, operator):
    """From one int8 quantization to another."""
    _rescaling(builder, operator, (INT8_MIN, INT8_MAX))


def concatenation(builder, operator):
    """Along any axis but the batch; LiteRT lets no int8 input have another scale."""
    inputs = [operator.activation(i) for i in range(len(operator.inputs))]
    for x in inputs:
        builder.same_quantization(operator, x)
    if activation_bounds(operator) != (INT8_MIN, INT8_MAX):
        operator.refuse("a fused activation is not supported")
    rank = len(operator.output.shape)
    axis = operator.options["Axis"] % rank
    if axis == 0:
        operator.refuse("tensors are not joined along the batch")
    op = ops.Concat(axis=1 if axis == rank - 1 else axis + 1)
    builder.emit(operator, op, [builder.name(x) for x in inputs])


def reshape(builder, operator):
    """The new shape is that of the output tensor, whatever the operand says."""
    x = operator.activation(0)
    builder.same_quantization(operator, x)
    if x.size != operator.output.size:
        operator.refuse(f"shape {list(operator.output.shape)} must have the {x.size} elements of "
                        f"shape {list(x.shape)}")
    source = builder.name(x)
    op = builder.reshape(source, program_shape(operator.output.shape))
    builder.emit(operator, op, [source])


def paddings(operator):
    """(before, after) of the batch, height, width and channels: int (4, 2)."""
    values = operator.constant(1, "paddings", ("int32", "int64"), 2)
    if values.shape != (4, 2) or (values < 0).any() or values[0].any():
        operator.refuse("paddings must be four pairs of counts from 0 on, none for the batch")
    return values.astype(np.int64)


def spatial(values):
    """(top, left, bottom, right) of `paddings`."""
    (top, bottom), (left, right) = values[1:3].tolist()
    return top, left, bottom, right


def pad(builder, operator):
    """An identity convolution: it pads with the zero point, and so does PAD.

    Padded channels have weights of 0 and give the zero point.
    """
    x = operator.activation(0, rank=4)
    builder.same_quantization(operator, x)
    values, channels = paddings(operator), x.shape[3]
    before, after = values[3].tolist()
    if (before or after) and channels + before + after > MOST_PADDED:
        operator.refuse(f"channels are padded to at most {MOST_PADDED}, "
                        f"not {channels + before + after}")
    op = identity_conv(channels, x.zero_point, spatial(values), (before, after))
    builder.emit(operator, op, [builder.name(x)])

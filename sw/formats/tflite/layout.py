"""CONCATENATION, PAD and what changes a shape: codes that move and keep their quantization.

Sources: kernels/concatenation.cc, kernels/pad.cc.
"""

from golden import ops
from golden.arith import INT8_MAX, INT8_MIN
from sw.formats.tflite.builder import Builder, activation_bounds, program_shape
from sw.formats.tflite.graph import OperatorInfo
from sw.formats.tflite.registry import converts
from sw.formats.tflite.windows import paddings, spatial
from sw.lower.integer_form import identity_conv

__all__ = ["concatenation", "pad", "reshape"]

MOST_PADDED = 4096      # channels of a PAD, which becomes a square of weights


@converts("CONCATENATION", options="ConcatenationOptions",
          fields=("Axis", "FusedActivationFunction"))
def concatenation(builder: Builder, operator: OperatorInfo) -> None:
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


@converts("RESHAPE", "SQUEEZE", "EXPAND_DIMS", n_operands=1)
def reshape(builder: Builder, operator: OperatorInfo) -> None:
    """The new shape is that of the output tensor, whatever the operand says."""
    x = operator.activation(0)
    builder.same_quantization(operator, x)
    if x.size != operator.output.size:
        operator.refuse(f"shape {list(operator.output.shape)} must have the {x.size} elements of "
                        f"shape {list(x.shape)}")
    source = builder.name(x)
    op = builder.reshape(source, program_shape(operator.output.shape))
    builder.emit(operator, op, [source])


@converts("PAD")
def pad(builder: Builder, operator: OperatorInfo) -> None:
    """An identity convolution: it pads with the zero point, and so does PAD.

    Padded channels have weights of 0 and give the zero point.
    """
    x = operator.activation(0)
    builder.same_quantization(operator, x)
    values, channels = paddings(operator), x.shape[-1]
    before, after = values[3].tolist()
    if (before or after) and channels + before + after > MOST_PADDED:
        operator.refuse(f"channels are padded to at most {MOST_PADDED}, "
                        f"not {channels + before + after}")
    op = identity_conv(channels, x.zero_point, spatial(values), (before, after))
    builder.emit_shaped(operator, "padded", op, [builder.image_of(operator, x)[0]])

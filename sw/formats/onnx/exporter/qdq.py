"""Export of a `Program` as QuantizeLinear / DequantizeLinear pairs around float operators.

This is the form that standard consumers (ONNX Runtime, OpenVINO, TensorRT) read. It is approximate
by nature: float32 scales, rounding half to even, zero point added after rounding. Expect single
codes to differ by one where a value lies near a rounding boundary, and such differences to travel;
the integer export is the exact one.
"""

from functools import singledispatch

import numpy as np

from golden import ops
from golden.arith import INT8_MAX, INT8_MIN
from golden.errors import LockstepError
from sw.formats.onnx.exporter.builder import GraphBuilder
from sw.formats.onnx.exporter.metadata import program_metadata

FLOAT32 = np.finfo(np.float32)
ACTIVATION_STEPS = INT8_MAX - INT8_MIN      # between two codes


def real_factors(rescale, channels):
    """float64 (channels,): the real factors multiplier * 2**-shift of a `golden.ops.Rescale`."""
    factors = np.ldexp(np.asarray(rescale.multiplier, dtype=np.float64),
                       -np.asarray(rescale.shift, dtype=np.int64))
    return np.broadcast_to(factors.reshape(-1), (channels,)).copy()


def weight_scales(op, source, target):
    """float64 (O,): the scale of each channel's weights, from M = S_in * S_w / S_out.

    source, target: the `golden.program.Tensor`s the layer reads and writes.

    A channel with multiplier 0 is a constant: its scale is given as 0.
    """
    factors = real_factors(op.rescale, op.weights.shape[0])
    return factors * target.quantization.scale / source.quantization.scale


def _factors(graph, values, what, hint, steps=1):
    """The name of factors whose multiples up to `steps` are float32; 0 is one of them.

    Raises LockstepError naming what they are, `what`, for those beyond float32 or subnormal there.
    """
    values = np.asarray(values, np.float64)
    low, high = float(FLOAT32.tiny), float(FLOAT32.max) / steps
    wrong = values[(values != 0) & ~((np.abs(values) >= low) & (np.abs(values) <= high))]
    if wrong.size:
        raise LockstepError(f"{what} must be in {low:.6g}..{high:.6g}, what float32 holds, "
                            f"not {abs(wrong[0]):.6g}")
    return graph.constant(values, "float32", hint)


def _dequantized(graph, value, scales, what, dtype):
    """Per-channel (axis 0) parameters with zero points of 0 as real values; what: they are."""
    zeros = graph.constant(np.zeros(len(scales)), dtype, "zero_points")
    scales = _factors(graph, scales, f"Scale of the {what}", "scales", -np.iinfo(dtype).min)
    return graph.node("DequantizeLinear", value, scales, zeros, axis=0)


def _round_trip(graph, value, tensor, output=None):
    """A real value through the codes of a tensor of the program and back."""
    quantization = tensor.quantization
    scale = _factors(graph, quantization.scale, f"Scale of tensor {tensor.name}", "scale",
                     ACTIVATION_STEPS)
    zero_point = graph.constant(quantization.zero_point, "int8", "zero_point")
    codes = graph.node("QuantizeLinear", value, scale, zero_point, output=f"{tensor.name}_codes")
    return graph.node("DequantizeLinear", codes, scale, zero_point, output=output)


def _clamped(graph, value, quantization, limits):
    """The clamp bounds in codes (ReLU, ReLU6) of an op or rescale as a Clip of the real values."""
    low, high = getattr(limits, "low", INT8_MIN), getattr(limits, "high", INT8_MAX)
    if low <= INT8_MIN and high >= INT8_MAX:
        return value
    bounds = [(code - quantization.zero_point) * quantization.scale for code in (low, high)]
    return graph.clip(value, *bounds, "float32")


def _parameters(graph, op, source, target):
    """Dequantized weights and bias of a convolution or linear layer."""
    scales = weight_scales(op, source, target)
    alive = scales > 0
    weights = np.where(alive.reshape((-1,) + (1,) * (op.weights.ndim - 1)), op.weights, 0)
    bias = np.where(alive, op.bias, 0)
    scales = np.where(alive, scales, 1.0)
    bias_scales = scales * source.quantization.scale
    return (_dequantized(graph, graph.constant(weights, "int8", "weights"), scales,
                         f"weights of tensor {target.name}", "int8"),
            _dequantized(graph, graph.constant(bias, "int32", "bias"), bias_scales,
                         f"bias of tensor {target.name}", "int32"))


@singledispatch
def _float_form(op, graph, node, values, source, target):
    """The real value of the node's output before its quantizer; values: real inputs (names);
    source, target: the program's tensors, the first one read and the one written.
    """
    raise LockstepError(f"Node {node.name}: {type(op).__name__} has no QDQ form")


@_float_form.register
def _(op: ops.Conv2d, graph, node, values, source, target):
    weights, bias = _parameters(graph, op, source, target)
    return graph.node("Conv", values[0], weights, bias,
                      kernel_shape=[int(n) for n in op.weights.shape[2:]], strides=list(op.stride),
                      pads=list(op.padding), dilations=list(op.dilation), group=op.groups)


@_float_form.register
def _(op: ops.Linear, graph, node, values, source, target):
    weights, bias = _parameters(graph, op, source, target)
    return graph.node("Gemm", values[0], weights, bias, transB=1)


@_float_form.register
def _(op: ops.Add, graph, node, values, source, target):
    return graph.node("Add", *values)


@_float_form.register
def _(op: ops.MaxPool, graph, node, values, source, target):
    return graph.node("MaxPool", values[0], kernel_shape=list(op.kernel), strides=list(op.stride),
                      pads=list(op.padding))


@_float_form.register
def _(op: ops.AveragePool, graph, node, values, source, target):
    pooled = graph.node("AveragePool", values[0], kernel_shape=list(op.kernel),
                        strides=list(op.stride), pads=list(op.padding), count_include_pad=1)
    # The program's factor carries S_in / (S_out * count): 1 / count is the pooling itself.
    return _corrected(graph, pooled, op, source, target, op.kernel[0] * op.kernel[1])


@_float_form.register
def _(op: ops.CodeAveragePool, graph, node, values, source, target):
    return graph.node("AveragePool", values[0], kernel_shape=list(op.kernel),
                      strides=list(op.stride), pads=list(op.padding), count_include_pad=0)


@_float_form.register
def _(op: ops.GlobalAveragePool, graph, node, values, source, target):
    pooled = graph.node("GlobalAveragePool", values[0])
    return _corrected(graph, pooled, op, source, target, op.window[0] * op.window[1])


@_float_form.register
def _(op: ops.Rescaling, graph, node, values, source, target):
    return _corrected(graph, values[0], op, source, target, 1)


def _corrected(graph, value, op, source, target, count):
    """value times what the program's factor says beyond S_in / (S_out * count), if anything."""
    factors = real_factors(op.rescale, np.size(op.rescale.multiplier))
    gains = factors * target.quantization.scale * count / source.quantization.scale
    gains = gains.reshape((1, -1) + (1,) * (len(source.shape) - 1))
    if np.allclose(gains, 1.0, rtol=1e-6, atol=0.0):
        return value
    return graph.node("Mul", value, _factors(graph, gains, f"Gain of tensor {target.name}", "gain"))


@_float_form.register
def _(op: ops.Concat, graph, node, values, source, target):
    return graph.node("Concat", *values, axis=op.axis)


@_float_form.register
def _(op: ops.Reshape, graph, node, values, source, target):
    return graph.reshape(values[0], source.shape, op)


@_float_form.register
def _(op: ops.Clamp, graph, node, values, source, target):
    return values[0]


@_float_form.register
def _(op: ops.RangeNorm, graph, node, values, source, target):
    if op.batch:
        raise LockstepError(f"Node {node.name}: RangeNorm with batch statistics has no QDQ form")
    shape = (1, -1) + (1,) * (len(source.shape) - 1)
    slope = np.ldexp(op.multiplier.astype(np.float64), -op.shift)
    offset = np.ldexp(op.bias.astype(np.float64), -op.shift)
    offset = offset + slope * source.quantization.zero_point - target.quantization.zero_point
    gain = slope * target.quantization.scale / source.quantization.scale
    gain = _factors(graph, gain.reshape(shape), f"Gain of tensor {target.name}", "gain")
    offset = (offset * target.quantization.scale).reshape(shape)
    return graph.node("Add", graph.node("Mul", values[0], gain), _factors(
        graph, offset, f"Offset of tensor {target.name}", "offset"))


def export_qdq(program):
    """The program as a float-in, float-out onnx.ModelProto with QDQ pairs.

    The input is the real NCHW input, float32; the output is the dequantized output. The scales of
    the weights follow from the program's own factors: S_w = M * S_out / S_in.
    Approximate: see the module's text. Raises LockstepError for an operator without a QDQ form, for
    state and for tensors other than int8, and for scales that are not float32 numbers.
    """
    if program.state:
        raise LockstepError(f"Program {program.name}: state ({', '.join(program.state)}) has no "
                            f"QDQ form")
    for tensor in program.tensors.values():
        if tensor.quantization.dtype != "int8" or not tensor.batched:
            raise LockstepError(f"Tensor {tensor.name} must be int8 with a batch for the QDQ form")
    graph = GraphBuilder(f"{program.name}_qdq")
    real = {}
    for name in program.inputs:
        graph.scope = name
        graph.declare_input(f"{name}_real", "float32", program.tensors[name].shape)
        real[name] = _round_trip(graph, f"{name}_real", program.tensors[name])
    for node in program.nodes:
        graph.scope = node.name
        output, = node.outputs
        source, target = program.tensors[node.inputs[0]], program.tensors[output]
        values = [real[name] for name in node.inputs]
        value = _float_form(node.op, graph, node, values, source, target)
        value = _clamped(graph, value, target.quantization, getattr(node.op, "rescale", node.op))
        final = f"{output}_real" if output in program.outputs else None
        real[output] = _round_trip(graph, value, target, final)
    for name in program.outputs:
        graph.declare_output(real[name], "float32", program.tensors[name].shape)
    doc = ("Float model with quantize-dequantize pairs for standard consumers; approximate, single "
           "codes may differ from the integer program.")
    return graph.model(doc, program_metadata(program, "qdq", graph.initializers))

"""Export of a `Program` as plain ONNX operators that ONNX Runtime executes to the same bits.

Everything between the int8 input codes and the int8 output codes is integer: ConvInteger and
MatMulInteger give the int32 products, and the requantization is `golden.arith`'s own, recorded in
int64 operators (see `sw.formats.onnx.exporter.builder`). int8 operands are kept signed on both
sides: ONNX Runtime's unsigned-by-signed kernels may saturate 16-bit sums on processors with AVX2
and without VNNI, signed-by-signed ones do not, and int8 activations with uint8 weights give wrong
sums without a word.
"""

from functools import singledispatch

import numpy as np

from golden import arith, ops
from golden.errors import LockstepError
from sw.formats.onnx.exporter.builder import GraphBuilder, Value, along_channels
from sw.formats.onnx.exporter.metadata import program_metadata
from sw.formats.onnx.exporter.qdq import export_qdq

__all__ = ["export_integer", "export_qdq"]


@singledispatch
def _export(op, graph, node, shapes, output):
    raise LockstepError(f"Node {node.name}: {type(op).__name__} has no ONNX form")


def _codes(graph, name):
    """An int8 tensor of the program as a Value."""
    return Value(graph, graph.cast(name, "int64"), arith.INT8_MIN, arith.INT8_MAX)


def _accumulator(graph, name):
    """An int32 sum as a Value."""
    return Value(graph, graph.cast(name, "int64"), arith.INT32_MIN, arith.INT32_MAX)


def _rescale(value, rescale, rank):
    """A `golden.ops.Rescale` on a Value of `rank` axes."""
    return arith.requantize(value, along_channels(rescale.multiplier, rank),
                            along_channels(rescale.shift, rank), rescale.zero_point, rescale.low,
                            rescale.high, rescale.rounding)


def _conv_integer(graph, x, weights, zero_point, *, stride, padding, dilation, groups):
    """int32 sum of w * (x - zero_point); the padding supplies the zero point."""
    return graph.node("ConvInteger", x, graph.constant(weights, "int8", "weights"),
                      graph.constant(zero_point, "int8", "x_zero_point"),
                      graph.constant(0, "int8", "w_zero_point"),
                      kernel_shape=[int(n) for n in weights.shape[2:]],
                      strides=list(stride), pads=list(padding), dilations=list(dilation),
                      group=groups)


@_export.register
def _(op: ops.Conv2d, graph, node, shapes, output):
    acc = _conv_integer(graph, node.inputs[0], op.weights, op.input_zero_point, stride=op.stride,
                        padding=op.padding, dilation=op.dilation, groups=op.groups)
    acc = _accumulator(graph, acc) + along_channels(op.bias, 4)
    _rescale(acc, op.rescale, 4).store(output)


@_export.register
def _(op: ops.Linear, graph, node, shapes, output):
    acc = graph.node("MatMulInteger", node.inputs[0],
                     graph.constant(np.ascontiguousarray(op.weights.T), "int8", "weights"),
                     graph.constant(op.input_zero_point, "int8", "x_zero_point"),
                     graph.constant(0, "int8", "w_zero_point"))
    acc = _accumulator(graph, acc) + along_channels(op.bias, 2)
    _rescale(acc, op.rescale, 2).store(output)


@_export.register
def _(op: ops.Add, graph, node, shapes, output):
    terms = []
    operands = zip(node.inputs, op.input_zero_points, op.input_rescales, strict=True)
    for name, zero_point, (multiplier, shift) in operands:
        term = (_codes(graph, name) - zero_point) << op.left_shift
        terms.append(arith.requantize(term, multiplier, shift, 0, arith.INT32_MIN, arith.INT32_MAX,
                                      op.rescale.rounding))
    _rescale(terms[0] + terms[1], op.rescale, len(shapes[0]) + 1).store(output)


@_export.register
def _(op: ops.MaxPool, graph, node, shapes, output):
    graph.node("MaxPool", node.inputs[0], output=output, kernel_shape=list(op.kernel),
               strides=list(op.stride), pads=list(op.padding))


@_export.register
def _(op: ops.AveragePool, graph, node, shapes, output):
    channels = shapes[0][0]
    ones = np.ones((channels, 1, *op.kernel), dtype=np.int8)
    acc = _conv_integer(graph, node.inputs[0], ones, op.input_zero_point, stride=op.stride,
                        padding=op.padding, dilation=(1, 1), groups=channels)
    _rescale(_accumulator(graph, acc), op.rescale, 4).store(output)


@_export.register
def _(op: ops.CodeAveragePool, graph, node, shapes, output):
    channels, *size = shapes[0]
    ones = np.ones((channels, 1, *op.kernel), dtype=np.int8)
    sums = _conv_integer(graph, node.inputs[0], ones, 0, stride=op.stride, padding=op.padding,
                         dilation=(1, 1), groups=channels)
    factors = (values[None, None] for values in op.factors(size))
    arith.requantize(_accumulator(graph, sums), *factors, 0, op.low, op.high).store(output)


@_export.register
def _(op: ops.GlobalAveragePool, graph, node, shapes, output):
    count = shapes[0][1] * shapes[0][2]
    total = (_codes(graph, node.inputs[0]) - op.input_zero_point).sum([2, 3], count)
    _rescale(total, op.rescale, 4).store(output)


@_export.register
def _(op: ops.Concat, graph, node, shapes, output):
    graph.node("Concat", *node.inputs, output=output, axis=op.axis)


@_export.register
def _(op: ops.Reshape, graph, node, shapes, output):
    graph.reshape(node.inputs[0], shapes[0], op, output)


@_export.register
def _(op: ops.Clamp, graph, node, shapes, output):
    graph.clip(node.inputs[0], op.low, op.high, "int8", output=output)


@_export.register
def _(op: ops.Rescaling, graph, node, shapes, output):
    centred = _codes(graph, node.inputs[0]) - op.input_zero_point
    _rescale(centred, op.rescale, len(shapes[0]) + 1).store(output)


@_export.register
def _(op: ops.RangeNorm, graph, node, shapes, output):
    if op.batch:
        raise LockstepError(f"Node {node.name}: RangeNorm with batch statistics has no ONNX form")
    multiplier, bias, shift = (along_channels(values, len(shapes[0]) + 1)
                               for values in (op.multiplier, op.bias, op.shift))
    y = arith.round_shift(_codes(graph, node.inputs[0]) * multiplier + bias, shift)
    arith.clamp(y, op.low, op.high).store(output)


def _batch(program, tensor):
    """The first dimension of a tensor: a number, or "N"."""
    return program.batch or "N" if tensor.batched else 1


def export_integer(program, *, trace=False):
    """The integer program as an onnx.ModelProto, checked by onnx.checker.

    program: a `golden.program.Program`. The model's inputs and outputs are codes, channels first,
    with the names of the program's tensors; tensors that are not batched have 1 in place of the
    batch. State is read as further inputs and renewed by further outputs, which whoever runs the
    model passes on; its first values are in the metadata. With trace=True every intermediate tensor
    is an output too. The scales, zero points and the program's sha256 are in the metadata.
    Raises LockstepError naming the node for an operator ONNX has no form for.
    """
    graph = GraphBuilder(program.name, program.tensors)

    def declare(where, name):
        tensor = program.tensors[name]
        where(name, tensor.quantization.dtype, tensor.shape, _batch(program, tensor))

    for name in program.sources:
        declare(graph.declare_input, name)
    produced = []
    for node in program.nodes:
        graph.scope = node.name
        shapes = [program.tensors[name].shape for name in node.inputs]
        _export(node.op, graph, node, shapes, node.outputs[0])
        produced.extend(node.outputs)
    renewing = [state.renewed_by for state in program.state.values()]
    for name in produced if trace else dict.fromkeys((*program.outputs, *renewing)):
        if name in produced:
            declare(graph.declare_output, name)
    doc = ("Integer program: int8 codes in, int8 codes out, the same bits as the golden model. "
           "real = scale * (code - zero_point).")
    return graph.model(doc, program_metadata(program, "integer", graph.initializers))

"""Operators of graphs in QLinear form: each reads and writes codes and holds their scales.

Sources: onnx/docs/Operators.md; microsoft/onnxruntime, docs/ContribOperators.md (QLinearAdd,
QLinearMul, QLinearSigmoid, QLinearLeakyRelu, QLinearConcat, QLinearAveragePool,
QLinearGlobalAveragePool, QGemm).
"""

import numpy as np

from sw.formats.onnx.importer import geometry
from sw.formats.onnx.importer.functions import function_of
from sw.formats.onnx.importer.qdq import conv_fields, gated, product
from sw.formats.onnx.importer.values import Codes, Function, Join, Mean, Sum, Weights

__all__ = ["CONVERTERS", "add", "average_pool", "concat", "conv", "function", "gemm",
           "global_average_pool", "matmul", "mul"]


def _written(walk, node, value, scale, zero_point):
    """The Codes of a result; scale, zero_point: positions of its quantization."""
    return walk.emit(node, value, *walk.quantization(node, scale, zero_point,
                                                     f"tensor {node.output!r}", value.inputs[0]))


def _weights(walk, node, position, ndim, axis):
    """Weights at `position`, followed by their scales and zero points."""
    codes = walk.constant(node, position, "weights")
    scales, points, _ = walk.parameters(node, position + 1, position + 2, "weights")
    return walk.checked(node, Weights(codes=codes, scales=scales, zero_points=points, axis=axis,
                                      name=node.inputs[position]), ndim)


def _bias(walk, node, position, source, weights):
    """The real bias of int32 codes in the accumulator's scale."""
    if not walk.has(node, position):
        return None
    codes = walk.constant(node, position, "bias")
    if codes.dtype != np.int32:
        node.refuse(f"bias must be int32, not {codes.dtype} (tensor {node.inputs[position]!r})")
    return codes.reshape(-1) * (source.quantization.scale * weights.scales)


def conv(walk, node) -> Codes:
    """QLinearConv."""
    source, weights = walk.coded(node, 0, 1, 2), _weights(walk, node, 3, 4, 0)
    bias = _bias(walk, node, 8, source, weights)
    fields = conv_fields(node, source.shape, weights)
    return _written(walk, node, product(walk, node, source, weights, 0, bias, fields), 6, 7)


def matmul(walk, node) -> Codes:
    """QLinearMatMul with constant weights."""
    source, weights = walk.coded(node, 0, 1, 2), _weights(walk, node, 3, 2, 1)
    return _written(walk, node, product(walk, node, source, weights, 1, None, None), 6, 7)


def gemm(walk, node) -> Codes:
    """QGemm with constant weights; alpha must be 1."""
    axis = 0 if node.attributes.get("transB", 0) else 1
    source, weights = walk.coded(node, 0, 1, 2), _weights(walk, node, 3, 2, axis)
    if node.attributes.get("transA", 0) or node.attributes.get("alpha", 1.0) != 1.0:
        node.refuse("transA must be 0 and alpha 1")
    bias = _bias(walk, node, 6, source, weights)
    if not walk.has(node, 7):
        node.refuse("must have an output scale: results without one are not codes")
    return _written(walk, node, product(walk, node, source, weights, axis, bias, None), 7, 8)


def add(walk, node) -> Codes:
    """QLinearAdd of two tensors of one shape."""
    first, second = walk.coded(node, 0, 1, 2), walk.coded(node, 3, 4, 5)
    if first.shape != second.shape:
        node.refuse(f"inputs must have equal shapes, not {list(first.shape)} and "
                    f"{list(second.shape)}")
    return _written(walk, node, Sum(inputs=(first, second), own_shape=first.shape), 6, 7)


def mul(walk, node) -> Codes:
    """QLinearMul of two tensors, of which one may have one value per channel."""
    first, second = walk.coded(node, 0, 1, 2), walk.coded(node, 3, 4, 5)
    return _written(walk, node, gated(node, first, second), 6, 7)


def function(walk, node) -> Codes:
    """QLinearSigmoid and QLinearLeakyRelu."""
    source = walk.coded(node, 0, 1, 2)
    return _written(walk, node, Function(
        inputs=(source,), own_shape=source.shape,
        function=function_of(node, node.kind.removeprefix("QLinear"))), 3, 4)


def concat(walk, node) -> Codes:
    """QLinearConcat along the channels."""
    codes = tuple(walk.coded(node, position, position + 1, position + 2)
                  for position in range(2, len(node.inputs), 3))
    shape = geometry.joined(node, [item.shape for item in codes])
    return _written(walk, node, Join(inputs=codes, own_shape=shape), 0, 1)


def _pooled(walk, node):
    if node.attributes.get("channels_last", 0):
        node.refuse("channels_last must be 0")
    return walk.coded(node, 0, 1, 2)


def average_pool(walk, node) -> Codes:
    """QLinearAveragePool, its padding counted or not."""
    source = _pooled(walk, node)
    window = geometry.window_of(node, source.shape)
    counts = geometry.check_pool(node, window)
    size = geometry.output_size(node, source.shape[1:], window)
    return _written(walk, node, Mean(inputs=(source,), own_shape=(source.shape[0], *size),
                                     window=window, counts_padding=counts), 3, 4)


def global_average_pool(walk, node) -> Codes:
    """QLinearGlobalAveragePool, of an image."""
    source = _pooled(walk, node)
    if len(source.shape) != 3:
        node.refuse(f"must have an input of 4 dimensions, not {len(source.shape) + 1}")
    return _written(walk, node, Mean(inputs=(source,), own_shape=(source.shape[0], 1, 1),
                                     window=None), 3, 4)


CONVERTERS = {
    "QLinearConv": conv, "QLinearMatMul": matmul, "QGemm": gemm, "QLinearAdd": add,
    "QLinearMul": mul, "QLinearSigmoid": function, "QLinearLeakyRelu": function,
    "QLinearConcat": concat, "QLinearAveragePool": average_pool,
    "QLinearGlobalAveragePool": global_average_pool,
}

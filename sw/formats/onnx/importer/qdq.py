"""Operators of graphs in QDQ form: QuantizeLinear and DequantizeLinear around float operators."""

from dataclasses import replace

import numpy as np

from golden import ops
from sw.formats.onnx.importer import geometry
from sw.formats.onnx.importer.functions import FUNCTIONS, function_of
from sw.formats.onnx.importer.values import (
    Codes,
    Function,
    Gated,
    Join,
    Mean,
    Pending,
    Product,
    Real,
    Shift,
    Sum,
    Weights,
)
from sw.formats.onnx.importer.walk import check_dropout, normalisation, per_channel
from sw.lower.integer_form import identity_conv

__all__ = ["CONVERTERS", "add", "average_pool", "batch_normalization", "bias_values", "channelwise",
           "clamp", "concat", "conv", "conv_fields", "dequantize", "function", "gated",
           "global_average_pool", "linear", "max_pool", "pad", "product", "quantize", "reshape",
           "same", "scaled", "transpose", "with_constant"]

AFFINE_STEPS = 64       # per code of the input, of a constant that is added to one
SCALE_TOLERANCE = 1e-6  # of a bias, relative to S_in * S_w, which is rounded to float32


def product(walk, node, source, weights, axis, bias, geometry_fields) -> Product:
    """The Product of Codes and Weights whose outputs lie along `axis`, which is moved in front.

    bias: Weights of int32 codes, a float array, or None
    """
    n_outputs = weights.codes.shape[axis]
    if len(weights.scales) > 1 and (weights.axis % weights.codes.ndim != axis
                                    or len(weights.scales) != n_outputs):
        node.refuse(f"weights must have 1 scale or one for each of the {n_outputs} outputs, not "
                    f"{len(weights.scales)} along axis {weights.axis} (tensor {weights.name!r})")
    scales = np.broadcast_to(weights.scales, n_outputs)
    codes = np.moveaxis(weights.codes, axis, 0)
    unit = source.quantization.scale * scales
    offset = np.zeros(n_outputs)
    if bias is not None:
        offset = bias_values(node, bias, unit)
    shape = (n_outputs,)
    if geometry_fields is not None:
        probe = ops.Conv2d(weights=codes.astype(np.int8), bias=np.zeros(n_outputs, np.int32),
                           input_zero_point=0, rescale=ops.Rescale(
                               multiplier=[0], shift=[31], zero_point=0), **geometry_fields)
        shape = probe.output_shape(source.shape)
    elif source.shape != (codes.shape[1],):
        node.refuse(f"weights for {codes.shape[1]} inputs do not fit shape {list(source.shape)}")
    return Product(inputs=(source,), own_shape=shape, codes=codes, unit=unit,
                   gain=np.ones(n_outputs), offset=offset, geometry=geometry_fields)


def bias_values(node, bias, unit) -> np.ndarray:
    """The real bias, float64 (O,). Codes whose scale is S_in * S_w are taken as they are."""
    if isinstance(bias, Weights):
        if bias.codes.dtype == np.int32 and (np.abs(bias.scales / unit - 1)
                                             <= SCALE_TOLERANCE).all():
            values = (bias.codes - bias.zero_points) * unit
        else:
            values = bias.real()
    else:
        values = bias.astype(np.float64)
    if values.size not in (1, len(unit)):
        node.refuse(f"bias must have {len(unit)} entries, not shape {list(values.shape)}")
    return np.broadcast_to(values.reshape(-1), len(unit))


def conv_fields(node, shape, weights) -> dict:
    """Geometry of a Conv as fields of Conv2d."""
    window = geometry.window_of(node, shape, weights.shape[2:])
    groups = node.attributes.get("group", 1)
    if groups < 1 or shape[0] != weights.shape[1] * groups:
        node.refuse(f"{shape[0]} channels in {groups} groups do not fit weights of shape "
                    f"{list(weights.shape)}")
    return {"stride": window.stride, "padding": window.padding, "dilation": window.dilation,
            "groups": groups}


def quantize(walk, node) -> Codes:
    """QuantizeLinear: a pending or real value becomes codes."""
    quantization, offset = walk.quantization(node, 1, 2, f"tensor {node.output!r}")
    return walk.emit(node, walk.operand(node, 0), quantization, offset)


def dequantize(walk, node) -> Weights | Real:
    """DequantizeLinear, of a constant or of codes."""
    if node.attributes.get("block_size", 0):
        node.refuse("scales of blocks are not supported")
    value = walk.operand(node, 0)
    if isinstance(value, np.ndarray):
        scales, points, _ = walk.parameters(node, 1, 2, f"tensor {node.inputs[0]!r}")
        return Weights(codes=value, scales=scales, zero_points=points, name=node.inputs[0],
                       axis=node.attributes.get("axis", 1))
    quantization, offset = walk.quantization(node, 1, 2, f"tensor {node.inputs[0]!r}", value)
    return walk.real_of(node, node.inputs[0], quantization, offset)


def conv(walk, node) -> Product:
    """Conv with constant weights."""
    source, weights = walk.real(node).codes, walk.weights(node, 1, 4)
    bias = walk.operand(node, 2) if walk.has(node, 2) else None
    return product(walk, node, source, weights, 0, bias, conv_fields(node, source.shape, weights))


def linear(walk, node) -> Product:
    """Gemm and MatMul with constant weights."""
    source, weights = walk.real(node).codes, walk.weights(node, 1, 2)
    if node.attributes.get("transA", 0) or node.attributes.get("alpha", 1.0) != 1.0:
        node.refuse("transA must be 0 and alpha 1")
    bias = walk.operand(node, 2) if node.kind == "Gemm" and walk.has(node, 2) else None
    if bias is not None and node.attributes.get("beta", 1.0) != 1.0:
        node.refuse("beta must be 1")
    axis = 0 if node.attributes.get("transB", 0) else 1
    return product(walk, node, source, weights, axis, bias, None)


def channelwise(walk, node) -> Product:
    """The Product that input 0 is, or a depthwise one behind its codes."""
    value = walk.operand(node, 0)
    if isinstance(value, Product) and value.low == -np.inf and value.high == np.inf \
            and value.shape[0] == value.own_shape[0]:
        return value
    source, flat = walk.real(node).codes, None
    channels = source.shape[0]
    if len(source.shape) != 3:      # one pixel of many channels
        flat, pixel = source.shape, ops.Reshape(shape=(channels, 1, 1))
        name = walk.parts.node(walk.parts.invent(f"{node.output}/pixel"), pixel, [source.name],
                               source.quantization)
        source = replace(source, name=name, shape=pixel.shape)
    ones = Weights(codes=np.full((channels, 1, 1, 1), AFFINE_STEPS), scales=np.array(
        [1 / AFFINE_STEPS]), zero_points=np.zeros(1), axis=0, name=node.output)
    return replace(product(walk, node, source, ones, 0, None, {"groups": channels}), flat=flat)


def batch_normalization(walk, node) -> Product:
    """BatchNormalization, into the product in front."""
    value = channelwise(walk, node)
    return value.affine(*normalisation(walk, node, value.shape))


def add(walk, node) -> Pending:
    """A sum of two tensors, or of a tensor and a constant per channel."""
    if len(node.inputs) != 2:
        node.refuse(f"must have 2 inputs, not {len(node.inputs)}")
    for position, other in ((0, 1), (1, 0)):
        if walk.is_fixed(node.inputs[position]):
            return with_constant(walk, node, other)
    first, second = walk.real(node).codes, walk.real(node, 1).codes
    if first.shape != second.shape:
        node.refuse(f"inputs must have equal shapes, not {list(first.shape)} and "
                    f"{list(second.shape)}")
    return Sum(inputs=(first, second), own_shape=first.shape)


def with_constant(walk, node, position) -> Product:
    """Add, Sub, Mul or Div of the tensor at `position` and a constant per channel."""
    if position and node.kind in ("Sub", "Div"):
        node.refuse("the second operand must be the constant")
    if position:
        node = node.swapped()
    value = channelwise(walk, node)
    values = per_channel(node, walk.constant(node, 1, "operand"), value.shape)
    if node.kind == "Div" and not values.all():
        node.refuse("must not divide by 0")
    ones, zeros = np.ones(len(values)), np.zeros(len(values))
    return value.affine(*{"Add": (ones, values), "Sub": (ones, -values), "Mul": (values, zeros),
                          "Div": (1 / np.where(values, values, 1), zeros)}[node.kind])


def scaled(walk, node) -> Pending:
    """Sub, Mul and Div with a constant; Mul of two tensors."""
    for position, other in ((1, 0), (0, 1)):
        if walk.is_fixed(node.inputs[position]):
            return with_constant(walk, node, other)
    if node.kind != "Mul":
        node.refuse("one operand must be a constant")
    return gated(node, walk.real(node).codes, walk.real(node, 1).codes)


def gated(node, first, second) -> Gated:
    """The Gated of two Codes, in the order that it wants."""
    if np.prod(second.shape) > np.prod(first.shape):
        first, second = second, first
    if second.shape != first.shape and (len(first.shape) != 3
                                        or second.shape != (first.shape[0], 1, 1)):
        node.refuse(f"beside a tensor of shape {list(first.shape)} the other must have the same "
                    f"one or, of 4 dimensions, one value per channel, not shape "
                    f"{list(second.shape)}")
    return Gated(inputs=(first, second), own_shape=first.shape)


def function(walk, node) -> Function:
    """An operator of `FUNCTIONS`."""
    source = walk.real(node).codes
    return Function(inputs=(source,), own_shape=source.shape,
                    function=function_of(node, node.kind))


def clamp(walk, node) -> Pending | Codes | Real:
    """Relu and Clip, on real values or on codes."""
    low, high = walk.bounds(node) if node.kind == "Clip" else (0.0, np.inf)
    value = walk.operand(node, 0)
    if isinstance(value, Pending):
        return value.clamped(low, high)
    if isinstance(value, Real):
        return Shift(inputs=(value.codes,), own_shape=value.shape).clamped(low, high)

    def limits(codes):
        bounds = [int(np.clip(bound - codes.offset, -128, 127)) for bound in (low, high)]
        return None if bounds == [-128, 127] else ops.Clamp(low=bounds[0], high=bounds[1])
    return walk.on_codes(node, limits)


def max_pool(walk, node) -> Codes | Real:
    """MaxPool, on real values or on codes."""
    def window(codes):
        found = geometry.window_of(node, codes.shape)
        geometry.check_pool(node, found)
        return ops.MaxPool(kernel=found.kernel, stride=found.stride, padding=found.padding)
    return walk.on_codes(node, window)


def average_pool(walk, node) -> Mean:
    """AveragePool, its padding counted or not."""
    source = walk.real(node).codes
    window = geometry.window_of(node, source.shape)
    counts = geometry.check_pool(node, window)
    size = geometry.output_size(node, source.shape[1:], window)
    return Mean(inputs=(source,), own_shape=(source.shape[0], *size), window=window,
                counts_padding=counts)


def global_average_pool(walk, node) -> Mean:
    """GlobalAveragePool, and ReduceMean over height and width."""
    source = walk.real(node).codes
    channels, flat = source.shape[0], None
    if node.kind == "ReduceMean":
        geometry.pixel_axes(node, walk.option(node, "axes", 1, []), source.shape)
        flat = None if node.attributes.get("keepdims", 1) else (channels,)
    elif len(source.shape) != 3:
        node.refuse(f"must have an input of 4 dimensions, not {len(source.shape) + 1}")
    return Mean(inputs=(source,), own_shape=(channels, 1, 1), window=None, flat=flat)


def reshape(walk, node) -> Pending | Codes | Real:
    """Reshape, Flatten, Squeeze and Unsqueeze; of Weights only what keeps their shape."""
    value = walk.operand(node, 0)
    shape = geometry.new_shape(walk, node, value.shape)
    if isinstance(value, Pending):
        return replace(value, flat=shape)
    return walk.on_codes(node, lambda codes: None if shape == codes.shape
                         else ops.Reshape(shape=shape))


def transpose(walk, node) -> Weights:
    """Of weights."""
    value = walk.operand(node, 0)
    if not isinstance(value, Weights):
        node.refuse("is supported for weights alone")
    return value.transposed(node.integers("perm", range(value.codes.ndim)[::-1],
                                          value.codes.ndim))


def concat(walk, node) -> Join | Codes | Real:
    """Concat along the channels, on real values or on codes."""
    values = [walk.operand(node, position) for position in range(len(node.inputs))]
    if not all(isinstance(value, Codes) for value in values):
        values = [walk.real(node, position) for position in range(len(node.inputs))]
    codes = tuple(value.codes if isinstance(value, Real) else value for value in values)
    shape = geometry.joined(node, [value.shape for value in codes])
    if len({(item.quantization, item.offset) for item in codes}) > 1 or len(codes) == 1:
        if isinstance(values[0], Codes):
            node.refuse("codes that are joined must share scale and zero point")
        return Join(inputs=codes, own_shape=shape)
    return walk.on_codes(node, lambda *inputs: ops.Concat(axis=1))


def pad(walk, node) -> Codes | Real:
    """A convolution of weights 1 that pads with the zero point."""
    source = walk.real(node).codes
    padding = geometry.pad_sides(walk, node, source.shape)
    if not any(padding):
        return Real(codes=source)
    return walk.on_codes(node, lambda codes: identity_conv(
        codes.shape[0], codes.quantization.zero_point, padding))


def same(walk, node) -> object:
    """Identity and Dropout."""
    check_dropout(walk, node)
    return walk.operand(node, 0)


CONVERTERS = {
    "QuantizeLinear": quantize, "DequantizeLinear": dequantize, "Conv": conv, "Gemm": linear,
    "MatMul": linear, "BatchNormalization": batch_normalization, "Add": add, "Sub": scaled,
    "Mul": scaled, "Div": scaled, "Relu": clamp, "Clip": clamp, "MaxPool": max_pool,
    "AveragePool": average_pool, "GlobalAveragePool": global_average_pool,
    "ReduceMean": global_average_pool, "Reshape": reshape, "Flatten": reshape,
    "Squeeze": reshape, "Unsqueeze": reshape, "Transpose": transpose, "Concat": concat,
    "Pad": pad, "Identity": same, "Dropout": same, **dict.fromkeys(FUNCTIONS, function),
}

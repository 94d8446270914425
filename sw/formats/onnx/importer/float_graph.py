"""Float graphs become networks of ``sw/layers/weighted.py``, which post-training quantization
takes.

A convolution, linear layer or sum stays open for the norm, constants and activation function
behind it as long as nothing else reads what lies between.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import torch
from torch import nn

from golden.errors import LockstepError
from sw.formats.onnx.importer import geometry
from sw.formats.onnx.importer.geometry import WindowGeometry
from sw.formats.onnx.importer.network import FLOAT, ImportedNetwork
from sw.formats.onnx.importer.walk import Walk, check_dropout, normalisation, per_channel
from sw.layers.graph_layers import PaddedMaxPool2d, QActivation, QConcat, QPaddedAvgPool2d
from sw.layers.weighted import QAdd, QConv2d, QGlobalAvgPool2d, QLinear, WeightedLayer

__all__ = ["FloatWalk", "LayerOutput", "Open", "Padded", "activation", "add", "average_pool",
           "batch_normalization", "concat", "constant_operand", "conv", "global_average_pool",
           "identity", "linear", "max_pool", "mul", "pad", "reshape", "same", "sub"]

PIXEL = WindowGeometry(kernel=(1, 1), stride=(1, 1), padding=(0, 0, 0, 0))


@dataclass(frozen=True, kw_only=True)
class LayerOutput:
    """The output of a layer of the network. shape: without the batch."""

    name: str
    shape: tuple


@dataclass(kw_only=True, eq=False)
class Padded:
    """A value with zeros around it. padding: (top, left, bottom, right)."""

    node: object
    source: LayerOutput
    padding: tuple

    @property
    def shape(self) -> tuple:
        """With the padding, without the batch."""
        channels, rows, columns = self.source.shape
        top, left, bottom, right = self.padding
        return channels, rows + top + bottom, columns + left + right


@dataclass(kw_only=True, eq=False)
class Open:
    """A layer that is not in the network yet: activation(factor * product + offset).

    weights: float array, None for a sum or an activation function alone; window: of a convolution
    factor, offset: float64 (O,)
    """

    node: object
    inputs: tuple
    shape: tuple
    weights: np.ndarray | None = None
    window: WindowGeometry | None = None
    groups: int = 1
    factor: np.ndarray = field(default_factory=lambda: np.ones(1))
    offset: np.ndarray = field(default_factory=lambda: np.zeros(1))
    activation: str | None = None


def _layer(layer):
    """The torch layer of an Open one."""
    if layer.weights is None:
        if len(layer.inputs) == 2:
            return QAdd(activation=layer.activation, config=FLOAT)
        return QActivation(FLOAT, layer.activation)
    n_outputs = len(layer.weights)
    factor = np.broadcast_to(layer.factor, n_outputs)
    weights = layer.weights * factor.reshape((-1,) + (1,) * (layer.weights.ndim - 1))
    if layer.window is None:
        made = QLinear(weights.shape[1], n_outputs, activation=layer.activation, config=FLOAT)
    else:
        window = layer.window
        made = QConv2d(weights.shape[1] * layer.groups, n_outputs, window.kernel,
                       stride=window.stride, padding=_sides(window.padding),
                       dilation=window.dilation, groups=layer.groups, norm=False,
                       activation=layer.activation, config=FLOAT)
    _set(made, weights, np.broadcast_to(layer.offset, n_outputs))
    return made


def _sides(padding):
    """(vertical, horizontal) where both sides are equal, else all four."""
    return padding[:2] if padding[:2] == padding[2:] else padding


def _set(layer: WeightedLayer, weights, bias):
    layer.weight = nn.Parameter(torch.from_numpy(np.ascontiguousarray(weights, np.float32)))
    layer.bias = nn.Parameter(torch.from_numpy(np.ascontiguousarray(bias, np.float32)))


class FloatWalk(Walk):
    """Builds an ImportedNetwork."""

    def __init__(self, graph):
        super().__init__(graph)
        if graph.source_type != "float32":
            raise LockstepError(f"Input {graph.source!r} of a float network must be float32, "
                                f"not {graph.source_type}")
        shape = graph.source_shape[1:]
        if len(shape) not in (1, 3):
            raise LockstepError(f"Input {graph.source!r} must have 2 or 4 dimensions, "
                                f"not {len(shape) + 1}")
        self.network = ImportedNetwork(shape, graph.source)
        self.values[graph.source] = LayerOutput(name=self.network.source, shape=shape)

    def close(self, name) -> LayerOutput | np.ndarray:
        """The LayerOutput of a tensor; an Open or Padded one enters the network."""
        value = self.value(name)
        if isinstance(value, Padded):
            self.check_size(value.node, value.shape)
            value = identity(value.node, value.source, value.padding)
        if isinstance(value, Open):
            layer = self.network.append(value.node.name, _layer(value),
                                        [source.name for source in value.inputs])
            value = LayerOutput(name=layer, shape=value.shape)
        self.values[name] = value
        return value

    def tensor(self, node, position=0) -> LayerOutput:
        """The LayerOutput that an input of a node is."""
        value = self.operand(node, position)
        if isinstance(value, np.ndarray):
            node.refuse(f"input {position} must be computed, not a constant")
        return self.close(node.inputs[position])

    def add(self, node, layer, inputs, shape) -> LayerOutput:
        """A layer of its own; returns its Value."""
        self.check_size(node, shape)
        name = self.network.append(node.name, layer, [value.name for value in inputs])
        return LayerOutput(name=name, shape=tuple(shape))

    def opened(self, node, layer) -> Open | LayerOutput:
        """What the node's output becomes: an Open layer stays so for its only reader."""
        self.check_size(node, layer.shape)
        self.values[node.output] = layer
        return layer if self.readers.get(node.output, 0) == 1 else self.close(node.output)

    def affine(self, node) -> Open:
        """An Open product, not yet activated, that input 0 is or that is made behind it."""
        value = self.operand(node, 0)
        if isinstance(value, Open) and value.weights is not None and value.activation is None:
            return value
        source = self.tensor(node)
        if len(source.shape) != 3:
            node.refuse("must follow a convolution or linear layer, or read an image")
        return identity(node, source)

    def join(self, node, factor, offset) -> Open | LayerOutput:
        """factor * x + offset, (C,) each, into the product in front."""
        layer = self.affine(node)
        layer.offset = layer.offset * factor + offset
        layer.factor = layer.factor * factor
        return self.opened(node, layer)


def identity(node, source, padding=(0, 0, 0, 0)) -> Open:
    """A depthwise convolution with weights of 1."""
    channels, rows, columns = source.shape
    window = WindowGeometry(kernel=(1, 1), stride=(1, 1), padding=padding)
    shape = channels, rows + padding[0] + padding[2], columns + padding[1] + padding[3]
    return Open(node=node, inputs=(source,), shape=shape, groups=channels, window=window,
                weights=np.ones((channels, 1, 1, 1), np.float32), factor=np.ones(channels),
                offset=np.zeros(channels))


def conv(walk, node) -> Open | LayerOutput:
    """Conv with constant weights; a Pad in front becomes its padding."""
    value = walk.operand(node, 0)
    source, extra = (value.source, value.padding) if isinstance(value, Padded) \
        else (walk.tensor(node), (0, 0, 0, 0))
    shape = value.shape
    weights = walk.constant(node, 1, "weights")
    if weights.ndim != 4:
        node.refuse(f"weights must have 4 dimensions, not {weights.ndim}")
    window = geometry.window_of(node, shape, weights.shape[2:])
    groups = node.attributes.get("group", 1)
    if groups < 1 or shape[0] != weights.shape[1] * groups or len(weights) % groups:
        node.refuse(f"{shape[0]} channels in {groups} groups do not fit weights of shape "
                    f"{list(weights.shape)}")
    size = geometry.output_size(node, shape[1:], window)
    padding = tuple(a + b for a, b in zip(window.padding, extra))
    window = WindowGeometry(kernel=window.kernel, stride=window.stride, dilation=window.dilation,
                    padding=padding)
    layer = Open(node=node, inputs=(source,), shape=(len(weights), *size), weights=weights,
                 window=window, groups=groups, factor=np.ones(len(weights)),
                 offset=_bias(walk, node, len(weights)))
    return walk.opened(node, layer)


def _bias(walk, node, n_outputs):
    if not walk.has(node, 2):
        return np.zeros(n_outputs)
    bias = walk.constant(node, 2, "bias").astype(np.float64)
    if bias.size not in (1, n_outputs) or bias.ndim > 2:
        node.refuse(f"bias must have {n_outputs} entries, not shape {list(bias.shape)}")
    return np.broadcast_to(bias.reshape(-1), n_outputs)


def linear(walk, node) -> Open | LayerOutput:
    """Gemm and MatMul with constant weights."""
    source, weights = walk.tensor(node), walk.constant(node, 1, "weights")
    if weights.ndim != 2 or len(source.shape) != 1:
        node.refuse(f"must multiply a matrix by constant weights of 2 dimensions, not "
                    f"{len(source.shape) + 1} and {weights.ndim} dimensions")
    if node.attributes.get("transA", 0):
        node.refuse("transA must be 0")
    if not node.attributes.get("transB", 0):
        weights = weights.T
    n_outputs, n_inputs = weights.shape
    if source.shape != (n_inputs,):
        node.refuse(f"weights for {n_inputs} inputs do not fit {source.shape[0]}")
    alpha = float(node.attributes.get("alpha", 1.0))
    offset = _bias(walk, node, n_outputs) * float(node.attributes.get("beta", 1.0)) \
        if node.kind == "Gemm" else np.zeros(n_outputs)
    return walk.opened(node, Open(node=node, inputs=(source,), shape=(n_outputs,),
                                  weights=weights, factor=np.full(n_outputs, alpha),
                                  offset=offset))


def batch_normalization(walk, node) -> Open | LayerOutput:
    """BatchNormalization, into the product in front."""
    layer = walk.affine(node)
    return walk.join(node, *normalisation(walk, node, layer.shape))


def add(walk, node) -> Open | LayerOutput:
    """A sum of two tensors, or of a tensor and a constant per channel."""
    if len(node.inputs) == 1:
        return walk.tensor(node)
    constants = [position for position in (0, 1) if walk.is_constant(node.inputs[position])]
    if not constants:
        total = walk.tensor(node)
        for position in range(1, len(node.inputs)):
            other = walk.tensor(node, position)
            if total.shape != other.shape:
                node.refuse(f"inputs must have equal shapes, not {list(total.shape)} and "
                            f"{list(other.shape)}")
            layer = Open(node=node, inputs=(total, other), shape=total.shape)
            if position == len(node.inputs) - 1:
                return walk.opened(node, layer)
            total = walk.add(node, _layer(layer), layer.inputs, layer.shape)
    return constant_operand(walk, node, constants[0], 1.0)


def constant_operand(walk, node, position, sign) -> Open | LayerOutput:
    """x + sign * c for a constant c at `position`."""
    if len(node.inputs) != 2:
        node.refuse("a sum with constants must have 2 inputs")
    node = node if position else node.swapped()
    layer = walk.affine(node)
    offset = per_channel(node, walk.constant(node, 1, "operand"), layer.shape)
    return walk.join(node, np.ones(layer.shape[0]), sign * offset)


def sub(walk, node) -> Open | LayerOutput:
    """A tensor less a constant per channel."""
    if walk.is_constant(node.inputs[0]):
        node.refuse("the second operand must be the constant")
    return constant_operand(walk, node, 1, -1.0)


def mul(walk, node) -> Open | LayerOutput:
    """A product with a constant per channel; Div by one."""
    if walk.is_constant(node.inputs[0]) and node.kind == "Mul":
        node = node.swapped()
    layer = walk.affine(node)
    factor = per_channel(node, walk.constant(node, 1, "operand"), layer.shape)
    if node.kind == "Div":
        if not factor.all():
            node.refuse("must not divide by 0")
        factor = 1 / factor
    return walk.join(node, factor, np.zeros(layer.shape[0]))


def activation(walk, node) -> Open | LayerOutput:
    """Relu, and Clip with their bounds."""
    low, high = walk.bounds(node) if node.kind == "Clip" else (0.0, np.inf)
    names = {(0.0, np.inf): "relu", (0.0, 6.0): "relu6", (-np.inf, np.inf): None}
    if (low, high) not in names:
        node.refuse(f"bounds must be 0 and 6, or 0 and none, not {low:g} and {high:g}")
    value, name = walk.operand(node, 0), names[low, high]
    if isinstance(value, Open) and value.activation is None and name:
        value.activation = name
        return walk.opened(node, value)
    if name is None or isinstance(value, Open) and value.activation == name:
        return walk.tensor(node)
    source = walk.tensor(node)
    return walk.opened(node, Open(node=node, inputs=(source,), shape=source.shape,
                                  activation=name))


def max_pool(walk, node) -> LayerOutput:
    """MaxPool; padding never wins."""
    source = walk.tensor(node)
    window = geometry.window_of(node, source.shape)
    geometry.check_pool(node, window)
    layer = PaddedMaxPool2d(window.kernel, window.stride, window.padding)
    size = geometry.output_size(node, source.shape[1:], window)
    return walk.add(node, layer, [source], (source.shape[0], *size))


def average_pool(walk, node) -> LayerOutput:
    """AveragePool, its padding counted or not."""
    source = walk.tensor(node)
    window = geometry.window_of(node, source.shape)
    included = geometry.check_pool(node, window)
    layer = QPaddedAvgPool2d(window.kernel, stride=window.stride, padding=window.padding,
                             count_include_pad=included, config=FLOAT)
    size = geometry.output_size(node, source.shape[1:], window)
    return walk.add(node, layer, [source], (source.shape[0], *size))


def global_average_pool(walk, node) -> LayerOutput:
    """GlobalAveragePool, and ReduceMean over height and width."""
    source, flat = walk.tensor(node), False
    if node.kind == "ReduceMean":
        geometry.pixel_axes(node, walk.option(node, "axes", 1, []), source.shape)
        flat = not node.attributes.get("keepdims", 1)
    elif len(source.shape) != 3:
        node.refuse(f"must have an input of 4 dimensions, not {len(source.shape) + 1}")
    pooled = walk.add(node, QGlobalAvgPool2d(FLOAT), [source], (source.shape[0], 1, 1))
    return walk.add(node, nn.Flatten(), [pooled], pooled.shape[:1]) if flat else pooled


def reshape(walk, node) -> LayerOutput:
    """Reshape, Flatten, Squeeze and Unsqueeze: to one dimension, or to the same shape."""
    source = walk.tensor(node)
    shape = geometry.new_shape(walk, node, source.shape)
    if shape == source.shape:
        return source
    if len(shape) != 1:
        node.refuse(f"shape {list(source.shape)} can become one dimension, "
                    f"not {list(shape)}")
    return walk.add(node, nn.Flatten(), [source], shape)


def concat(walk, node) -> LayerOutput:
    """Concat along the channels."""
    inputs = [walk.tensor(node, position) for position in range(len(node.inputs))]
    shape = geometry.joined(node, [value.shape for value in inputs])
    return walk.add(node, QConcat(FLOAT), inputs, shape) if len(inputs) > 1 else inputs[0]


def pad(walk, node) -> Padded:
    """Pad by zeros, which the operator behind it may take over."""
    source = walk.tensor(node)
    padding = geometry.pad_sides(walk, node, source.shape)
    return Padded(node=node, source=source, padding=padding)


def same(walk, node) -> LayerOutput | Open | np.ndarray:
    """Identity and Dropout."""
    check_dropout(walk, node)
    value = walk.operand(node, 0)
    if isinstance(value, Open) and walk.readers.get(node.output, 0) != 1:
        return walk.tensor(node)
    return value


FloatWalk.converters = {
    "Conv": conv, "Gemm": linear, "MatMul": linear, "BatchNormalization": batch_normalization,
    "Add": add, "Sum": add, "Sub": sub, "Mul": mul, "Div": mul, "Relu": activation,
    "Clip": activation, "MaxPool": max_pool, "AveragePool": average_pool,
    "GlobalAveragePool": global_average_pool, "ReduceMean": global_average_pool,
    "Reshape": reshape, "Flatten": reshape, "Squeeze": reshape, "Unsqueeze": reshape,
    "Concat": concat, "Pad": pad, "Identity": same, "Dropout": same,
}

"""The primitives of `golden.ops.primitives` as nodes of an ONNX graph.

An operator's own `compute` runs on these and writes its nodes, so what it does is restated nowhere.
int8 operands are kept signed on both sides of a product: ONNX Runtime's unsigned-by-signed kernels
may saturate 16-bit sums on processors with AVX2 and without VNNI, signed-by-signed ones do not, and
int8 activations with uint8 weights give wrong sums without a word.
"""

import math
from dataclasses import dataclass

import numpy as np

from golden import arith
from golden.ops import windows
from golden.ops.primitives import Primitives
from sw.formats.onnx.exporter.builder import GraphBuilder, TracedValue, along_channels

__all__ = ["BATCH", "Integers", "Movements", "Symbol"]

BATCH = "N"     # a length of axis 0 that is not known


@dataclass(frozen=True)
class Symbol:
    """A tensor of the graph. shape: its batch axis included."""

    name: str
    shape: tuple
    dtype: str = "int8"

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)


class Movements(Primitives):
    """What chooses and moves elements: the same nodes for codes and for real values."""

    def __init__(self, graph: GraphBuilder):
        self.graph = graph

    def _pooled(self, x, kernel, stride, padding):
        return (*x.shape[:2], *windows.output_size(x.shape[2:], kernel, stride, padding))

    def window_max(self, x, kernel, stride, padding) -> Symbol:
        name = self.graph.node("MaxPool", x.name, kernel_shape=list(kernel), strides=list(stride),
                               pads=list(padding))
        return Symbol(name, self._pooled(x, kernel, stride, padding), x.dtype)

    def concat(self, inputs, axis) -> Symbol:
        name = self.graph.node("Concat", *(x.name for x in inputs), axis=axis)
        shape = list(inputs[0].shape)
        shape[axis] = sum(x.shape[axis] for x in inputs)
        return Symbol(name, tuple(shape), inputs[0].dtype)

    def reshape(self, x, shape) -> Symbol:
        sizes = self.graph.constant([0, *shape], "int64", "shape")  # 0 keeps the batch dimension
        name = self.graph.node("Reshape", x.name, sizes)
        return Symbol(name, (x.shape[0], *shape), x.dtype)

    def transpose(self, x, axes) -> Symbol:
        name = self.graph.node("Transpose", x.name, perm=list(axes))
        return Symbol(name, tuple(x.shape[axis] for axis in axes), x.dtype)


class Integers(Movements):
    """Codes are `Symbol`s, integers are `TracedValue`s."""

    def integers(self, x) -> TracedValue:
        limits = np.iinfo(x.dtype)
        return TracedValue(self.graph, self.graph.cast(x.name, "int64"), int(limits.min),
                     int(limits.max), x.shape)

    def codes(self, value, dtype="int8") -> Symbol:
        return Symbol(value.store(dtype), value.shape, dtype)

    def constant(self, values, like) -> np.ndarray:
        return np.asarray(values, np.int64)

    def per_channel(self, values, like, axis=1) -> np.ndarray:
        if axis != 1:
            self._refuse(f"channels on axis {axis}")
        return along_channels(values, like.ndim)

    def _sums(self, name, shape):
        """int32 sums as a TracedValue."""
        return TracedValue(self.graph, self.graph.cast(name, "int64"), arith.INT32_MIN,
                           arith.INT32_MAX, shape)

    def _convolution(self, x, weights, zero_point, *, stride, padding, dilation, groups):
        """The sums of w * (x - zero_point); the padding supplies the zero point."""
        kernel = weights.shape[2:]
        name = self.graph.node(
            "ConvInteger", x.name, self.graph.constant(weights, "int8", "weights"),
            self.graph.constant(zero_point, "int8", "x_zero_point"),
            self.graph.constant(0, "int8", "w_zero_point"), kernel_shape=[int(n) for n in kernel],
            strides=list(stride), pads=list(padding), dilations=list(dilation), group=groups)
        size = windows.output_size(x.shape[2:], kernel, stride, padding, dilation)
        return self._sums(name, (x.shape[0], len(weights), *size))

    def convolution(self, x, weights, bias, zero_point, **geometry) -> TracedValue:
        return self._convolution(x, weights, zero_point, **geometry) + along_channels(bias, 4)

    def linear(self, x, weights, bias, zero_point) -> TracedValue:
        name = self.graph.node("MatMulInteger", x.name,
                               self.graph.constant(np.ascontiguousarray(weights.T), "int8",
                                                   "weights"),
                               self.graph.constant(zero_point, "int8", "x_zero_point"),
                               self.graph.constant(0, "int8", "w_zero_point"))
        return self._sums(name, (x.shape[0], len(weights))) + along_channels(bias, 2)

    def window_sum(self, x, zero_point, kernel, stride, padding) -> TracedValue:
        channels = x.shape[1]
        return self._convolution(x, np.ones((channels, 1, *kernel), np.int8), zero_point,
                                 stride=stride, padding=padding, dilation=(1, 1), groups=channels)

    def sum(self, value, axes) -> TracedValue:
        lengths = [value.shape[axis] for axis in axes]
        if BATCH in lengths:
            self._refuse("sum over a batch of unknown length")
        return value.sum(axes, math.prod(lengths))

    def clip(self, x, low, high) -> Symbol:
        return Symbol(self.graph.clip(x.name, low, high, x.dtype), x.shape, x.dtype)

    def lookup(self, x, table) -> Symbol:
        index = self.integers(x) - arith.INT8_MIN
        table = self.graph.constant(table, "int8", "table")
        return Symbol(self.graph.node("Gather", table, index.name, axis=0), x.shape)

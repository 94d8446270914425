"""Convolution and fully connected layers: acc = bias + sum w * (x - input zero point)."""

from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops import windows
from golden.ops.operator import Accumulating
from golden.ops.primitives import (
    ExecutorIntegers,
    ExecutorTensor,
    exact_float,
    product_bounds,
)
from golden.ops.rescale import Rescale
from golden.ops.windowed import Windowed

__all__ = ["Conv2d", "Linear", "exact_float"]


class _Products(Accumulating):
    """What convolution and linear share: they differ only in how inputs meet the weights."""

    def _validate(self, weights_ndim):
        self._put("weights", validate.int_array("Weights", self.weights, np.int8, weights_ndim))
        n_outputs = self.weights.shape[0]
        self._put("bias", validate.int_array("Bias", self.bias, np.int32, 1, length=n_outputs))
        self._put("input_zero_point", validate.integer(
            "Input zero point", self.input_zero_point, arith.INT8_MIN, arith.INT8_MAX))
        validate.instance("Rescale", self.rescale, Rescale).check_channels(n_outputs)

    @property
    def reads_zero_points(self) -> tuple:
        """Its own."""
        return (self.input_zero_point,)

    def folded_bias(self) -> np.ndarray:
        """bias - input_zero_point * sum(weights), int64 (O,): for machines that multiply codes."""
        flat = self.weights.reshape(self.weights.shape[0], -1).astype(np.int64)
        return self.bias.astype(np.int64) - self.input_zero_point * flat.sum(axis=1)

    def accumulator_bounds(self, low=arith.INT8_MIN, high=arith.INT8_MAX) -> tuple:
        """Bounds of every partial sum of w * (x - zero point), bias first or last, any order.

        low, high: the smallest and largest input code. Returns two int64 (O,) arrays.
        """
        return self._bounds(low - self.input_zero_point, high - self.input_zero_point, self.bias)

    def raw_accumulator_bounds(self, low=arith.INT8_MIN, high=arith.INT8_MAX) -> tuple:
        """The same for machines that add w * x to the folded bias; padding is a code as well."""
        return self._bounds(min(low, self.input_zero_point), max(high, self.input_zero_point),
                            self.folded_bias())

    def accumulators(self, input_ranges) -> tuple:
        """Both forms; those of raw codes cover the folded bias itself too."""
        return (self.accumulator_bounds(*input_ranges[0]),
                self.raw_accumulator_bounds(*input_ranges[0]))

    def _bounds(self, low, high, bias):
        smallest, largest = product_bounds(
            self.weights.reshape(self.weights.shape[0], -1), low, high)
        bias = bias.astype(np.int64)
        return smallest + np.minimum(bias, 0), largest + np.maximum(bias, 0)


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2d(Windowed, _Products):
    """Two-dimensional convolution, grouped and dilated as asked; padding supplies the zero point.

    weights: int8 (O, I / groups, kh, kw)
    bias: int32 (O,), in the accumulator's scale
    input_zero_point: -128..127
    stride, dilation: (rows, columns); padding: (top, left, bottom, right)
    groups: divides I and O; groups = I is a depthwise convolution
    rescale: one multiplier, or one per output channel
    """

    weights: np.ndarray
    bias: np.ndarray
    input_zero_point: int
    stride: tuple = (1, 1)
    padding: tuple = (0, 0, 0, 0)
    dilation: tuple = (1, 1)
    groups: int = 1
    rescale: Rescale

    def __post_init__(self):
        self._validate(weights_ndim=4)
        _, stride, padding, dilation = windows.geometry(
            self.kernel, self.stride, self.padding, self.dilation)
        self._put("stride", stride)
        self._put("padding", padding)
        self._put("dilation", dilation)
        n_outputs = self.weights.shape[0]
        self._put("groups", validate.integer("Groups", self.groups, 1, n_outputs))
        if n_outputs % self.groups:
            raise ValueError(f"Groups must divide {n_outputs} output channels, not {self.groups}")

    @property
    def kernel(self) -> tuple:
        """(kh, kw)"""
        return self.weights.shape[2:]

    def output_shape(self, shape) -> tuple:
        """(I, H, W) to (O, OH, OW)."""
        channels, *size = windows.image_shape("Conv2d", shape)
        expected = self.weights.shape[1] * self.groups
        if channels != expected:
            raise ValueError(f"Conv2d must get {expected} input channels, not {channels}")
        return (self.weights.shape[0],
                *windows.output_size(size, self.kernel, self.stride, self.padding, self.dilation))

    def macs(self, shape) -> int:
        """Multiplications for one image of shape (I, H, W), those with padding included."""
        _, rows, columns = self.output_shape(shape)
        return self.weights.size * rows * columns

    def sums(self, p, x) -> ExecutorIntegers:
        """x: (N, I, H, W) to (N, O, OH, OW)."""
        return p.convolution(x, self.weights, self.bias, self.input_zero_point, stride=self.stride,
                             padding=self.padding, dilation=self.dilation, groups=self.groups)

    def compute_real(self, r, x) -> ExecutorTensor:
        """The same layer."""
        return r.convolution(x, self.weights, self.bias, self.rescale, stride=self.stride,
                             padding=self.padding, dilation=self.dilation, groups=self.groups)


@dataclass(frozen=True, kw_only=True, eq=False)
class Linear(_Products):
    """Fully connected layer.

    weights: int8 (O, I); bias: int32 (O,); input_zero_point: -128..127
    rescale: one multiplier, or one per output
    """

    weights: np.ndarray
    bias: np.ndarray
    input_zero_point: int
    rescale: Rescale

    def __post_init__(self):
        self._validate(weights_ndim=2)

    def output_shape(self, shape) -> tuple:
        """(I,) to (O,)."""
        shape = tuple(shape)
        if shape != (self.weights.shape[1],):
            raise ValueError(f"Linear must get shape ({self.weights.shape[1]},), not {shape}")
        return (self.weights.shape[0],)

    def macs(self, shape) -> int:
        """Multiplications for one input."""
        return self.weights.size

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """Everything."""
        return None

    def sums(self, p, x) -> ExecutorIntegers:
        """x: (N, I) to (N, O)."""
        return p.linear(x, self.weights, self.bias, self.input_zero_point)

    def compute_real(self, r, x) -> ExecutorTensor:
        """The same layer."""
        return r.linear(x, self.weights, self.bias, self.rescale)

"""Convolution and fully connected layers: acc = bias + sum w * (x - input zero point).

Products run as a floating-point matrix product only where the bound on every partial sum proves
it exact (float32 below 2**24, float64 below 2**53).
"""

from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops import windows
from golden.ops.rescale import Rescale

BLOCK_BYTES = 1 << 26           # largest patch matrix held at a time


def exact_float(largest):
    """The fastest float type that adds integers up to `largest` in magnitude exactly."""
    if largest < 1 << 24:
        return np.float32
    if largest < 1 << 53:
        return np.float64
    raise ValueError(f"Sum of products must stay below 2**53, not {largest}")


def product_bounds(weights, low, high):
    """Bounds of every partial sum of weights (O, K) times inputs in [low, high], in any order.

    Returns two int64 (O,) arrays, the smallest (<= 0) and the largest (>= 0).
    """
    products = weights.astype(np.int64) * low, weights.astype(np.int64) * high
    smallest = np.minimum(np.minimum(*products), 0).sum(axis=1)
    largest = np.maximum(np.maximum(*products), 0).sum(axis=1)
    return smallest, largest


class _Products:
    """What convolution and linear share: they differ only in how inputs meet the weights."""

    def _put(self, name, value):
        object.__setattr__(self, name, value)

    def _validate(self, weights_ndim):
        self._put("weights", validate.int_array("Weights", self.weights, np.int8, weights_ndim))
        n_outputs = self.weights.shape[0]
        self._put("bias", validate.int_array("Bias", self.bias, np.int32, 1, length=n_outputs))
        self._put("input_zero_point", validate.integer(
            "Input zero point", self.input_zero_point, arith.INT8_MIN, arith.INT8_MAX))
        validate.instance("Rescale", self.rescale, Rescale).check_channels(n_outputs)

    def folded_bias(self):
        """bias - input_zero_point * sum(weights), int64 (O,): for machines that multiply codes."""
        flat = self.weights.reshape(self.weights.shape[0], -1).astype(np.int64)
        return self.bias.astype(np.int64) - self.input_zero_point * flat.sum(axis=1)

    def accumulator_bounds(self, low=arith.INT8_MIN, high=arith.INT8_MAX):
        """Bounds of every partial sum of w * (x - zero point), bias first or last, any order.

        low, high: the smallest and largest input code. Returns two int64 (O,) arrays.
        """
        return self._bounds(low - self.input_zero_point, high - self.input_zero_point, self.bias)

    def raw_accumulator_bounds(self, low=arith.INT8_MIN, high=arith.INT8_MAX):
        """The same for machines that add w * x to the folded bias; padding is a code as well."""
        return self._bounds(min(low, self.input_zero_point), max(high, self.input_zero_point),
                            self.folded_bias())

    def _bounds(self, low, high, bias):
        smallest, largest = product_bounds(
            self.weights.reshape(self.weights.shape[0], -1), low, high)
        bias = bias.astype(np.int64)
        return smallest + np.minimum(bias, 0), largest + np.maximum(bias, 0)

    def _exact_float(self):
        smallest, largest = self.accumulator_bounds()
        return exact_float(int(max(-smallest.min(), largest.max())))

    def __call__(self, x):
        """x: int8 with a batch axis. Returns int8, channels on axis 1."""
        return self.rescale(self.accumulate(x))


@dataclass(frozen=True, kw_only=True, eq=False)
class Conv2d(_Products):
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
    def kernel(self):
        """(kh, kw)"""
        return self.weights.shape[2:]

    def output_shape(self, shape):
        """(I, H, W) to (O, OH, OW)."""
        channels, *size = windows.image_shape("Conv2d", shape)
        expected = self.weights.shape[1] * self.groups
        if channels != expected:
            raise ValueError(f"Conv2d must get {expected} input channels, not {channels}")
        return (self.weights.shape[0],
                *windows.output_size(size, self.kernel, self.stride, self.padding, self.dilation))

    def macs(self, shape):
        """Multiplications for one image of shape (I, H, W), those with padding included."""
        _, rows, columns = self.output_shape(shape)
        return self.weights.size * rows * columns

    def accumulate(self, x):
        """x: int8 (N, I, H, W). Returns the accumulators, int64 (N, O, OH, OW)."""
        x = validate.codes("Conv2d input", x)
        n_outputs, rows, columns = self.output_shape(x.shape[1:])
        kind = self._exact_float()
        x = windows.pad(x, self.padding, self.input_zero_point).astype(kind)
        x -= self.input_zero_point
        n_taps = self.weights[0].size
        acc = np.empty((len(x), n_outputs, rows, columns), np.int64)
        if self.groups > 1 and self.weights.shape[1] == 1:
            self._depthwise(x, acc)
        else:
            weights = self.weights.reshape(self.groups, -1, n_taps).astype(kind)
            image = self.groups * n_taps * rows * columns * np.dtype(kind).itemsize
            step = max(1, BLOCK_BYTES // image)
            for start in range(0, len(x), step):
                patches = windows.sliding(x[start:start + step], self.kernel, self.stride,
                                          self.dilation)
                # One large product per group: many small ones lose their time between threads.
                n_images = len(patches)
                patches = patches.transpose(1, 2, 3, 0, 4, 5).reshape(self.groups, n_taps, -1)
                products = (weights @ patches).reshape(n_outputs, n_images, rows, columns)
                acc[start:start + step] = products.transpose(1, 0, 2, 3)
        acc += self.bias.astype(np.int64).reshape(1, -1, 1, 1)
        return acc

    def _depthwise(self, x, acc):
        """One input channel per group: a multiply-add of whole maps per kernel tap."""
        views = windows.sliding(x, self.kernel, self.stride, self.dilation)
        n_images, channels = x.shape[:2]
        per_group = self.weights.shape[0] // self.groups
        weights = self.weights.reshape(1, channels, per_group, *self.kernel, 1, 1).astype(x.dtype)
        total = np.zeros((n_images, channels, per_group, *acc.shape[2:]), x.dtype)
        for row in range(self.kernel[0]):
            for column in range(self.kernel[1]):
                total += views[:, :, None, row, column] * weights[:, :, :, row, column]
        acc[...] = total.reshape(acc.shape)


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

    def output_shape(self, shape):
        """(I,) to (O,)."""
        shape = tuple(shape)
        if shape != (self.weights.shape[1],):
            raise ValueError(f"Linear must get shape ({self.weights.shape[1]},), not {shape}")
        return (self.weights.shape[0],)

    def macs(self, shape):
        """Multiplications for one input."""
        return self.weights.size

    def accumulate(self, x):
        """x: int8 (N, I). Returns the accumulators, int64 (N, O)."""
        x = validate.codes("Linear input", x)
        self.output_shape(x.shape[1:])
        kind = self._exact_float()
        x = x.astype(kind) - kind(self.input_zero_point)
        acc = (x @ self.weights.T.astype(kind)).astype(np.int64)
        return acc + self.bias.astype(np.int64)

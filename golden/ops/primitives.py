"""The array primitives that operators compute with, and how numpy does them.

An operator is written once, in `compute(p, *inputs)`: in these primitives, in `+ - * << >>` and
indexing by slices, and in `golden.arith`. `Primitives` is implemented once for each executor: here
for numpy, in `sw.executor` for torch, in `sw.formats.onnx.exporter.symbolic` as ONNX nodes.

Tensors are codes with a leading batch axis until `integers` makes int64 of them; `codes` makes
int8, or another dtype, of int64 again.
"""

import math
from collections.abc import Sequence
from typing import Protocol

import numpy as np

from golden import arith
from golden.errors import LockstepError
from golden.ops import windows
from golden.random import counter_bits

__all__ = ["BLOCK_BYTES", "ExecutorIntegers", "ExecutorTensor", "NUMPY", "Numpy", "Primitives",
           "Unsupported", "exact_float", "product_bounds"]

BLOCK_BYTES = 1 << 26           # largest patch matrix held at a time


class Unsupported(LockstepError):
    """A primitive that an executor does not have."""


class ExecutorTensor(Protocol):
    """A tensor as an executor holds it: an array, a torch tensor, a name in an ONNX graph."""

    @property
    def shape(self) -> tuple:
        """The length of each axis; an ONNX graph gives an unknown one as text."""

    @property
    def ndim(self) -> int:
        """The number of axes."""


class ExecutorIntegers(ExecutorTensor, Protocol):
    """int64 values: what operators and `golden.arith` compute with."""

    def __add__(self, other) -> "ExecutorIntegers": ...

    def __sub__(self, other) -> "ExecutorIntegers": ...

    def __mul__(self, other) -> "ExecutorIntegers": ...

    def __lshift__(self, bits) -> "ExecutorIntegers": ...

    def __rshift__(self, bits) -> "ExecutorIntegers": ...


class Primitives:
    """The interface. Whoever leaves out a primitive refuses the operators that need it.

    x: int8 codes; value: int64. kernel, stride, dilation: (rows, columns); padding: (top, left,
    bottom, right). Arrays of constants are numpy arrays.
    """

    def _refuse(self, primitive):
        raise Unsupported(f"{type(self).__name__} has no {primitive}")

    def batch(self, x) -> int:
        """The length of axis 0, where it is known."""
        self._refuse("batch of known length")

    def part(self) -> tuple[int, int]:
        """(which, of how many) equal parts of a batch this executor holds, in order."""
        return 0, 1

    def all_sum(self, value) -> ExecutorIntegers:
        """The sum over the parts of a batch, each with a value of its own."""
        return value

    def all_max(self, value) -> ExecutorIntegers:
        """The largest of those of the parts of a batch."""
        return value

    def integers(self, x) -> ExecutorIntegers:
        """x as int64."""
        self._refuse("integers")

    def codes(self, value, dtype="int8") -> ExecutorTensor:
        """A value within the dtype (int8, int16 or int32) as such."""
        self._refuse("codes")

    def constant(self, values, like) -> ExecutorIntegers:
        """An int64 array where `like` is."""
        self._refuse("constant")

    def per_channel(self, values, like, axis=1) -> int | ExecutorIntegers:
        """int64 (C,) or (1,) in the form that broadcasts along `axis` of `like`."""
        self._refuse("per_channel")

    def convolution(self, x, weights, bias, zero_point, *, stride, padding, dilation, groups
                    ) -> ExecutorIntegers:
        """int64 (N, O, OH, OW): bias + sum of weights * (x - zero_point).

        x: (N, I, H, W), padded with the zero point; weights: int8 (O, I / groups, kh, kw), an
        array, or with a zero point of 0 codes of the executor; bias: int32 (O,) or None
        """
        self._refuse("convolution")

    def linear(self, x, weights, bias, zero_point) -> ExecutorIntegers:
        """int64 (N, O): bias + (x - zero_point) @ weights.T.

        x: (N, I); weights: int8 (O, I) and bias as of `convolution`
        """
        self._refuse("linear")

    def kernel_sums(self, x, gradients, kernel, *, stride, padding, groups
                    ) -> Sequence[ExecutorIntegers]:
        """int64 (1, O, I / groups, kh, kw) for each of several int8 gradients (N, O, OH, OW) of a
        convolution's output: the sums of x (N, I, H, W) times it over images and places.
        """
        self._refuse("kernel_sums")

    def window_max(self, x, kernel, stride, padding) -> ExecutorTensor:
        """The largest code of each window of x (N, C, H, W); padding never wins."""
        self._refuse("window_max")

    def window_sum(self, x, zero_point, kernel, stride, padding) -> ExecutorIntegers:
        """int64: the sum of x - zero_point over each window; padding adds nothing."""
        self._refuse("window_sum")

    def sum(self, value, axes) -> ExecutorIntegers:
        """The sum over `axes`, which stay with a length of 1."""
        self._refuse("sum")

    def max(self, x, axis) -> ExecutorTensor:
        """The largest code along an axis, which stays with a length of 1."""
        self._refuse("max")

    def min(self, x, axis) -> ExecutorTensor:
        """The smallest code along an axis, which stays with a length of 1."""
        self._refuse("min")

    def clip(self, x, low, high) -> ExecutorTensor:
        """Codes limited to [low, high]."""
        self._refuse("clip")

    def lookup(self, x, table) -> ExecutorTensor:
        """table[x + 128]; table: int8 (256,)."""
        self._refuse("lookup")

    def concat(self, inputs, axis) -> ExecutorTensor:
        """Tensors joined along an axis, the batch counted as axis 0."""
        self._refuse("concat")

    def reshape(self, x, shape) -> ExecutorTensor:
        """The same elements in another shape, which leaves out axis 0."""
        self._refuse("reshape")

    def transpose(self, x, axes) -> ExecutorTensor:
        """The axes in another order."""
        self._refuse("transpose")

    def split(self, x, length) -> Sequence[ExecutorTensor]:
        """Parts of x along axis 1, `length` long but the last one."""
        self._refuse("split")

    def host(self, value) -> np.ndarray:
        """The value as a numpy array: for constants that depend on the data."""
        self._refuse("host")

    def flip(self, x, axes) -> ExecutorTensor:
        """The elements along some axes in the other order."""
        self._refuse("flip")

    def place(self, x, size, offset, stride) -> ExecutorTensor:
        """Zeros (N, C, *size) with x (N, C, H, W) in them, from `offset` on, `stride` apart."""
        self._refuse("place")

    def counter_bits(self, seed, shape, like, first=0) -> ExecutorIntegers:
        """`golden.random.counter_bits` of the elements of `shape` in C order, where `like` is.

        seed: one int64 value within int32; first: index of the first element
        """
        self._refuse("counter_bits")


def exact_float(largest) -> type:
    """The fastest float type that adds integers up to `largest` in magnitude exactly."""
    if largest < 1 << 24:
        return np.float32
    if largest < 1 << 53:
        return np.float64
    raise ValueError(f"Sum of products must stay below 2**53, not {largest}")


def product_bounds(weights, low, high) -> tuple:
    """Bounds of every partial sum of weights (O, K) times inputs in [low, high], in any order.

    Returns two int64 (O,) arrays, the smallest (<= 0) and the largest (>= 0).
    """
    products = weights.astype(np.int64) * low, weights.astype(np.int64) * high
    smallest = np.minimum(np.minimum(*products), 0).sum(axis=1)
    largest = np.maximum(np.maximum(*products), 0).sum(axis=1)
    return smallest, largest


def _exact_float(weights, zero_point):
    """The float type in which products with codes less their zero point are exact."""
    smallest, largest = product_bounds(weights.reshape(len(weights), -1),
                                       arith.INT8_MIN - zero_point, arith.INT8_MAX - zero_point)
    return exact_float(int(max(-smallest.min(), largest.max())))


class Numpy(Primitives):
    """The golden primitives.

    Products run as a floating-point matrix product only where the bound on every partial sum
    proves it exact (float32 below 2**24, float64 below 2**53).
    """

    def batch(self, x) -> int:
        """As it is."""
        return len(x)

    def integers(self, x) -> np.ndarray:
        """A copy."""
        return x.astype(np.int64)

    def codes(self, value, dtype="int8") -> np.ndarray:
        """A copy."""
        return np.asarray(value, np.int64).astype(dtype)

    def constant(self, values, like) -> np.ndarray:
        """The array itself."""
        return np.asarray(values, np.int64)

    def per_channel(self, values, like, axis=1) -> int | np.ndarray:
        """A Python int where there is one value."""
        if len(values) == 1:
            return int(values[0])
        shape = [1] * like.ndim
        shape[axis] = len(values)
        return np.reshape(values, shape)

    def convolution(self, x, weights, bias, zero_point, *, stride, padding, dilation, groups
                    ) -> np.ndarray:
        """One matrix product per group and block of images."""
        kind, kernel, n_taps = _exact_float(weights, zero_point), weights.shape[2:], weights[0].size
        x = windows.pad(x, padding, zero_point).astype(kind)
        x -= zero_point
        rows, columns = windows.output_size(x.shape[2:], kernel, stride, (0, 0, 0, 0), dilation)
        acc = np.empty((len(x), len(weights), rows, columns), np.int64)
        if groups > 1 and weights.shape[1] == 1:
            _depthwise(windows.sliding(x, kernel, stride, dilation), weights, groups, acc)
        else:
            matrices = weights.reshape(groups, -1, n_taps).astype(kind)
            image = groups * n_taps * rows * columns * np.dtype(kind).itemsize
            step = max(1, BLOCK_BYTES // image)
            for start in range(0, len(x), step):
                patches = windows.sliding(x[start:start + step], kernel, stride, dilation)
                # One large product per group: many small ones lose their time between threads.
                n_images = len(patches)
                patches = patches.transpose(1, 2, 3, 0, 4, 5).reshape(groups, n_taps, -1)
                products = (matrices @ patches).reshape(len(weights), n_images, rows, columns)
                acc[start:start + step] = products.transpose(1, 0, 2, 3)
        if bias is not None:
            acc += bias.astype(np.int64).reshape(1, -1, 1, 1)
        return acc

    def linear(self, x, weights, bias, zero_point) -> np.ndarray:
        """One matrix product."""
        kind = _exact_float(weights, zero_point)
        acc = (x.astype(kind) - kind(zero_point)) @ weights.T.astype(kind)
        return acc.astype(np.int64) + (0 if bias is None else bias.astype(np.int64))

    def kernel_sums(self, x, gradients, kernel, *, stride, padding, groups) -> list[np.ndarray]:
        """Convolutions whose channels are the images and whose kernel is the gradient."""
        x = x.reshape(len(x), groups, -1, *x.shape[2:]).transpose(2, 1, 0, 3, 4)
        x = x.reshape(len(x), -1, *x.shape[3:])
        results = []
        for gradient in gradients:
            sums = self.convolution(x, np.ascontiguousarray(gradient.swapaxes(0, 1)), None, 0,
                                    stride=(1, 1), padding=padding, dilation=stride, groups=groups)
            sums = sums[:, :, :kernel[0], :kernel[1]]
            results.append(np.ascontiguousarray(sums.swapaxes(0, 1))[None])
        return results

    def window_max(self, x, kernel, stride, padding) -> np.ndarray:
        """Of strided views."""
        return windows.sliding(windows.pad(x, padding, arith.INT8_MIN), kernel, stride).max(
            axis=(2, 3))

    def window_sum(self, x, zero_point, kernel, stride, padding) -> np.ndarray:
        """Of strided views."""
        x = windows.pad(x.astype(np.int64) - zero_point, padding, 0)
        return windows.sliding(x, kernel, stride).sum(axis=(2, 3))

    def sum(self, value, axes) -> np.ndarray:
        """int64."""
        return value.sum(axis=tuple(axes), keepdims=True, dtype=np.int64)

    def max(self, x, axis) -> np.ndarray:
        """Of the dtype of x."""
        return x.max(axis=axis, keepdims=True)

    def min(self, x, axis) -> np.ndarray:
        """Of the dtype of x."""
        return x.min(axis=axis, keepdims=True)

    def clip(self, x, low, high) -> np.ndarray:
        """Of the dtype of x."""
        return arith.clamp(x, low, high)

    def lookup(self, x, table) -> np.ndarray:
        """Indexing."""
        return table[x.astype(np.int64) - arith.INT8_MIN]

    def concat(self, inputs, axis) -> np.ndarray:
        """A copy."""
        return np.concatenate(inputs, axis=axis)

    def reshape(self, x, shape) -> np.ndarray:
        """A view where there is one."""
        return x.reshape(len(x), *shape)

    def transpose(self, x, axes) -> np.ndarray:
        """A copy, in C order."""
        return np.ascontiguousarray(x.transpose(axes))

    def split(self, x, length) -> list[np.ndarray]:
        """Views."""
        return [x[:, start:start + length] for start in range(0, x.shape[1], length)]

    def host(self, value) -> np.ndarray:
        """The value itself."""
        return value

    def flip(self, x, axes) -> np.ndarray:
        """A view."""
        return np.flip(x, axes)

    def place(self, x, size, offset, stride) -> np.ndarray:
        """Of the dtype of x."""
        result = np.zeros((*x.shape[:2], *size), x.dtype)
        result[windows.placed(x.shape, offset, stride)] = x
        return result

    def counter_bits(self, seed, shape, like, first=0) -> np.ndarray:
        """int64."""
        index = np.arange(first, first + math.prod(shape)).astype(np.int32)
        bits = counter_bits(np.reshape(seed, -1).astype(np.int32), index)
        return bits.astype(np.int64).reshape(shape)


def _depthwise(views, weights, groups, acc):
    """One input channel per group: a multiply-add of whole maps per kernel tap, into acc.

    views: (N, C, kh, kw, OH, OW) in the float type of the products
    """
    n_images, channels, *kernel = views.shape[:4]
    per_group = len(weights) // groups
    weights = weights.reshape(1, channels, per_group, *kernel, 1, 1).astype(views.dtype)
    total = np.zeros((n_images, channels, per_group, *acc.shape[2:]), views.dtype)
    for row in range(kernel[0]):
        for column in range(kernel[1]):
            total += views[:, :, None, row, column] * weights[:, :, :, row, column]
    acc[...] = total.reshape(acc.shape)


NUMPY = Numpy()

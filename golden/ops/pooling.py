"""Pooling. Averages are exact sums of x - zero point whose division is part of the rescale."""

from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops import windows
from golden.ops.operator import Accumulating
from golden.ops.primitives import NUMPY, ExecutorIntegers, ExecutorTensor
from golden.ops.rescale import Rescale
from golden.ops.windowed import Windowed

__all__ = ["AveragePool", "CodeAveragePool", "GlobalAveragePool", "MaxPool"]


def _sum_bounds(count, low, high, zero_point):
    """Bounds of every partial sum of `count` values x - zero_point, int64 (1,) each."""
    return (np.array([min(0, count * (low - zero_point))], np.int64),
            np.array([max(0, count * (high - zero_point))], np.int64))


def _input_zero_point(value):
    return validate.integer("Input zero point", value, arith.INT8_MIN, arith.INT8_MAX)


class _Sums(Accumulating):
    """Sums of x - input_zero_point."""

    @property
    def reads_zero_points(self) -> tuple:
        """Its own."""
        return (self.input_zero_point,)

    def accumulators(self, input_ranges) -> tuple:
        """With the zero point subtracted; machines that sum raw codes prove their own."""
        return self.accumulator_bounds(*input_ranges[0]), None


@dataclass(frozen=True, kw_only=True, eq=False)
class MaxPool(Windowed):
    """The largest code of each window; padding never wins. Input and output share their scale.

    kernel, stride: (rows, columns); padding: (top, left, bottom, right), less than the kernel
    """

    same_quantization = True

    kernel: tuple
    stride: tuple
    padding: tuple = (0, 0, 0, 0)

    def __post_init__(self):
        _window_fields(self)

    def compute(self, p, x) -> ExecutorTensor:
        """x: (N, C, H, W) to (N, C, OH, OW)."""
        return p.window_max(x, self.kernel, self.stride, self.padding)

    compute_real = compute


@dataclass(frozen=True, kw_only=True, eq=False)
class AveragePool(Windowed, _Sums):
    """Average of each window: rescale(sum of x - input_zero_point); padding adds nothing.

    kernel, stride: (rows, columns); padding: (top, left, bottom, right), less than the kernel
    input_zero_point: -128..127
    rescale: one multiplier, which carries the factor 1 / (kernel rows * columns)
    """

    kernel: tuple
    stride: tuple
    padding: tuple = (0, 0, 0, 0)
    input_zero_point: int
    rescale: Rescale

    def __post_init__(self):
        _window_fields(self)
        object.__setattr__(self, "input_zero_point", _input_zero_point(self.input_zero_point))
        validate.instance("Rescale", self.rescale, Rescale).check_channels(1)

    def accumulator_bounds(self, low=arith.INT8_MIN, high=arith.INT8_MAX) -> tuple:
        """Bounds of every partial sum for input codes in [low, high], int64 (1,) each."""
        return _sum_bounds(self.kernel[0] * self.kernel[1], low, high, self.input_zero_point)

    def sums(self, p, x) -> ExecutorIntegers:
        """x: (N, C, H, W) to (N, C, OH, OW)."""
        return p.window_sum(x, self.input_zero_point, self.kernel, self.stride, self.padding)

    def compute_real(self, r, x) -> ExecutorTensor:
        """1 / count, which the factor carries, is the average itself."""
        average = r.average_pool(x, self.kernel, self.stride, self.padding, counts_padding=True)
        return r.gained(average, self.rescale, self.kernel[0] * self.kernel[1])


@dataclass(frozen=True, kw_only=True, eq=False)
class CodeAveragePool(Windowed):
    """Average of the codes of each window, ties away from zero, as TFLite's AVERAGE_POOL_2D.

    Padding is neither added nor counted. Input and output share their scale and zero point.

    kernel, stride: (rows, columns), kernel of at most 2**16 pixels
    padding: (top, left, bottom, right), less than the kernel
    low, high: inclusive clamp bounds within int8
    """

    same_quantization = True

    kernel: tuple
    stride: tuple
    padding: tuple = (0, 0, 0, 0)
    low: int = arith.INT8_MIN
    high: int = arith.INT8_MAX

    def __post_init__(self):
        _window_fields(self)
        validate.integer("Pixels of the kernel", self.kernel[0] * self.kernel[1], 1, 1 << 16)
        object.__setattr__(self, "low", validate.integer("Low", self.low, arith.INT8_MIN,
                                                         arith.INT8_MAX))
        object.__setattr__(self, "high", validate.integer("High", self.high, self.low,
                                                          arith.INT8_MAX))

    def accumulator_bounds(self, low=arith.INT8_MIN, high=arith.INT8_MAX) -> tuple:
        """Bounds of every partial sum for input codes in [low, high], int64 (1,) each."""
        return _sum_bounds(self.kernel[0] * self.kernel[1], low, high, 0)

    def counts(self, size) -> list:
        """Pixels in each window of an input of `size` (H, W): int64 (OH,) and (OW,), factors."""
        out = windows.output_size(size, self.kernel, self.stride, self.padding)
        counts = []
        for axis in (0, 1):
            first = np.arange(out[axis]) * self.stride[axis] - self.padding[axis]
            end = np.minimum(first + self.kernel[axis], size[axis])
            counts.append(end - np.maximum(first, 0))
        return counts

    def factors(self, size) -> tuple:
        """Multiplier and shift of each window of an input of `size`: int64 (OH, OW) each."""
        rows, columns = self.counts(size)
        return arith.average_factor(rows[:, None] * columns)

    def accumulators(self, input_ranges) -> tuple:
        """Of codes alone, as the zero point counts as 0."""
        return self.accumulator_bounds(*input_ranges[0]), None

    def output_range(self, input_ranges) -> tuple:
        """An average lies among its codes."""
        (low, high), = input_ranges
        return arith.clamp(low, self.low, self.high), arith.clamp(high, self.low, self.high)

    def sums(self, p, x) -> ExecutorIntegers:
        """x: (N, C, H, W) to int64 (N, C, OH, OW)."""
        return p.window_sum(x, 0, self.kernel, self.stride, self.padding)

    def accumulate(self, x) -> np.ndarray:
        """x: int8 (N, C, H, W). Returns the sums, int64 (N, C, OH, OW)."""
        return self.sums(NUMPY, *self._checked([x]))

    def compute(self, p, x) -> ExecutorTensor:
        """x: (N, C, H, W) to (N, C, OH, OW)."""
        multiplier, shift = (p.constant(values[None, None], x)
                             for values in self.factors(x.shape[-2:]))
        return p.codes(arith.requantize(self.sums(p, x), multiplier, shift, 0, self.low, self.high))

    def compute_real(self, r, x) -> ExecutorTensor:
        """The average of the real pixels."""
        return r.average_pool(x, self.kernel, self.stride, self.padding, counts_padding=False)


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalAveragePool(_Sums):
    """Average over a whole map: rescale(sum of x - input_zero_point), (C, H, W) to (C, 1, 1).

    input_zero_point: -128..127
    rescale: one multiplier, which carries the factor 1 / (H * W)
    window: (H, W) of the input
    """

    needs_image = True

    input_zero_point: int
    rescale: Rescale
    window: tuple

    def __post_init__(self):
        object.__setattr__(self, "input_zero_point", _input_zero_point(self.input_zero_point))
        object.__setattr__(self, "window", validate.integers("Window", self.window, 2, 1,
                                                             windows.KERNEL_MAX))
        validate.instance("Rescale", self.rescale, Rescale).check_channels(1)

    def output_shape(self, shape) -> tuple:
        """(C, H, W) to (C, 1, 1)."""
        channels, *size = windows.image_shape("GlobalAveragePool", shape)
        if tuple(size) != self.window:
            raise ValueError(f"GlobalAveragePool must get a map of {self.window}, "
                             f"not {tuple(size)}")
        return (channels, 1, 1)

    def accumulator_bounds(self, low=arith.INT8_MIN, high=arith.INT8_MAX) -> tuple:
        """Bounds of every partial sum for input codes in [low, high], int64 (1,) each."""
        return _sum_bounds(self.window[0] * self.window[1], low, high, self.input_zero_point)

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """Everything."""
        return None

    def sums(self, p, x) -> ExecutorIntegers:
        """x: (N, C, H, W) to (N, C, 1, 1)."""
        return p.sum(p.integers(x) - self.input_zero_point, (2, 3))

    def compute_real(self, r, x) -> ExecutorTensor:
        """1 / count, which the factor carries, is the average itself."""
        return r.gained(r.global_average(x), self.rescale, self.window[0] * self.window[1])


def _window_fields(op):
    """Validates kernel, stride and padding of a pooling op; every window meets a real pixel."""
    kernel, stride, padding, _ = windows.geometry(op.kernel, op.stride, op.padding)
    for name, value in (("kernel", kernel), ("stride", stride), ("padding", padding)):
        object.__setattr__(op, name, value)
    for index, pad in enumerate(padding):
        if pad >= kernel[index % 2]:
            raise ValueError(f"Padding must be less than the kernel {kernel}, not {padding}")

"""Pooling of the integer training step.

    average:  y = clamp(lanes(sum, m, k + e_y - e_x), low, 127)     (m, k) = 1 / number of codes
    maximum:  the largest code, exponent as it was

Padding counts in an average, as zeros; it never is a maximum. The way back:
`golden.ops.step.pooling_backward`.
"""

from dataclasses import dataclass

from golden import arith, validate
from golden.ops import windows
from golden.ops.step.base import Port, StepOperator, top_of
from golden.ops.step.convolution import NO_PADDING, pixel_factor
from golden.ops.step.lanes import by_one

__all__ = ["AverageCodes", "GlobalAverageCodes", "MaximumCodes", "StepWindow"]

POOLED = Port("y", "int8", True), Port("top", "int32")


class StepWindow(StepOperator):
    """kernel, stride: (rows, columns); padding: (top, left, bottom, right)."""

    def check_window(self) -> None:
        """Of the fields."""
        for name, value in zip(("kernel", "stride", "padding"),
                               windows.geometry(self.kernel, self.stride or self.kernel,
                                                self.padding)):
            self._put(name, value)
        pixel_factor(self.kernel[0] * self.kernel[1])

    def pooled(self, shape) -> tuple:
        """(C, H, W) to (C, OH, OW)."""
        channels, *size = windows.image_shape(self.label, shape)
        return channels, *windows.output_size(size, self.kernel, self.stride, self.padding)


@dataclass(frozen=True, kw_only=True, eq=False)
class AverageCodes(StepWindow):
    """The average of each window.

    x: int8 (N, C, H, W); shift: int32 (1,), e_y - e_x
    Returns y, int8 (N, C, OH, OW), exponent e_y, and top int32 (1,).
    stride: the kernel by default; low: -128, or 0 for what ReLU gave
    """

    ports_in, ports_out = (Port("x", "int8", True), Port("shift", "int32")), POOLED

    kernel: tuple
    stride: tuple | None = None
    padding: tuple = NO_PADDING
    low: int = arith.INT8_MIN

    def __post_init__(self):
        self.check_window()
        self._put("low", validate.integer("Low", self.low, arith.INT8_MIN, 0))

    @property
    def ranges(self) -> tuple:
        """The clamp bounds."""
        return (self.low, arith.INT8_MAX), (0, arith.INT32_MAX)

    def shapes(self, x, shift) -> tuple[tuple, tuple]:
        """(C, H, W) to (C, OH, OW)."""
        return (x, (1,)), (self.pooled(x), (1,))

    def results(self, p, x, shift) -> tuple:
        """One visit of the lanes."""
        multiplier, log2 = pixel_factor(self.kernel[0] * self.kernel[1])
        total = p.window_sum(x, 0, self.kernel, self.stride, self.padding)
        y = arith.lanes(total, multiplier, by_one(p, shift, x) + log2)
        return arith.clamp(y, self.low, arith.INT8_MAX), top_of(p, y)


@dataclass(frozen=True, kw_only=True, eq=False)
class MaximumCodes(StepWindow):
    """The largest code of each window, with its exponent: int8 (N, C, H, W) to (N, C, OH, OW).

    stride: the kernel by default
    """

    ports_in, ports_out = (Port("x", "int8", True),), (Port("y", "int8", True),)

    kernel: tuple
    stride: tuple | None = None
    padding: tuple = NO_PADDING

    def __post_init__(self):
        self.check_window()

    def output_range(self, input_ranges) -> tuple:
        """What comes in."""
        return input_ranges[0]

    def shapes(self, x) -> tuple[tuple, tuple]:
        """(C, H, W) to (C, OH, OW)."""
        return (x,), (self.pooled(x),)

    def results(self, p, x) -> tuple:
        """Of codes; a window of padding alone gives -128."""
        return (p.integers(p.window_max(p.codes(x), self.kernel, self.stride, self.padding)),)


@dataclass(frozen=True, kw_only=True, eq=False)
class GlobalAverageCodes(StepOperator):
    """The average of all pixels of a channel, as the head of a network takes it.

    x: int8 (N, C, H, W); shift: int32 (1,), e_p - e_x
    Returns the pooled vector, int8 (N, C), exponent e_p, and top int32 (1,).
    low: -128, or 0 for what ReLU gave
    """

    ports_in, ports_out = (Port("x", "int8", True), Port("shift", "int32")), POOLED

    low: int = 0

    def __post_init__(self):
        self._put("low", validate.integer("Low", self.low, arith.INT8_MIN, 0))

    @property
    def ranges(self) -> tuple:
        """The clamp bounds."""
        return (self.low, arith.INT8_MAX), (0, arith.INT32_MAX)

    def shapes(self, x, shift) -> tuple[tuple, tuple]:
        """(C, H, W) to (C,)."""
        channels, *size = windows.image_shape(self.label, x)
        pixel_factor(size[0] * size[1])
        return (x, (1,)), ((channels,), (1,))

    def results(self, p, x, shift) -> tuple:
        """One visit of the lanes."""
        multiplier, log2 = pixel_factor(x.shape[2] * x.shape[3])
        total = p.reshape(p.sum(x, (2, 3)), (x.shape[1],))
        y = arith.lanes(total, multiplier, shift + log2)
        return arith.clamp(y, self.low, arith.INT8_MAX), top_of(p, y)

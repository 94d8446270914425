"""Gradients of the pools of the integer training step.

    average:  g of x = lanes(sum of the g whose windows hold the pixel, m, k + e_g - e_y), at random
    maximum:  g goes to the first maximum of its window, row by row; where windows overlap the
        gradients add up

(m, k) = 1 / number of codes; padding counts in an average and never is a maximum.
"""

import math
from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops import windows
from golden.ops.step.base import (
    GRADIENT_MAX,
    HALF,
    RANDOM_PORTS,
    Port,
    StepOperator,
    Width,
    noise,
    saturated,
    tensor_id,
    top_of,
)
from golden.ops.step.convolution import NO_PADDING, pixel_factor
from golden.ops.step.lanes import by_one
from golden.ops.step.pooling import StepWindow

__all__ = ["AverageGradient", "MaximumGradient", "ReshapedGradient", "SpreadGradient"]

GRADIENT = Port("g", "int16", True), Port("top", "int32")
BELOW = arith.INT8_MIN - 1      # loses against every code


@dataclass(frozen=True, kw_only=True, eq=False)
class AverageGradient(StepWindow):
    """The gradient of an average pool's input, rounded at random.

    g: int16 (N, C, OH, OW), limited to +-32639, exponent e_y; shift: int32 (1,), e_g - e_y; seed,
    step: int32 (1,). Returns g, int16 (N, C, *size), exponent e_g, and top int32 (1,).
    size: (H, W) of x; kernel, stride, padding: of the pool
    """

    ports_in = Port("g", "int16", True), Port("shift", "int32"), *RANDOM_PORTS
    ports_out = GRADIENT
    ranges = (-GRADIENT_MAX, GRADIENT_MAX), (0, arith.INT32_MAX)

    size: tuple
    kernel: tuple
    stride: tuple | None = None
    padding: tuple = NO_PADDING
    tensor_id: int

    def __post_init__(self):
        self.check_window()
        self._put("size", validate.integers("Size", self.size, 2, 1, windows.KERNEL_MAX))
        self._put("tensor_id", tensor_id(self.tensor_id))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """Gradients of all windows that may meet a pixel."""
        total = self.kernel[0] * self.kernel[1] * GRADIENT_MAX
        return (Width("Sum of gradients", -total, total, 32),)

    def shapes(self, g, *rest) -> tuple[tuple, tuple]:
        """(C, OH, OW) to (C, H, W)."""
        return (self.pooled((*g[:1], *self.size)), *((1,),) * 3), ((*g[:1], *self.size), (1,))

    def _divisor(self):
        return pixel_factor(self.kernel[0] * self.kernel[1])

    def results(self, p, g, shift, seed, step, *x) -> tuple:
        """One visit of the lanes."""
        multiplier, log2 = self._divisor()
        g = saturated(g, GRADIENT_MAX)
        total = self._gathered(p, self._gradients(p, g, *x), self.size)
        y = arith.lanes(total, multiplier, by_one(p, shift, g) + log2,
                        noise(p, seed, step, self.tensor_id, total))
        return saturated(y, GRADIENT_MAX), top_of(p, y)

    def _gradients(self, p, g):
        return [(place, g) for place in self._places()]

    def _places(self):
        """The taps, row by row."""
        return [*np.ndindex(*self.kernel)]

    def _gathered(self, p, placed, size):
        """The sum over taps of values (N, C, OH, OW) at the pixels that the taps met.

        placed: (place of the tap, values) for each; size: (H, W) of x
        """
        top, left, bottom, right = self.padding
        whole = size[0] + top + bottom, size[1] + left + right
        total = 0
        for place, value in placed:
            # The last window's stride may reach over the edge.
            grid = [max(edge, first + length * stride) for edge, first, length, stride in
                    zip(whole, place, value.shape[2:], self.stride)]
            total = p.place(value, grid, place, self.stride)[:, :, :whole[0], :whole[1]] + total
        return total[:, :, top:top + size[0], left:left + size[1]]


@dataclass(frozen=True, kw_only=True, eq=False)
class MaximumGradient(AverageGradient):
    """The gradient of a maximum pool's input, rounded at random where it is shifted.

    g, shift, seed, step: as of `AverageGradient`; x: int8 (N, C, *size), what was pooled
    Returns g, int16 (N, C, *size), exponent e_g, and top int32 (1,).
    """

    ports_in = (*AverageGradient.ports_in, Port("x", "int8", True))

    def shapes(self, g, *rest) -> tuple[tuple, tuple]:
        """(C, OH, OW) to (C, H, W)."""
        wanted, outputs = super().shapes(g)
        return (*wanted, outputs[0]), outputs

    def _divisor(self):
        return HALF, 30

    def _gradients(self, p, g, x):
        """The gradients of each tap where it met the first maximum."""
        taps = self._taps(p, x, BELOW, g.shape[2:])
        largest = taps[0][1]
        for _, codes in taps[1:]:
            largest = largest + arith.clamp(codes - largest, 0, 256)
        result, left = [], 1
        for place, codes in taps:
            first = p.integers(codes == largest) * left
            left = (1 - first) * left
            result.append((place, first * g))
        return result

    def _taps(self, p, x, fill, size):
        """For each tap of the kernel, row by row, the codes (N, C, OH, OW) that it meets."""
        top, left, bottom, right = self.padding
        whole = [x.shape[2] + top + bottom, x.shape[3] + left + right]
        padded = p.place(x - fill, whole, (top, left), (1, 1)) + fill
        return [(place, padded[windows.placed((1, 1, *size), place, self.stride)])
                for place in self._places()]


@dataclass(frozen=True, kw_only=True, eq=False)
class SpreadGradient(StepOperator):
    """The gradient of one pixel, int16 (N, C), as that of every pixel: (N, C, *size).

    Of a global average pool: the division by the number of pixels is in the exponent or the
    multiplier that gave the codes (`golden.ops.step.CodesGradient`, pixels).
    """

    ports_in, ports_out = (Port("g", "int16", True),), (Port("g", "int16", True),)

    size: tuple

    def __post_init__(self):
        self._put("size", validate.integers("Size", self.size, 2, 1, windows.KERNEL_MAX))

    def output_range(self, input_ranges) -> tuple:
        """What comes in."""
        return input_ranges[0]

    def shapes(self, g) -> tuple[tuple, tuple]:
        """(C,) to (C, H, W)."""
        return (g,), ((*g[:1], *self.size),)

    def results(self, p, g) -> tuple:
        """Copies."""
        ones = p.constant([[[[1] * self.size[1]] * self.size[0]]], g)
        return (p.reshape(g, (g.shape[1], 1, 1)) * ones,)


@dataclass(frozen=True, kw_only=True, eq=False)
class ReshapedGradient(StepOperator):
    """The gradient of a vector as that of the image it was, in C, H, W order.

    g: int16 (N, F). Returns int16 (N, *shape).
    """

    ports_in, ports_out = (Port("g", "int16", True),), (Port("g", "int16", True),)

    shape: tuple

    def __post_init__(self):
        self._put("shape", validate.integers("Shape", self.shape, None, 1, arith.INT32_MAX))

    def output_range(self, input_ranges) -> tuple:
        """What comes in."""
        return input_ranges[0]

    def shapes(self, g) -> tuple[tuple, tuple]:
        """(F,) to (C, H, W)."""
        return ((math.prod(self.shape),),), (self.shape,)

    def results(self, p, g) -> tuple:
        """As they lie."""
        return (p.reshape(g, self.shape),)

"""Product of two tensors: a gate of every pixel, or of every channel."""

from dataclasses import dataclass

import numpy as np

from golden import validate
from golden.ops.operator import INT8, Accumulating, Elementwise
from golden.ops.primitives import ExecutorIntegers, ExecutorTensor
from golden.ops.rescale import Rescale

__all__ = ["Mul"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Mul(Elementwise, Accumulating):
    """y = rescale((q_1 - z_1) * (q_2 - z_2)), the shape of TFLite's MUL.

    The second input has the first one's shape, or (C, 1, 1) beside (C, H, W): one value for all
    pixels of a channel, as in squeeze-and-excitation.

    input_zero_points: two integers, -128..127
    rescale: one multiplier
    """

    n_inputs = 2
    accumulator_name = "Product"

    input_zero_points: tuple
    rescale: Rescale

    def __post_init__(self):
        self._put("input_zero_points",
                  validate.integers("Input zero points", self.input_zero_points, 2, *INT8))
        validate.instance("Rescale", self.rescale, Rescale).check_channels(1)

    @property
    def reads_zero_points(self) -> tuple:
        """Its own."""
        return self.input_zero_points

    def output_shape(self, first, second) -> tuple:
        """Two shapes, of which the second may be of one pixel, to the first."""
        first, second = tuple(first), tuple(second)
        pixel = (*first[:1], 1, 1)
        if second != first and (len(first) != 3 or second != pixel):
            wanted = f"{first} or {pixel}" if len(first) == 3 else f"{first}"
            raise ValueError(f"Mul must get a second input of shape {wanted}, not {second}")
        return first

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """The same rows, of a single pixel that one."""
        return (first, end), (first, end) if shapes[1][1] == shapes[0][1] else (0, 1)

    def sums(self, p, first, second) -> ExecutorIntegers:
        """The products."""
        first, second = (p.integers(q) - zero_point
                         for q, zero_point in zip((first, second), self.input_zero_points))
        return first * second

    def compute_real(self, r, first, second) -> ExecutorTensor:
        """The product."""
        return r.gained(r.mul(first, second), self.rescale)

    def accumulators(self, input_ranges) -> tuple:
        """The products at the corners of both ranges."""
        first, second = ([code - zero_point for code in codes]
                         for codes, zero_point in zip(input_ranges, self.input_zero_points))
        products = [a * b for a in first for b in second]
        return (np.array([min(products)], np.int64), np.array([max(products)], np.int64)), None

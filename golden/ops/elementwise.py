"""Ops without a window: add, concat, reshape, clamp and a rescale on its own."""

from dataclasses import dataclass
from math import prod

import numpy as np

from golden import arith, validate
from golden.ops.operator import INT8, Accumulating, Elementwise, Operator
from golden.ops.primitives import ExecutorIntegers, ExecutorTensor
from golden.ops.rescale import Rescale

__all__ = ["Add", "Clamp", "Concat", "Rescaling", "Reshape", "orders_agree"]

MOST_AXES = 7       # of a joined tensor, without the batch


@dataclass(frozen=True, kw_only=True, eq=False)
class Add(Elementwise, Accumulating):
    """Sum of two tensors of different scales, the shape of TFLite's ADD.

    t_i = requantize((q_i - input_zero_points[i]) << left_shift, *input_rescales[i]), int32
    y = rescale(t_1 + t_2)

    input_zero_points: two integers, -128..127
    left_shift: 0..22, so that the shifted difference fits int32
    input_rescales: two (multiplier, shift) pairs, ranges as in `Rescale`
    rescale: one multiplier; its rounding is that of the input rescales too
    """

    n_inputs = 2
    accumulator_name = "Sum"

    input_zero_points: tuple
    left_shift: int = 20
    input_rescales: tuple
    rescale: Rescale

    def __post_init__(self):
        self._put("input_zero_points",
             validate.integers("Input zero points", self.input_zero_points, 2, *INT8))
        self._put("left_shift", validate.integer("Left shift", self.left_shift, 0, 22))
        if not isinstance(self.input_rescales, (tuple, list)) or len(self.input_rescales) != 2:
            raise TypeError(f"Input rescales must be two (multiplier, shift) pairs, "
                            f"not {self.input_rescales!r}")
        pairs = tuple(validate.integers("Input rescale", pair, 2, 0, arith.MULTIPLIER_MAX)
                      for pair in self.input_rescales)
        for _, shift in pairs:
            validate.integer("Input shift", shift, 0, arith.SHIFT_MAX)
        self._put("input_rescales", pairs)
        validate.instance("Rescale", self.rescale, Rescale).check_channels(1)

    @property
    def reads_zero_points(self) -> tuple:
        """Its own."""
        return self.input_zero_points

    def _term(self, index, q):
        """Input `index` (0 or 1) in the common scale. q: int64 codes."""
        multiplier, shift = self.input_rescales[index]
        return arith.requantize((q - self.input_zero_points[index]) << self.left_shift, multiplier,
                                shift, 0, arith.INT32_MIN, arith.INT32_MAX, self.rescale.rounding)

    def sums(self, p, first, second) -> ExecutorIntegers:
        """Two tensors of one shape to the sum of their terms."""
        return self._term(0, p.integers(first)) + self._term(1, p.integers(second))

    def compute_real(self, r, first, second) -> ExecutorTensor:
        """The sum."""
        return r.add(first, second)

    def accumulator_bounds(self, ranges=(INT8, INT8)) -> tuple:
        """Bounds of both terms and of their sum, int64 (3,) each; terms are monotone in q."""
        lows, highs = ([self._term(index, int(ranges[index][side])) for index in (0, 1)]
                       for side in (0, 1))
        return (np.array([*lows, sum(lows)], np.int64), np.array([*highs, sum(highs)], np.int64))

    def accumulators(self, input_ranges) -> tuple:
        """The terms, which their own left shift must not saturate, and their sum."""
        for index, (_, shift) in enumerate(self.input_rescales):
            left, _ = arith.split_shift(shift)
            for code in input_ranges[index]:
                value = (code - self.input_zero_points[index]) << self.left_shift << left
                if not arith.INT32_MIN <= value <= arith.INT32_MAX:
                    raise ValueError(f"Input {index} shifted left by {self.left_shift + left} must "
                                     f"fit int32, not {value}")
        return self.accumulator_bounds(input_ranges), None


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat(Operator):
    """Joins tensors of one quantization along `axis`, counted with the batch as axis 0."""

    n_inputs = None
    same_quantization = True

    axis: int = 1

    def __post_init__(self):
        self._put("axis", validate.integer("Axis", self.axis, 1, MOST_AXES))

    def output_shape(self, *shapes) -> tuple:
        """Shapes that differ on the axis alone to the joined shape."""
        axis = self.axis - 1
        shapes = [tuple(shape) for shape in shapes]
        if not shapes or axis >= len(shapes[0]):
            raise ValueError(f"Concat on axis {self.axis} must get inputs with that axis, "
                             f"not shapes {shapes}")
        if len({(*shape[:axis], *shape[axis + 1:], len(shape)) for shape in shapes}) != 1:
            raise ValueError(f"Concat must get shapes that differ on axis {self.axis} alone, "
                             f"not {shapes}")
        joined = sum(shape[axis] for shape in shapes)
        return (*shapes[0][:axis], joined, *shapes[0][axis + 1:])

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """The same rows of all inputs, unless it joins rows."""
        return None if self.axis == 2 else ((first, end),) * len(shapes)

    def compute(self, p, *inputs) -> ExecutorTensor:
        """Tensors to the joined one."""
        return p.concat(inputs, self.axis)

    compute_real = compute


def orders_agree(shape) -> bool:
    """Are the elements of (C, ...) the same in C, H, W and in H, W, C order?"""
    return shape[0] == 1 or prod(shape[1:]) == 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape(Operator):
    """New shape (without the batch), elements in C, H, W order.

    channels_last: elements in H, W, C order instead, of the input as of the output
    """

    same_quantization = True
    in_place = True

    shape: tuple
    channels_last: bool = False

    def __post_init__(self):
        self._put("shape", validate.integers("Shape", self.shape, None, 1, arith.INT32_MAX))
        validate.instance("Channels last", self.channels_last, bool)

    def output_shape(self, shape) -> tuple:
        """Any shape with as many elements to `self.shape`."""
        if prod(shape) != prod(self.shape):
            raise ValueError(f"Reshape to {self.shape} must get {prod(self.shape)} elements, "
                             f"not shape {tuple(shape)}")
        return self.shape

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """Everything."""
        return None

    def compute(self, p, x) -> ExecutorTensor:
        """x: (N, ...) to (N, *shape)."""
        if not self.channels_last:
            return p.reshape(x, self.shape)
        x = p.transpose(x, [0, *range(2, x.ndim), 1])
        x = p.reshape(x, (*self.shape[1:], self.shape[0]))
        rank = len(self.shape) + 1
        return p.transpose(x, [0, rank - 1, *range(1, rank - 1)])

    compute_real = compute


@dataclass(frozen=True, kw_only=True, eq=False)
class Clamp(Elementwise):
    """Codes limited to [low, high]: a ReLU on its own. Input and output share their scale."""

    same_quantization = True
    pointwise = True

    low: int = arith.INT8_MIN
    high: int = arith.INT8_MAX

    def __post_init__(self):
        self._put("low", validate.integer("Low", self.low, *INT8))
        self._put("high", validate.integer("High", self.high, self.low, arith.INT8_MAX))

    def output_range(self, input_ranges) -> tuple:
        """The input's, clamped."""
        (low, high), = input_ranges
        return arith.clamp(low, self.low, self.high), arith.clamp(high, self.low, self.high)

    def compute(self, p, x) -> ExecutorTensor:
        """Any shape."""
        return p.clip(x, self.low, self.high)

    def compute_real(self, r, x) -> ExecutorTensor:
        """The value itself: the exporter clamps to the output's range."""
        return x


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescaling(Elementwise, Accumulating):
    """A change of scale: rescale(x - input_zero_point), per tensor or per channel (axis 1)."""

    input_zero_point: int
    rescale: Rescale

    def __post_init__(self):
        self._put("input_zero_point",
             validate.integer("Input zero point", self.input_zero_point, *INT8))
        validate.instance("Rescale", self.rescale, Rescale)

    @property
    def reads_zero_points(self) -> tuple:
        """Its own."""
        return (self.input_zero_point,)

    @property
    def pointwise(self) -> bool:
        """Unless every channel has a function of its own."""
        return self.rescale.n_channels == 1

    def output_shape(self, shape) -> tuple:
        """The input's shape."""
        if shape:
            self.rescale.check_channels(shape[0])
        return tuple(shape)

    def sums(self, p, x) -> ExecutorIntegers:
        """x: (N, C, ...), its zero point subtracted."""
        return p.integers(x) - self.input_zero_point

    def compute_real(self, r, x) -> ExecutorTensor:
        """The value itself, as far as the factor only changes the scale."""
        return r.gained(x, self.rescale)

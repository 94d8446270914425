"""Ops without a window: add, concat, reshape, clamp and a rescale on its own."""

from dataclasses import dataclass
from math import prod

import numpy as np

from golden import arith, validate
from golden.ops.rescale import Rescale

INT8 = arith.INT8_MIN, arith.INT8_MAX


def _put(op, name, value):
    object.__setattr__(op, name, value)


@dataclass(frozen=True, kw_only=True, eq=False)
class Add:
    """Sum of two tensors of different scales, the shape of TFLite's ADD.

    t_i = requantize((q_i - input_zero_points[i]) << left_shift, *input_rescales[i]), int32
    y = rescale(t_1 + t_2)

    input_zero_points: two integers, -128..127
    left_shift: 0..22, so that the shifted difference fits int32
    input_rescales: two (multiplier, shift) pairs, ranges as in `Rescale`
    rescale: one multiplier; its rounding is that of the input rescales too
    """

    input_zero_points: tuple
    left_shift: int = 20
    input_rescales: tuple
    rescale: Rescale

    def __post_init__(self):
        _put(self, "input_zero_points",
             validate.integers("Input zero points", self.input_zero_points, 2, *INT8))
        _put(self, "left_shift", validate.integer("Left shift", self.left_shift, 0, 22))
        if not isinstance(self.input_rescales, (tuple, list)) or len(self.input_rescales) != 2:
            raise TypeError(f"Input rescales must be two (multiplier, shift) pairs, "
                            f"not {self.input_rescales!r}")
        pairs = tuple(validate.integers("Input rescale", pair, 2, 0, arith.MULTIPLIER_MAX)
                      for pair in self.input_rescales)
        for _, shift in pairs:
            validate.integer("Input shift", shift, 0, arith.SHIFT_MAX)
        _put(self, "input_rescales", pairs)
        validate.instance("Rescale", self.rescale, Rescale).check_channels(1)

    def output_shape(self, first, second):
        """Two equal shapes to the same shape."""
        if tuple(first) != tuple(second):
            raise ValueError(f"Add must get equal shapes, not {tuple(first)} and {tuple(second)}")
        return tuple(first)

    def term(self, index, q):
        """Input `index` (0 or 1) in the common scale. q: integer codes. Returns int64."""
        shifted = (np.asarray(q).astype(np.int64) - self.input_zero_points[index])
        multiplier, shift = self.input_rescales[index]
        return arith.requantize(shifted << self.left_shift, multiplier, shift, 0,
                                arith.INT32_MIN, arith.INT32_MAX, self.rescale.rounding)

    def accumulator_bounds(self, ranges=(INT8, INT8)):
        """Bounds of both terms and of their sum, int64 (3,) each; terms are monotone in q."""
        lows, highs = ([int(self.term(index, np.int64(ranges[index][side]))) for index in (0, 1)]
                       for side in (0, 1))
        return (np.array([*lows, sum(lows)], np.int64), np.array([*highs, sum(highs)], np.int64))

    def accumulate(self, first, second):
        """Two int8 arrays. Returns the sum of the terms, int64."""
        first = validate.codes("Add input", first)
        second = validate.codes("Add input", second)
        self.output_shape(first.shape, second.shape)
        return self.term(0, first) + self.term(1, second)

    def __call__(self, first, second):
        """Two int8 arrays of one shape. Returns int8 of that shape."""
        return self.rescale(self.accumulate(first, second))


@dataclass(frozen=True, kw_only=True, eq=False)
class Concat:
    """Joins tensors of one quantization along `axis`, counted with the batch as axis 0."""

    axis: int = 1

    def __post_init__(self):
        _put(self, "axis", validate.integer("Axis", self.axis, 1, 3))

    def output_shape(self, *shapes):
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

    def __call__(self, *inputs):
        """int8 arrays. Returns int8."""
        inputs = [validate.codes("Concat input", x) for x in inputs]
        self.output_shape(*(x.shape[1:] for x in inputs))
        return np.concatenate(inputs, axis=self.axis)


def orders_agree(shape):
    """Are the elements of (C, ...) the same in C, H, W and in H, W, C order?"""
    return shape[0] == 1 or prod(shape[1:]) == 1


@dataclass(frozen=True, kw_only=True, eq=False)
class Reshape:
    """New shape (without the batch), elements in C, H, W order.

    channels_last: elements in H, W, C order instead, of the input as of the output
    """

    shape: tuple
    channels_last: bool = False

    def __post_init__(self):
        _put(self, "shape", validate.integers("Shape", self.shape, None, 1, arith.INT32_MAX))
        validate.instance("Channels last", self.channels_last, bool)

    def output_shape(self, shape):
        """Any shape with as many elements to `self.shape`."""
        if prod(shape) != prod(self.shape):
            raise ValueError(f"Reshape to {self.shape} must get {prod(self.shape)} elements, "
                             f"not shape {tuple(shape)}")
        return self.shape

    def __call__(self, x):
        """x: int8 (N, ...). Returns int8 (N, *shape)."""
        x = validate.codes("Reshape input", x)
        self.output_shape(x.shape[1:])
        if not self.channels_last:
            return x.reshape(len(x), *self.shape)
        x = np.moveaxis(x, 1, -1).reshape(len(x), *self.shape[1:], self.shape[0])
        return np.ascontiguousarray(np.moveaxis(x, -1, 1))


@dataclass(frozen=True, kw_only=True, eq=False)
class Clamp:
    """Codes limited to [low, high]: a ReLU on its own. Input and output share their scale."""

    low: int = arith.INT8_MIN
    high: int = arith.INT8_MAX

    def __post_init__(self):
        _put(self, "low", validate.integer("Low", self.low, *INT8))
        _put(self, "high", validate.integer("High", self.high, self.low, arith.INT8_MAX))

    def output_shape(self, shape):
        """The input's shape."""
        return tuple(shape)

    def __call__(self, x):
        """x: int8. Returns int8."""
        return arith.clamp(validate.codes("Clamp input", x), self.low, self.high)


@dataclass(frozen=True, kw_only=True, eq=False)
class Rescaling:
    """A change of scale: rescale(x - input_zero_point), per tensor or per channel (axis 1)."""

    input_zero_point: int
    rescale: Rescale

    def __post_init__(self):
        _put(self, "input_zero_point",
             validate.integer("Input zero point", self.input_zero_point, *INT8))
        validate.instance("Rescale", self.rescale, Rescale)

    def output_shape(self, shape):
        """The input's shape."""
        if shape:
            self.rescale.check_channels(shape[0])
        return tuple(shape)

    def __call__(self, x):
        """x: int8 (N, C, ...). Returns int8."""
        x = validate.codes("Rescaling input", x)
        return self.rescale(x.astype(np.int64) - self.input_zero_point)

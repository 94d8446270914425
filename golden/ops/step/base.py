"""What the operators of the integer training step share: named ports, and widths that are proven.

In the integer training step every value is an integer: real = code * 2^e with zero point 0, and
the exponents e are tensors of state that change from step to step (delayed scaling). Results are
brought to 8 or 16 bits by `golden.arith.lanes` with multipliers and shifts that are data too.
"""

import math
from abc import abstractmethod
from typing import NamedTuple

import numpy as np

from golden import arith, validate
from golden.ops.operator import Operator
from golden.ops.primitives import ExecutorIntegers, ExecutorTensor
from golden.random import counter_seed

__all__ = ["CODE_MAX", "GRADIENT_MAX", "HALF", "LOW_WIDTH", "Port", "RANDOM_PORTS", "ROOT",
           "StepOperator", "TENSOR_ID_MAX", "Width", "by_channel", "digits_of", "flat", "noise",
           "parts_of", "saturated", "tensor_id", "top_of", "whole_of"]

CODE_MAX = 127                  # magnitude of weights and of 8-bit gradients
GRADIENT_MAX = 127 * 256 + 127  # of 16-bit gradients: both balanced digits fit int8
HALF = 1 << 30                  # the multiplier of a power of two: value * 2^-(shift - 30)
TENSOR_ID_MAX = (1 << 31) - 1
LOW_WIDTH = 16                  # of the low part of a sum that int32 does not hold
ROOT = 1 << LOW_WIDTH - 1


class Port(NamedTuple):
    """A tensor that is read or written."""

    name: str
    dtype: str = "int8"
    batched: bool = False


#: Where an operator takes its random bits from.
RANDOM_PORTS = Port("seed", "int32"), Port("step", "int32")


class Width(NamedTuple):
    """An intermediate value within [low, high] that must fit a signed integer of `bits` bits."""

    name: str
    low: int
    high: int
    bits: int


class StepOperator(Operator):
    """ports_in, ports_out: a tuple of `Port` each, in order. What is not batched is there once."""

    ports_in = ()
    ports_out = ()

    @property
    def n_inputs(self) -> int:
        """As many as ports."""
        return len(self.ports_in)

    @property
    def n_outputs(self) -> int:
        """As many as ports."""
        return len(self.ports_out)

    @property
    def input_dtypes(self) -> tuple:
        """Of the ports."""
        return tuple(port.dtype for port in self.ports_in)

    @property
    def output_dtypes(self) -> tuple:
        """Of the ports."""
        return tuple(port.dtype for port in self.ports_out)

    @property
    def reads_zero_points(self) -> tuple:
        """0 everywhere."""
        return (0,) * self.n_inputs

    @property
    def writes_zero_point(self) -> int:
        """0."""
        return 0

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """Everything."""
        return None

    def output_batched(self, *batched) -> bool | tuple:
        """As the ports say."""
        for port, found in zip(self.ports_in, batched, strict=True):
            if port.batched != found:
                raise ValueError(f"{self.label} must get {port.name} "
                                 f"{'for every image' if port.batched else 'without a batch'}")
        return self._one_or_all(tuple(port.batched for port in self.ports_out))

    def _one_or_all(self, values):
        return values if self.n_outputs > 1 else values[0]

    @abstractmethod
    def shapes(self, *inputs) -> tuple[tuple, tuple]:
        """The shapes that the inputs must have, and those of the outputs, from those given."""

    def output_shape(self, *shapes) -> tuple:
        """Those of `shapes`; ValueError naming an input of another shape than it asks for."""
        if len(shapes) != self.n_inputs:
            raise ValueError(f"{self.label} must get {self.n_inputs} inputs, not {len(shapes)}")
        shapes = tuple(map(tuple, shapes))
        wanted, outputs = self.shapes(*shapes)
        for port, shape, expected in zip(self.ports_in, shapes, wanted, strict=True):
            if shape != tuple(expected):
                raise ValueError(f"{self.label} must get {port.name} of shape {tuple(expected)}, "
                                 f"not {shape}")
        return self._one_or_all(tuple(map(tuple, outputs)))

    @property
    def ranges(self) -> tuple:
        """(low, high) of the codes of every output; those of the dtype unless a class says less."""
        return tuple((int(np.iinfo(port.dtype).min), int(np.iinfo(port.dtype).max))
                     for port in self.ports_out)

    def output_range(self, input_ranges) -> tuple:
        """`ranges`, whatever comes in."""
        return self._one_or_all(self.ranges)

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """The intermediate values that the bounds of the inputs bound."""
        return ()

    def accumulators(self, input_ranges) -> tuple:
        """No sums of its own form; ValueError where one of `widths` does not fit its bits."""
        for name, low, high, bits in self.widths(input_ranges):
            limit = 1 << bits - 1
            for value in (low, high):
                if not -limit <= value < limit:
                    raise ValueError(f"{name} must fit {bits} bits, not {value}")
        return None, None

    @abstractmethod
    def results(self, p, *inputs) -> tuple:
        """int64 values of every output, within `ranges`, of int64 inputs with a leading axis."""

    def compute(self, p, *inputs) -> ExecutorTensor | tuple[ExecutorTensor, ...]:
        """`results` as codes of the ports' dtypes."""
        for x in inputs:
            p.batch(x)      # whole batches: an executor that knows none refuses the operator here
        results = self.results(p, *(p.integers(x) for x in inputs))
        return self._one_or_all(tuple(p.codes(value, port.dtype) for value, port in
                                      zip(results, self.ports_out, strict=True)))


def by_channel(p, values, like) -> ExecutorIntegers:
    """(1, C) or (1, 1) in the form that broadcasts along axis 1 of `like`."""
    return p.reshape(values, (values.shape[1], *[1] * (like.ndim - 2)))


def flat(p, x) -> ExecutorIntegers:
    """(N, C, H, W) or (N, C) as (C, N * H * W), in N, H, W order."""
    return p.reshape(p.transpose(x, (1, 0, *range(2, x.ndim))), (-1,))


def top_of(p, y) -> ExecutorIntegers:
    """The magnitude watch (1, 1): the largest of y, or ~y where y is negative."""
    y = p.reshape(y ^ (y >> 63), (-1,))
    return p.all_max(p.max(p.max(y, 1), 0))


def digits_of(gradient) -> tuple:
    """(low, high) balanced digits of +-32639: g = 256 high + low, low in -128..127."""
    high = (gradient + 128) >> 8
    return gradient - (high << 8), high


def parts_of(total) -> tuple:
    """(low, high) of a sum: total = 2^16 high + low, low in -2^15..2^15 - 1."""
    high = (total + ROOT) >> LOW_WIDTH
    return total - (high << LOW_WIDTH), high


def whole_of(low, high) -> ExecutorIntegers:
    """The sum of two parts."""
    return (high << LOW_WIDTH) + low


def tensor_id(value) -> int:
    """A checked tensor id: what tells the random bits of one tensor from those of another."""
    return validate.integer("Tensor id", value, 0, TENSOR_ID_MAX)


def noise(p, seed, step, identity, like) -> ExecutorIntegers:
    """8 random bits for each element of `like` (N, C, ...): of its index pixel * C + channel."""
    shape = like.shape[0], *like.shape[2:], like.shape[1]
    first = p.part()[0] * math.prod(shape)
    bits = p.counter_bits(counter_seed(seed, step, identity), shape, like, first)
    return p.transpose(bits, (0, like.ndim - 1, *range(1, like.ndim - 1)))


def saturated(value, limit) -> ExecutorIntegers:
    """Limited to +-limit."""
    return arith.clamp(value, -limit, limit)

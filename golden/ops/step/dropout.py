"""Dropout in the integer training step: random bits decide which codes stay.

    y = clamp(lanes(x, M, k + e_y - e_x)) where r8 >= drop, else 0      M 2^-k = 256 / (256 - drop)

r8 are the 8 random bits of an element, so that drop / 256 of the codes become 0 (Srivastava et al.
2014). The way back draws the same bits, and rounds with others.
"""

from dataclasses import dataclass

from golden import arith, validate
from golden.ops.primitives import ExecutorIntegers
from golden.ops.step.base import (
    GRADIENT_MAX,
    RANDOM_PORTS,
    Port,
    StepOperator,
    noise,
    saturated,
    tensor_id,
    top_of,
)
from golden.ops.step.lanes import by_one

__all__ = ["Dropout", "DropoutGradient"]

DROP_MAX = 255                  # of 256
LEVELS = 256
FACTOR_SHIFT = 22               # 256 / (256 - drop) is at most 2^8


class _Drop(StepOperator):
    """drop: how many of 256 codes become 0, 1..255; tensor_id: of the random bits."""

    def check_drop(self) -> None:
        """Of the fields."""
        self._put("drop", validate.integer("Drop", self.drop, 1, DROP_MAX))
        self._put("tensor_id", tensor_id(self.tensor_id))

    def shapes(self, x, *rest) -> tuple[tuple, tuple]:
        """The same."""
        return (x, (1,), (1,), (1,)), (x, (1,))

    def kept(self, p, x, shift, seed, step, random=None) -> ExecutorIntegers:
        """The result of the lanes before the clamp."""
        bits = noise(p, seed, step, self.tensor_id, x)
        keep = 1 - arith.clamp(self.drop - bits, 0, 1)
        factor = arith.round_divide(LEVELS << FACTOR_SHIFT, LEVELS - self.drop)
        return arith.lanes(x * keep, factor, by_one(p, shift, x) + FACTOR_SHIFT, random)


@dataclass(frozen=True, kw_only=True, eq=False)
class Dropout(_Drop):
    """What stays of the codes, nearest.

    x: int8 (N, ...); shift: int32 (1,), e_y - e_x; seed, step: int32 (1,)
    Returns y, int8, exponent e_y, and top int32 (1,).
    """

    drop: int
    tensor_id: int

    ports_in = Port("x", "int8", True), Port("shift", "int32"), *RANDOM_PORTS
    ports_out = Port("y", "int8", True), Port("top", "int32")
    ranges = (arith.INT8_MIN, arith.INT8_MAX), (0, arith.INT32_MAX)

    def __post_init__(self):
        self.check_drop()

    def results(self, p, x, shift, seed, step) -> tuple:
        """One visit of the lanes."""
        y = self.kept(p, x, shift, seed, step)
        return arith.clamp(y, arith.INT8_MIN, arith.INT8_MAX), top_of(p, y)


@dataclass(frozen=True, kw_only=True, eq=False)
class DropoutGradient(_Drop):
    """The gradient of a dropout's input, rounded at random.

    g: int16 (N, ...), limited to +-32639; shift: int32 (1,), e_g - e_y; seed, step: int32 (1,)
    Returns g, int16, exponent e_g, and top int32 (1,).
    drop, tensor_id: as of the `Dropout`; rounding_id: of the bits that it rounds with
    """

    drop: int
    tensor_id: int
    rounding_id: int

    ports_in = Port("g", "int16", True), Port("shift", "int32"), *RANDOM_PORTS
    ports_out = Port("g", "int16", True), Port("top", "int32")
    ranges = (-GRADIENT_MAX, GRADIENT_MAX), (0, arith.INT32_MAX)

    def __post_init__(self):
        self.check_drop()
        self._put("rounding_id", tensor_id(self.rounding_id))

    def results(self, p, g, shift, seed, step) -> tuple:
        """One visit of the lanes."""
        random = noise(p, seed, step, self.rounding_id, g)
        y = self.kept(p, saturated(g, GRADIENT_MAX), shift, seed, step, random)
        return saturated(y, GRADIENT_MAX), top_of(p, y)

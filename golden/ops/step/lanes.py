"""The lanes as operators of the integer training step: wide values to codes, digits of gradients.

    y = lanes(value, M, shift)      `golden.arith.lanes`, nearest or at random, then a clamp

Every result before its clamp is watched: top = the largest of y, or ~y where y is negative, whose
bit length is what `golden.ops.step.ExponentRule` reads.
"""

from dataclasses import dataclass

from golden import arith, validate
from golden.ops.primitives import ExecutorIntegers
from golden.ops.step.base import (
    CODE_MAX,
    GRADIENT_MAX,
    HALF,
    RANDOM_PORTS,
    Port,
    StepOperator,
    by_channel,
    digits_of,
    noise,
    saturated,
    tensor_id,
    top_of,
)

__all__ = ["GradientCodes", "GradientDigits", "LaneCodes", "by_one", "sixteen_bits"]


@dataclass(frozen=True, kw_only=True, eq=False)
class LaneCodes(StepOperator):
    """clamp(lanes(value, multiplier, shift), low, high), with its watch.

    value: int32 (N, C, ...); multiplier, shift: int32, (C,) each or (1,) each; seed, step: int32
    (1,), where it rounds at random. Returns codes of `width` bits and top int32 (1,).
    per_channel: whether multiplier and shift are; width: 8 or 16; low, high: within it
    tensor_id: of the random bits, None to round to nearest
    """

    width: int = 8
    low: int
    high: int
    per_channel: bool = False
    tensor_id: int | None = None

    def __post_init__(self):
        if self.width not in (8, 16):
            raise ValueError(f"Width must be 8 or 16, not {self.width!r}")
        most = (1 << self.width - 1) - 1
        self._put("low", validate.integer("Low", self.low, -1 - most, most))
        self._put("high", validate.integer("High", self.high, self.low, most))
        validate.instance("Per channel", self.per_channel, bool)
        if self.tensor_id is not None:
            self._put("tensor_id", tensor_id(self.tensor_id))

    @property
    def ports_in(self) -> tuple:
        """Random bits where they are asked for."""
        ports = (Port("value", "int32", True), Port("multiplier", "int32"),
                 Port("shift", "int32"))
        return ports if self.tensor_id is None else (*ports, *RANDOM_PORTS)

    @property
    def ports_out(self) -> tuple:
        """Codes and their watch."""
        return Port("codes", f"int{self.width}", True), Port("top", "int32")

    @property
    def ranges(self) -> tuple:
        """The clamp bounds."""
        return (self.low, self.high), (0, arith.INT32_MAX)

    def shapes(self, value, *rest) -> tuple[tuple, tuple]:
        """One shift for all, or one for each channel."""
        each = value[:1] if self.per_channel else (1,)
        return (value, each, each, *((1,),) * (len(rest) - 2)), (value, (1,))

    def results(self, p, value, multiplier, shift, *random) -> tuple:
        """One visit of the lanes."""
        bits = noise(p, *random, self.tensor_id, value) if random else None
        y = arith.lanes(value, by_channel(p, multiplier, value), by_channel(p, shift, value), bits)
        return arith.clamp(y, self.low, self.high), top_of(p, y)


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientDigits(StepOperator):
    """Balanced digits of 16-bit gradients, for multipliers that take int8: g = 256 high + low.

    gradient: int16 (N, ...), limited to +-32639. Returns low (-128..127), high (-127..127), int8.
    """

    ports_in = (Port("gradient", "int16", True),)
    ports_out = Port("low", "int8", True), Port("high", "int8", True)
    ranges = ((-128, 127), (-CODE_MAX, CODE_MAX))

    def shapes(self, *inputs) -> tuple[tuple, tuple]:
        """The same."""
        return inputs, inputs * 2

    def results(self, p, gradient) -> tuple:
        """Of the limited values."""
        return digits_of(saturated(gradient, GRADIENT_MAX))


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientCodes(StepOperator):
    """A wide gradient as 16 bits (nearest) and as an unbiased 8-bit copy, with its watch.

    g16 = clamp(lanes(value, 2^30, 30 + shift), +-32639);  g8 = clamp((g16 + r8) >> 8, +-127)

    value: int32 (N, ...), exponent e; shift: int32 (1,), e_g - e; seed, step: int32 (1,)
    Returns g16 int16, exponent e_g, g8 int8, exponent e_g + 8, and top int32 (1,).
    """

    ports_in = Port("value", "int32", True), Port("shift", "int32"), *RANDOM_PORTS
    ports_out = Port("g16", "int16", True), Port("g8", "int8", True), Port("top", "int32")
    ranges = ((-GRADIENT_MAX, GRADIENT_MAX), (-CODE_MAX, CODE_MAX), (0, arith.INT32_MAX))

    tensor_id: int

    def __post_init__(self):
        self._put("tensor_id", tensor_id(self.tensor_id))

    def shapes(self, value, *rest) -> tuple[tuple, tuple]:
        """One shift for all."""
        return (value, (1,), (1,), (1,)), (value, value, (1,))

    def results(self, p, value, shift, seed, step) -> tuple:
        """One visit of the lanes."""
        y = arith.lanes(value, HALF, by_one(p, shift, value) + 30)
        return *sixteen_bits(p, y, seed, step, self.tensor_id), top_of(p, y)


def by_one(p, shift, like) -> ExecutorIntegers:
    """A (1, 1) tensor in the form that broadcasts against `like`."""
    return p.reshape(shift, [1] * (like.ndim - 1))


def sixteen_bits(p, y, seed, step, identity) -> tuple:
    """(g16, g8) of results of the lanes."""
    g16 = saturated(y, GRADIENT_MAX)
    return g16, saturated(arith.stochastic_shift(g16, noise(p, seed, step, identity, y), 8),
                          CODE_MAX)

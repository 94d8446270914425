"""Residual addition of the integer training step, both ways: two exponents, one visit of the lanes.

    e = max(min(e_a, e_b), max(e_a, e_b) - limit)       the common unit
    y = clamp(lanes((a << e_a - e) + (b << e_b - e), 2^30, 30 + e_y - e), low, high)

A negative shift of an operand is a floor shift right: that operand is more than `limit` bits finer.
The limit, 20 for 8-bit and 15 for 16-bit codes, keeps the sum within 32 bits.
"""

from dataclasses import dataclass

from golden import arith
from golden.ops.primitives import ExecutorIntegers
from golden.ops.step.activation import check_activation, mask_ports, masked
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
from golden.ops.step.lanes import by_one

__all__ = ["CODE_LIMIT", "GRADIENT_LIMIT", "GradientAddition", "ResidualAddition"]

CODE_LIMIT, GRADIENT_LIMIT = 20, 15
EXPONENTS = Port("e_a"), Port("e_b"), Port("e_y")


def _sum(p, a, b, exponents, limit, random=None) -> ExecutorIntegers:
    """The result of the lanes before the clamp."""
    e_a, e_b, e_y = (by_one(p, e, a) for e in exponents)
    above = arith.clamp(e_a - e_b, 0, 255)              # max(e_a, e_b) = e_b + above
    least, most = e_a - above, e_b + above
    unit = most - arith.clamp(most - least, 0, limit)
    total = 0
    for x, e in ((a, e_a), (b, e_b)):
        total = (x << arith.clamp(e - unit, 0, limit) >> arith.clamp(unit - e, 0, 62)) + total
    return arith.lanes(total, HALF, 30 + e_y - unit, random)


def _sum_width(input_ranges, limit):
    """One operand at its largest shift, the other as it is; or both as they are."""
    a, b = (max(map(abs, bounds)) for bounds in input_ranges[:2])
    total = max((a << limit) + b, a + (b << limit))
    return (Width("Sum of shifted codes", -total, total, 32),)


@dataclass(frozen=True, kw_only=True, eq=False)
class ResidualAddition(StepOperator):
    """y = a + b, and ReLU by the clamp, nearest.

    a, b: int8 (N, ...); e_a, e_b, e_y: int8 (1,), their exponents
    Returns y, int8, exponent e_y, and top int32 (1,), the watch of what the activation gives.
    activation: none (low -128) or relu (low 0)
    """

    activation: str = "relu"

    ports_in = Port("a", "int8", True), Port("b", "int8", True), *EXPONENTS
    ports_out = Port("y", "int8", True), Port("top", "int32")

    def __post_init__(self):
        if check_activation(self.activation) == "relu6":
            raise ValueError("Activation of an addition must be none or relu, not 'relu6'")

    @property
    def ranges(self) -> tuple:
        """The clamp bounds."""
        return ((arith.INT8_MIN if self.activation == "none" else 0, arith.INT8_MAX),
                (0, arith.INT32_MAX))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """The sum."""
        return _sum_width(input_ranges, CODE_LIMIT)

    def shapes(self, a, *rest) -> tuple[tuple, tuple]:
        """Equal ones."""
        return (a, a, (1,), (1,), (1,)), (a, (1,))

    def results(self, p, a, b, *exponents) -> tuple:
        """One visit of the lanes."""
        low = self.ranges[0][0]
        y = _sum(p, a, b, exponents, CODE_LIMIT)
        y = arith.clamp(y, low if low == 0 else arith.INT32_MIN, arith.INT32_MAX)
        return arith.clamp(y, low, arith.INT8_MAX), top_of(p, y)


@dataclass(frozen=True, kw_only=True, eq=False)
class GradientAddition(StepOperator):
    """The gradient at the input of a residual block, g = a + b, rounded at random.

    a, b: int16 (N, ...), limited to +-32639; e_a, e_b, e_y: int8 (1,), their exponents; seed, step
    Then, of an identity, whose b is the gradient of the block's output: that output as a mask of b.
    Returns g, int16 within +-32639, exponent e_y, and top int32 (1,).
    activation: of the output that masks b; none where b is masked already
    """

    activation: str = "none"
    tensor_id: int

    @property
    def ports_in(self) -> tuple:
        """The mask last."""
        return (Port("a", "int16", True), Port("b", "int16", True), *EXPONENTS, *RANDOM_PORTS,
                *mask_ports(self.activation))

    ports_out = Port("g", "int16", True), Port("top", "int32")
    ranges = (-GRADIENT_MAX, GRADIENT_MAX), (0, arith.INT32_MAX)

    def __post_init__(self):
        check_activation(self.activation)
        self._put("tensor_id", tensor_id(self.tensor_id))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """The sum, of limited operands."""
        return _sum_width(((-GRADIENT_MAX, GRADIENT_MAX),) * 2, GRADIENT_LIMIT)

    def shapes(self, a, *rest) -> tuple[tuple, tuple]:
        """Equal ones."""
        mask = (a, (1,))[:len(mask_ports(self.activation))]
        return (a, a, *((1,),) * 5, *mask), (a, (1,))

    def results(self, p, a, b, e_a, e_b, e_y, seed, step, *mask) -> tuple:
        """One visit of the lanes."""
        a, b = saturated(a, GRADIENT_MAX), masked(p, saturated(b, GRADIENT_MAX), mask)
        y = _sum(p, a, b, (e_a, e_b, e_y), GRADIENT_LIMIT,
                 noise(p, seed, step, self.tensor_id, a))
        return saturated(y, GRADIENT_MAX), top_of(p, y)

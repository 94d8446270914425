"""What follows a norm in the integer training step: nothing, ReLU or ReLU6, by the clamp alone."""

from dataclasses import dataclass

from golden import arith
from golden.ops.primitives import ExecutorIntegers
from golden.ops.step.base import Port, StepOperator, by_channel

__all__ = ["ACTIVATIONS", "MaskedGradient", "check_activation", "mask_ports", "masked", "six"]

ACTIVATIONS = ("none", "relu", "relu6")
EXPONENT_LIMIT = 5      # 6 * 2^5 is more than any code


def check_activation(value) -> str:
    """One of `ACTIVATIONS`."""
    if value not in ACTIVATIONS:
        raise ValueError(f"Activation must be none, relu or relu6, not {value!r}")
    return value


def six(exponent) -> ExecutorIntegers:
    """The code of 6 at an exponent: floor(6 * 2^-e), at most 192."""
    up, down = (arith.clamp(value, 0, EXPONENT_LIMIT) for value in (-exponent, exponent))
    return (6 << up) >> down


def mask_ports(activation) -> tuple[Port, ...]:
    """What a backward pass reads to know where a gradient counts: y, and for ReLU6 its exponent."""
    ports = Port("y", "int8", True), Port("exponent of y")
    return ports[:ACTIVATIONS.index(activation)]


def masked(p, g, mask) -> ExecutorIntegers:
    """g where the stored code y is above 0 and below 6; saturated codes of ReLU pass.

    mask: () or (y,) or (y, exponent (1, 1)), int64
    """
    for y in mask[:1]:
        g = g * p.integers(y > 0)
    for exponent in mask[1:]:
        g = g * p.integers(mask[0] < by_channel(p, six(exponent), mask[0]))
    return g


@dataclass(frozen=True, kw_only=True, eq=False)
class MaskedGradient(StepOperator):
    """The gradient where the activation let its code pass, 0 elsewhere.

    Only for a gradient under two masks, or whose reader knows none: others mask as they read.
    g: int16 (N, ...); y: int8 of that shape, what the activation gave; exponent of y: int8 (1,)
    (for relu6 alone). Returns int16.
    activation: relu or relu6
    """

    activation: str = "relu"

    ports_out = (Port("g", "int16", True),)

    def __post_init__(self):
        if check_activation(self.activation) == "none":
            raise ValueError("Activation must be relu or relu6, not 'none'")

    @property
    def ports_in(self) -> tuple:
        """The mask last."""
        return Port("g", "int16", True), *mask_ports(self.activation)

    def output_range(self, input_ranges) -> tuple:
        """What comes in, and 0."""
        low, high = input_ranges[0]
        return min(low, 0), max(high, 0)

    def shapes(self, g, *rest) -> tuple[tuple, tuple]:
        """The same."""
        return (g, g, (1,))[:1 + len(rest)], (g,)

    def results(self, p, g, *mask) -> tuple:
        """Compares."""
        return (masked(p, g, mask),)

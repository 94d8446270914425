"""What follows a norm in the integer training step: nothing, ReLU or ReLU6, by the clamp alone."""

from golden import arith
from golden.ops.primitives import ExecutorIntegers
from golden.ops.step.base import Port, by_channel

__all__ = ["ACTIVATIONS", "check_activation", "mask_ports", "masked", "six"]

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

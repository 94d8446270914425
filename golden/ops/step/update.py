"""The update of the integer training step: SGD with momentum and weight decay.

Weights have 16-bit masters m = 256 w + lo in balanced digits: w is the int8 weight, exponent e_w,
and m has the exponent e_w - 8. With grow (0 or 1) decided in the step before:

    m = (m + grow) >> grow;  v = (v + grow) >> grow;  e_old = e_w;  e_w += grow
    step = lanes(dw, rate_M, rate_s - (e_ga + 8 - e_old - e_w + 8 + 16))
    v = sat32(lanes(v, momentum, 31) + step + lanes(m, decay_M, decay_s - 16))
    m = clamp(m - ((v + r16) >> 16), +-32639)                           r16: 16 random bits
    grow = max abs(m) >= 120 256

Vectors (gamma, beta, bias) have 32-bit masters of f fraction bits, no decay, and round to nearest:

    v = sat32(lanes(v, momentum, 31) + lanes(gradient, rate_M, rate_s - e - f));  m = sat32(m - v)

The rate (and rate times decay) is rate_M 2^-rate_s; it is inside v. Momentum is a multiplier of
2^-31.
"""

import math
from dataclasses import dataclass

from golden import arith, validate
from golden.ops.step.base import (
    CODE_MAX,
    GRADIENT_MAX,
    RANDOM_PORTS,
    Port,
    StepOperator,
    Width,
    saturated,
    tensor_id,
)
from golden.ops.step.exponents import EXPONENT_MAX, EXPONENT_MIN
from golden.ops.step.lanes import by_one
from golden.random import counter_seed

__all__ = ["GROW_FROM", "MOMENTUM", "VectorUpdate", "WeightCodes",
           "WeightUpdate", "rate_code"]

MOMENTUM = 1932735283           # 0.9 * 2^31
MOMENTUM_FRACTION = 16          # of v, below an LSB of m
MASTER_MAX = GRADIENT_MAX       # both balanced digits fit int8
GROW_FROM = 120 << 8            # magnitude of a master from which e_w grows
RATE_FRACTION = 15              # low bits of a rate's multiplier that are 0
RATE_PORTS = Port("rate multiplier", "int32"), Port("rate shift", "int32")
DECAY_PORTS = Port("decay multiplier", "int32"), Port("decay shift", "int32")


def rate_code(rate) -> tuple[int, int]:
    """(multiplier, shift) of a learning rate: what the host writes once per step.

    The rate, at least 0 and below 2^31, is rounded to 16 significant bits. Of losses that are
    summed, it is the rate over the number of images. One too small for the lanes moves nothing.
    """
    if not 0 <= rate < 1 << 31:
        raise ValueError(f"Rate must be at least 0 and below 2**31, not {rate}")
    mantissa, exponent = math.frexp(rate)
    multiplier = math.floor(mantissa * 65536 + 0.5) << RATE_FRACTION
    if multiplier > arith.MULTIPLIER_MAX:
        multiplier, exponent = multiplier >> 1, exponent + 1
    return (multiplier, arith.MULTIPLIER_WIDTH - exponent) if multiplier else (0, 31)


def _momentum(value):
    return validate.integer("Momentum", value, 0, arith.MULTIPLIER_MAX)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightCodes(StepOperator):
    """The weights of masters: w = (m + 128) >> 8, int16 (any shape) to int8 of -127..127."""

    ports_in, ports_out = (Port("master", "int16"),), (Port("weights"),)
    ranges = ((-CODE_MAX, CODE_MAX),)

    def shapes(self, master) -> tuple[tuple, tuple]:
        """The same."""
        return (master,), (master,)

    def results(self, p, master) -> tuple:
        """The high digit."""
        return (arith.round_shift(saturated(master, MASTER_MAX), 8),)


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightUpdate(StepOperator):
    """Masters, momenta and exponent of a layer's weights in the next step.

    master: int16 (O, I, kh, kw) or (O, I); momentum, gradient: int32, of `KernelGradient`
    exponent, grow: int8 (1,), e_w and whether it grows; gradient exponent: int32 (1,), e_ga
    rate, decay: multiplier and shift, int32 (1,) each; seed, step: int32 (1,)
    Returns master, momentum, exponent, grow.
    tensor_id: of the high byte of r16, the next id being that of the low one. The element index
    counts (tap, input channel, output channel), as the words lie on the device.
    momentum: multiplier of 2^-31
    """

    ports_in = (Port("master", "int16"), Port("momentum", "int32"), Port("gradient", "int32"),
                Port("exponent"), Port("grow"),
                Port("gradient exponent", "int32"), *RATE_PORTS, *DECAY_PORTS, *RANDOM_PORTS)
    ports_out = (Port("master", "int16"), Port("momentum", "int32"), Port("exponent"),
                 Port("grow"))

    tensor_id: int
    momentum: int = MOMENTUM

    def __post_init__(self):
        self._put("tensor_id", tensor_id(self.tensor_id))
        self._put("momentum", _momentum(self.momentum))

    ranges = ((-MASTER_MAX, MASTER_MAX), (arith.INT32_MIN, arith.INT32_MAX),
              (EXPONENT_MIN, EXPONENT_MAX), (0, 1))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """Before they saturate."""
        momentum = 3 * (1 << 31)
        return (Width("Momentum", -momentum, momentum, 34),
                Width("Master", -2 * MASTER_MAX, 2 * MASTER_MAX, 17))

    def shapes(self, master, *rest) -> tuple[tuple, tuple]:
        """(O, I, ...)."""
        if len(master) < 2:
            raise ValueError(f"{self.label} must get masters (O, I, ...), not shape {master}")
        return (*(master,) * 3, *((1,),) * 9), (master, master, (1,), (1,))

    def _random(self, p, seed, step, like):
        order = [0, *range(3, like.ndim), 2, 1]
        back = [order.index(axis) for axis in range(like.ndim)]
        high, low = (p.transpose(p.counter_bits(counter_seed(seed, step, identity),
                                                [like.shape[axis] for axis in order], like), back)
                     for identity in (self.tensor_id, self.tensor_id + 1))
        return (high << 8) + low

    def results(self, p, m, v, d, exponent, grow, e_ga, rate, rate_shift, decay,
                decay_shift, seed, step) -> tuple:
        """Three visits of the lanes."""
        random = self._random(p, seed, step, m)
        exponent = arith.clamp(exponent, EXPONENT_MIN, EXPONENT_MAX)
        grown = arith.clamp(exponent + arith.clamp(grow, 0, 1), EXPONENT_MIN, EXPONENT_MAX)
        rate_shift = rate_shift - (e_ga + 8 - exponent - grown + 8 + MOMENTUM_FRACTION)
        decay_shift = decay_shift - MOMENTUM_FRACTION
        grow = by_one(p, grown - exponent, m)
        m, v = ((x + grow) >> grow for x in (saturated(m, MASTER_MAX), v))
        rate, rate_shift, decay, decay_shift = (by_one(p, x, m) for x in (
            rate, rate_shift, decay, decay_shift))
        v = arith.saturate(arith.lanes(v, self.momentum, 31) + arith.lanes(d, rate, rate_shift)
                           + arith.lanes(m, decay, decay_shift), 32)
        m = saturated(m - arith.stochastic_shift(v, random, MOMENTUM_FRACTION), MASTER_MAX)
        largest = p.max(p.reshape(abs(m), (-1,)), 1)
        return m, v, grown, arith.clamp(largest - GROW_FROM + 1, 0, 1)


@dataclass(frozen=True, kw_only=True, eq=False)
class VectorUpdate(StepOperator):
    """Masters and momenta of one value per channel in the next step.

    master, momentum, gradient: int32 (C,); gradient exponent: int32 (1,); rate: multiplier and
    shift, int32 (1,). Returns master and momentum.
    fraction: fraction bits of the masters, 28 for gamma and beta, 24 for a bias
    momentum: as of `WeightUpdate`
    """

    ports_in = (Port("master", "int32"), Port("momentum", "int32"), Port("gradient", "int32"),
                Port("gradient exponent", "int32"), *RATE_PORTS)
    ports_out = Port("master", "int32"), Port("momentum", "int32")

    fraction: int
    momentum: int = MOMENTUM

    def __post_init__(self):
        self._put("fraction", validate.integer("Fraction", self.fraction, 0, 31))
        self._put("momentum", _momentum(self.momentum))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """Before they saturate."""
        return tuple(Width(name, -(1 << 32), 1 << 32, 34) for name in ("Momentum", "Master"))

    def shapes(self, master, *rest) -> tuple[tuple, tuple]:
        """By channel."""
        return (*(master,) * 3, *((1,),) * 3), (master, master)

    def results(self, p, m, v, gradient, e, rate, rate_shift) -> tuple:
        """Two visits of the lanes."""
        v = arith.saturate(arith.lanes(v, self.momentum, 31) + arith.lanes(
            gradient, rate, rate_shift - e - self.fraction), 32)
        return arith.saturate(m - v, 32), v

"""RangeBN of the integer training step, forward, from codes q to codes y of another exponent.

Banner et al. 2018, arXiv 1805.11046, with the n = N H W codes of a channel in chunks as in
`golden.ops.range_norm`. S is the sum of q, D the sum over chunks of max - min, D' = max(D, 16),
c = K / C(L) for K chunks of length L, ck = round(c 2^xk) of 13 bits, G and B are gamma and beta
with 12 fraction bits. Per channel:

    sign = signum(G), 0 if D = 0            A = max(abs(G), 1) ck                 28 bits
    Q = (A << 22) // D'                     M, x = top 31 bits of Q, bit_length(Q) - 31
    shift = 44 + xk - x                     mean = ((S << 10) + (n >> 1)) // n
    centre = (abs(B) D' << (10 + xk)) // A  bias = sat32(signum(B) centre - sign mean)
    y = clamp(lanes((sign q << 10) + bias, M, shift + e_y), low, high)

Dividends have at most 52 bits, divisors at most 29.
"""

import math
from dataclasses import dataclass

from golden import arith, validate
from golden.ops import range_norm
from golden.ops.primitives import ExecutorIntegers
from golden.ops.step.activation import check_activation, six
from golden.ops.step.base import Port, StepOperator, Width, by_channel, top_of
from golden.ops.step.statistics import SPREAD_MAX

__all__ = ["FRACTION", "MASTER_FRACTION", "NormApply", "NormParameters", "SPREAD_MIN",
           "chunk_factor", "images_of", "signum"]

FRACTION = 10                   # fraction bits of what the lanes get, forward and backward
MASTER_FRACTION = 28            # of the masters of gamma and beta
PARAMETER_FRACTION = 12         # of G and B, 16 bits
QUOTIENT = 22                   # extra bits of A / D'
CONSTANT_WIDTH = 13
SPREAD_MIN = 16                 # a mean range of one code: the norm's epsilon
HALF_BIT = 1 << arith.MULTIPLIER_WIDTH - 1      # multipliers have their top bit set
RUNNING_FRACTION = 4            # of the spread that inference reads
RUNNING_COUNT = 1 << 16         # the running mean has 16 fraction bits
DIVIDEND, DIVISOR = range_norm.DIVIDEND_WIDTH, range_norm.DIVISOR_WIDTH


def chunk_factor(count) -> tuple[int, int]:
    """(ck, xk) for `count` codes: K / C(L) as a constant of 13 bits and its fraction bits, 5..8."""
    length, number = range_norm.chunking(count)
    factor = number / range_norm.range_constant(length)
    fraction = CONSTANT_WIDTH - math.frexp(factor)[1]
    return math.floor(factor * 2.0 ** fraction + 0.5), fraction


def signum(x) -> ExecutorIntegers:
    """-1, 0 or 1."""
    return arith.clamp(x, -1, 1)


def images_of(p, values, like) -> ExecutorIntegers:
    """The inverse of `flat`: (C, n) in the shape of `like` (N, C, ...)."""
    values = p.reshape(values, (like.shape[0], *like.shape[2:]))
    return p.transpose(values, (1, 0, *range(2, like.ndim)))


@dataclass(frozen=True, kw_only=True, eq=False)
class NormParameters(StepOperator):
    """Sign, bias, multiplier and shift of each channel.

    gamma, beta: int32 (C,), masters of 28 fraction bits
    total, spread: int32 and int16 (C,), of `NormStatistics`; or the running ones, int32 (C,) each,
        with 16 and 12 fraction bits (n = 2^16; D has 4 fraction bits, so that shift is 4 less)
    Returns sign int8, bias int32 (FRACTION fraction bits), multiplier int32 and shift int8, (C,).
    count: n in training, which chooses the constant; running: for inference
    """

    count: int
    running: bool = False

    def __post_init__(self):
        range_norm.chunking(self.count)
        validate.instance("Running", self.running, bool)

    @property
    def ports_in(self) -> tuple:
        """Running spreads have 32 bits."""
        return (Port("gamma", "int32"), Port("beta", "int32"), Port("total", "int32"),
                Port("spread", "int32" if self.running else "int16"))

    ports_out = Port("sign"), Port("bias", "int32"), Port("multiplier", "int32"), Port("shift")

    @property
    def ranges(self) -> tuple:
        """The shift by the length of the quotient."""
        low, high = (arith.bit_length(value) - 31 for value in self._quotients())
        return ((-1, 1), (arith.INT32_MIN, arith.INT32_MAX), (HALF_BIT, arith.MULTIPLIER_MAX),
                (self._base_shift - high, self._base_shift - low))

    @property
    def _fraction(self):
        return RUNNING_FRACTION if self.running else 0

    @property
    def _base_shift(self):
        return (FRACTION + QUOTIENT + PARAMETER_FRACTION + chunk_factor(self.count)[1]
                - self._fraction)

    def _quotients(self):
        """The smallest and the largest Q."""
        constant, _ = chunk_factor(self.count)
        return ((constant << QUOTIENT) // (SPREAD_MAX << self._fraction),
                (32767 * constant << QUOTIENT) // (SPREAD_MIN << self._fraction))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """Dividends and divisors; the sum must be one of `count` codes."""
        constant, fraction = chunk_factor(self.count)
        low, high = input_ranges[2]
        if not self.running and not -128 * self.count <= low <= high <= 127 * self.count:
            raise ValueError(f"Total must be one of {self.count} codes, not {low}..{high}")
        count = RUNNING_COUNT if self.running else self.count
        centre = (1 << 15) * (SPREAD_MAX << self._fraction) << (FRACTION + fraction
                                                                - self._fraction)
        return (Width("Product of gamma", constant, 32767 * constant, DIVISOR),
                Width("Dividend of the slope", 0, 32767 * constant << QUOTIENT, DIVIDEND),
                Width("Dividend of the mean", low << FRACTION, (high << FRACTION) + count // 2,
                      DIVIDEND),
                Width("Dividend of the centre", 0, centre, DIVIDEND))

    def shapes(self, gamma, *rest) -> tuple[tuple, tuple]:
        """By channel."""
        return (gamma,) * 4, (gamma,) * 4

    def results(self, p, gamma, beta, total, spread) -> tuple:
        """Three divisions per channel; that of the mean is a shift where n is a power of two."""
        constant, fraction = chunk_factor(self.count)
        gamma, beta = (arith.saturate(arith.round_shift(master, MASTER_FRACTION
                                                        - PARAMETER_FRACTION), 16)
                       for master in (gamma, beta))
        extra, count = self._fraction, self.count
        if self.running:
            spread, count = arith.round_shift(spread, 12 - extra), RUNNING_COUNT
        sign = signum(gamma) * arith.clamp(spread, 0, 1)
        spread = arith.clamp(spread, SPREAD_MIN << extra, SPREAD_MAX << extra)
        product = arith.clamp(abs(gamma), 1, 32767) * constant
        quotient = arith.floor_divide(product << QUOTIENT, spread)
        length = arith.bit_length(quotient)
        left, right = (arith.clamp(x, 0, 31) for x in (31 - length, length - 31))
        multiplier = quotient << left >> right
        mean = arith.round_divide(total << FRACTION, count)
        centre = arith.floor_divide(abs(beta) * spread << FRACTION + fraction - extra, product)
        bias = arith.saturate(signum(beta) * centre - sign * mean, 32)
        return sign, bias, multiplier, self._base_shift + 31 - length


@dataclass(frozen=True, kw_only=True, eq=False)
class NormApply(StepOperator):
    """y = clamp(lanes((sign q << 10) + bias, M, shift), low, high), nearest.

    q: int8 (N, C, ...); sign, bias, multiplier: of `NormParameters`
    shift: int32 (C,), its shift plus e_y; exponent: int8 (1,), e_y, for relu6 alone
    Returns y, int8, exponent e_y, and top int32 (1,), the watch of what the activation gives.
    activation: none, relu (0..127) or relu6 (0 to the code of 6; the watch leaves out what is
        above it)
    """

    activation: str = "none"

    def __post_init__(self):
        check_activation(self.activation)

    @property
    def ports_in(self) -> tuple:
        """ReLU6 knows the exponent."""
        ports = (Port("q", "int8", True), Port("sign"), Port("bias", "int32"),
                 Port("multiplier", "int32"), Port("shift", "int32"))
        return (*ports, Port("exponent")) if self.activation == "relu6" else ports

    ports_out = Port("y", "int8", True), Port("top", "int32")

    @property
    def low(self) -> int:
        """The lower clamp bound."""
        return arith.INT8_MIN if self.activation == "none" else 0

    @property
    def ranges(self) -> tuple:
        """The clamp bounds."""
        return (self.low, arith.INT8_MAX), (0, arith.INT32_MAX)

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """The sign must be one."""
        low, high = input_ranges[1]
        return (Width("Sign", low, high, 2),)

    def shapes(self, q, *rest) -> tuple[tuple, tuple]:
        """By channel."""
        return (q, *(q[:1],) * 4, *((1,),) * (len(rest) - 4)), (q, (1,))

    def results(self, p, q, sign, bias, multiplier, shift, *exponent) -> tuple:
        """One visit of the lanes."""
        sign, bias, multiplier, shift = (by_channel(p, x, q) for x in (sign, bias, multiplier,
                                                                       shift))
        y = arith.lanes((sign * q << FRACTION) + bias, multiplier, shift)
        if self.activation != "none":
            y = arith.clamp(y, 0, arith.INT32_MAX)
        for e in exponent:
            limit = by_channel(p, six(e), q)
            y = y - (y - limit) * p.integers(y > limit)
        return arith.clamp(y, self.low, arith.INT8_MAX), top_of(p, y)

"""RangeBN of the integer training step, backward, as if its scale moved as the deviation does.

The published gradient of a range falls on the extremes of its chunks alone
(`golden.ops.step.norm_backward`), which makes the gradients of weights noisier. Here the scale s is
the same, and its gradient that of s = c sigma with a constant c, so that over the n values of a
channel, with xhat = (q - mean) / s,

    dx = factor (g - mean(g) - xhat mean(g xhat) (s / sigma)^2)
       = factor (g - mean(g) - (q - mean) P / V)

the gradient of batch norm (Ioffe, Szegedy 2015, arXiv 1502.03167) by another factor: g without its
parts along 1 and q. With the names of `norm_backward`, per channel:

    V = max(sum q^2 - S^2 / n, n >> 5, 1)       the sum of (q - mean)^2, nearest
    P / V = slope 2^-(k + 3), slope of 16 bits, 0 <= k <= 62
    centre = mean_g - (slope ((S << 10) / n) << 7) 2^-min(k + 10, 62), nearest
    z = sign ((g << 10) - ((slope q << 7) + half >> k) - centre)

and g16, g8, dgamma, dbeta as there. P has 45 bits and V 29 when they are divided, so that one
divider of 52 by 29 bits serves here too; a slope beyond 4,096 codes of g for one of q saturates.
"""

from dataclasses import dataclass

from golden import arith
from golden.ops.primitives import ExecutorIntegers
from golden.ops.step.activation import mask_ports, masked
from golden.ops.step.base import (
    GRADIENT_MAX,
    RANDOM_PORTS,
    Port,
    Width,
    by_channel,
    saturated,
    top_of,
    whole_of,
)
from golden.ops.step.lanes import sixteen_bits
from golden.ops.step.norm_backward import BetweenPasses, SecondPass
from golden.ops.step.norm_forward import DIVIDEND, DIVISOR, FRACTION, signum
from golden.ops.step.statistics import NormStatistics, check_count

__all__ = ["DeviationGradientParameters", "DeviationInputGradient", "SLOPE_MAX"]

SLOPE_MAX = (1 << 15) - 1
SLOPE_LEFT = 7                  # what slope q is shifted left by before its shift right
DIVIDEND_BITS = 45              # of P when it is divided: quotients of 16 or 17 bits
DEVIATION_SHIFT = 5             # the smallest V is n / 32: sigma of 0.18 codes
SHIFT_LIMIT = 62


def _moved(value, length, bits) -> ExecutorIntegers:
    """A value of `length` bits shifted to `bits` bits."""
    left, right = (arith.clamp(x, 0, SHIFT_LIMIT) for x in (bits - length, length - bits))
    return value << left >> right


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviationGradientParameters(BetweenPasses):
    """Between the passes: what pass 2 takes away, and the gradients of gamma and beta.

    four sums: int32 (C,), of `NormGradientSums`; total, spread, squares low and high: of
        `NormStatistics` with squares
    Returns centre int32, slope int16, slope_shift int8, dgamma, dbeta int32, (C,) each. The
    exponent of dgamma is e_g + `gamma_exponent`, that of dbeta e_g.
    count: n = N * H * W, 17..2^24
    """

    ports_in = (*BetweenPasses.sums_in, Port("squares low", "int32"), Port("squares high", "int32"))
    ports_out = (Port("centre", "int32"), Port("slope", "int16"), Port("slope_shift"),
                 Port("dgamma", "int32"), Port("dbeta", "int32"))

    count: int

    @property
    def ranges(self) -> tuple:
        """The centre by a mean of gradients and the largest slope times the largest mean."""
        most = (GRADIENT_MAX << FRACTION) + 1 + (SLOPE_MAX << SLOPE_LEFT + 7) + 1
        return ((-most, most), (-SLOPE_MAX, SLOPE_MAX), (0, SHIFT_LIMIT),
                *((arith.INT32_MIN, arith.INT32_MAX),) * 2)

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """The sum of squares, what is divided, and the centre's product."""
        least, most = NormStatistics(count=self.count, squares=True).ranges[3:]
        for port, (low, high), (first, last) in zip(self.ports_in[6:], input_ranges[6:],
                                                    (least, most)):
            if low < first or high > last:
                raise ValueError(f"{port.name} must be one of {self.count} codes, "
                                 f"not {low}..{high}")
        squares, product = 128 * 128 * self.count, SLOPE_MAX << 7 + FRACTION + SLOPE_LEFT
        return (*super().widths(input_ranges),
                Width("Sum of q q", 0, squares, 33 + self._wider),
                Width("Dividend of the slope", 0, (1 << DIVIDEND_BITS) - 1, DIVIDEND),
                Width("Divisor of the slope", 1, (1 << DIVISOR) - 1, DIVISOR + 1),
                Width("Product of the centre", -product, product, 41))

    def shapes(self, *inputs) -> tuple[tuple, tuple]:
        """By channel."""
        return inputs[:1] * 8, inputs[:1] * 5

    def results(self, p, g_low, g_high, gq_low, gq_high, total, spread, low, high) -> tuple:
        """Eight divisions; six are shifts where n is a power of two."""
        mean, product, dgamma, dbeta, _ = self.products(
            whole_of(g_low, g_high), whole_of(gq_low, gq_high), total, spread)
        slope, shift = self._slope(product, self._variance(total, whole_of(low, high)))
        middle = arith.round_divide(total << FRACTION, self.count)
        centre = mean - arith.round_shift(slope * middle << SLOPE_LEFT,
                                          arith.clamp(shift + FRACTION, 0, SHIFT_LIMIT))
        return centre, slope, shift, dgamma, dbeta

    def _variance(self, total, squares):
        """V."""
        whole = arith.floor_divide(total, self.count)
        rest = total - whole * self.count
        value = (squares - total * whole - whole * rest
                 - arith.round_divide(rest * rest, self.count))
        return arith.clamp(value, max(self.count >> DEVIATION_SHIFT, 1), 1 << 40)

    @staticmethod
    def _slope(product, variance) -> tuple:
        """Slope and k of P / V."""
        magnitude = abs(product)
        of_product, of_variance = arith.bit_length(magnitude), arith.bit_length(variance)
        quotient = arith.floor_divide(_moved(magnitude, of_product, DIVIDEND_BITS),
                                      _moved(variance, of_variance, DIVISOR))
        length = arith.bit_length(quotient)
        rounded = arith.round_shift(quotient, arith.clamp(length - 15, 0, 2))
        shift = 28 + of_variance - of_product - length
        # Below 0 the slope is larger than 16 bits say.
        slope = arith.clamp(rounded + (arith.clamp(-shift, 0, 1) << 17), 0, SLOPE_MAX)
        return slope * signum(product), arith.clamp(shift, 0, SHIFT_LIMIT)


@dataclass(frozen=True, kw_only=True, eq=False)
class DeviationInputGradient(SecondPass):
    """Pass 2: the 16-bit gradient of the layer's int32 sums, and its unbiased 8-bit copy.

    g: int16 (N, C, ...); q: int8 of that shape; sign int8, centre int32, slope int16, slope_shift
    int8, multiplier int32, (C,) each; shift: int32 (C,), the norm's shift + s - e_g + e_ga; seed,
    step: int32 (1,); then the mask as of `NormGradientSums`
    Returns g16 int16, exponent e_ga, g8 int8, exponent e_ga + 8, and top int32 (1,).
    count: n = N * H * W, 17..2^24; activation: none, relu or relu6
    """

    count: int
    activation: str = "none"
    tensor_id: int

    @property
    def ports_in(self) -> tuple:
        """The mask last."""
        return (Port("g", "int16", True), Port("q", "int8", True), Port("sign"),
                Port("centre", "int32"), Port("slope", "int16"), Port("slope_shift"),
                Port("multiplier", "int32"), Port("shift", "int32"), *RANDOM_PORTS,
                *mask_ports(self.activation))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """z, and the slope times a code."""
        sign, centre, slope = (max(map(abs, input_ranges[index])) for index in (2, 3, 4))
        term = slope << SLOPE_LEFT + 7
        z = sign * ((GRADIENT_MAX << FRACTION) + centre + term + 1)
        return (Width("Sign", *input_ranges[2], 2), Width("Slope shift", *input_ranges[5], 7),
                Width("Slope times code", -term, term, 32), Width("z", -z, z, 32))

    def shapes(self, g, *rest) -> tuple[tuple, tuple]:
        """By channel."""
        return (g, g, *(g[:1],) * 6, (1,), (1,), *self.mask_shapes(g)), (g, g, (1,))

    def results(self, p, g, q, sign, centre, slope, slope_shift, multiplier, shift, seed, step,
                *mask) -> tuple:
        """One visit of the lanes, after a product of 8 by 16 bits."""
        check_count(self, p, g)
        sign, centre, slope, slope_shift, multiplier, shift = (
            by_channel(p, x, g) for x in (sign, centre, slope, slope_shift, multiplier, shift))
        g = masked(p, saturated(g, GRADIENT_MAX), mask)
        along_q = arith.round_shift(saturated(slope, SLOPE_MAX) * q << SLOPE_LEFT,
                                    arith.clamp(slope_shift, 0, SHIFT_LIMIT))
        z = sign * ((g << FRACTION) - along_q - centre)
        y = arith.lanes(z, multiplier, shift)
        return *sixteen_bits(p, y, seed, step, self.tensor_id), top_of(p, y)

"""RangeBN of the integer training step, backward, for 16-bit gradients that enter it.

g: int16, limited to +-32639, exponent e_g; it counts where the activation let its code pass.
With the names of `golden.ops.step.norm_forward`, per channel, sums over n codes:

    sum_g, sum_gq               a high part and the low 16 bits of each
    P = sum_gq - sum_g (S // n) - sum_g (S mod n) / n       = sum of g (q - mean), nearest
    mean_g = ((sum_g << 10) + (n >> 1)) // n
    spike  = sat31((P << 10) // D') sign         the gradient of the range, on its extremes
    dbeta  = sat32(sum_g), exponent e_g
    dgamma = sat32(round(P 2^-h) ck // D'), exponent e_g + h - xk; h = 4, more for n > 2^17
    z = (sign g << 10) - sign mean_g, - spike at the first maximum of each chunk, + spike at the
        first minimum
    g16 = clamp(lanes(z, M, shift + s[c] - e_g + e_ga), +-32639)
    g8 = clamp((g16 + r8) >> 8, +-127)

M and shift are those of the forward pass; 2^s[c] makes it the gradient of the layer's int32 sums.

Widths for n <= 2^17: sum_g 33 bits, sum_gq 40, P 41; a bit more for each doubling of n. Dividends
stay within 52 bits: sum_g (S mod n) / n is taken in two parts, of sum_g // n and sum_g mod n, P
saturates where the spike does, and h leaves out what ck has no room for. mean_g has 26 bits, z 32.
A spike beyond 2^20 codes of g saturates.
"""

from dataclasses import dataclass

from golden import arith, validate
from golden.ops import range_norm
from golden.ops.step.activation import check_activation, mask_ports, masked
from golden.ops.step.base import (
    CODE_MAX,
    GRADIENT_MAX,
    RANDOM_PORTS,
    ROOT,
    Port,
    StepOperator,
    Width,
    by_channel,
    flat,
    parts_of,
    saturated,
    tensor_id,
    top_of,
    whole_of,
)
from golden.ops.step.lanes import sixteen_bits
from golden.ops.step.norm_forward import (
    DIVIDEND,
    FRACTION,
    SPREAD_MIN,
    chunk_factor,
    images_of,
)
from golden.ops.step.statistics import SPREAD_MAX, check_count, chunks_of

__all__ = ["BetweenPasses", "GAMMA_SHIFT", "NormGradientParameters", "NormGradientSums",
           "NormInputGradient", "SecondPass"]

GAMMA_SHIFT = 4                 # bits of P that dgamma leaves out, for n up to 2^17
PLAIN_COUNT_WIDTH = 17
SUM_NAMES = ("sum_g low", "sum_g high", "sum_gq low", "sum_gq high")
SPIKE_LIMIT = 1 << 34           # of P: from 2^33 on every spike is saturated


def checked_count(value) -> int:
    """A number of codes of a channel."""
    return validate.integer("Count", value, range_norm.COUNT_MIN, range_norm.COUNT_MAX)


def _mask_shapes(activation, g):
    return (g, (1,))[:len(mask_ports(activation))]


@dataclass(frozen=True, kw_only=True, eq=False)
class NormGradientSums(StepOperator):
    """Pass 1: the sums of g and of g q over a batch.

    g: int16 (N, C, ...); q: int8 of that shape; y: int8 of that shape, what the activation gave
    (not for none); exponent of y: int8 (1,) (for relu6 alone)
    Returns four int32 (C,): low and high part of the sum of g and of that of g q, each
    2^16 high + low with the low one in -2^15..2^15 - 1.
    count: n = N * H * W, 17..2^24; activation: none, relu or relu6
    """

    count: int
    activation: str = "none"

    def __post_init__(self):
        self._put("count", checked_count(self.count))
        check_activation(self.activation)

    @property
    def ports_in(self) -> tuple:
        """The mask last."""
        return Port("g", "int16", True), Port("q", "int8", True), *mask_ports(self.activation)

    ports_out = tuple(Port(name, "int32") for name in SUM_NAMES)

    @property
    def ranges(self) -> tuple:
        """Of g times 1 or a code, `count` times."""
        highs = [parts_of(GRADIENT_MAX * code * self.count)[1] for code in (1, 128)]
        return tuple(bounds for high in highs for bounds in ((-ROOT, ROOT - 1), (-high, high)))

    def shapes(self, g, *rest) -> tuple[tuple, tuple]:
        """By channel."""
        return (g, g, *_mask_shapes(self.activation, g)), (g[:1],) * 4

    def results(self, p, g, q, *mask) -> tuple:
        """Sums."""
        check_count(self, p, g)
        g, axes = masked(p, saturated(g, GRADIENT_MAX), mask), (0, *range(2, g.ndim))
        totals = (p.all_sum(p.reshape(p.sum(x, axes), g.shape[1:2])) for x in (g, g * q))
        return tuple(part for total in totals for part in parts_of(total))


class BetweenPasses(StepOperator):
    """What follows from the sums of pass 1, whatever pass 2 does. count: n, 17..2^24."""

    sums_in = (*(Port(name, "int32") for name in SUM_NAMES), Port("total", "int32"),
               Port("spread", "int16"))

    def __post_init__(self):
        self._put("count", checked_count(self.count))

    @property
    def gamma_exponent(self) -> int:
        """What dgamma's exponent is above that of g."""
        return self._gamma_shift - chunk_factor(self.count)[1]

    @property
    def _wider(self):
        """Bits of the sums more than those for n <= 2^17."""
        return max(0, (self.count - 1).bit_length() - PLAIN_COUNT_WIDTH)

    @property
    def _gamma_shift(self):
        return GAMMA_SHIFT + self._wider

    @property
    def _largest_product(self):
        """Of P: abs(g) (abs(q) + abs(mean)), and the quotient's rounding."""
        return GRADIENT_MAX * self.count * 256 + 2

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """Sums and dividends; the inputs must be sums of `count` values."""
        bounds = *NormGradientSums(count=self.count).ranges, (-128 * self.count, 127 * self.count)
        for port, (low, high), (least, most) in zip(self.ports_in, input_ranges, bounds):
            if low < least or high > most:
                raise ValueError(f"{port.name} must be one of {self.count} codes, "
                                 f"not {low}..{high}")
        count, product, more = self.count, self._largest_product, self._wider
        sum_g = GRADIENT_MAX * count
        gamma = ((product >> self._gamma_shift) + 1) * chunk_factor(count)[0]
        return (Width("Sum of g", -sum_g, sum_g, 33 + more),
                Width("Sum of g q", -sum_g * 128, sum_g * 128, 40 + more),
                Width("Sum of g (q - mean)", -product, product, 41 + more),
                Width("Dividend of the mean", -sum_g << FRACTION, (sum_g << FRACTION) + count // 2,
                      DIVIDEND),
                Width("Dividend of the product", 0, count * count + count // 2, DIVIDEND),
                Width("Dividend of dgamma", -gamma, gamma, DIVIDEND + 1),
                Width("Spread", *input_ranges[5], 13))

    def products(self, sum_g, sum_gq, total, spread) -> tuple:
        """(mean_g, P, dgamma, dbeta, D') by divisions of which four are shifts for n = 2^k."""
        count = self.count
        sum_g, sum_gq = (saturated(value, GRADIENT_MAX * code * count)
                         for value, code in ((sum_g, 1), (sum_gq, 128)))
        whole, mean_g = (arith.floor_divide(x, count) for x in (total, sum_g))
        rest, rest_g = total - whole * count, sum_g - mean_g * count
        product = (sum_gq - sum_g * whole - mean_g * rest
                   - arith.round_divide(rest_g * rest, count))
        spread = arith.clamp(spread, SPREAD_MIN, SPREAD_MAX)
        mean = arith.round_divide(sum_g << FRACTION, count)
        dgamma = arith.floor_divide(
            arith.round_shift(product, self._gamma_shift) * chunk_factor(count)[0], spread)
        return mean, product, arith.saturate(dgamma, 32), arith.saturate(sum_g, 32), spread


@dataclass(frozen=True, kw_only=True, eq=False)
class NormGradientParameters(BetweenPasses):
    """Between the passes: what pass 2 adds, and the gradients of gamma and beta.

    four sums: int32 (C,), of `NormGradientSums`; total, spread: of `NormStatistics`; sign: int8
    Returns mean_g, spike, dgamma, dbeta, int32 (C,) each. The exponent of dgamma is e_g +
    `gamma_exponent`, that of dbeta e_g.
    count: n = N * H * W, 17..2^24
    """

    ports_in = *BetweenPasses.sums_in, Port("sign")
    ports_out = tuple(Port(name, "int32") for name in ("mean_g", "spike", "dgamma", "dbeta"))

    count: int

    @property
    def ranges(self) -> tuple:
        """A mean of gradients, a spike of 31 bits."""
        mean, spike = (GRADIENT_MAX << FRACTION) + 1, 1 << 30
        return ((-mean, mean), (-spike, spike), *((arith.INT32_MIN, arith.INT32_MAX),) * 2)

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """The dividend of the spike too."""
        limit = SPIKE_LIMIT << FRACTION
        return (*super().widths(input_ranges),
                Width("Dividend of the spike", -limit, limit, DIVIDEND))

    def shapes(self, *inputs) -> tuple[tuple, tuple]:
        """By channel."""
        return inputs[:1] * 7, inputs[:1] * 4

    def results(self, p, g_low, g_high, gq_low, gq_high, total, spread, sign) -> tuple:
        """Six divisions; four are shifts where n is a power of two."""
        mean, product, dgamma, dbeta, spread = self.products(
            whole_of(g_low, g_high), whole_of(gq_low, gq_high), total, spread)
        limited = saturated(product, SPIKE_LIMIT)
        spike = arith.saturate(arith.floor_divide(limited << FRACTION, spread), 31) * sign
        return mean, spike, dgamma, dbeta


class SecondPass(StepOperator):
    """What gives the gradient of the sums. Fields count, activation and tensor_id."""

    ports_out = Port("g16", "int16", True), Port("g8", "int8", True), Port("top", "int32")
    ranges = ((-GRADIENT_MAX, GRADIENT_MAX), (-CODE_MAX, CODE_MAX), (0, arith.INT32_MAX))

    def __post_init__(self):
        self._put("count", checked_count(self.count))
        check_activation(self.activation)
        self._put("tensor_id", tensor_id(self.tensor_id))

    def mask_shapes(self, g) -> tuple:
        """Of the inputs behind the random bits."""
        return _mask_shapes(self.activation, g)


@dataclass(frozen=True, kw_only=True, eq=False)
class NormInputGradient(SecondPass):
    """Pass 2: the 16-bit gradient of the layer's int32 sums, and its unbiased 8-bit copy.

    g: int16 (N, C, ...); at_high, at_low: int32 (K, C), of `NormStatistics`; sign int8, mean_g,
    spike, multiplier int32 (C,); shift: int32 (C,), the norm's shift + s - e_g + e_ga; seed, step:
    int32 (1,); then the mask as of `NormGradientSums`
    Returns g16 int16, exponent e_ga, g8 int8, exponent e_ga + 8, and top int32 (1,).
    count: n = N * H * W, 17..2^24; activation: none, relu or relu6
    """

    count: int
    activation: str = "none"
    tensor_id: int

    @property
    def ports_in(self) -> tuple:
        """The mask last."""
        return (Port("g", "int16", True), Port("at_high", "int32"), Port("at_low", "int32"),
                Port("sign"), Port("mean_g", "int32"), Port("spike", "int32"),
                Port("multiplier", "int32"), Port("shift", "int32"), *RANDOM_PORTS,
                *mask_ports(self.activation))

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """z, of which both spikes at one place cancel."""
        sign, mean, spike = (max(map(abs, input_ranges[index])) for index in (3, 4, 5))
        z = sign * ((GRADIENT_MAX << FRACTION) + mean) + spike
        return Width("Sign", *input_ranges[3], 2), Width("z", -z, z, 32)

    def shapes(self, g, *rest) -> tuple[tuple, tuple]:
        """By channel, and by chunk and channel."""
        chunks = range_norm.chunking(self.count)[1], *g[:1]
        return ((g, chunks, chunks, *(g[:1],) * 5, (1,), (1,), *self.mask_shapes(g)),
                (g, g, (1,)))

    def results(self, p, g, at_high, at_low, sign, mean_g, spike, multiplier, shift, seed, step,
                *mask) -> tuple:
        """One visit of the lanes."""
        check_count(self, p, g)
        codes = flat(p, masked(p, saturated(g, GRADIENT_MAX), mask))
        sign, mean_g, spike = (p.transpose(x, (1, 0)) for x in (sign, mean_g, spike))
        parts = []
        for number, first, chunk in chunks_of(self, p, codes):
            index = p.constant([[*range(first, first + chunk.shape[1])]], chunk)
            high, low = (p.transpose(at[:, number], (1, 0)) for at in (at_high, at_low))
            mark = p.integers(index == low) - p.integers(index == high)
            parts.append((sign * chunk << FRACTION) - sign * mean_g + mark * spike)
        z = images_of(p, p.concat(parts, 1), g)
        y = arith.lanes(z, by_channel(p, multiplier, z), by_channel(p, shift, z))
        return *sixteen_bits(p, y, seed, step, self.tensor_id), top_of(p, y)

"""Statistics of a batch of pre-norm codes in the integer training step, and what follows them.

Chunks of n = N H W codes as in `golden.ops.range_norm`. The exponents of the codes and the running
values, which inference uses, move after the batch; the running ones are in units of the codes.
"""

import math
from dataclasses import dataclass

from golden import arith, validate
from golden.ops import range_norm
from golden.ops.step.base import Port, StepOperator, Width, flat
from golden.ops.step.exponents import EXPONENT_MAX, EXPONENT_MIN

__all__ = ["NormStatistics", "RunningStatistics", "SPREAD_MAX", "check_count"]

SPREAD_MAX = range_norm.N_CHUNKS * 255
LARGEST_LOW, LARGEST_HIGH = 48, 127     # of q: below and at which e_q moves


def check_count(op, p, x) -> None:
    """ValueError for another number of codes in a channel than the widths are proven for."""
    count = p.batch(x) * math.prod(x.shape[2:])
    if count != op.count:
        raise ValueError(f"{op.label} must get {op.count} codes per channel, not {count}")


@dataclass(frozen=True, kw_only=True, eq=False)
class NormStatistics(StepOperator):
    """Sums, spreads and extremes of the codes of a batch.

    q: int8 (N, C, H, W) or (N, C)
    Returns total int32 (C,), S;  spread int16 (C,), D;  largest int8 (C,), the maximum of q, or ~q
    where q is negative;  at_high, at_low int32 (K, C): in each chunk the index of the first
    maximum and of the first minimum.
    count: n = N * H * W, 17..2^24
    """

    ports_in = (Port("q", "int8", True),)
    ports_out = (Port("total", "int32"), Port("spread", "int16"), Port("largest"),
                 Port("at_high", "int32"), Port("at_low", "int32"))

    count: int

    def __post_init__(self):
        range_norm.chunking(self.count)

    @property
    def ranges(self) -> tuple:
        """By the number of codes."""
        last = range_norm.chunking(self.count)[0] - 1
        return ((-128 * self.count, 127 * self.count), (0, SPREAD_MAX), (0, 127), (0, last),
                (0, last))

    def shapes(self, q) -> tuple[tuple, tuple]:
        """By channel, and by chunk and channel."""
        chunks = range_norm.chunking(self.count)[1], *q[:1]
        return (q,), (q[:1],) * 3 + (chunks,) * 2

    def results(self, p, q) -> tuple:
        """Chunk by chunk."""
        check_count(self, p, q)
        codes = flat(p, q)
        total, spread, largest, at_high, at_low = p.sum(codes, (1,)), 0, 0, [], []
        for chunk in p.split(codes, range_norm.chunking(self.count)[0]):
            length = chunk.shape[1]
            # How far from the end: of the first one furthest.
            left = p.constant([[length - index for index in range(length)]], chunk)
            ends = p.max(chunk, 1), p.min(chunk, 1)
            for end, places in zip(ends, (at_high, at_low)):
                places.append(length - p.max(p.integers(chunk == end) * left, 1))
            spread = ends[0] - ends[1] + spread
        largest = p.max(codes ^ (codes >> 63), 1)
        return (*(p.transpose(x, (1, 0)) for x in (total, spread, largest)),
                *(p.transpose(p.concat(places, 1), (1, 0))[None] for places in (at_high, at_low)))


@dataclass(frozen=True, kw_only=True, eq=False)
class RunningStatistics(StepOperator):
    """The exponents of pre-norm codes and the running mean and spread in the next step.

    r = (r + ((new - r + 4) >> 3)) 2^-change, change = 1 where max(q, ~q) = 127, -1 where it is
    below 48, else 0, and e_q += change.

    exponent: int8 (C,), e_q; total, spread, largest: of `NormStatistics`; mean, running spread:
    int32 (C,), 16 and 12 fraction bits, in units of q. Returns e_q, mean, running spread.
    count: n = N * H * W; settle: they start from this batch
    """

    ports_in = (Port("exponent"), Port("total", "int32"), Port("spread", "int16"),
                Port("largest"), Port("mean", "int32"), Port("running spread", "int32"))
    ports_out = Port("exponent"), Port("mean", "int32"), Port("running spread", "int32")

    count: int
    settle: bool = False

    def __post_init__(self):
        self._put("count", validate.integer("Count", self.count, 17, 1 << 24))
        validate.instance("Settle", self.settle, bool)

    @property
    def ranges(self) -> tuple:
        """Of exponents, and int32."""
        int32 = arith.INT32_MIN, arith.INT32_MAX
        return (EXPONENT_MIN, EXPONENT_MAX), int32, int32

    def widths(self, input_ranges) -> tuple[Width, ...]:
        """The dividend; the sum must be one of `count` codes."""
        (low, high), spread = input_ranges[1:3]
        if not -128 * self.count <= low <= high <= 127 * self.count:
            raise ValueError(f"Total must be one of {self.count} codes, not {low}..{high}")
        return (Width("Dividend of the mean", low << 16, (high << 16) + self.count // 2, 53),
                Width("Spread", *spread, 13))

    def shapes(self, *inputs) -> tuple[tuple, tuple]:
        """By channel."""
        return inputs[:1] * 6, inputs[:1] * 3

    def results(self, p, exponent, total, spread, largest, mean, running) -> tuple:
        """Two averages."""
        change = (arith.clamp(largest - LARGEST_HIGH + 1, 0, 1)
                  - arith.clamp(LARGEST_LOW - largest, 0, 1))
        exponent = arith.clamp(exponent, EXPONENT_MIN, EXPONENT_MAX)
        moved = arith.clamp(exponent + change, EXPONENT_MIN, EXPONENT_MAX)
        up, down = (arith.clamp(x, 0, 1) for x in (moved - exponent, exponent - moved))
        news = arith.round_divide(total << 16, self.count), spread << 12
        return moved, *(arith.saturate(self._follow(old, new, up) << down, 32)
                        for old, new in zip((mean, running), news))

    def _follow(self, old, new, up):
        old = new if self.settle else old + arith.round_shift(new - old, 3)
        return (old + up) >> up

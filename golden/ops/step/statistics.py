"""Statistics of a batch of pre-norm codes in the integer training step, and what follows them.

Chunks of n = N H W codes as in `golden.ops.range_norm`. The exponents of the codes and the running
values, which inference uses, move after the batch; the running ones are in units of the codes.
"""

import math
from dataclasses import dataclass

from golden import arith, validate
from golden.ops import range_norm
from golden.ops.step.base import ROOT, Port, StepOperator, Width, flat, parts_of
from golden.ops.step.exponents import EXPONENT_MAX, EXPONENT_MIN

__all__ = ["LEFT_WIDTH", "NormStatistics", "RunningStatistics", "SPREAD_MAX", "check_count",
           "chunks_of"]

SPREAD_MAX = range_norm.N_CHUNKS * 255
LEFT_WIDTH = 20                 # of an index in a chunk of at most 2^20 codes
LARGEST_LOW, LARGEST_HIGH = 48, 127     # of q: below and at which e_q moves


def check_count(op, p, x) -> None:
    """ValueError for another number of codes in a channel than the widths are proven for."""
    count = p.batch(x) * p.part()[1] * math.prod(x.shape[2:])
    if count != op.count:
        raise ValueError(f"{op.label} must get {op.count} codes per channel, not {count}")


def chunks_of(op, p, codes) -> list[tuple]:
    """Of each chunk that this part of a batch meets: number, index of its first code, codes (C, l).

    codes: (C, n / parts); numbers and indices are those of the whole batch
    """
    length, own = range_norm.chunking(op.count)[0], codes.shape[1]
    start, result = p.part()[0] * own, []
    for number in range(start // length, -(-(start + own) // length)):
        first = max(start, number * length)
        end = min(start + own, (number + 1) * length)
        result.append((number, first - number * length, codes[:, first - start:end - start]))
    return result


@dataclass(frozen=True, kw_only=True, eq=False)
class NormStatistics(StepOperator):
    """Sums, spreads and extremes of the codes of a batch.

    q: int8 (N, C, H, W) or (N, C)
    Returns total int32 (C,), S;  spread int16 (C,), D;  largest int8 (C,), the maximum of q, or ~q
    where q is negative;  and what the gradient asks for: at_high, at_low int32 (K, C), in each
    chunk the index of the first maximum and of the first minimum, or with squares two int32 (C,),
    low and high part of the sum of q q (`golden.ops.step.base.parts_of`).
    count: n = N * H * W, 17..2^24; squares: the sum of squares in place of the indices
    """

    ports_in = (Port("q", "int8", True),)

    count: int
    squares: bool = False

    def __post_init__(self):
        range_norm.chunking(self.count)
        validate.instance("Squares", self.squares, bool)

    @property
    def ports_out(self) -> tuple:
        """Indices or squares last."""
        last = ("squares low", "squares high") if self.squares else ("at_high", "at_low")
        return (Port("total", "int32"), Port("spread", "int16"), Port("largest"),
                *(Port(name, "int32") for name in last))

    @property
    def ranges(self) -> tuple:
        """By the number of codes."""
        ranges = (-128 * self.count, 127 * self.count), (0, SPREAD_MAX), (0, 127)
        if self.squares:
            return *ranges, (-ROOT, ROOT - 1), (0, parts_of(128 * 128 * self.count)[1])
        return *ranges, *((0, range_norm.chunking(self.count)[0] - 1),) * 2

    def shapes(self, q) -> tuple[tuple, tuple]:
        """By channel, and by chunk and channel."""
        last = q[:1] if self.squares else (range_norm.chunking(self.count)[1], *q[:1])
        return (q,), (q[:1],) * 3 + (last,) * 2

    def results(self, p, q) -> tuple:
        """Of each chunk the largest code and, of equal ones, that furthest from the end."""
        check_count(self, p, q)
        codes, (length, n_chunks) = flat(p, q), range_norm.chunking(self.count)
        absent = p.integers(codes[:, :1]) * 0 - (1 << LEFT_WIDTH + 8)
        ends = [[absent] * n_chunks, [absent] * n_chunks]
        for number, first, chunk in chunks_of(self, p, codes):
            # The first of several has most codes left behind it.
            left = p.constant([[length - 1 - index for index in
                                range(first, first + chunk.shape[1])]], chunk)
            for side, values in zip(ends, (chunk, ~chunk)):
                side[number] = p.max((values << LEFT_WIDTH) + left, 1)
        squares = (p.sum(codes * codes, (1,)),) if self.squares else ()
        return self.of_ends(p, *(p.all_max(p.concat(side, 1)) for side in ends),
                            *(p.all_sum(value) for value in (p.sum(codes, (1,)), *squares)))

    def of_ends(self, p, high, low, total, squares=None) -> tuple:
        """The outputs of (C, K) numbers, (value << LEFT_WIDTH) + codes behind it, of the first
        largest code q and of the first largest ~q of every chunk, and of sums (C, 1)."""
        length, mask = range_norm.chunking(self.count)[0], (1 << LEFT_WIDTH) - 1
        places = (p.transpose(length - 1 - (side & mask), (1, 0))[None] for side in (high, low))
        high, low = high >> LEFT_WIDTH, low >> LEFT_WIDTH       # low: ~ of the smallest
        spread = p.sum(high + low + 1, (1,))
        largest = p.max(p.concat([high, low], 1), 1)
        found = (p.transpose(x, (1, 0)) for x in (total, spread, largest))
        return *found, *(parts_of(p.transpose(squares, (1, 0))) if self.squares else places)


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

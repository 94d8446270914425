"""Exponents of the integer training step: the delayed rule, and sums that are shifts."""

from dataclasses import dataclass

from golden import arith, validate
from golden.ops.step.base import Port, StepOperator

__all__ = ["EXPONENT_MAX", "EXPONENT_MIN", "ExponentRule", "QUIET_STEPS", "ShiftSum"]

EXPONENT_MIN, EXPONENT_MAX = -64, 63
QUIET_STEPS = 8                 # steps below half range before an exponent falls by one
SHIFT_LIMIT = 1 << 16           # of the sums of exponents, far beyond any that shifts


@dataclass(frozen=True, kw_only=True, eq=False)
class ExponentRule(StepOperator):
    """The exponent of a tensor in the next step (delayed scaling of the integer training step).

    need = bit_length(top) - bits;  need > 0: e += need, quiet = 0;  need < 0: quiet += 1, and at 8
    e -= 1, quiet = 0;  need = 0: quiet = 0.  e stays in -64..63.

    exponent, quiet: int8 (1,); top: int32 (1,), the watch of the tensor, at least 0
    Returns the new exponent and quiet.
    bits: magnitude bits of the codes, 7 or 15
    settle: e += need in both directions, for the first batch, which is run without updates
    """

    ports_in = Port("exponent"), Port("quiet"), Port("top", "int32")
    ports_out = Port("exponent"), Port("quiet")

    bits: int
    settle: bool = False

    def __post_init__(self):
        self._put("bits", validate.integer("Bits", self.bits, 1, 15))
        validate.instance("Settle", self.settle, bool)

    ranges = ((EXPONENT_MIN, EXPONENT_MAX), (0, QUIET_STEPS - 1))

    def shapes(self, *inputs) -> tuple[tuple, tuple]:
        """One of each."""
        return ((1,),) * 3, ((1,),) * 2

    def results(self, p, exponent, quiet, top) -> tuple:
        """By compares alone."""
        need = arith.bit_length(arith.clamp(top, 0, arith.INT32_MAX)) - self.bits
        if self.settle:
            return arith.clamp(exponent + need, EXPONENT_MIN, EXPONENT_MAX), quiet * 0
        below = arith.clamp(-need, 0, 1)
        quiet = (arith.clamp(quiet, 0, QUIET_STEPS - 1) + 1) * below
        falls = quiet >> 3              # 1 at 8
        exponent = exponent + arith.clamp(need, 0, 32) - falls
        return arith.clamp(exponent, EXPONENT_MIN, EXPONENT_MAX), quiet * (1 - falls)


@dataclass(frozen=True, kw_only=True, eq=False)
class ShiftSum(StepOperator):
    """offset + the sum of exponents with signs: a shift or an exponent, int32.

    inputs: (1,) or (C,) each; one value stands for all channels
    dtypes: of each input, int8 or int32; signs: 1 or -1 for each; offset: within 16 bits
    """

    signs: tuple
    dtypes: tuple
    offset: int = 0

    def __post_init__(self):
        self._put("signs", validate.integers("Signs", self.signs, None, -1, 1))
        self._put("dtypes", tuple(self.dtypes))
        if not self.signs or 0 in self.signs or len(self.signs) != len(self.dtypes):
            raise ValueError(f"Signs must be 1 or -1 for each of {len(self.dtypes)} inputs, "
                             f"not {self.signs}")
        for dtype in self.dtypes:
            if dtype not in ("int8", "int32"):
                raise ValueError(f"Dtypes must be int8 or int32, not {dtype!r}")
        self._put("offset", validate.integer("Offset", self.offset, -SHIFT_LIMIT, SHIFT_LIMIT))

    @property
    def ports_in(self) -> tuple:
        """One for each sign."""
        return tuple(Port(f"term {index}", dtype) for index, dtype in enumerate(self.dtypes))

    ports_out = (Port("sum", "int32"),)

    def _range(self, input_ranges):
        ends = [sorted((sign * low, sign * high))
                for sign, (low, high) in zip(self.signs, input_ranges)]
        return tuple(self.offset + sum(end) for end in zip(*ends))

    def output_range(self, input_ranges) -> tuple:
        """The sum of the bounds."""
        return self._range(input_ranges)

    def shapes(self, *inputs) -> tuple[tuple, tuple]:
        """The longest of them, or (1,)."""
        size = max(inputs, key=lambda shape: shape[:1] or (0,))
        return [(1,) if shape == (1,) else size for shape in inputs], (size,)

    def results(self, p, *terms) -> tuple:
        """Their sum."""
        total = self.offset
        for sign, term in zip(self.signs, terms):
            total = term * sign + total
        return (total,)

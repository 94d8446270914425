"""ADD: a residual addition, both inputs rescaled to one scale and their sum to the output's."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from golden import arith
from hw.isa.channels import RESCALE_FIELDS
from hw.isa.instruction import Access, Cost, rounding_of, wrap
from hw.isa.layout import Opcode
from hw.isa.vector import ElementwiseInstruction

__all__ = ["AddInstruction"]

_PASSES = 3  # of the lanes: both inputs, the sum


class AddInstruction(ElementwiseInstruction):
    """The record of ADD."""

    opcode = Opcode.ADD
    doc = "sum of two tensors, each with a rescale of its own"
    uses = ElementwiseInstruction.uses | RESCALE_FIELDS | {
        "y_base", "y_bank", "left_shift", "zero_point_0", "zero_point_1",
        *(f"{name}_{k}" for name in ("multiplier", "shift") for k in range(3))}

    def reads(self, f, target, needed=False) -> Iterable[Access]:
        for name in "xy":
            yield self.input_reads(f, name)

    def codes(self, machine, f) -> np.ndarray:
        mode, total = rounding_of(f), 0
        for which, name in enumerate("xy"):
            codes = self.input_codes(machine, f, name) - f[f"zero_point_{which}"]
            total = total + arith.requantize(
                wrap(codes << f["left_shift"], 32), f[f"multiplier_{which}"],
                f[f"shift_{which}"], 0, arith.INT32_MIN, arith.INT32_MAX, mode)
        return arith.requantize(wrap(total, 32), f["multiplier_2"], f["shift_2"],
                                f["zero_point"], f["low"], f["high"], mode)

    def cost(self, f, target) -> Cost:
        items = _PASSES * self.n_groups(f, target)
        return Cost(units=f["out_width"], cycles=items, items=items)

"""MUL: element by element, or each pixel with one vector of channels."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from golden import arith
from hw.isa.channels import RESCALE_FIELDS
from hw.isa.instruction import WORD_MASK, Access, Cost, rounding_of
from hw.isa.layout import Opcode
from hw.isa.vector import ElementwiseInstruction

__all__ = ["MultiplyInstruction"]

_WORD_CYCLES = 4  # of a word of channels, beside one for each of its groups


class MultiplyInstruction(ElementwiseInstruction):
    """The record of MUL."""

    opcode = Opcode.MUL
    doc = "product of two tensors, or of each pixel and one vector of channels (broadcast)"
    uses = ElementwiseInstruction.uses | RESCALE_FIELDS | {
        "y_base", "y_bank", "broadcast", "zero_point_0", "zero_point_1", "multiplier_2", "shift_2"}

    def input_words(self, f, name) -> np.ndarray:
        if name == "y" and f["broadcast"]:
            words = f["y_base"] + np.arange(f["n_chunks"]) & WORD_MASK
            return np.broadcast_to(words, self.result_steps(f).shape)
        return super().input_words(f, name)

    def reads(self, f, target, needed=False) -> Iterable[Access]:
        for name in "xy":
            yield Access(memory=f[f"{name}_bank"], words=self.input_words(f, name),
                         steps=self.result_steps(f))

    def codes(self, machine, f) -> np.ndarray:
        x, y = (self.input_codes(machine, f, name) - f[f"zero_point_{which}"]
                for which, name in enumerate("xy"))
        return arith.requantize(x * y, f["multiplier_2"], f["shift_2"], f["zero_point"],
                                f["low"], f["high"], rounding_of(f))

    def cost(self, f, target) -> Cost:
        groups = self.n_groups(f, target)
        return Cost(units=f["out_width"], cycles=groups + _WORD_CYCLES * f["n_chunks"],
                    items=groups)

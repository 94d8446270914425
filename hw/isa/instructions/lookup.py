"""LOOKUP: every code is replaced by the entry of a table."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from golden.arith import INT8_MIN
from hw.isa.instruction import WORD_MASK, Access, Cost, throughout
from hw.isa.layout import TABLE_ROW, TABLE_SIZE, Opcode
from hw.isa.vector import ElementwiseInstruction, read

__all__ = ["LookupInstruction"]


class LookupInstruction(ElementwiseInstruction):
    """The record of LOOKUP. Byte j of word i of the table is that of code i * columns + j - 128.

    Whole words are written, past the rescaler lanes.
    """

    opcode = Opcode.LOOKUP
    doc = "entries of a table of 256 bytes: any function of one code"
    uses = ElementwiseInstruction.uses - {"n_channels", "first_channel"} | {"w_base", "w_bank"}

    def mask(self, f, target) -> np.ndarray:
        return np.ones((f["n_chunks"], target.columns), bool)

    def _table_words(self, f, target):
        return f["w_base"] + np.arange(TABLE_SIZE // target.columns) & WORD_MASK

    def reads(self, f, target, needed=False) -> Iterable[Access]:
        yield self.input_reads(f, "x")
        yield throughout(f["w_bank"], self._table_words(f, target),
                         f["out_width"] * f["n_chunks"], is_early=True)

    def codes(self, machine, f) -> np.ndarray:
        table = read(machine, f["w_bank"], self._table_words(f, machine.target)).reshape(-1)
        return table[self.input_codes(machine, f, "x") - INT8_MIN]

    def cost(self, f, target) -> Cost:
        return Cost(units=f["out_width"], cycles=f["n_chunks"] * target.columns // target.lanes,
                    before=TABLE_SIZE // TABLE_ROW)

"""LINEAR: a fully connected layer of one pixel."""

from __future__ import annotations

import numpy as np

from golden.ops.convolution import exact_float
from hw.isa.channels import RESCALE_FIELDS, RESULT_FIELDS
from hw.isa.instruction import WORD_MASK, Access, Cost
from hw.isa.layout import Opcode
from hw.isa.vector import WeightedSumInstruction, read

__all__ = ["LinearInstruction"]

_LARGEST_PRODUCT = 1 << 14
_INPUTS_PER_CYCLE = 2


class LinearInstruction(WeightedSumInstruction):
    """The record of LINEAR. ``n_chunks`` counts words of outputs, one word of weights per input."""

    opcode = Opcode.LINEAR
    doc = "fully connected layer of one pixel, two inputs per cycle"
    unit = "all"
    uses = (RESCALE_FIELDS | RESULT_FIELDS - {"out_step"}
            | {"x_base", "x_bank", "w_base", "w_bank", "n_chunks", "n_inputs", "parameter_base"})
    nonzero = ("n_chunks", "n_inputs")
    even = ("n_inputs", "w_base")

    def outputs(self, f) -> tuple[int, int]:
        return 1, 1

    def weight_words(self, f) -> np.ndarray:
        return f["w_base"] + np.arange(f["n_inputs"] * f["n_chunks"])

    def _input_words(self, f, target):
        return f["x_base"] + np.arange(-(-f["n_inputs"] // target.columns)) & WORD_MASK

    def input_reads(self, f, target, needed) -> Access:
        return Access(memory=f["x_bank"], words=self._input_words(f, target))

    def sums(self, machine, f) -> np.ndarray:
        n_inputs, columns = f["n_inputs"], machine.target.columns
        dtype = exact_float(n_inputs * _LARGEST_PRODUCT)
        words = self._input_words(f, machine.target)
        x = read(machine, f["x_bank"], words).reshape(-1)[:n_inputs].astype(dtype)
        sums = np.empty((1, 1, f["n_chunks"], columns), np.int64)
        for chunk, words in enumerate(self.weight_words(f).reshape(-1, n_inputs)):
            sums[0, 0, chunk] = x @ read(machine, f["w_bank"], words).astype(dtype)
        return sums

    def weight_shares(self, f) -> tuple[float, float]:
        return 0.1, 1

    def cost(self, f, target) -> Cost:
        return Cost(units=1, cycles=f["n_chunks"] * f["n_inputs"] // _INPUTS_PER_CYCLE,
                    items=self.n_groups(f, target))

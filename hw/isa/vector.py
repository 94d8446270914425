"""What the instructions of the vector engine have in common.

All run one nest of loops: for line: for word of channels (chunk): for pixel: for kernel row: for
kernel column; what they are of each stands in their records.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hw.isa.channels import (
    RESULT_FIELDS,
    emitted_groups,
    parameter_reads,
    parameter_words,
    written_channels,
)
from hw.isa.instruction import WORD_MASK, Access, Instruction, throughout, wrap
from hw.isa.layout import Engine

__all__ = ["ElementwiseInstruction", "VectorInstruction", "WeightedSumInstruction", "read"]


def read(machine, bank: int, words: np.ndarray) -> np.ndarray:
    """int8 (..., columns): words of a bank at any addresses, which wrap."""
    return machine.banks[bank][words & WORD_MASK]


class VectorInstruction(Instruction):
    """Results of whole output lines; a line is a unit."""

    engine = Engine.VECTOR
    unit = "an output line"

    def outputs(self, f) -> tuple[int, int]:
        """(lines, pixels of a line)."""
        return f["out_height"], f["out_width"]

    def n_units(self, f) -> int:
        return self.outputs(f)[0]

    def unit_progress(self, f, target) -> int:
        return self.outputs(f)[1]

    def n_groups(self, f, target) -> int:
        """Groups of channels of a pixel that pass the lanes."""
        return int(emitted_groups(f, f["n_chunks"], target).sum())

    def mask(self, f, target) -> np.ndarray:
        """bool (n_chunks, columns): which channels are written."""
        return written_channels(f, f["n_chunks"], target)

    def result_words(self, f) -> np.ndarray:
        """int64 (lines, pixels, n_chunks): where results go."""
        n_lines, n_pixels = self.outputs(f)
        pixel = np.arange(n_lines * n_pixels).reshape(n_lines, n_pixels, 1)
        return f["out_base"] + pixel * f["out_step"] + np.arange(f["n_chunks"]) & WORD_MASK

    def result_steps(self, f) -> np.ndarray:
        """The step of each result: int, as broadcast against (lines, pixels, n_chunks)."""
        return np.arange(self.outputs(f)[0])[:, None, None]

    def writes(self, f, target) -> Iterable[Access]:
        words, chunks = self.result_words(f), np.flatnonzero(self.mask(f, target).any(1))
        steps = np.broadcast_to(self.result_steps(f), words.shape)
        yield Access(memory=f["out_bank"], words=words[..., chunks], steps=steps[..., chunks])

    def codes(self, machine, f) -> np.ndarray:
        """int (lines, pixels, n_chunks, columns): the results."""
        raise NotImplementedError

    def execute(self, machine, f) -> None:
        """Write the codes in the order of the hardware's writes: line, chunk, pixel."""
        columns = machine.target.columns
        codes = self.codes(machine, f).transpose(0, 2, 1, 3)
        byte = (self.result_words(f).transpose(0, 2, 1)[..., None] * columns + np.arange(columns))
        mask = np.broadcast_to(self.mask(f, machine.target)[:, None], byte.shape)
        machine.banks[f["out_bank"]].reshape(-1)[byte[mask]] = codes[mask]


class WeightedSumInstruction(VectorInstruction):
    """Sums of products with weights, rescaled per channel."""

    weights_per_cycle = 2

    def weight_words(self, f) -> np.ndarray:
        """All words of weights; they must be there before the first unit."""
        raise NotImplementedError

    def input_reads(self, f, target, needed) -> Access:
        """The words of the input."""
        raise NotImplementedError

    def sums(self, machine, f) -> np.ndarray:
        """int64 (lines, pixels, n_chunks, columns)."""
        raise NotImplementedError

    def reads(self, f, target, needed=False) -> Iterable[Access]:
        yield self.input_reads(f, target, needed)
        yield from self.weight_reads(f, target, needed)
        yield parameter_reads(f, f["n_chunks"], self.n_units(f), target, needed)

    def weight_reads(self, f, target, needed=False) -> Iterable[Access]:
        """Port w: a pair of words in a cycle."""
        yield throughout(f["w_bank"], self.weight_words(f) & WORD_MASK, self.n_units(f),
                         is_early=True)

    def product_results(self, f) -> int:
        n_lines, n_pixels = self.outputs(f)
        return n_lines * n_pixels * (f["n_channels"] - f.get("first_channel", 0))

    def codes(self, machine, f) -> np.ndarray:
        words = parameter_words(f, f["n_chunks"], machine.target)
        return machine.rescale(f, wrap(self.sums(machine, f), 32), words)


class ElementwiseInstruction(VectorInstruction):
    """Pixel by pixel, each word of channels a step; a pixel is a unit.

    Inputs are packed, ``n_chunks`` words per pixel.
    """

    unit = "a pixel"
    uses = RESULT_FIELDS | {"x_base", "x_bank", "n_chunks", "out_width"}
    nonzero = ("n_chunks", "out_width")
    reads_first = True

    def outputs(self, f) -> tuple[int, int]:
        return f["out_width"], 1

    def steps_per_unit(self, f) -> int:
        return f["n_chunks"]

    def input_words(self, f, name: str) -> np.ndarray:
        """int64 (pixels, 1, n_chunks): words of input "x" or "y", a pixel after the other."""
        steps = self.result_steps(f)
        return f[f"{name}_base"] + steps & WORD_MASK

    def result_steps(self, f) -> np.ndarray:
        return np.arange(f["out_width"] * f["n_chunks"]).reshape(-1, 1, f["n_chunks"])

    def input_reads(self, f, name: str) -> Access:
        """The words of input "x" or "y"."""
        return Access(memory=f[f"{name}_bank"], words=self.input_words(f, name),
                      steps=self.result_steps(f))

    def input_codes(self, machine, f, name: str) -> np.ndarray:
        """int64 (pixels, 1, n_chunks, columns): codes of input "x" or "y"."""
        return read(machine, f[f"{name}_bank"], self.input_words(f, name)).astype(np.int64)


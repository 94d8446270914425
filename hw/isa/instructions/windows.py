"""DEPTHWISE, WINDOW and MAXPOOL: a window over each channel of an image."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np

from hw.isa.channels import RESCALE_FIELDS, RESULT_FIELDS
from hw.isa.instruction import WORD_MASK, Access, Cost
from hw.isa.layout import DEPTHWISE_KERNEL, Opcode
from hw.isa.vector import VectorInstruction, WeightedSumInstruction, read

__all__ = ["DepthwiseInstruction", "MaxPoolInstruction", "WindowInstruction"]

_IMAGE = frozenset({"x_base", "x_bank", "pad", "n_chunks", "width", "height", "line_step",
                    "out_width", "out_height", "stride_x", "stride_y", "left", "top"})
_KERNEL = frozenset({"kernel_width", "kernel_height", "dilation_x", "dilation_y"})
_WEIGHTS = RESCALE_FIELDS | RESULT_FIELDS | {"w_base", "w_bank", "parameter_base"}


class _OverImage(VectorInstruction):
    """Windows at every output position; positions outside the input give ``pad``."""

    def kernel(self, f) -> tuple[int, int, int, int]:
        """(height, width, dilation of rows, of columns)."""
        return f["kernel_height"], f["kernel_width"], f["dilation_y"], f["dilation_x"]

    def positions(self, f) -> tuple[np.ndarray, np.ndarray]:
        """Input rows (lines, kernel rows) and columns (pixels, kernel columns) of the windows."""
        height, width, dilation_y, dilation_x = self.kernel(f)
        rows = (np.arange(f["out_height"])[:, None] * f["stride_y"] - f["top"]
                + np.arange(height) * dilation_y)
        columns = (np.arange(f["out_width"])[:, None] * f["stride_x"] - f["left"]
                   + np.arange(width) * dilation_x)
        return rows, columns

    def columns_read(self, f, needed: bool) -> np.ndarray:
        """Columns of the input that a line reads, without those outside."""
        return np.unique(self.positions(f)[1])

    def address(self, f, rows, columns) -> np.ndarray:
        """Words at rows and columns that broadcast: int64 (..., n_chunks)."""
        words = f["x_base"] + rows * f["line_step"] + columns * f["n_chunks"]
        return words[..., None] + np.arange(f["n_chunks"]) & WORD_MASK

    def input_reads(self, f, target, needed) -> Access:
        rows = self.positions(f)[0]
        lines, taps = np.nonzero((0 <= rows) & (rows < f["height"]))
        columns = self.columns_read(f, needed)
        columns = columns[(0 <= columns) & (columns < f["width"])]
        return Access(memory=f["x_bank"],
                      words=self.address(f, rows[lines, taps][:, None], columns),
                      steps=lines[:, None, None])

    def taps(self, machine, f) -> Iterator[tuple[int, int, np.ndarray]]:
        """For each tap its row and column of the kernel and its words.

        words: int8 (lines, pixels, n_chunks, columns), the padding put in.
        """
        rows, columns = self.positions(f)
        for ky in range(rows.shape[1]):
            for kx in range(columns.shape[1]):
                iy, ix = np.broadcast_arrays(rows[:, ky, None], columns[None, :, kx])
                inside = (0 <= iy) & (iy < f["height"]) & (0 <= ix) & (ix < f["width"])
                words = np.full((*inside.shape, f["n_chunks"], machine.target.columns), f["pad"],
                                np.int8)
                words[inside] = read(machine, f["x_bank"],
                                     self.address(f, iy[inside], ix[inside]))
                yield ky, kx, words


class _WeightedWindow(_OverImage, WeightedSumInstruction):
    """Sums of a window's products."""

    def has_one_weight(self, f) -> bool:
        """Whether one word of weights serves every tap."""
        return False

    def weight_words(self, f) -> np.ndarray:
        if self.has_one_weight(f):
            return np.array([f["w_base"]])
        height, width, _, _ = self.kernel(f)
        return f["w_base"] + np.arange(height * width * f["n_chunks"])

    def sums(self, machine, f) -> np.ndarray:
        height, width, _, _ = self.kernel(f)
        chunks, total = np.arange(f["n_chunks"]), 0
        for ky, kx, words in self.taps(machine, f):
            tap = 0 if self.has_one_weight(f) else chunks * height * width + ky * width + kx
            weights = read(machine, f["w_bank"], f["w_base"] + tap)
            total = total + words.astype(np.int32) * weights.astype(np.int32)
        return total.astype(np.int64)


class DepthwiseInstruction(_WeightedWindow):
    """The record of DEPTHWISE."""

    opcode = Opcode.DEPTHWISE
    doc = "depthwise convolution with a window of 3x3, three products per channel and cycle"
    uses = _IMAGE | _WEIGHTS
    nonzero = ("n_chunks", "out_width", "out_height", "stride_x")

    def kernel(self, f) -> tuple[int, int, int, int]:
        return DEPTHWISE_KERNEL, DEPTHWISE_KERNEL, 1, 1

    def columns_read(self, f, needed) -> np.ndarray:
        """Every column from the first one to the last, wanted or not."""
        if needed:
            return super().columns_read(f, needed)
        return np.arange(self._span(f)) - f["left"]

    def weight_shares(self, f) -> tuple[float, float]:
        return 0.2, 0.3

    def _span(self, f):
        return (f["out_width"] - 1) * f["stride_x"] + DEPTHWISE_KERNEL

    def cost(self, f, target) -> Cost:
        return Cost(units=f["out_height"],
                    cycles=DEPTHWISE_KERNEL * self._span(f) * f["n_chunks"],
                    items=f["out_width"] * self.n_groups(f, target))


class WindowInstruction(_WeightedWindow):
    """The record of WINDOW."""

    opcode = Opcode.WINDOW
    doc = "depthwise convolution with any window, or its sums (average pooling)"
    uses = _IMAGE | _KERNEL | _WEIGHTS | {"same_weights"}
    nonzero = ("n_chunks", "out_width", "out_height", "kernel_width", "kernel_height")

    def has_one_weight(self, f) -> bool:
        return bool(f["same_weights"])

    def weight_shares(self, f) -> tuple[float, float]:
        return (0.1, 0) if f.get("same_weights") else (1, 0.3)

    def cost(self, f, target) -> Cost:
        return Cost(units=f["out_height"], cycles=_tap_cycles(f),
                    items=f["out_width"] * self.n_groups(f, target))


class MaxPoolInstruction(_OverImage):
    """The record of MAXPOOL."""

    opcode = Opcode.MAXPOOL
    doc = "largest codes of a window; writes whole words, past the rescaler lanes"
    uses = _IMAGE | _KERNEL | {"out_base", "out_bank", "out_step"}
    nonzero = WindowInstruction.nonzero

    def mask(self, f, target) -> np.ndarray:
        return np.ones((f["n_chunks"], target.columns), bool)

    def reads(self, f, target, needed=False) -> Iterable[Access]:
        yield self.input_reads(f, target, needed)

    def codes(self, machine, f) -> np.ndarray:
        codes = None
        for _, _, words in self.taps(machine, f):
            codes = words if codes is None else np.maximum(codes, words)
        return codes

    def cost(self, f, target) -> Cost:
        return Cost(units=f["out_height"], cycles=_tap_cycles(f))


def _tap_cycles(f):
    return f["out_width"] * f["kernel_width"] * f["kernel_height"] * f["n_chunks"]

"""The vector engine's instructions in the instruction-set model (hw.machine)."""

from __future__ import annotations

import numpy as np

from golden import arith
from golden.ops.convolution import exact_float
from hw.isa import Opcode
from hw.machine.addresses import (
    DEPTHWISE_KERNEL,
    WORD_MASK,
    emitted_groups,
    parameter_words,
    vector_kernel,
    vector_outputs,
    window_positions,
    wrap,
)

__all__ = ["run_vector"]

_LARGEST_PRODUCT = 1 << 14


def run_vector(machine, f):
    """Execute an instruction of the vector engine; its fields are not refused."""
    opcode = f["opcode"]
    if opcode == Opcode.MAXPOOL:
        codes = None
        for _, _, words in _taps(machine, f):
            codes = words if codes is None else np.maximum(codes, words)
    elif opcode == Opcode.ADD:
        codes = _add(machine, f)
    else:
        sums = _linear(machine, f) if opcode == Opcode.LINEAR else _window(machine, f)
        target = machine.target
        words = parameter_words(f, target, f["n_chunks"])
        emitted = np.arange(words.shape[1]) < emitted_groups(f, target, f["n_chunks"])[:, None]
        machine.check_parameters(words[emitted])
        codes = machine.rescale(f, wrap(sums, 32), words)
    _write(machine, f, codes)


def _read(machine, bank, addresses, what):
    """Words of a bank at any addresses, which wrap at 16 bits."""
    addresses = addresses & WORD_MASK
    machine.check_words(bank, addresses, what)
    return machine.banks[bank][addresses]


def _taps(machine, f):
    """For each tap its row and column of the kernel and its words.

    words: int8 (lines, pixels, n_chunks, columns), the padding put in.
    """
    height, width, _, _ = vector_kernel(f)
    rows, columns = window_positions(f)
    if f["opcode"] == Opcode.DEPTHWISE:
        _check_columns_between(machine, f, rows)
    for ky in range(height):
        for kx in range(width):
            iy, ix = rows[:, ky, None], columns[None, :, kx]
            inside = (0 <= iy) & (iy < f["height"]) & (0 <= ix) & (ix < f["width"])
            words = np.full((*inside.shape, f["n_chunks"], machine.target.columns), f["pad"],
                            np.int8)
            address = f["x_base"] + iy * f["line_step"] + ix * f["n_chunks"]
            words[inside] = _read(machine, f["x_bank"],
                                  address[inside][:, None] + np.arange(f["n_chunks"]), "input")
            yield ky, kx, words


def _check_columns_between(machine, f, rows):
    """DEPTHWISE reads every column from the first one to the last, wanted or not."""
    n_columns = (f["out_width"] - 1) * f["stride_x"] + DEPTHWISE_KERNEL
    columns = np.arange(n_columns) - f["left"]
    columns = columns[(0 <= columns) & (columns < f["width"])]
    rows = np.unique(rows[(0 <= rows) & (rows < f["height"])])
    address = (f["x_base"] + rows[:, None, None] * f["line_step"]
               + columns[:, None] * f["n_chunks"] + np.arange(f["n_chunks"]))
    machine.check_words(f["x_bank"], address & WORD_MASK, "input")


def _window(machine, f):
    """Sums of DEPTHWISE and WINDOW, (lines, pixels, n_chunks, columns)."""
    height, width, _, _ = vector_kernel(f)
    same = f["same_weights"] and f["opcode"] == Opcode.WINDOW
    chunks = np.arange(f["n_chunks"])
    sums = 0
    for ky, kx, words in _taps(machine, f):
        tap = 0 if same else chunks * height * width + ky * width + kx
        weights = _read(machine, f["w_bank"], f["w_base"] + tap, "weights")
        sums = sums + words.astype(np.int32) * weights.astype(np.int32)
    return sums.astype(np.int64)


def _linear(machine, f):
    """Sums of LINEAR, (1, 1, n_chunks, columns)."""
    n_inputs, columns = f["n_inputs"], machine.target.columns
    dtype = exact_float(n_inputs * _LARGEST_PRODUCT)
    words = f["x_base"] + np.arange(-(-n_inputs // columns))
    x = _read(machine, f["x_bank"], words, "input").reshape(-1)[:n_inputs].astype(dtype)
    sums = np.empty((1, 1, f["n_chunks"], columns), np.int64)
    for chunk in range(f["n_chunks"]):
        weights = _read(machine, f["w_bank"], f["w_base"] + chunk * n_inputs
                        + np.arange(n_inputs), "weights")
        sums[0, 0, chunk] = x @ weights.astype(dtype)
    return sums


def _add(machine, f):
    """Codes of ADD, (pixels, 1, n_chunks, columns)."""
    n_chunks = f["n_chunks"]
    words = np.arange(f["out_width"] * n_chunks).reshape(-1, 1, n_chunks)
    mode = arith.Rounding.GEMMLOWP if f["gemmlowp"] else arith.Rounding.HALF_UP
    total = 0
    for which, name in enumerate("xy"):
        codes = _read(machine, f[f"{name}_bank"], f[f"{name}_base"] + words, "input")
        shifted = wrap((codes.astype(np.int64) - f[f"zero_point_{which}"]) << f["left_shift"], 32)
        total = total + arith.requantize(
            shifted, f[f"multiplier_{which}"], f[f"shift_{which}"], 0,
            arith.INT32_MIN, arith.INT32_MAX, mode)
    return arith.requantize(wrap(total, 32), f["multiplier_2"], f["shift_2"], f["zero_point"],
                            f["low"], f["high"], mode)


def _write(machine, f, codes):
    """Write codes (lines, pixels, n_chunks, columns) in the order of the hardware's writes."""
    columns, n_chunks = machine.target.columns, f["n_chunks"]
    n_lines, n_pixels = vector_outputs(f)
    channel = np.arange(n_chunks * columns).reshape(n_chunks, columns)
    mask = (f["first_channel"] <= channel) & (channel < f["n_channels"])
    if f["opcode"] == Opcode.MAXPOOL:
        mask = np.ones_like(mask)
    pixel = np.arange(n_lines * n_pixels).reshape(n_lines, 1, n_pixels)
    address = (f["out_base"] + pixel * f["out_step"]
               + np.arange(n_chunks)[:, None]) & WORD_MASK
    byte = address[..., None] * columns + np.arange(columns)
    mask = np.broadcast_to(mask[:, None], byte.shape)
    machine.check_words(f["out_bank"], address[mask.any(-1)], "results")
    machine.banks[f["out_bank"]].reshape(-1)[byte[mask]] = codes.transpose(0, 2, 1, 3)[mask]

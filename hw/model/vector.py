"""The vector engine's instructions on a Machine's memories."""

from __future__ import annotations

import numpy as np

from golden import arith
from hw.isa import ErrorCode, Opcode
from hw.model.faults import Fault
from hw.model.walks import wrap

__all__ = ["OPERATIONS", "execute", "window_geometry"]

_KERNEL = 3  # of DEPTHWISE


def window_geometry(f):
    """(rows (OH, KH), columns (OW, KW)) of the input that an operation with a window looks at."""
    depthwise = f["opcode"] == Opcode.DEPTHWISE
    height, width = ((_KERNEL, _KERNEL) if depthwise else
                     (f["kernel_height"], f["kernel_width"]))
    dilation_y, dilation_x = (1, 1) if depthwise else (f["dilation_y"], f["dilation_x"])
    iy = (np.arange(f["out_height"]) * f["stride_y"] - f["top"])[:, None] + (
        np.arange(height) * dilation_y)
    ix = (np.arange(f["out_width"]) * f["stride_x"] - f["left"])[:, None] + (
        np.arange(width) * dilation_x)
    return iy, ix


def check_counts(f):
    """Raise FIELD where hardware does."""
    opcode = f["opcode"]
    windowed = opcode in (Opcode.DEPTHWISE, Opcode.WINDOW, Opcode.MAXPOOL)
    no_kernel = f["kernel_width"] == 0 or f["kernel_height"] == 0
    if (f["n_chunks"] == 0
            or windowed and (f["out_width"] == 0 or f["out_height"] == 0)
            or opcode == Opcode.ADD and f["out_width"] == 0
            or opcode in (Opcode.WINDOW, Opcode.MAXPOOL) and no_kernel
            or opcode == Opcode.DEPTHWISE and f["stride_x"] == 0
            or opcode == Opcode.LINEAR and (f["n_inputs"] == 0 or f["n_inputs"] % 2
                                            or f["w_base"] % 2)):
        raise Fault(ErrorCode.FIELD, f"counts of {Opcode(opcode).name}")


def _taps(machine, f):
    """For every tap: (its number, codes (OH, OW, n_chunks, columns))."""
    iy, ix = window_geometry(f)
    chunk = np.arange(f["n_chunks"])
    for ky in range(iy.shape[1]):
        y = iy[:, ky]
        for kx in range(ix.shape[1]):
            x = ix[:, kx]
            inside = ((y >= 0) & (y < f["height"]))[:, None] & ((x >= 0) & (x < f["width"]))
            address = (f["x_base"] + (y * f["line_step"])[:, None] + x * f["n_chunks"]
                       )[..., None] + chunk & 0xFFFF
            codes = np.full((*address.shape, machine.target.columns), f["pad"], np.int8)
            codes[inside] = machine.read_words(f["x_bank"], address[inside])
            yield ky * ix.shape[1] + kx, codes


def _window(machine, f):
    columns, n_chunks = machine.target.columns, f["n_chunks"]
    iy, ix = window_geometry(f)
    n_taps = iy.shape[1] * ix.shape[1]
    same = f["opcode"] == Opcode.WINDOW and f["same_weights"]
    number = np.zeros((n_chunks, n_taps), np.int64) if same else (
        np.arange(n_chunks * n_taps).reshape(n_chunks, n_taps))
    weights = machine.read_words(f["w_bank"], f["w_base"] + number & 0xFFFF).astype(np.int64)
    sums = np.zeros((f["out_height"], f["out_width"], n_chunks, columns), np.int64)
    for tap, codes in _taps(machine, f):
        sums += codes * weights[:, tap]
    _store(machine, f, wrap(sums, 32))


def _store(machine, f, sums):
    """Rescale sums (..., n_chunks, columns) of consecutive pixels and write them."""
    n_chunks, columns = sums.shape[-2:]
    sums = sums.reshape(-1, n_chunks, columns)
    parameters = machine.parameter_rows(f["parameter_base"], n_chunks, f["n_channels"])
    codes = machine.rescale(sums, f, parameters).astype(np.int8)
    mask = np.broadcast_to(machine.channel_mask(f, n_chunks), codes.shape)
    machine.write_words(f["out_bank"], _places(f, len(sums), n_chunks), codes, mask)


def _places(f, n_pixels, n_chunks):
    return (f["out_base"] + np.arange(n_pixels)[:, None] * f["out_step"]
            + np.arange(n_chunks) & 0xFFFF)


def _maximum(machine, f):
    best = None
    for _, codes in _taps(machine, f):
        best = codes if best is None else np.maximum(best, codes)
    best = best.reshape(-1, f["n_chunks"], machine.target.columns)
    machine.write_words(f["out_bank"], _places(f, len(best), f["n_chunks"]), best,
                        np.ones(best.shape, bool))


def _linear(machine, f):
    columns, n_inputs, n_chunks = machine.target.columns, f["n_inputs"], f["n_chunks"]
    k = np.arange(n_inputs)
    words = machine.read_words(f["x_bank"], f["x_base"] + np.arange(-(-n_inputs // columns))
                               & 0xFFFF)
    x = words.reshape(-1)[:n_inputs].astype(np.float64)
    number = np.arange(n_chunks)[:, None] * n_inputs + k
    weights = machine.read_words(f["w_bank"], f["w_base"] + number & 0xFFFF)
    sums = np.einsum("k,ckj->cj", x, weights.astype(np.float64), optimize=True)
    _store(machine, f, wrap(sums.astype(np.int64), 32)[None])


def _add(machine, f):
    n_chunks, pixels = f["n_chunks"], np.arange(f["out_width"])
    offset = pixels[:, None] * n_chunks + np.arange(n_chunks)
    rounding = arith.Rounding.GEMMLOWP if f["gemmlowp"] else arith.Rounding.HALF_UP
    total = 0
    for k, name in enumerate("xy"):
        codes = machine.read_words(f[f"{name}_bank"], f[f"{name}_base"] + offset & 0xFFFF)
        difference = codes.astype(np.int64) - f[f"zero_point_{k}"]
        total = total + arith.requantize(
            wrap(difference << f["left_shift"], 32), f[f"multiplier_{k}"],
            min(f[f"shift_{k}"], arith.SHIFT_MAX), 0, arith.INT32_MIN, arith.INT32_MAX, rounding)
    codes = arith.requantize(wrap(total, 32), f["multiplier_2"],
                             min(f["shift_2"], arith.SHIFT_MAX), f["zero_point"], f["low"],
                             f["high"], rounding)
    mask = np.broadcast_to(machine.channel_mask(f, n_chunks), codes.shape)
    machine.write_words(f["out_bank"], _places(f, len(pixels), n_chunks), codes.astype(np.int8),
                        mask)


OPERATIONS = {Opcode.DEPTHWISE: _window, Opcode.WINDOW: _window, Opcode.LINEAR: _linear,
              Opcode.ADD: _add, Opcode.MAXPOOL: _maximum}


def execute(machine, f):
    """Run one instruction of the vector engine."""
    check_counts(f)
    OPERATIONS[f["opcode"]](machine, f)

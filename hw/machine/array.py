"""MATMUL in the instruction-set model (hw.machine)."""

from __future__ import annotations

import numpy as np

from golden.ops.convolution import exact_float
from hw.isa import ErrorCode, Feed
from hw.machine.addresses import (
    WORD_MASK,
    emitted_groups,
    parameter_words,
    pixel_words,
    port_lanes,
    reduction_steps,
    walk,
    wrap,
)

__all__ = ["run_matmul"]

_BLOCK = 1 << 22  # operands held at a time
_LARGEST_PRODUCT = 1 << 14
_PLANES = 4


def run_matmul(machine, f):
    """Execute a MATMUL; its fields are not refused."""
    _check_conflict(machine, f)
    target = machine.target
    n_steps = f["period_count"] * reduction_steps(f, target)
    dtype = exact_float(n_steps * _LARGEST_PRODUCT)
    sums = np.empty((f["outer_count"] * target.rows, f["inner_count"] * target.columns), np.int64)
    for columns, b in _operands(machine, f, "b", f["inner_count"], dtype):
        for rows, a in _operands(machine, f, "a", f["outer_count"], dtype):
            sums[rows, columns] = a @ b.T
    _write(machine, f, wrap(sums, 32))


def _check_conflict(machine, f):
    """Both ports must never read one bank in one slot."""
    if f["a_bank"] != f["b_bank"]:
        return
    read = [walk(f, port, machine.target, np.arange(f[count]))[1].any(0)
            for port, count in (("a", "outer_count"), ("b", "inner_count"))]
    n_both = min(slots.shape[1] for slots in read)
    machine.refuse(read[0][:, :n_both] & read[1][:, :n_both], ErrorCode.BANK_CONFLICT,
                   f"both ports read bank {f['a_bank']}")


def _operands(machine, f, port, n_tiles, dtype):
    """Blocks of tiles of a port: (slice of lanes, values (lanes, steps of the reduction))."""
    target = machine.target
    lanes, n_steps = port_lanes(port, target), reduction_steps(f, target)
    word_bytes = target.word_bytes
    bank = f[f"{port}_bank"]
    content = machine.banks[bank].reshape(-1)
    if port == "a":  # the last word may reach over the end, and is anything there
        content = np.concatenate([content, np.zeros(word_bytes, np.int8)])
        words = np.lib.stride_tricks.sliding_window_view(content, word_bytes)
    else:
        words = content.reshape(-1, word_bytes)
    n_named = max(lanes, f["slots"])
    block = max(1, _BLOCK // (n_named * f["period_count"] * word_bytes))
    for first in range(0, n_tiles, block):
        tiles = np.arange(first, min(first + block, n_tiles))
        address, inside = walk(f, port, target, tiles)
        machine.check_words(bank, (address // word_bytes if port == "a" else address)[inside],
                            f"port {port} reads")
        values = words[np.where(inside, address, 0)]
        values[~inside] = f[f"{port}_pad"]
        if f[f"{port}_feed"] == Feed.TRANSPOSING:
            values = values[..., :n_steps].transpose(0, 2, 1, 3)
        else:
            values = values[:, :, :n_steps, :lanes].transpose(0, 3, 1, 2)
        yield (slice(first * lanes, (first + len(tiles)) * lanes),
               values.reshape(len(tiles) * lanes, -1).astype(dtype))


def _write(machine, f, sums):
    """Rescale and write, tile after tile, in each pixel after pixel, group after group."""
    target = machine.target
    rows, columns, lanes = target.rows, target.columns, target.lanes
    n_groups = columns // lanes
    outer, inner = f["outer_count"], f["inner_count"]
    sums = sums.reshape(-1, inner, columns)
    channel = np.arange(inner * columns)
    channels = (f["first_channel"] <= channel) & (channel < f["n_channels"])
    if f["wide"]:
        planes = np.stack([wrap(sums >> 8 * q, 8) for q in range(_PLANES)], -1)
        steps = np.arange(_PLANES) * f["plane_step"]
    else:
        words = parameter_words(f, target, inner)
        emitted = np.arange(n_groups) < emitted_groups(f, target, inner)[:, None]
        machine.check_parameters(words[emitted])
        planes = machine.rescale(f, sums, words)[..., None]
        steps = np.zeros(1, np.int64)
    # In the order of the writes: tile, channel tile, row, group, plane, lane.
    n_planes = len(steps)
    shape = outer, inner, rows, n_groups, n_planes, lanes
    values = planes.reshape(outer, rows, inner, n_groups, lanes, n_planes)
    values = values.transpose(0, 2, 1, 3, 5, 4)
    pixel = pixel_words(f, target).reshape(outer, 1, rows, 1, 1, 1)
    address = (pixel + np.arange(inner).reshape(-1, 1, 1, 1, 1)
               + steps.reshape(-1, 1)) & WORD_MASK
    byte = address * columns + np.arange(columns).reshape(n_groups, 1, lanes)
    in_image = np.arange(outer * rows).reshape(outer, 1, rows, 1, 1, 1) < f["n_pixels"]
    mask = np.broadcast_to(in_image & channels.reshape(inner, 1, n_groups, 1, lanes), shape)
    byte = np.broadcast_to(byte, shape)[mask]
    machine.check_words(f["out_bank"], byte // columns, "results")
    machine.banks[f["out_bank"]].reshape(-1)[byte] = values[mask]

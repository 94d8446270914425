"""Which words an instruction reads and writes, and in which of its units.

A unit is what a chase holds back: a row of tiles of a MATMUL, an output line, a pixel of ADD, a
line of a transfer. Words whose value cannot matter are left out: operands of pixels and channels
that are not written, and slots in which the other port supplies zeros.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.isa import ENGINE_OF, Engine, Feed, LocalMemory, Opcode
from hw.machine.addresses import (
    WORD_MASK,
    local_words,
    pixel_words,
    port_lanes,
    reduction_steps,
    transfer_lines,
    vector_kernel,
    vector_outputs,
    walk,
    window_positions,
)

__all__ = ["EXTERNAL", "Access", "Effects", "effects"]

EXTERNAL = len(LocalMemory)  #: external memory, in words of the target
_FIELDS = 4  # 32-bit words of a channel's parameters
_PLANES = 4


@dataclass(frozen=True, kw_only=True, eq=False)
class Access:
    """Words of one memory, each once, with the first and the last unit that touches it.

    memory : LocalMemory or EXTERNAL. Parameters are counted in channels.
    is_early : reads that do not wait for the chase of the first unit.
    """

    memory: int
    words: np.ndarray
    first: np.ndarray
    last: np.ndarray
    is_early: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Effects:
    """progress : int64 (n_units,), reported once the results of each unit are written."""

    engine: Engine
    progress: np.ndarray
    reads: tuple[Access, ...]
    writes: tuple[Access, ...]


def effects(f, target) -> Effects:
    """The effects of an instruction that an engine does not refuse."""
    opcode = f["opcode"]
    if opcode == Opcode.MATMUL:
        n_units, step, reads, writes = _product(f, target)
    elif opcode in (Opcode.LOAD, Opcode.STORE):
        n_units, step, reads, writes = _transfer(f, target)
    else:
        n_units, step, reads, writes = _vector(f, target)
    return Effects(engine=ENGINE_OF[opcode], progress=np.arange(1, n_units + 1) * step,
                   reads=tuple(reads), writes=tuple(writes))


def _access(memory, words, units):
    """An Access from words and their units, which broadcast and do not decrease in C order."""
    words, units = (v.ravel() for v in np.broadcast_arrays(words, units))
    words, place = np.unique(words, return_inverse=True)
    first, last = np.empty(len(words), np.int64), np.empty(len(words), np.int64)
    first[place[::-1]] = units[::-1]
    last[place] = units
    return Access(memory=memory, words=words, first=first, last=last)


def _always(memory, words, n_units, is_early=False):
    """An Access of words that every unit may need."""
    words = np.unique(words)
    return Access(memory=memory, words=words, first=np.zeros(len(words), np.int64),
                  last=np.full(len(words), n_units - 1), is_early=is_early)


def _parameters(f, target, n_chunks, n_units):
    """Parameters of the channels that are written."""
    channels = np.arange(f["first_channel"], min(f["n_channels"], n_chunks * target.columns))
    group, lane = np.divmod(channels, target.lanes)
    words = (f["parameter_base"] + group & WORD_MASK) * target.lanes + lane
    return _always(LocalMemory.PARAMETERS, words, n_units)


# MATMUL


def _product(f, target):
    rows, columns = target.rows, target.columns
    outer, inner = f["outer_count"], f["inner_count"]
    n_pixels = min(f["n_pixels"], outer * rows)
    pixels = np.arange(outer * rows) < n_pixels
    channel = np.arange(inner * columns)
    channels = (f["first_channel"] <= channel) & (channel < f["n_channels"])
    reads = [_rows(f, target, pixels.reshape(outer, rows))]
    words = _named(f, target, "b", channels.reshape(inner, columns))[0]
    reads.append(_always(f["b_bank"], words, outer))
    if not f["wide"]:
        reads.append(_parameters(f, target, inner, outer))
    steps = np.arange(_PLANES if f["wide"] else 1) * f["plane_step"]
    tiles = np.flatnonzero(channels.reshape(inner, columns).any(1))
    words = (pixel_words(f, target)[:n_pixels, None, None] + tiles[:, None] + steps) & WORD_MASK
    units = (np.arange(n_pixels) // rows)[:, None, None]
    return outer, rows, reads, [_access(f["out_bank"], words, units)]


def _named(f, target, port, wanted):
    """Addresses that a port names for lanes (tiles, lanes) that are wanted, and their tiles."""
    address, inside = walk(f, port, target, np.arange(len(wanted)))
    if f[f"{port}_feed"] == Feed.TRANSPOSING:
        useful = inside & wanted[:, None, :]
    else:
        useful = inside & wanted.any(1)[:, None, None]
        useful[:, :, reduction_steps(f, target):] = False
    tile = np.broadcast_to(np.arange(len(wanted))[:, None, None], address.shape)
    return address[useful], tile[useful]


def _rows(f, target, pixels):
    """Port a: as many bytes of each word as are looked at, over one word or two."""
    address, tile = _named(f, target, "a", pixels)
    if f["a_feed"] == Feed.TRANSPOSING:
        n_bytes = reduction_steps(f, target)
    else:
        n_bytes = np.minimum(pixels.sum(1), port_lanes("a", target))[tile]
    ends = np.stack([address, address + n_bytes - 1], -1) // target.word_bytes
    return _access(f["a_bank"], ends, tile[:, None])


# Vector engine


def _vector(f, target):
    opcode, n_chunks = f["opcode"], f["n_chunks"]
    n_units, n_pixels = vector_outputs(f)
    chunks, units = np.arange(n_chunks), np.arange(n_units)
    if opcode == Opcode.ADD:
        words = units[:, None] * n_chunks + chunks
        reads = [_access(f[f"{name}_bank"], f[f"{name}_base"] + words & WORD_MASK,
                         units[:, None]) for name in "xy"]
    elif opcode == Opcode.LINEAR:
        words = f["x_base"] + np.arange(-(-f["n_inputs"] // target.columns))
        reads = [_access(f["x_bank"], words & WORD_MASK, 0)]
        n_weights = f["n_inputs"] * n_chunks
    else:
        rows, columns = window_positions(f)
        unit = np.broadcast_to(units[:, None], rows.shape)
        inside = (0 <= rows) & (rows < f["height"])
        columns = np.unique(columns[(0 <= columns) & (columns < f["width"])])
        words = (f["x_base"] + rows[inside][:, None, None] * f["line_step"]
                 + columns[:, None] * n_chunks + chunks) & WORD_MASK
        reads = [_access(f["x_bank"], words, unit[inside][:, None, None])]
        height, width, _, _ = vector_kernel(f)
        n_weights = height * width * n_chunks
        if opcode == Opcode.WINDOW and f["same_weights"]:
            n_weights = 1
    if opcode in (Opcode.DEPTHWISE, Opcode.WINDOW, Opcode.LINEAR):
        weights = f["w_base"] + np.arange(n_weights) & WORD_MASK
        reads += [_always(f["w_bank"], weights, n_units, is_early=True),
                  _parameters(f, target, n_chunks, n_units)]
    if opcode != Opcode.MAXPOOL:
        chunks = np.arange(f["first_channel"] // target.columns,
                           min(n_chunks, -(-f["n_channels"] // target.columns)))
    pixel = (units[:, None] * n_pixels + np.arange(n_pixels))[..., None]
    words = f["out_base"] + pixel * f["out_step"] + chunks & WORD_MASK
    return n_units, n_pixels, reads, [_access(f["out_bank"], words, units[:, None, None])]


# Load, store


def _transfer(f, target):
    external, local = transfer_lines(f)
    n_units, n_words = f["n_lines"], f["line_words"]
    units = np.arange(n_units)[:, None]
    outside = _access(EXTERNAL, external[:, None] // target.word_bytes + np.arange(n_words),
                      units)
    memory = f["local_memory"]
    words = local[:, None] + np.arange(local_words(f, target))
    if memory == LocalMemory.PARAMETERS:
        words = words // _FIELDS
    inside = _access(memory, words, units)
    if f["opcode"] == Opcode.LOAD:
        return n_units, n_words, [outside], [inside]
    return n_units, n_words, [inside], [outside]

"""What an instruction reads and writes, unit by unit.

Memories are numbered: the banks 0 to 3, then PARAMETERS, INSTRUCTIONS (both in 32-bit words) and
EXTERNAL (in words of the target). A unit is what a chase holds back: a tile of pixels of a
product, an output line, a pixel of an addition, a line of a transfer. Progress is what the
instruction has reported once the word is written.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.compiler.scheduling.walks import pixel_addresses, port_walk
from hw.isa import ENGINE_OF, Engine, LocalMemory, Opcode
from hw.machine.addresses import local_words

__all__ = ["EXTERNAL", "Reach", "Region", "reach", "window_geometry"]

EXTERNAL = len(LocalMemory)
_FIELDS_PER_CHANNEL = 4
_DEPTHWISE_KERNEL = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class Region:
    """Words of a memory, each once; ``when``: the first unit that reads a word, -1 where it is
    read before any unit is asked for; of a write, the progress that covers it.
    """

    memory: int
    words: np.ndarray
    when: np.ndarray


@dataclass(frozen=True, kw_only=True, eq=False)
class Reach:
    """unit_progress: reported per unit, 0 where an instruction reports none."""

    engine: Engine
    reads: tuple[Region, ...]
    writes: tuple[Region, ...]
    n_units: int
    unit_progress: int

    @property
    def progress(self) -> int:
        """Reported when it is complete."""
        return self.n_units * self.unit_progress


def _region(memory, words, when, latest=False):
    words, when = (np.asarray(v).ravel() for v in np.broadcast_arrays(words, when))
    order = np.lexsort((-when if latest else when, words))
    words, first = np.unique(words[order], return_index=True)
    return Region(memory=int(memory), words=words, when=when[order][first])


def _parameters(f, n_chunks, target):
    per_chunk = target.columns // target.lanes * target.lanes * _FIELDS_PER_CHANNEL
    first = f["parameter_base"] * target.lanes * _FIELDS_PER_CHANNEL
    return _region(LocalMemory.PARAMETERS, first + np.arange(n_chunks * per_chunk), -1)


def _matmul(f, target):
    rows, columns = target.rows, target.columns
    inner, outer = f["inner_count"], f["outer_count"]
    a = port_walk(f, "a", rows, np.arange(outer))
    used = columns if a.direct else min(f["slots"], columns)
    used = rows if a.direct else used
    unit = np.broadcast_to(np.arange(outer)[:, None, None], a.address.shape)[a.inside]
    first, last = a.address[a.inside] // columns, (a.address[a.inside] + used - 1) // columns
    reads = [_region(f["a_bank"], np.concatenate([first, last]), np.concatenate([unit, unit]))]
    b = port_walk(f, "b", columns, np.arange(inner))
    reads.append(_region(f["b_bank"], b.address[b.inside], 0))
    if not f["wide"]:
        reads.append(_parameters(f, inner, target))
    n = f["n_pixels"]
    first_word = f["first_channel"] // columns
    n_words = min(inner, -(-f["n_channels"] // columns))
    words = pixel_addresses(f, n)[:, None] + np.arange(first_word, n_words)
    if f["wide"]:
        words = words[..., None] + np.arange(4) * f["plane_step"]
    progress = (np.arange(n) // rows + 1) * rows
    writes = (_region(f["out_bank"], words & 0xFFFF,
                      progress.reshape(-1, *[1] * (words.ndim - 1)), latest=True),)
    return tuple(reads), writes, outer, rows


def window_geometry(f):
    """(rows (OH, KH), columns (OW, KW)) of the input that an operation with a window looks at."""
    depthwise = f["opcode"] == Opcode.DEPTHWISE
    height, width = ((_DEPTHWISE_KERNEL,) * 2 if depthwise else
                     (f["kernel_height"], f["kernel_width"]))
    dilation_y, dilation_x = (1, 1) if depthwise else (f["dilation_y"], f["dilation_x"])
    iy = (np.arange(f["out_height"]) * f["stride_y"] - f["top"])[:, None] + (
        np.arange(height) * dilation_y)
    ix = (np.arange(f["out_width"]) * f["stride_x"] - f["left"])[:, None] + (
        np.arange(width) * dilation_x)
    return iy, ix


def _window(f, target):
    iy, ix = window_geometry(f)
    columns = np.unique(ix)
    columns = columns[(columns >= 0) & (columns < f["width"])]
    line, tap = np.nonzero((iy >= 0) & (iy < f["height"]))
    words = (f["x_base"] + (iy[line, tap] * f["line_step"])[:, None, None]
             + columns[:, None] * f["n_chunks"] + np.arange(f["n_chunks"]))
    reads = [_region(f["x_bank"], words & 0xFFFF, line[:, None, None])]
    n_words = f["n_chunks"] * iy.shape[1] * ix.shape[1]
    if f["opcode"] != Opcode.MAXPOOL:
        same = f["opcode"] == Opcode.WINDOW and f["same_weights"]
        reads.append(_region(f["w_bank"], f["w_base"] + np.arange(1 if same else n_words), -1))
        reads.append(_parameters(f, f["n_chunks"], target))
    lines_, width = f["out_height"], f["out_width"]
    pixel = np.arange(lines_ * width)
    words = f["out_base"] + (pixel * f["out_step"])[:, None] + np.arange(f["n_chunks"])
    writes = (_region(f["out_bank"], words & 0xFFFF, ((pixel // width + 1) * width)[:, None],
                      latest=True),)
    return tuple(reads), writes, lines_, width


def _linear(f, target):
    x = f["x_base"] + np.arange(-(-f["n_inputs"] // target.columns))
    weights = f["w_base"] + np.arange(f["n_inputs"] * f["n_chunks"])
    reads = (_region(f["x_bank"], x, 0), _region(f["w_bank"], weights, -1),
             _parameters(f, f["n_chunks"], target))
    writes = (_region(f["out_bank"], f["out_base"] + np.arange(f["n_chunks"]), 1),)
    return reads, writes, 1, 1


def _add(f, target):
    pixel, chunk = np.arange(f["out_width"])[:, None], np.arange(f["n_chunks"])
    reads = tuple(_region(f[f"{name}_bank"], f[f"{name}_base"] + pixel * f["n_chunks"] + chunk,
                          pixel) for name in "xy")
    words = f["out_base"] + pixel * f["out_step"] + chunk
    writes = (_region(f["out_bank"], words & 0xFFFF, pixel + 1, latest=True),)
    return reads, writes, f["out_width"], 1


def _transfer(f, target):
    line = np.arange(f["n_lines"])
    outside = f["external_base"] + line * f["external_step"] & 0xFFFFFFFF
    inside = f["local_base"] + line * f["local_step"] & 0xFFFF
    memory, n_words = f["local_memory"], f["line_words"]
    unit = np.arange(f["n_lines"])[:, None]
    local = inside[:, None] + np.arange(local_words(f, target))
    external = outside[:, None] // target.word_bytes + np.arange(n_words)
    progress = (unit + 1) * n_words
    if f["opcode"] == Opcode.LOAD:
        return ((_region(EXTERNAL, external, unit),),
                (_region(memory, local, progress, latest=True),), f["n_lines"], n_words)
    return ((_region(memory, local, unit),),
            (_region(EXTERNAL, external, progress, latest=True),), f["n_lines"], 0)


_REACH = {
    Opcode.MATMUL: _matmul, Opcode.DEPTHWISE: _window, Opcode.WINDOW: _window,
    Opcode.MAXPOOL: _window, Opcode.LINEAR: _linear, Opcode.ADD: _add, Opcode.LOAD: _transfer,
    Opcode.STORE: _transfer,
}


def reach(fields, target) -> Reach | None:
    """The reach of a sound instruction; None for HALT and SYNC."""
    if fields["opcode"] not in _REACH:
        return None
    reads, writes, n_units, unit_progress = _REACH[fields["opcode"]](fields, target)
    return Reach(engine=ENGINE_OF[fields["opcode"]], reads=reads, writes=writes, n_units=n_units,
                 unit_progress=unit_progress)

"""MATMUL: an output-stationary product, tiles of rows x columns accumulators.

For every tile of pixels (port a, outer loop), for every tile of channels (port b): ``period_count``
periods of ``slots`` cycles, in each of which both ports supply one step of the reduction or one
lane's word; then the sums are read out, row after row, group of channels after group.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from golden.ops.convolution import exact_float
from hw.isa.channels import (
    RESCALE_FIELDS,
    RESULT_FIELDS,
    emitted_groups,
    parameter_reads,
    parameter_words,
    written_channels,
    written_words,
)
from hw.isa.instruction import WORD_MASK, Access, Cost, Instruction, throughout, wrap
from hw.isa.layout import FIELDS, N_COMMON, N_PLANES, Engine, ErrorCode, Feed, Format, Opcode
from hw.isa.walk import pixel_words, port_lanes, reduction_steps, walk

__all__ = ["MatMulInstruction"]

_BLOCK = 1 << 22  # operands held at a time
_LARGEST_PRODUCT = 1 << 14
_LEAST_SLOTS = 2
_POP_SPACING = 2  # cycles from one row of results to the next, at least


class MatMulInstruction(Instruction):
    """The record of MATMUL."""

    opcode, engine = Opcode.MATMUL, Engine.ARRAY
    doc = "product of two matrices, convolutions among them; the array's only instruction"
    unit = "a tile of pixels, all its channels"
    uses = RESCALE_FIELDS | RESULT_FIELDS | {
        "wide", "slots", "n_pixels", "parameter_base",
        *(field.name for field in FIELDS[Format.ARRAY] if field.word >= N_COMMON)}
    nonzero = ("slots", "period_count", "inner_count", "outer_count")
    weights_per_cycle = 1

    def is_refused(self, f, target) -> bool:
        return super().is_refused(f, target) or f["slots"] < _LEAST_SLOTS or any(
            f[f"{port}_feed"] == Feed.TRANSPOSING and f["slots"] < port_lanes(port, target)
            for port in "ab")

    def n_units(self, f) -> int:
        return f["outer_count"]

    def unit_progress(self, f, target) -> int:
        return target.rows

    def product_results(self, f) -> int:
        return f["n_pixels"] * (f["n_channels"] - f.get("first_channel", 0))

    # Extents

    def reads(self, f, target, needed=False) -> Iterable[Access]:
        outer, inner = f["outer_count"], f["inner_count"]
        pixels = np.arange(outer * target.rows).reshape(outer, -1) < f["n_pixels"]
        yield from self._rows(f, target, pixels if needed else np.ones_like(pixels), needed)
        yield from self.weight_reads(f, target, needed)
        if not f["wide"]:
            yield parameter_reads(f, inner, outer, target, needed)

    def weight_reads(self, f, target, needed=False) -> Iterable[Access]:
        """Port b, which has the weights wherever there are some."""
        channels = written_channels(f, f["inner_count"], target)
        words, _ = self._named(f, target, "b", channels if needed else np.ones_like(channels),
                               needed)
        yield throughout(f["b_bank"], words, f["outer_count"])

    def _named(self, f, target, port, wanted, needed):
        """Addresses that a port names for lanes (tiles, lanes) that are wanted, and their tiles."""
        address, inside = walk(f, port, target, np.arange(len(wanted)))
        if f[f"{port}_feed"] == Feed.TRANSPOSING:
            inside = inside & wanted[:, None, :]
        else:
            inside = inside & wanted.any(1)[:, None, None]
            if needed:
                inside[:, :, reduction_steps(f, target):] = False
        tile = np.broadcast_to(np.arange(len(wanted))[:, None, None], address.shape)
        return address[inside], tile[inside]

    def _rows(self, f, target, pixels, needed):
        """Port a: the words named, and those that the bytes which are looked at reach over to."""
        address, tile = self._named(f, target, "a", pixels, needed)
        if f["a_feed"] == Feed.TRANSPOSING:
            n_bytes = min(f["slots"], target.columns)
        else:
            n_bytes = np.minimum(pixels.sum(1), target.rows)[tile]
        first, last = address // target.word_bytes, (address + n_bytes - 1) // target.word_bytes
        yield Access(memory=f["a_bank"], words=first, steps=tile)
        yield Access(memory=f["a_bank"], words=last[last > first], steps=tile[last > first],
                     is_checked=False)

    def writes(self, f, target) -> Iterable[Access]:
        n_pixels = min(f["n_pixels"], f["outer_count"] * target.rows)
        planes = np.arange(N_PLANES if f["wide"] else 1) * f["plane_step"]
        words = (pixel_words(f, n_pixels)[:, None, None]
                 + written_words(f, f["inner_count"], target)[:, None] + planes) & WORD_MASK
        yield Access(memory=f["out_bank"], words=words,
                     steps=(np.arange(n_pixels) // target.rows)[:, None, None])

    def check(self, machine, f) -> None:
        """Both ports must never read one bank in one slot."""
        if f["a_bank"] == f["b_bank"]:
            read = [walk(f, port, machine.target, np.arange(f[count]))[1].any(0)
                    for port, count in (("a", "outer_count"), ("b", "inner_count"))]
            n_both = min(slots.shape[1] for slots in read)
            machine.refuse(read[0][:, :n_both] & read[1][:, :n_both], ErrorCode.BANK_CONFLICT,
                           f"both ports read bank {f['a_bank']}")
        super().check(machine, f)

    # Value

    def execute(self, machine, f) -> None:
        target = machine.target
        dtype = exact_float(f["period_count"] * reduction_steps(f, target) * _LARGEST_PRODUCT)
        sums = np.empty((f["outer_count"] * target.rows, f["inner_count"] * target.columns),
                        np.int64)
        for columns, b in self._operands(machine, f, "b", f["inner_count"], dtype):
            for rows, a in self._operands(machine, f, "a", f["outer_count"], dtype):
                sums[rows, columns] = a @ b.T
        self._write(machine, f, wrap(sums, 32))

    def _operands(self, machine, f, port, n_tiles, dtype):
        """Blocks of tiles of a port: (slice of lanes, values (lanes, steps of the reduction))."""
        target = machine.target
        lanes, n_steps = port_lanes(port, target), reduction_steps(f, target)
        word_bytes = target.word_bytes
        content = machine.banks[f[f"{port}_bank"]].reshape(-1)
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
            values = words[np.where(inside, address, 0)]
            values[~inside] = f[f"{port}_pad"]
            if f[f"{port}_feed"] == Feed.TRANSPOSING:
                values = values[..., :n_steps].transpose(0, 2, 1, 3)
            else:
                values = values[:, :, :n_steps, :lanes].transpose(0, 3, 1, 2)
            yield (slice(first * lanes, (first + len(tiles)) * lanes),
                   values.reshape(len(tiles) * lanes, -1).astype(dtype))

    def _write(self, machine, f, sums):
        """Rescale and write, tile after tile, in each pixel after pixel, group after group."""
        target = machine.target
        rows, columns, lanes = target.rows, target.columns, target.lanes
        n_groups = columns // lanes
        outer, inner = f["outer_count"], f["inner_count"]
        sums = sums.reshape(-1, inner, columns)
        if f["wide"]:
            planes = np.stack([wrap(sums >> 8 * q, 8) for q in range(N_PLANES)], -1)
            steps = np.arange(N_PLANES) * f["plane_step"]
        else:
            planes = machine.rescale(f, sums, parameter_words(f, inner, target))[..., None]
            steps = np.zeros(1, np.int64)
        # In the order of the writes: tile, channel tile, row, group, plane, lane.
        n_planes = len(steps)
        shape = outer, inner, rows, n_groups, n_planes, lanes
        values = planes.reshape(outer, rows, inner, n_groups, lanes, n_planes)
        values = values.transpose(0, 2, 1, 3, 5, 4)
        pixel = pixel_words(f, outer * rows).reshape(outer, 1, rows, 1, 1, 1)
        address = (pixel + np.arange(inner).reshape(-1, 1, 1, 1, 1)
                   + steps.reshape(-1, 1)) & WORD_MASK
        byte = address * columns + np.arange(columns).reshape(n_groups, 1, lanes)
        in_image = np.arange(outer * rows).reshape(outer, 1, rows, 1, 1, 1) < f["n_pixels"]
        channels = written_channels(f, inner, target).reshape(inner, 1, n_groups, 1, lanes)
        mask = np.broadcast_to(in_image & channels, shape)
        machine.banks[f["out_bank"]].reshape(-1)[
            np.broadcast_to(byte, shape)[mask]] = values[mask]

    def cost(self, f, target) -> Cost:
        rows, steps = target.rows, f["slots"] * f["period_count"]
        n_planes = N_PLANES if f["wide"] else 1
        groups = emitted_groups(f, f["inner_count"], target)
        readout = rows * np.maximum(_POP_SPACING, groups) * n_planes
        # The last tile's own readout follows its sums.
        left = f["n_channels"] - (f["inner_count"] - 1) * target.columns
        last = min(target.columns, max(1, left)) / target.lanes
        return Cost(units=f["outer_count"], cycles=int(np.maximum(steps, readout).sum()),
                    items=int(rows * groups.sum() * n_planes), slots=f["inner_count"] * steps,
                    after=rows * max(_POP_SPACING, last))

"""Machine: runs encoded instructions on numpy memories, bit for bit and in program order."""

from __future__ import annotations

import numpy as np

from golden import arith
from hw.isa import N_WORDS, ErrorCode, Opcode, Window, decode
from hw.model import transfers, vector
from hw.model.faults import Fault
from hw.model.walks import pixel_addresses, port_walk, wrap

__all__ = ["Machine"]

_BLOCK_BYTES = 1 << 24  # operands of the product held at a time
_PLANES = 4


class Machine:
    """The memories of a target and what instructions do to them.

    banks: four int8 (words, columns); parameters: uint32 (channels, 4); instructions: uint32;
    external: uint8, the region that the host allows, from address 0. Bytes of port b of a packed
    target must not be -128; here they may.
    """

    def __init__(self, target, external=0):
        self.target = target
        self.banks = [np.zeros((words, target.columns), np.int8) for words in target.bank_words]
        self.parameters = np.zeros((target.parameter_words * target.lanes, 4), "<u4")
        self.instructions = np.zeros(target.instruction_words, "<u4")
        self.external = np.zeros(external, np.uint8)

    def load(self, image):
        """Write an Image's sections to the memories."""
        memories = {Window.INSTRUCTIONS: self.instructions.view(np.uint8),
                    Window.PARAMETERS: self.parameters.reshape(-1).view(np.uint8)}
        memories |= {Window.BANK_0 + k: bank.reshape(-1).view(np.uint8)
                     for k, bank in enumerate(self.banks)}
        for address, values in image.sections():
            memory = memories[address >> 28]
            start = address & (1 << 28) - 1
            data = np.ascontiguousarray(values, "<u4").view(np.uint8)
            if start + len(data) > len(memory):
                raise Fault(ErrorCode.ADDRESS, f"section at {address:#x} is too long")
            memory[start:start + len(data)] = data
        if image.external is not None:
            self.external = image.external.copy()

    def write(self, place, codes):
        """Put a tensor, int8 (*shape), where its Placement says."""
        self._words(place)[...] = place.pack(codes[None])[0]

    def read(self, place):
        """The tensor of a Placement, int8 (*shape)."""
        return place.unpack(self._words(place)[None])[0]

    def _words(self, place):
        if place.external:
            start = place.base
            words = self.external[start:start + place.n_words * place.word_bytes]
            return words.view(np.int8).reshape(place.n_words, place.word_bytes)
        return self.banks[place.bank][place.base:place.base + place.n_words]

    def run(self, first=0, limit=1 << 20):
        """Run from instruction ``first`` to HALT; returns the number of instructions run."""
        n_records = self.target.instruction_words // N_WORDS
        for index in range(first, first + limit):
            if index == first and index >= n_records:
                raise Fault(ErrorCode.ADDRESS, "no such instruction", index)
            at = index % n_records * N_WORDS
            fields = decode([int(word) for word in self.instructions[at:at + N_WORDS]])
            if fields["opcode"] == Opcode.HALT:
                return index - first
            try:
                self.execute(fields)
            except Fault as fault:
                fault.index = index
                raise
        raise Fault(ErrorCode.WATCHDOG, "no HALT", first + limit)

    def execute(self, fields):
        """Do what one decoded instruction says; Fault where hardware gives an error."""
        opcode = fields["opcode"]
        if opcode == Opcode.MATMUL:
            self._matmul(fields)
        elif opcode in vector.OPERATIONS:
            vector.execute(self, fields)
        elif opcode in (Opcode.LOAD, Opcode.STORE) and self.target.bus_bits:
            transfers.execute(self, fields)
        elif opcode not in (Opcode.SYNC, Opcode.HALT):
            raise Fault(ErrorCode.OPCODE, f"opcode {opcode}")

    def read_words(self, bank, address):
        """Words of a bank, address an int array."""
        if address.size and not 0 <= address.min() <= address.max() < len(self.banks[bank]):
            raise Fault(ErrorCode.ADDRESS, f"read beyond bank {bank}")
        return self.banks[bank][address]

    def write_words(self, bank, address, values, mask):
        """values, mask: (..., columns) for the words at ``address`` (...), in order."""
        used = mask.any(axis=-1)
        if (address[used] >= len(self.banks[bank])).any():
            raise Fault(ErrorCode.ADDRESS, f"write beyond bank {bank}")
        columns = np.arange(self.target.columns)
        flat = self.banks[bank].reshape(-1)
        where = address[..., None] * self.target.columns + columns
        flat[where[mask]] = values[mask]

    def parameter_rows(self, base, n_chunks, n_channels):
        """(bias, multiplier, shift), int64 (n_chunks, columns) each."""
        target = self.target
        per_chunk = target.columns // target.lanes
        chunk = np.arange(n_chunks)[:, None]
        groups = np.clip(-(-(n_channels - chunk * target.columns) // target.lanes), 1, per_chunk)
        words = base + chunk * per_chunk + np.arange(per_chunk) & 0xFFFF
        if (words[np.arange(per_chunk) < groups] >= target.parameter_words).any():
            raise Fault(ErrorCode.ADDRESS, "parameters that are not there")
        channels = (words % target.parameter_words)[..., None] * target.lanes + np.arange(
            target.lanes)
        rows = self.parameters[channels.reshape(n_chunks, target.columns)]
        bias = wrap(rows[..., 0].astype(np.int64), 32)
        multiplier = rows[..., 1].astype(np.int64) & (1 << arith.MULTIPLIER_WIDTH) - 1
        return bias, multiplier, np.minimum(rows[..., 2] & 63, arith.SHIFT_MAX).astype(np.int64)

    def rescale(self, sums, fields, parameters):
        """Sums (..., chunks, columns) to codes by per-channel parameters."""
        bias, multiplier, shift = parameters
        rounding = arith.Rounding.GEMMLOWP if fields["gemmlowp"] else arith.Rounding.HALF_UP
        return arith.requantize(sums + bias, multiplier, shift, fields["zero_point"],
                                fields["low"], fields["high"], rounding)

    def channel_mask(self, fields, n_chunks):
        """bool (n_chunks, columns): channels that are written."""
        channel = np.arange(n_chunks * self.target.columns).reshape(n_chunks, -1)
        return (channel >= fields["first_channel"]) & (channel < fields["n_channels"])

    def _operand(self, fields, port, lanes, tiles):
        """The operand of a port: int8 (tiles, lanes, steps)."""
        walk = port_walk(fields, port, lanes, tiles)
        columns, slots, bank = self.target.columns, fields["slots"], fields[f"{port}_bank"]
        address = np.where(walk.inside, walk.address, 0)
        word = address // columns if port == "a" else address
        named = word[walk.inside]
        if named.size and not 0 <= named.min() <= named.max() < len(self.banks[bank]):
            raise Fault(ErrorCode.ADDRESS, f"port {port} reads beyond bank {bank}")
        first = address if port == "a" else address * columns
        n_bytes = lanes if walk.direct else min(slots, columns)
        flat = np.append(self.banks[bank].reshape(-1), np.zeros(columns, np.int8))
        codes = flat[first[..., None] + np.arange(n_bytes)]
        codes[~walk.inside] = fields[f"{port}_pad"]
        if walk.direct:  # (tiles, periods, slots, lanes)
            return codes.transpose(0, 3, 1, 2).reshape(len(tiles), lanes, -1), walk
        result = np.zeros((len(tiles), lanes, walk.address.shape[1], slots), np.int8)
        result[..., :n_bytes] = codes.transpose(0, 2, 1, 3)
        return result.reshape(len(tiles), lanes, -1), walk

    def _matmul(self, f):
        target = self.target
        rows, columns = target.rows, target.columns
        counts = [f[n] for n in ("slots", "period_count", "inner_count", "outer_count")]
        smallest = max(2, 0 if f["a_feed"] else rows, 0 if f["b_feed"] else columns)
        if 0 in counts or f["slots"] < smallest:
            raise Fault(ErrorCode.FIELD, "counts of a product")
        inner, outer = f["inner_count"], f["outer_count"]
        b, b_walk = self._operand(f, "b", columns, np.arange(inner))
        b = b.reshape(inner * columns, -1).astype(np.float64).T
        address = pixel_addresses(f, outer * rows)
        parameters = None if f["wide"] else self.parameter_rows(f["parameter_base"], inner,
                                                                f["n_channels"])
        mask = self.channel_mask(f, inner)
        block = max(1, _BLOCK_BYTES // (rows * b.shape[0] * 8))
        sums = []
        for first in range(0, outer, block):
            tiles = np.arange(first, min(outer, first + block))
            a, a_walk = self._operand(f, "a", rows, tiles)
            if f["a_bank"] == f["b_bank"] and _meet(a_walk, b_walk):
                raise Fault(ErrorCode.BANK_CONFLICT, "both ports read one bank")
            product = a.reshape(len(tiles) * rows, -1).astype(np.float64) @ b
            sums.append(wrap(product.astype(np.int64), 32).reshape(-1, inner, columns))
        sums = np.concatenate(sums)
        there = np.arange(outer * rows) < f["n_pixels"]
        mask = mask & there[:, None, None]
        where = address[:, None] + np.arange(inner) & 0xFFFF
        if f["wide"]:
            for plane in range(_PLANES):
                self.write_words(f["out_bank"], where + plane * f["plane_step"] & 0xFFFF,
                                 wrap(sums >> 8 * plane, 8).astype(np.int8), mask)
        else:
            codes = self.rescale(sums, f, parameters).astype(np.int8)
            self.write_words(f["out_bank"], where, codes, mask)


def _meet(a, b):
    """Whether both ports read in the same slot of any pair of tiles."""
    common = min(a.inside.shape[2], b.inside.shape[2])
    a_reads, b_reads = (walk.inside[:, :, :common].any(axis=0) for walk in (a, b))
    return bool((a_reads & b_reads).any())

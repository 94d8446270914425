"""Random instructions and programs for fuzzing: sound ones, slightly wrong ones, and noise.

A sound program is one that the instruction-set model (hw.machine) runs to its HALT or to an error,
and whose waits order all its accesses: then the hardware must leave exactly the same. A wild one is
made of noise; it must end, and touch no memory that none of its instructions names.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golden.arith import SHIFT_MAX
from golden.errors import LockstepError
from hw.isa import (
    INSTRUCTIONS,
    MAX_NIBBLE_SHIFT,
    N_WORDS,
    SYNC_FIELDS,
    Engine,
    Format,
    LocalMemory,
    Opcode,
    encode,
    field_of,
    fields_of,
)
from hw.machine import hazards
from hw.targets import N_BANKS

__all__ = ["ProgramMaker", "RandomProgram", "random_parameters"]

_MOST_CYCLES = 3000  # of one instruction


def random_parameters(rng: np.random.Generator, n: int) -> np.ndarray:
    """int64 (n, 3) of bias, multiplier and shift, 32 bits each.

    Three of four bring the sums of a short product into the range of a code: else all results
    would saturate, and hide the sums.
    """
    anything = np.stack(
        [rng.integers(0, 1 << 32, n), rng.integers(0, 1 << 31, n), rng.integers(30, 50, n)], 1)
    usual = np.stack([rng.integers(-20_000, 20_000, n) & 0xFFFF_FFFF,
                      rng.integers(1 << 30, 1 << 31, n), rng.integers(36, 41, n)], 1)
    return np.where(rng.random((n, 1)) < 0.25, anything, usual)


@dataclass(frozen=True, kw_only=True, eq=False)
class RandomProgram:
    """records: uint32 (n, N_WORDS), to be written from record ``start`` of the memory on, which is
    a ring. is_sound: see above; in_turn: every instruction waits for all before it.
    """

    records: np.ndarray
    start: int
    is_sound: bool
    in_turn: bool = False


class ProgramMaker:
    """Makes programs for one target; everything follows from the seed of ``rng``.

    external_bytes: of the region of external memory that transfers may name.
    """

    def __init__(self, target, rng: np.random.Generator, external_bytes: int = 0):
        self.target, self.rng, self.external_bytes = target, rng, external_bytes
        self.n_records = target.instruction_words // N_WORDS
        self.opcodes = [record.opcode for record in INSTRUCTIONS.values()
                        if target.bus_bits or record.format is not Format.TRANSFER]

    def program(self) -> RandomProgram:
        """Three of four are sound."""
        return self._wild() if self.rng.random() < 0.25 else self._sound()

    # Small helpers: numbers up to and without n, and one of some things.

    def _below(self, n):
        return int(self.rng.integers(n))

    def _between(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def _one(self, *things):
        return things[self._below(len(things))]

    def any_value(self, field) -> int:
        """Any value of a field; often one of its ends."""
        if self.rng.random() < 0.3:
            return self._one(field.low, field.high, 0, 1)
        return self._between(field.low, field.high)

    # Sound programs

    def _sound(self):
        n = self._between(1, min(4, self.n_records - 1))
        records = [self.instruction() for _ in range(n)]
        spoiled = self.rng.random() < 0.4
        if spoiled:
            self._spoil(records[self._below(n)])
        in_turn = spoiled or self.rng.random() < 0.3
        records = self._in_turn(records) if in_turn else self._overlapping(records)
        return RandomProgram(records=self._encode(records), start=self._below(self.n_records),
                             is_sound=True, in_turn=in_turn)

    def _encode(self, records):
        return np.array([*(encode(**fields) for fields in records), encode(Opcode.HALT)], "<u4")

    def _spoil(self, fields):
        """Give one field any value at all."""
        field = self._one(*[f for f in fields_of(fields["opcode"]) if f.name not in
                            ("opcode", *SYNC_FIELDS)])
        before = fields[field.name] if field.name in fields else 0
        fields[field.name] = self.any_value(field)
        meant = fields.get("low", 0) <= fields.get("high", 0) and all(
            fields.get(f"shift_{k}", 0) <= SHIFT_MAX for k in range(3))
        if not meant or not self.is_small(fields) or self._overwrites_itself(fields):
            fields[field.name] = before

    def _overwrites_itself(self, fields):
        """Whether an instruction that is not refused writes what it reads later."""
        full = _full(fields)
        if INSTRUCTIONS[full["opcode"]].is_refused(full, self.target):
            return False
        try:
            hazards.check(self._encode([fields]), self.target)
        except LockstepError:
            return True
        except IndexError:  # far outside the memories
            pass
        return False

    def is_small(self, fields) -> bool:
        """Whether an instruction ends soon; those that are refused do."""
        full = _full(fields)
        record = INSTRUCTIONS[full["opcode"]]
        return (record.is_refused(full, self.target)
                or record.cost(full, self.target).total <= _MOST_CYCLES)

    def _in_turn(self, records):
        """Every instruction waits for all before it."""
        counts, ordered = dict.fromkeys(Engine, 0), []
        for fields in records:
            waits = {f"wait_{engine.name.lower()}": count for engine, count in counts.items()}
            ordered.append(fields | waits)
            counts[INSTRUCTIONS[fields["opcode"]].engine] += 1
        return ordered

    def _overlapping(self, records):
        """Every instruction waits for less, or chases, as long as all accesses are ordered."""
        records = self._in_turn(records)
        for _ in range(3 * len(records)):
            at = self._below(len(records))
            before = records[at]
            records[at] = before | self._less(before)
            try:
                hazards.check(self._encode(records), self.target)
            except (LockstepError, IndexError):
                records[at] = before
        return records

    def _less(self, fields):
        """Other waits than those of ``fields``, and perhaps a chase of what was waited for."""
        engine = self._one(*Engine)
        name = f"wait_{engine.name.lower()}"
        if not fields[name]:
            return {}
        if fields.get("chase") or self.rng.random() < 0.4:
            return {name: self._below(fields[name])}
        return {name: fields[name] - 1, "chase": 1, "chase_engine": engine,
                "chase_number": fields[name] - 1, "chase_first": self._below(24),
                "chase_step": self._below(8)}

    def instruction(self, opcode=None) -> dict:
        """Values for all fields that the record of an instruction uses, of any one or this one."""
        opcode = self._one(*self.opcodes) if opcode is None else opcode
        record = INSTRUCTIONS[opcode]
        draw = {Format.ARRAY: self._matmul, Format.VECTOR: self._vector,
                Format.TRANSFER: self._transfer}[record.format]
        values = self._results() | draw(opcode)
        return {"opcode": opcode} | {
            name: values[name] if name in values else self.any_value(field_of(record.format, name))
            for name in sorted(record.uses)}

    def _results(self):
        return {
            "gemmlowp": self._below(2), "zero_point": self._between(-128, 127),
            "low": self._between(-128, 0), "high": self._between(0, 127),
            "out_base": self._below(min(self.target.bank_words)), "out_step": self._below(4),
            "parameter_base": self._below(max(1, self.target.parameter_words - 8)),
            "n_channels": self._between(0, 3 * self.target.columns),
            "first_channel": self._one(0, 0, self._below(self.target.columns))}

    def _banks(self):
        return [int(bank) for bank in self.rng.permutation(N_BANKS)]

    def _matmul(self, opcode):
        banks = self._banks()
        columns = self.target.columns
        inner, outer = self._between(1, 3), self._between(1, 4)
        fields = {
            "slots": self._one(columns, columns, self._between(2, 2 * columns)),
            "period_count": self._between(1, 6), "inner_count": inner, "outer_count": outer,
            "wide": self._one(0, 0, 0, 1), "n_pixels": self._between(0, outer * self.target.rows),
            "plane_step": self._below(16), "out_x_count": self._between(0, 6),
            "out_line_step": self._between(-3, 3), "out_bank": banks[2]}
        for port, bank, scale in (("a", banks[0], columns), ("b", banks[1], 1)):
            depth = self.target.bank_words[bank] * scale
            fields |= {f"{port}_{name}": value for name, value in {
                "base": self._between(depth // 4, depth // 2), "bank": bank,
                "feed": self._below(2), "bounded": self._below(2), "fixed": self._below(2),
                "x_step": self._between(-scale, scale), "pad": self._between(-128, 127),
                "y_step": self._between(-scale, scale), "tile_step": self._between(-scale, scale),
                "x_count": self._between(0, 6), "group": self._between(0, 3),
                "ix": self._between(-2, 2), "iy": self._between(-2, 2),
                "width": self._below(8), "height": self._below(8), "ix_step": self._below(3),
                "iy_step": self._below(3), "k0_count": self._between(0, 3),
                "k1_count": self._between(0, 3)}.items()}
            for level in range(3):
                fields |= {f"{port}_k{level}_step": self._between(-scale, scale),
                           f"{port}_k{level}_dx": self._between(-2, 2),
                           f"{port}_k{level}_dy": self._between(-2, 2)}
        return fields

    def _vector(self, opcode):
        banks, depth = self._banks(), min(self.target.bank_words)
        return {
            "out_bank": banks[0], "x_bank": banks[1], "w_bank": banks[2],
            "y_bank": self._one(*banks[1:]), "pad": self._between(-128, 127),
            "x_base": self._below(depth // 2), "y_base": self._below(depth // 2),
            "w_base": 2 * self._below(depth // 4), "n_chunks": self._between(1, 2),
            "width": self._below(6), "height": self._below(6),
            "out_width": self._between(1, 4), "out_height": self._between(1, 3),
            "kernel_width": self._between(1, 3), "kernel_height": self._between(1, 3),
            "stride_x": self._between(1, 2), "stride_y": self._between(1, 2),
            "left": self._below(3), "top": self._below(3), "line_step": self._below(8),
            "dilation_x": self._between(1, 2), "dilation_y": self._between(1, 2),
            "same_weights": self._below(2), "n_inputs": 2 * self._between(1, 4),
            **{f"shift_{k}": self._between(20, 50) for k in range(3)},
            "left_shift": self._below(21),
            **{f"zero_point_{k}": self._between(-128, 127) for k in range(2)}}

    def _transfer(self, opcode):
        word = self.target.word_bytes
        memory = self._one(*range(N_BANKS), *([LocalMemory.PARAMETERS] if opcode == Opcode.LOAD
                                              else []))
        n_words = self._between(1, 6)
        unpacks = opcode == Opcode.LOAD and memory < N_BANKS and self._below(2)
        return {
            "nibbles": int(unpacks), "nibble_shift": self._below(MAX_NIBBLE_SHIFT + 1),
            "external_base": word * self._below(self.external_bytes // word - n_words),
            "external_step": word * self._below(8), "local_memory": memory,
            "local_base": self._below(min(self.target.bank_words) // 2),
            "n_lines": self._between(1, 4), "line_words": n_words, "local_step": self._below(8)}

    # Wild programs

    def _wild(self):
        """Noise in all records, or in the fields of known opcodes; a HALT may be missing."""
        kind = self._below(3)
        records = self.rng.integers(0, 1 << 32, (self.n_records, N_WORDS), dtype=np.uint64)
        records = records.astype("<u4")
        for record in records:
            if kind == 0:
                continue
            opcode = self._one(*self.opcodes, Opcode.SYNC, Opcode.HALT)
            fields = self.instruction() if opcode in INSTRUCTIONS else {"opcode": opcode}
            for field in self.rng.permutation(fields_of(fields["opcode"]))[:self._between(1, 6)]:
                if field.name != "opcode":
                    fields[field.name] = self.any_value(field)
            if kind == 1:
                fields = {k: v for k, v in fields.items() if k not in SYNC_FIELDS}
            record[:] = encode(**fields)
        return RandomProgram(records=records, start=self._below(self.n_records), is_sound=False)


def _full(fields):
    """All fields of an instruction, those not given as 0."""
    return {field.name: 0 for field in fields_of(fields["opcode"])} | fields

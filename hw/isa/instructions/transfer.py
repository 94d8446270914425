"""LOAD and STORE: lines of words between external memory and the chip."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from hw.isa.instruction import Access, Cost, Instruction
from hw.isa.layout import (
    EXTERNAL,
    FIELDS_PER_CHANNEL,
    MAX_NIBBLE_SHIFT,
    Engine,
    ErrorCode,
    LocalMemory,
    Opcode,
    local_depths,
)
from hw.targets import N_BANKS

__all__ = ["LoadInstruction", "StoreInstruction"]

_LINE_CYCLES = 4  # of a line, beside its beats
_NIBBLES_PER_BYTE = 2


class _Transfer(Instruction):
    """What both directions have in common; a line is a unit."""

    unit = "a line"
    uses = frozenset({"external_base", "external_step", "local_base", "local_memory", "nibbles",
                      "n_lines", "line_words", "local_step"})
    nonzero = ("n_lines", "line_words")
    n_memories: int  #: of LocalMemory
    bus_error: ErrorCode

    def is_refused(self, f, target) -> bool:
        step = f["external_step"] if f["n_lines"] != 1 else 0
        return (super().is_refused(f, target) or f["local_memory"] >= self.n_memories
                or bool((f["external_base"] | step) % target.word_bytes))

    def n_units(self, f) -> int:
        return f["n_lines"]

    def unit_progress(self, f, target) -> int:
        return f["line_words"]

    def lines(self, f) -> tuple[np.ndarray, np.ndarray]:
        """First external byte and first local word of each line: int64 (n_lines,) each."""
        lines = np.arange(f["n_lines"], dtype=np.int64)
        return (f["external_base"] + lines * f["external_step"],
                f["local_base"] + lines * f["local_step"])

    def local_words(self, f, target) -> int:
        """Words on the chip in a line."""
        if f["local_memory"] >= N_BANKS:
            return f["line_words"] * target.word_bytes // 4
        return f["line_words"] << f["nibbles"]

    def outside(self, f, target) -> Access:
        """The words of external memory."""
        external, _ = self.lines(f)
        words = external[:, None] // target.word_bytes + np.arange(f["line_words"])
        return Access(memory=EXTERNAL, words=words, steps=np.arange(f["n_lines"])[:, None])

    def inside(self, f, target) -> Access:
        """The words on the chip."""
        words = self.lines(f)[1][:, None] + np.arange(self.local_words(f, target))
        if f["local_memory"] == LocalMemory.PARAMETERS:
            words = words // FIELDS_PER_CHANNEL
        return Access(memory=f["local_memory"], words=words,
                      steps=np.arange(f["n_lines"])[:, None])

    def check(self, machine, f) -> None:
        target, memory = machine.target, f["local_memory"]
        external, local = self.lines(f)
        n_bytes = f["line_words"] * target.word_bytes
        machine.refuse(
            (external < machine.region_base) | (external + n_bytes > machine.region_limit),
            ErrorCode.ADDRESS, f"outside the region {machine.region_base:#x}.."
                               f"{machine.region_limit:#x}")
        machine.refuse(local + self.local_words(f, target) > local_depths(target)[memory],
                       ErrorCode.ADDRESS, f"outside {LocalMemory(memory).name}")
        external = external - machine.external_origin
        machine.refuse((external < 0) | (external + n_bytes > len(machine.external)),
                       self.bus_error, "outside the external memory")

    def places(self, machine, f) -> tuple[np.ndarray, np.ndarray]:
        """External bytes and local words, line after line: where lines overlap the last counts."""
        target = machine.target
        external, local = self.lines(f)
        n_bytes = f["line_words"] * target.word_bytes
        return ((external[:, None] - machine.external_origin + np.arange(n_bytes)).reshape(-1),
                (local[:, None] + np.arange(self.local_words(f, target))).reshape(-1))

    def cost(self, f, target) -> Cost:
        beats = 8 * target.word_bytes // target.bus_bits
        if f["local_memory"] >= N_BANKS:
            beats = target.word_bytes // 4
        elif f["nibbles"]:
            beats = _NIBBLES_PER_BYTE  # words written
        return Cost(units=f["n_lines"], cycles=f["line_words"] * beats + _LINE_CYCLES,
                    external_bytes=f["line_words"] * target.word_bytes)


class LoadInstruction(_Transfer):
    """The record of LOAD."""

    opcode, engine = Opcode.LOAD, Engine.LOAD
    doc = "external memory to a bank, the parameters or the instructions"
    uses = _Transfer.uses | {"nibble_shift"}
    n_memories = len(LocalMemory)
    bus_error = ErrorCode.BUS_READ

    def is_refused(self, f, target) -> bool:
        return super().is_refused(f, target) or bool(f["nibbles"] and (
            f["local_memory"] >= N_BANKS or f["nibble_shift"] > MAX_NIBBLE_SHIFT))

    def written_memory(self, f) -> int:
        return f["local_memory"]

    def reads(self, f, target, needed=False) -> Iterable[Access]:
        yield self.outside(f, target)

    def writes(self, f, target) -> Iterable[Access]:
        yield self.inside(f, target)

    def execute(self, machine, f) -> None:
        memory, word_bytes = f["local_memory"], machine.target.word_bytes
        external, words = self.places(machine, f)
        content = machine.external[external]
        if f["nibbles"]:
            low, high = content << 4, content & 0xF0  # in the upper half of a byte
            codes = np.stack([low, high], -1).view(np.int8) >> 4 << f["nibble_shift"]
            machine.banks[memory][words] = codes.reshape(-1, word_bytes)
        elif memory < N_BANKS:
            machine.banks[memory][words] = content.view(np.int8).reshape(-1, word_bytes)
        elif memory == LocalMemory.INSTRUCTIONS:
            machine.instructions[words] = content.view("<u4")
        else:
            _load_parameters(machine, words, content.view("<u4"))


class StoreInstruction(_Transfer):
    """The record of STORE, whose words have been written once the bus has answered."""

    opcode, engine = Opcode.STORE, Engine.STORE
    doc = "a bank to external memory"
    n_memories = N_BANKS
    bus_error = ErrorCode.BUS_WRITE

    def is_refused(self, f, target) -> bool:
        return super().is_refused(f, target) or bool(f["nibbles"])

    def written_memory(self, f) -> int:
        return EXTERNAL

    def reads(self, f, target, needed=False) -> Iterable[Access]:
        yield self.inside(f, target)

    def writes(self, f, target) -> Iterable[Access]:
        yield self.outside(f, target)

    def execute(self, machine, f) -> None:
        external, words = self.places(machine, f)
        machine.external[external] = machine.banks[f["local_memory"]][words].view(
            np.uint8).reshape(-1)


def _load_parameters(machine, words, content):
    """A channel changes with its last field; the others wait until then, even for a later load."""
    fields = words % FIELDS_PER_CHANNEL
    order = np.arange(len(words))
    n_used = machine.parameters.shape[1]
    columns = []
    for field in range(n_used):
        values = np.concatenate([machine.staged_parameters[field:field + 1], content])
        newest = np.maximum.accumulate(np.where(fields == field, order + 1, 0))
        columns.append(values[newest])
        machine.staged_parameters[field] = columns[-1][-1]
    ends = fields == n_used - 1
    machine.parameters[words[ends] // FIELDS_PER_CHANNEL] = np.stack(columns, 1)[ends]

"""Instruction-set model: what a program leaves in the memories, bit by bit, without cycles.

    machine = Machine(target)
    machine.banks[0][:] = ...
    machine.load_program([encode(...), ..., encode(Opcode.HALT)])
    machine.run()

Instructions take effect one after the other, whole; waits and chases mean nothing here. A program
whose waits order all its accesses (hw.machine.hazards) leaves the same in the hardware. An
instruction that writes where it reads itself reads everything first.
"""

from __future__ import annotations

import numpy as np

from golden import arith
from golden.errors import LockstepError
from hw.isa import INSTRUCTIONS, N_WORDS, ErrorCode, Format, LocalMemory, Opcode, decode
from hw.isa.instruction import rounding_of

__all__ = ["Machine", "MachineError"]

_REGION_LIMIT = 0xFFFF_FFFF  # as after reset


class MachineError(LockstepError):
    """An instruction that the hardware refuses. ``code``: ErrorCode; ``index``: as the
    INSTRUCTION_INDEX register, or None for a single instruction.
    """

    def __init__(self, code, index=None, detail=""):
        self.code, self.index, self.detail = ErrorCode(code), index, detail
        where = "Instruction" if index is None else f"Instruction {index}"
        super().__init__(f"{where} ends with error {self.code.name}"
                         + (f": {detail}" if detail else ""))


class Machine:
    """The memories of one target, and what instructions do to them.

    Arguments
    ---------
    target : hw.targets.Target. external_bytes : size of the external memory.

    Members
    -------
    banks : int8 (words, columns) each, all zero at first.
    parameters : uint32 (channels, 3): bias (two's complement), multiplier, shift.
    instructions : uint32 (instruction_words,).
    external : uint8, from byte address ``external_origin`` on. What lies outside it answers with
        a bus error; region_base, region_limit : and what lies outside these is not asked for.
    """

    def __init__(self, target, *, external_bytes=0):
        self.target = target
        self.banks = [np.zeros((words, target.columns), np.int8) for words in target.bank_words]
        self.parameters = np.zeros((target.parameter_words * target.lanes, 3), np.uint32)
        self.instructions = np.zeros(target.instruction_words, np.uint32)
        self.external = np.zeros(external_bytes, np.uint8)
        self.external_origin = 0
        self.region_base, self.region_limit = 0, _REGION_LIMIT
        self.staged_parameters = np.zeros(3, np.uint32)  # of a channel that is not whole yet

    @property
    def n_records(self) -> int:
        """Instructions that the instruction memory holds."""
        return self.target.instruction_words // N_WORDS

    def load_program(self, records, start=0) -> None:
        """Write instructions, N_WORDS words each, from record ``start`` of the memory on.

        Raises LockstepError where there is no room for them.
        """
        words = np.array(records, np.uint32).reshape(-1)
        place = slice(start * N_WORDS, start * N_WORDS + len(words))
        if place.stop > self.n_records * N_WORDS:
            raise LockstepError(f"Instruction memory must hold {len(records)} instructions from "
                                f"{start} on, not {self.n_records}")
        self.instructions[place] = words

    def execute(self, words) -> None:
        """Execute one encoded instruction; MachineError, and nothing changed, where it is refused.

        SYNC and HALT do nothing.
        """
        self._execute(decode([int(word) for word in words]))

    def _execute(self, f):
        opcode = f["opcode"]
        if opcode in (Opcode.HALT, Opcode.SYNC):
            return
        record = INSTRUCTIONS.get(opcode)
        if record is None or record.format is Format.TRANSFER and not self.target.bus_bits:
            raise MachineError(ErrorCode.OPCODE, detail=f"operation {opcode}")
        if record.is_refused(f, self.target):
            raise MachineError(ErrorCode.FIELD, detail=record.name)
        record.check(self, f)
        record.execute(self, f)

    def run(self, start=0, max_instructions=1 << 20) -> int:
        """Run the program in the instruction memory from record ``start`` to its HALT.

        The memory is a ring of records; indices count on behind its end, in 16 bits.
        Returns the index of the HALT. Raises MachineError with the index of the instruction that
        is refused first, or with WATCHDOG after ``max_instructions``.
        """
        if not 0 <= start < self.n_records:
            raise MachineError(ErrorCode.ADDRESS, start, "no such record")
        for count in range(max_instructions):
            base = (start + count) % self.n_records * N_WORDS
            index = start + count & 0xFFFF
            f = decode(self.instructions[base:base + N_WORDS].tolist())
            if f["opcode"] == Opcode.HALT:
                return index
            try:
                self._execute(f)
            except MachineError as error:
                raise MachineError(error.code, index, error.detail) from None
        raise MachineError(ErrorCode.WATCHDOG, start + max_instructions & 0xFFFF,
                           f"no HALT within {max_instructions} instructions")

    # What the records of instructions ask for

    def refuse(self, wrong, code, detail) -> None:
        """MachineError if anything in ``wrong`` is true."""
        if np.any(wrong):
            raise MachineError(code, detail=detail)

    def check_words(self, memory, words, what) -> None:
        """MachineError for words outside a bank, or channels that have no parameters."""
        is_bank = memory < LocalMemory.PARAMETERS
        depth = len(self.banks[memory] if is_bank else self.parameters)
        words = np.asarray(words)
        self.refuse((words < 0) | (words >= depth), ErrorCode.ADDRESS,
                    f"{what} outside the {depth} words of {LocalMemory(memory).name}")

    def rescale(self, f, sums, words) -> np.ndarray:
        """Codes of sums (..., n_chunks, columns), parameter words (n_chunks, groups)."""
        lanes = self.target.lanes
        channels = (words[..., None] * lanes + np.arange(lanes)).reshape(len(words), -1)
        rows = self.parameters[np.minimum(channels, len(self.parameters) - 1)]  # masked beyond
        bias = rows[..., 0].astype(np.int32).astype(np.int64)
        return arith.requantize(
            sums + bias, rows[..., 1].astype(np.int64) & arith.MULTIPLIER_MAX,
            rows[..., 2].astype(np.int64) & 0x3F, f["zero_point"], f["low"], f["high"],
            rounding_of(f))

"""The stream of instructions of a tiled program, and how it passes through a short memory.

The instruction memory is a ring of two halves. While one is run, the next part of the program is
loaded into the other; a SYNC at a part's end keeps the fetch from running into what is not there
yet. The host writes the first two parts.
"""

from __future__ import annotations

import numpy as np

from hw.compiler.memory.build import encode_program
from hw.compiler.refusals import DoesNotFit
from hw.compiler.scheduling.schedule import Scheduler
from hw.isa import N_WORDS, LocalMemory, Opcode, decode

__all__ = ["Stream"]

_INSTRUCTION_BYTES = 4 * N_WORDS
_OVERHEAD = 2  # instructions of each part that bring the next one


class Stream:
    """Collects instructions and sets what they wait for.

    Arguments
    ---------
    address : where the whole program lies in external memory, or None where the instruction
        memory holds all of it.
    """

    def __init__(self, program, target, address=None):
        self.program, self.target, self.address = program, target, address
        self.scheduler = Scheduler(target=target)
        self.fields = []
        n_records = target.instruction_words // N_WORDS
        self.parts = (n_records // 2, n_records - n_records // 2)
        self._part, self._left = 0, self.parts[0]
        self._load = 0  # loads that must be complete before the next part

    def bytes_in_parts(self) -> int:
        """Bytes that this program needs in external memory, with what brings it, at most."""
        part = min(self.parts)
        if part <= _OVERHEAD:
            raise DoesNotFit(f"Program '{self.program}' does not fit target "
                             f"{self.target.name}: {len(self.fields)} instructions cannot pass "
                             f"through a memory of {sum(self.parts)}")
        n_parts = -(-len(self.fields) // (part - _OVERHEAD)) + 1
        return (n_parts * part + 4 * sum(self.parts)) * _INSTRUCTION_BYTES

    def add(self, fields) -> int:
        """Append an instruction; returns its number in the whole stream."""
        if self.address is not None and self._left == 1:
            self._end_part()
        self._append(fields)
        return len(self.fields) - 1

    def _append(self, fields):
        known = decode([int(word) for word in encode_program(self.program, [fields])])
        self.fields.append(self.scheduler.add(known))
        self._left -= 1

    def _end_part(self):
        self._append({"opcode": Opcode.SYNC, "wait_load": self._load})
        self._part += 1
        self._left = self.parts[self._part % 2]
        # What this part's half of the ring held before has been fetched: the other one is free.
        following = self._part + 1
        n_records, start = self.parts[following % 2], self.parts[0] * (following % 2)
        first = following // 2 * sum(self.parts) + start
        self._append({
            "opcode": Opcode.LOAD, "external_base": self.address + first * _INSTRUCTION_BYTES,
            "local_memory": LocalMemory.INSTRUCTIONS, "local_base": start * N_WORDS, "n_lines": 1,
            "line_words": n_records * _INSTRUCTION_BYTES // self.target.word_bytes})
        self._load = self.scheduler.counts[2]

    def finish(self) -> np.ndarray:
        """End the program; uint32 words of all of it, filled up to what is loaded."""
        self.add({"opcode": Opcode.HALT})
        words = encode_program(self.program, self.fields)
        if self.address is None:
            return words
        ring = sum(self.parts) * N_WORDS
        # Two parts more than there are: the last ones load what is not there.
        return np.concatenate([words, np.zeros((-len(words)) % ring + 2 * ring, "<u4")])

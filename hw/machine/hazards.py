"""Checks that the waits and chases of a program order all its accesses to the memories.

Time is counted per engine as (instructions completed, progress of the next one), in one number.
For every unit of every instruction the check knows how far each engine is for certain when the
unit begins: from the instruction's waits and chase, from what those instructions waited for
themselves, from the instruction before in the engine and from the SYNCs before. For every word it
knows when its last write and its reads since are over. The second must not be later than the first.

What the hardware orders without waits: the reads of an engine, and its writes, are in the order of
its instructions, and results are written after the reads that they depend on.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golden.errors import LockstepError
from hw.isa import (
    EXTERNAL,
    FIELDS_PER_CHANNEL,
    FORMAT_OF,
    FORMAT_WORDS,
    INSTRUCTIONS,
    N_WORDS,
    Engine,
    Footprint,
    Format,
    LocalMemory,
    Opcode,
    decode,
    local_depths,
)

__all__ = ["check"]

_PROGRESS_WIDTH = 24
_NEVER = -1
_SYNC_WORDS = 3


@dataclass(frozen=True, kw_only=True, eq=False)
class _Issued:
    """An instruction: its number in its engine, and how far all engines are, int64 (units + 1,
    engines): when it starts, and when each unit begins.
    """

    number: int
    progress: np.ndarray
    known: np.ndarray

    def over(self, units):
        """When the results of units are written."""
        return _time(self.number, self.progress[units])


class _AccessTimes:
    """The last write of each word and the last read since, per engine: when, and by whom."""

    def __init__(self, depth):
        self.written = np.full(depth, _NEVER, np.int64)
        self.writer = np.zeros(depth, np.int32)
        self.writer_engine = np.zeros(depth, np.int8)
        self.read = np.full((len(Engine), depth), _NEVER, np.int64)
        self.reader = np.zeros((len(Engine), depth), np.int32)


def check(program_records, target, start=0) -> None:
    """Raise LockstepError for the first instruction whose accesses are not ordered.

    program_records : instructions in the order in which they are fetched, decoded or as words; what
    lies behind a HALT is not looked at. start : place of the first one in the instruction memory.
    """
    records = [f if isinstance(f, dict) else decode([int(word) for word in f])
               for f in program_records]
    program = _Program(records, target)
    for index, f in enumerate(records):
        program.fetch(index, start)
        if f["opcode"] == Opcode.HALT:
            return
        if f["opcode"] == Opcode.SYNC:
            program.synchronise(index)
        elif f["opcode"] not in INSTRUCTIONS or INSTRUCTIONS[f["opcode"]].is_refused(f, target):
            raise LockstepError(f"Instruction {program.name(index)} is refused by the hardware")
        else:
            program.issue(index)


def _time(completed, progress=0):
    return (completed << _PROGRESS_WIDTH) + progress


class _Program:
    def __init__(self, records, target):
        self.records, self.target = records, target
        self.issued = [[] for _ in Engine]
        self.fetched = np.zeros(len(Engine), np.int64)  # what the SYNCs so far have seen
        transfers = [(INSTRUCTIONS[f["opcode"]], f) for f in records
                     if FORMAT_OF.get(f["opcode"]) is Format.TRANSFER]
        lines = [record.outside(f, target).words.ravel() for record, f in transfers]
        self.external = np.unique(np.concatenate(lines) if lines else np.zeros(0, np.int64))
        depths = local_depths(target)
        depths[LocalMemory.PARAMETERS] //= FIELDS_PER_CHANNEL
        self.memories = [_AccessTimes(depth) for depth in [*depths, len(self.external)]]

    def name(self, index):
        """An instruction in messages."""
        opcode = self.records[index]["opcode"]
        known = opcode in Opcode._value2member_map_
        return f"{index} ({Opcode(opcode).name if known else opcode})"

    def fetch(self, index, start):
        """The fetch of an instruction, against the loads of instructions."""
        opcode = self.records[index]["opcode"]
        n_words = 1 if opcode == Opcode.HALT else _SYNC_WORDS
        if opcode in INSTRUCTIONS:
            n_words = FORMAT_WORDS[INSTRUCTIONS[opcode].format]
        record = (start + index) % (self.target.instruction_words // N_WORDS)
        words = record * N_WORDS + np.arange(n_words)
        memory = self.memories[LocalMemory.INSTRUCTIONS]
        late = memory.written[words] > self.fetched[memory.writer_engine[words]]
        self._refuse(late, index, "is fetched from", LocalMemory.INSTRUCTIONS, words,
                     memory.writer[words], "has written")

    def synchronise(self, index):
        """A SYNC."""
        self.fetched = np.maximum(self.fetched, self._waited(index))

    def issue(self, index):
        """An instruction of an engine."""
        f = self.records[index]
        done = INSTRUCTIONS[f["opcode"]].footprint(f, self.target, needed=True)
        mine = self.issued[done.engine]
        known = np.maximum(self._waited(index), self.fetched)
        if mine:
            known = np.maximum(known, mine[-1].known[-1])
        known = np.broadcast_to(known, (len(done.progress) + 1, len(Engine))).copy()
        if f["chase"]:
            known[1:] = np.maximum(known[1:], self._chased(index, len(done.progress)))
            known = np.maximum.accumulate(known)
        issued = _Issued(number=len(mine), progress=done.progress, known=known)
        self._check(index, done, issued)
        self._record(index, done, issued)
        mine.append(issued)

    def _waited(self, index):
        """How far the engines are once an instruction's waits are over."""
        f = self.records[index]
        known = np.zeros(len(Engine), np.int64)
        for engine in Engine:
            count = f[f"wait_{engine.name.lower()}"]
            if count > len(self.issued[engine]):
                raise LockstepError(
                    f"Instruction {self.name(index)} waits for {count} instructions of the engine "
                    f"{engine.name}, but only {len(self.issued[engine])} come before it")
            known = np.maximum(known, self._completed(engine, count))
        return known

    def _completed(self, engine, count):
        """How far the engines are once ``count`` instructions of an engine are completed."""
        known = np.zeros(len(Engine), np.int64)
        if count:
            known = self.issued[engine][count - 1].known[-1].copy()
            known[engine] = _time(count)
        return known

    def _chased(self, index, n_units):
        """How far the engines are when the chase lets each unit begin, int64 (units, engines)."""
        f = self.records[index]
        engine, number = f["chase_engine"], f["chase_number"]
        if number >= len(self.issued[engine]):
            raise LockstepError(
                f"Instruction {self.name(index)} follows number {number} of the engine "
                f"{Engine(engine).name}, but only {len(self.issued[engine])} come before it")
        other = self.issued[engine][number]
        need = (f["chase_first"] + np.arange(n_units) * f["chase_step"]
                & (1 << _PROGRESS_WIDTH) - 1)
        unit = np.minimum(np.searchsorted(other.progress, need), len(other.progress) - 1)
        known = other.known[unit + 1]
        # Progress is reported for whole units of the producer.
        known[:, engine] = np.where(need > other.progress[-1], _time(number + 1),
                                    other.over(unit))
        # Without any the producer need not have begun.
        known[need == 0] = self._completed(engine, number)
        return known

    def _places(self, access):
        """Indices of an access in its memory."""
        if access.memory == EXTERNAL:
            return np.searchsorted(self.external, access.words)
        depth = len(self.memories[access.memory].written)
        return access.words[(0 <= access.words) & (access.words < depth)]

    def _units(self, access, units):
        """Units of the words that _places gives."""
        if access.memory == EXTERNAL:
            return units
        depth = len(self.memories[access.memory].written)
        return units[(0 <= access.words) & (access.words < depth)]

    def _check(self, index, done: Footprint, issued: _Issued):
        known = issued.known
        for access in done.reads:
            places = self._places(access)
            memory = self.memories[access.memory]
            row = 0 if access.is_early else self._units(access, access.first) + 1
            late = memory.written[places] > known[row, memory.writer_engine[places]]
            self._refuse(late, index, "reads", access.memory, places, memory.writer[places],
                         "has written")
        for access in done.writes:
            places = self._places(access)
            memory = self.memories[access.memory]
            row = self._units(access, access.first) + 1
            engine = memory.writer_engine[places]
            late = (memory.written[places] > known[row, engine]) & (engine != done.engine)
            self._refuse(late, index, "writes", access.memory, places, memory.writer[places],
                         "has written")
            for other in Engine:
                if other != done.engine:
                    late = memory.read[other, places] > known[row, other]
                    self._refuse(late, index, "writes", access.memory, places,
                                 memory.reader[other, places], "has read")
        self._check_itself(index)

    def _check_itself(self, index):
        """An instruction must not write what it reads later."""
        f = self.records[index]
        late = INSTRUCTIONS[f["opcode"]].overwritten(f, self.target)
        for memory, words in late.items():
            self._refuse(np.ones(len(words), bool), index, "writes", memory, words,
                         np.full(len(words), index), "has read")

    def _record(self, index, done, issued):
        for access in done.reads:
            places, memory = self._places(access), self.memories[access.memory]
            over = issued.over(self._units(access, access.last))
            memory.read[done.engine, places] = np.maximum(memory.read[done.engine, places], over)
            memory.reader[done.engine, places] = index
        for access in done.writes:
            places, memory = self._places(access), self.memories[access.memory]
            memory.written[places] = issued.over(self._units(access, access.last))
            memory.writer[places] = index
            memory.writer_engine[places] = done.engine
            memory.read[:, places] = _NEVER  # this write came after those reads

    def _refuse(self, late, index, verb, memory, places, others, what):
        if not np.any(late):
            return
        other = others[late][0]
        words = places[late & (others == other)]
        if memory == EXTERNAL:
            words = self.external[words] * self.target.word_bytes
        of = ("external memory" if memory == EXTERNAL else LocalMemory(memory).name)
        raise LockstepError(
            f"Instruction {self.name(index)} {verb} {words.min()}..{words.max()} of {of} perhaps "
            f"before instruction {self.name(other)} {what} it")

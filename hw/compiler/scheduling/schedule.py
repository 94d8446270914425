"""What every instruction must wait for: read after write, write after read, write after write.

Instructions run in order within an engine, and engines side by side. For every word the last
instruction of each engine that wrote or read it is remembered. An instruction waits until those
it depends on are complete; of the producers that it reads from, the latest is chased where that
is earlier: unit i begins once the producer has reported ``chase_first`` + i * ``chase_step``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from hw.isa import (
    EXTERNAL,
    FIELDS_PER_CHANNEL,
    INSTRUCTIONS,
    Engine,
    Extent,
    Footprint,
    LocalMemory,
    local_depths,
)
from hw.targets import Target

__all__ = ["Scheduler", "chase_line"]

_NEVER = -1
_STEP_LIMIT, _FIRST_LIMIT = (1 << 16) - 1, (1 << 24) - 1


@dataclass(eq=False)
class _LastUses:
    """Per word and engine: number (within the engine) of its last writer and reader."""

    writer: np.ndarray
    progress: np.ndarray  # of that writer, once the word is written
    reader: np.ndarray


@dataclass(eq=False)
class Scheduler:
    """Sets the wait and chase fields of instructions, in program order.

    chases: False makes every instruction wait instead, for comparison.
    """

    target: Target
    chases: bool = True
    counts: list[int] = field(default_factory=lambda: [0] * len(Engine))
    _issued: list = field(default_factory=lambda: [[] for _ in Engine])
    _memories: dict = field(default_factory=dict)

    def _memory(self, extent: Extent) -> _LastUses:
        """The memory of an extent; external memory grows as it is used."""
        number = extent.memory
        if number == EXTERNAL:
            size = int(extent.words[-1]) + 1
        else:
            size = local_depths(self.target)[number]
            if number == LocalMemory.PARAMETERS:
                size //= FIELDS_PER_CHANNEL
        known = self._memories.get(number)
        if known is None or known.writer.shape[1] < size:
            old = known.writer.shape[1] if known else 0
            grown = [np.full((len(Engine), size if not old else max(size, 2 * old)), _NEVER,
                             np.int32) for _ in range(3)]
            if known:
                for new, values in zip(grown, (known.writer, known.progress, known.reader)):
                    new[:, :old] = values
            self._memories[number] = known = _LastUses(*grown)
        return known

    def add(self, fields: dict) -> dict:
        """The fields of the next instruction with what it must wait for."""
        record = INSTRUCTIONS.get(fields["opcode"])
        if record is None:
            return fields
        footprint = record.footprint(fields, self.target)
        waits = [0] * len(Engine)
        best = None  # (position in the program, engine, number, units that need it, progress)
        producers = self._producers(footprint)
        for engine, number, units, progress in producers:
            position = self._issued[engine][number][0]
            if self._can_chase(footprint, engine, number, units) and (
                    best is None or position > best[0]):
                best = (position, engine, number, units, progress)
        for engine, number, *_ in producers:
            if best is None or (engine, number) != best[1:3]:
                waits[engine] = max(waits[engine], number + 1)
        self._order_writes(footprint, waits)
        sync = {}
        if best is not None:
            _, engine, number, units, progress = best
            if waits[engine] <= number:  # otherwise it is complete anyway
                sync = self._chase(footprint, engine, number, units, progress)
                if sync is None:
                    waits[engine], sync = number + 1, {}
        for engine in Engine:
            if waits[engine]:
                sync[f"wait_{engine.name.lower()}"] = waits[engine]
        self._remember(footprint)
        return fields | sync

    def _producers(self, footprint: Footprint):
        """[(engine, number, units, progress)] of every instruction that wrote what is read."""
        found = {}
        for extent in footprint.reads:
            memory = self._memory(extent)
            for engine in Engine:
                writer = memory.writer[engine][extent.words]
                for number in np.unique(writer[writer != _NEVER]):
                    mine = writer == number
                    entry = found.setdefault((engine, int(number)), ([], []))
                    entry[0].append(_first_units(extent)[mine])
                    entry[1].append(memory.progress[engine][extent.words[mine]])
        return [(engine, number, np.concatenate(units), np.concatenate(progress))
                for (engine, number), (units, progress) in found.items()]

    def _can_chase(self, footprint, engine, number, units):
        reports = self._issued[engine][number][1]
        return self.chases and reports and (units >= 0).all()

    def _chase(self, footprint, engine, number, units, progress):
        """The chase fields, or None where waiting for the end is as good."""
        total = self._issued[engine][number][1]
        need = np.zeros(footprint.n_units, np.int64)
        np.maximum.at(need, units, progress)
        need = np.maximum.accumulate(need)
        line = chase_line(need, total)
        if line is None:
            return None
        first, step = line
        return {"chase": 1, "chase_engine": int(engine), "chase_number": number,
                "chase_first": first, "chase_step": step}

    def _order_writes(self, footprint, waits):
        """Writes after reads and after writes of other engines; an engine's own are in order."""
        for extent in footprint.writes:
            memory = self._memory(extent)
            for engine in Engine:
                if engine == footprint.engine:
                    continue
                others = (memory.writer[engine][extent.words], memory.reader[engine][extent.words])
                latest = max((int(values.max()) for values in others if values.size),
                             default=_NEVER)
                waits[engine] = max(waits[engine], latest + 1)

    def _remember(self, footprint):
        engine = footprint.engine
        number = self.counts[engine]
        for extent in footprint.reads:
            self._memory(extent).reader[engine][extent.words] = number
        for extent in footprint.writes:
            memory = self._memory(extent)
            memory.writer[engine][extent.words] = number
            memory.progress[engine][extent.words] = footprint.progress[extent.last]
        position = sum(self.counts)
        # What a store has written is waited for whole.
        total = 0 if engine == Engine.STORE else int(footprint.progress[-1])
        self._issued[engine].append((position, total))
        self.counts[engine] += 1

    def everything(self) -> dict:
        """Wait fields for all that has been issued."""
        return {f"wait_{engine.name.lower()}": self.counts[engine] for engine in Engine
                if self.counts[engine]}


def _first_units(extent):
    """The first unit that reads each word; _NEVER where no chase is to hold it back.

    Parameters are few and come in one piece: they are waited for like weights that are read early.
    """
    if extent.is_early or extent.memory == LocalMemory.PARAMETERS:
        return np.full(len(extent.words), _NEVER)
    return extent.first


def chase_line(need, total) -> tuple[int, int] | None:
    """(first, step) with first + i * step >= need[i] wherever need[i] < total, or None.

    Of the whole steps, the one that lies closest above the need, summed over the units; values
    beyond ``total`` count as total, since the producer's end releases every unit.
    """
    unit = np.arange(len(need))
    if need[0] >= total:
        return None
    # The slope up to where the end is needed, or over all where that is the last unit alone.
    ends = {int((need < total).sum()) - 1, len(need) - 1}
    slopes = {(int(need[end]) - int(need[0])) // max(1, end) for end in ends}
    steps = {step for slope in slopes for step in range(slope - 2, slope + 4)} | {0}
    best = None
    for step in sorted(step for step in steps if 0 <= step <= _STEP_LIMIT):
        first = max(0, int((need - unit * step).max()))
        lateness = int((np.minimum(first + unit * step, total) - need).sum())
        if best is None or lateness < best[0]:
            best = (lateness, first, step)
    _, first, step = best
    if first >= total or first > _FIRST_LIMIT:
        return None
    return first, step

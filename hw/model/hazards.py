"""Hazards: dependences between instructions that no wait and no chase covers.

An engine runs and completes its instructions in order, but begins one before the results of the
one before are written. So within an engine only a read after a write needs a wait or a chase,
and writes of the vector engine where MAXPOOL, which writes by a way of its own, is the earlier.
Between engines every read after write, write after read and write after write needs one.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.isa import Engine, Opcode
from hw.model.reach import Reach, reach

__all__ = ["Hazard", "find_hazards"]


@dataclass(frozen=True, kw_only=True)
class Hazard:
    """Instruction ``later`` may run into ``earlier``: places in the program, and how."""

    earlier: int
    later: int
    kind: str  #: RAW, WAR, WAW, or ORDER where it waits for something not before it

    def __str__(self):
        return f"{self.kind}: instruction {self.later} does not wait for {self.earlier}"


@dataclass(eq=False)
class _Issued:
    index: int
    fields: dict
    reach: Reach
    known: list  # per engine: how many instructions are complete once this one begins


def find_hazards(program, target) -> list[Hazard]:
    """program: decoded instructions in order. Returns what is not covered, earliest first."""
    issued = [[] for _ in Engine]
    synced = [0] * len(Engine)  # by a SYNC: nothing behind it is even fetched before
    hazards = []
    for index, fields in enumerate(program):
        waits = [fields[f"wait_{engine.name.lower()}"] for engine in Engine]
        counts = [len(entries) for entries in issued]
        if any(wait > count for wait, count in zip(waits, counts)) or (
                fields["chase"] and fields["chase_number"] >= counts[fields["chase_engine"]]):
            hazards.append(Hazard(earlier=index, later=index, kind="ORDER"))
            continue
        reached = reach(fields, target)
        known = _known(issued, fields, reached, waits, synced)
        if reached is None:
            if fields["opcode"] == Opcode.SYNC:
                synced = known
            continue
        now = _Issued(index, fields, reached, known)
        for engine in Engine:
            for number in range(known[engine], counts[engine]):
                hazards += _between(issued[engine][number], now, number)
        issued[reached.engine].append(now)
    return hazards


def _known(issued, fields, reached, waits, synced):
    known = [max(pair) for pair in zip(waits, synced)]
    if reached is not None and issued[reached.engine]:
        known = [max(pair) for pair in zip(known, issued[reached.engine][-1].known)]
    if fields["chase"]:  # those before the chased one
        engine = fields["chase_engine"]
        known[engine] = max(known[engine], fields["chase_number"])
    while True:  # what was complete when something complete began is complete
        more = list(known)
        for engine in Engine:
            if known[engine]:
                more = [max(pair) for pair in zip(more, issued[engine][known[engine] - 1].known)]
        if more == known:
            return known
        known = more


def _between(earlier, now, number):
    same = earlier.reach.engine == now.reach.engine
    ways = same and not (earlier.fields["opcode"] == Opcode.MAXPOOL)
    kinds = []
    if any(_uncovered(earlier, now, number, write, read)
           for write in earlier.reach.writes for read in now.reach.reads):
        kinds.append("RAW")
    if not same and _meet(earlier.reach.reads, now.reach.writes):
        kinds.append("WAR")
    if not ways and _meet(earlier.reach.writes, now.reach.writes):
        kinds.append("WAW")
    return [Hazard(earlier=earlier.index, later=now.index, kind=kind) for kind in kinds]


def _meet(ones, others):
    return any(one.memory == other.memory and np.isin(one.words, other.words,
                                                      assume_unique=True).any()
               for one in ones for other in others)


def _uncovered(earlier, now, number, write, read):
    """Whether a word that is read may not have been written."""
    if write.memory != read.memory:
        return False
    _, at_write, at_read = np.intersect1d(write.words, read.words, assume_unique=True,
                                          return_indices=True)
    if not at_write.size:
        return False
    f = now.fields
    if not f["chase"] or f["chase_engine"] != earlier.reach.engine or f["chase_number"] != number:
        return True
    unit, progress = read.when[at_read], write.when[at_write]
    # Progress beyond what is ever reported is the producer's end.
    reported = f["chase_first"] + unit * f["chase_step"]
    return bool((unit < 0).any() or (reported < progress).any())

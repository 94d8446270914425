"""A cycle estimate of a compiled program: engines, waits, chases and shared lanes, unit by unit.

Each engine works on one unit at a time at a rate that the lanes left over by the array may limit.
Constants are fitted to the RTL; the result is meant to be within a few percent.
"""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field

from hw.isa import FORMAT_WORDS, INSTRUCTIONS, N_WORDS, Engine, Opcode, decode

__all__ = ["Estimate", "InstructionEstimate", "estimate", "estimate_fields"]

_FETCH, _SYNC_WORDS = 11, 3  # cycles of a fetch beside its words
_BEGIN = {Engine.ARRAY: 11, Engine.VECTOR: 17, Engine.LOAD: 13, Engine.STORE: 13}
_NEXT_UNIT = {Engine.ARRAY: 0, Engine.VECTOR: 5, Engine.LOAD: 4, Engine.STORE: 4}
_RESULT = {Engine.ARRAY: 60, Engine.VECTOR: 44, Engine.LOAD: 48, Engine.STORE: 30}
_HALT = 30
_MOST_UNITS = 512


@dataclass(kw_only=True)
class InstructionEstimate:
    """begin, end: cycles from the program's start; busy: units at work; items: uses of a lane."""

    opcode: Opcode
    begin: float = 0
    end: float = 0
    busy: float = 0
    items: float = 0


@dataclass(kw_only=True)
class Estimate:
    """cycles from start to done; one InstructionEstimate per instruction."""

    cycles: int
    instructions: list[InstructionEstimate]

    def table(self) -> str:
        """One line per instruction."""
        lines = [f"{'':>4} {'operation':<10} {'begin':>9} {'end':>9} {'busy':>9} {'lanes':>9}"]
        for index, one in enumerate(self.instructions):
            lines.append(f"{index:>4} {one.opcode.name:<10} {one.begin:>9.0f} {one.end:>9.0f} "
                         f"{one.busy:>9.0f} {one.items:>9.0f}")
        return "\n".join([*lines, f"{self.cycles} cycles"])


@dataclass
class _Engine:
    number: Engine
    slot: int | None = None  # fetched, not begun
    slot_from: float = 0
    running: int | None = None
    unit: int = 0
    group: int = 1  # units that are simulated as one
    units: int = 0
    left: float | None = None  # of the present unit, from 1 to 0
    begin_from: float = 0
    cycles: float = 0
    items: float = 0
    completed: int = 0
    progress: int = 0
    pending: list = field(default_factory=list)


def estimate(image) -> Estimate:
    """The cycles that one run of an image takes."""
    records = image.instructions.reshape(-1, N_WORDS)
    return estimate_fields([decode([int(w) for w in record]) for record in records],
                           image.target)


def estimate_fields(program, target) -> Estimate:
    """The same of decoded instructions, up to HALT."""
    return _Simulation(program, target).run()


class _Simulation:
    def __init__(self, program, target):
        self.program, self.target = program, target
        self.records = [INSTRUCTIONS.get(f["opcode"]) for f in program]
        self.costs = [record and record.cost(f, target)
                      for record, f in zip(self.records, program)]
        self.engines = {number: _Engine(number) for number in Engine}
        self.results = [InstructionEstimate(opcode=Opcode(f["opcode"])) for f in program]
        self.time = 0.0
        self.events = []  # (time, engine, progress, completes)
        self.fetched = 0
        self.fetch_done = self._fetch_cycles(0)

    def _fetch_cycles(self, index):
        if index >= len(self.program):
            return float("inf")
        record = self.records[index]
        words = (FORMAT_WORDS[record.format] if record else
                 _SYNC_WORDS if self.program[index]["opcode"] == Opcode.SYNC else 0)
        return self.time + words + _FETCH

    def run(self) -> Estimate:
        while True:
            while self._transitions():
                pass
            if self.fetched >= len(self.program) or (
                    self.program[self.fetched]["opcode"] == Opcode.HALT and self._idle()):
                break
            self._advance()
        return Estimate(cycles=round(self.time + _HALT), instructions=self.results)

    def _idle(self):
        return not self.events and self.fetch_done <= self.time and all(
            engine.running is None and engine.slot is None for engine in self.engines.values())

    def _met(self, f):
        return all(self.engines[e].completed >= f[f"wait_{e.name.lower()}"] for e in Engine)

    def _transitions(self):
        changed = False
        while self.events and self.events[0][0] <= self.time:
            _, number, progress, completes = heapq.heappop(self.events)
            engine = self.engines[number]
            if completes:
                engine.completed, engine.progress = engine.completed + 1, 0
            else:
                engine.progress += progress
            changed = True
        for engine in self.engines.values():
            changed |= self._begin(engine) | self._begin_unit(engine)
        return changed | self._fetch()

    def _fetch(self):
        if self.fetched >= len(self.program) or self.fetch_done > self.time:
            return False
        f = self.program[self.fetched]
        record = self.records[self.fetched]
        if record is None:
            if f["opcode"] != Opcode.SYNC or not self._met(f):
                return False
        else:
            engine = self.engines[record.engine]
            if engine.slot is not None:
                return False
            engine.slot, engine.slot_from = self.fetched, self.time + 3
        self.fetched += 1
        self.fetch_done = self._fetch_cycles(self.fetched)
        return True

    def _begin(self, engine):
        if (engine.running is not None or engine.slot is None or self.time < engine.slot_from
                or not self._met(self.program[engine.slot])):
            return False
        engine.running, engine.slot = engine.slot, None
        cost = self.costs[engine.running]
        engine.group = -(-cost.units // _MOST_UNITS)
        engine.units, engine.unit, engine.left = cost.units, 0, None
        engine.cycles, engine.items = cost.cycles, cost.items
        engine.begin_from = self.time + _BEGIN[engine.number] + cost.before
        self.results[engine.running].begin = self.time
        self.results[engine.running].items = cost.units * cost.items
        return True

    def _begin_unit(self, engine):
        if engine.running is None or engine.left is not None or self.time < engine.begin_from:
            return False
        f = self.program[engine.running]
        if f["chase"]:
            producer = self.engines[Engine(f["chase_engine"])]
            last = min(engine.unit + engine.group, engine.units) - 1
            need = f["chase_first"] + last * f["chase_step"]
            if not (producer.completed > f["chase_number"]
                    or (producer.completed == f["chase_number"] and producer.progress >= need)):
                return False
        engine.left = 1.0
        return True

    def _speed(self, engine):
        """Units per cycle."""
        n = min(engine.group, engine.units - engine.unit)
        cycles = n * max(engine.cycles, _NEXT_UNIT[engine.number])
        if engine.number != Engine.VECTOR or not engine.items:
            return 1 / max(1, cycles)
        array = self.engines[Engine.ARRAY]
        share = array.items / array.cycles if array.left is not None else 0
        return 1 / max(1, cycles, n * engine.items / max(1 - share, 0.02))

    def _advance(self):
        times = [self.fetch_done if self.fetch_done > self.time else float("inf")]
        times += [event[0] for event in self.events[:1]]
        speeds = {}
        for engine in self.engines.values():
            if engine.left is not None:
                speeds[engine.number] = self._speed(engine)
                times.append(self.time + engine.left / speeds[engine.number])
            elif engine.running is not None and engine.begin_from > self.time:
                times.append(engine.begin_from)
            if engine.slot is not None and engine.slot_from > self.time:
                times.append(engine.slot_from)
        then = min(times)
        if then == float("inf"):
            stuck = {e.number.name: (e.running, e.slot) for e in self.engines.values()}
            raise RuntimeError(f"The program waits for ever: {stuck}")
        for engine in self.engines.values():
            if engine.left is None:
                continue
            engine.left -= (then - self.time) * speeds[engine.number]
            self.results[engine.running].busy += then - self.time
            if engine.left < 1e-9:
                self._unit_over(engine, then)
        self.time = then

    def _unit_over(self, engine, now):
        n = min(engine.group, engine.units - engine.unit)
        f, record = self.program[engine.running], self.records[engine.running]
        late = now + _RESULT[engine.number] + self.costs[engine.running].after
        engine.left = None
        engine.unit += n
        engine.begin_from = now
        heapq.heappush(self.events, (late, engine.number,
                                     n * record.unit_progress(f, self.target), False))
        if engine.unit >= engine.units:
            heapq.heappush(self.events, (late, engine.number, 1 << 30, True))
            self.results[engine.running].end = late
            engine.running = None

"""An engine's slot: what an instruction waits for, and the chase of a producer, however slow."""

import random

import pytest

from hw.isa import FORMAT_WORDS, Engine, Format, Opcode, encode
from hw.rtl.control.slot import EngineSlot
from tests.hw.simulate import run_testbench

#: Cycles from ``start`` and ``unit_next`` until ``unit_ready`` is right.
READY_CYCLES = 3


class Producer:
    """Instructions of an engine, unit by unit, each unit some random time after the one before.

    units : progress of each unit, per instruction. slowest : cycles that a unit takes at most.
    """

    def __init__(self, units, *, seed, slowest):
        self.rng, self.slowest = random.Random(seed), slowest
        self.todo = [(number, size) for number, sizes in enumerate(units) for size in sizes]
        self.left = dict(enumerate(map(len, units)))
        self.completed = self.progress = 0
        self.wait = self._time()

    def _time(self):
        return self.rng.randint(1, self.slowest)

    def cycle(self):
        """A cycle passes."""
        self.wait -= 1
        if self.todo and self.wait <= 0:
            number, size = self.todo.pop(0)
            self.left[number] -= 1
            self.progress += size
            if not self.left[number]:  # the end of an instruction
                self.completed, self.progress = self.completed + 1, 0
            self.wait = self._time()


def run(fields, producer, n_units, *, engine=Engine.ARRAY, unit_cycles=5):
    """One instruction with ``n_units`` units; returns what the producer had done at each's begin.

    The start comes first: [(completed, progress), ...] with one entry more than there are units.
    """
    dut = EngineSlot(Format.VECTOR)
    begins = []

    async def testbench(ctx):
        async def tick():
            await ctx.tick()
            producer.cycle()
            ctx.set(dut.completed[engine], producer.completed)
            ctx.set(dut.progress[engine], producer.progress)

        for word in encode(Opcode.MAXPOOL, **fields)[:FORMAT_WORDS[Format.VECTOR]]:
            ctx.set(dut.write, 1)
            ctx.set(dut.write_data, word)
            await tick()
        ctx.set(dut.write, 0)
        ctx.set(dut.commit, 1)
        await tick()
        ctx.set(dut.commit, 0)
        quiet = 0

        async def until(flag):
            nonlocal quiet
            while not ctx.get(flag):
                await tick()
                quiet += 1
                assert quiet < 5000, f"the chase is stuck after {begins}"

        await until(dut.start)
        begins.append((producer.completed, producer.progress))
        for _ in range(n_units):
            for _ in range(READY_CYCLES):
                await tick()
            await until(dut.unit_ready)
            begins.append((producer.completed, producer.progress))
            ctx.set(dut.unit_next, 1)
            await tick()
            ctx.set(dut.unit_next, 0)
            for _ in range(unit_cycles):
                await tick()
        ctx.set(dut.done, 1)
        await tick()
        ctx.set(dut.done, 0)
        await tick()
        await tick()
        assert not ctx.get(dut.running)

    run_testbench(dut, testbench)
    return begins


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize(("slowest", "unit_cycles"), [(60, 1), (3, 1), (3, 40)])
def test_a_unit_begins_once_its_producer_has_done_what_it_needs(engine, slowest, unit_cycles):
    number, first, step, n_units = 1, 5, 3, 6
    units = [[4] * 3, [2, 1] * 8, [1] * 4]  # the second instruction is chased
    begins = run({"chase": 1, "chase_engine": engine, "chase_number": number,
                  "chase_first": first, "chase_step": step},
                 Producer(units, seed=slowest, slowest=slowest), n_units, engine=engine,
                 unit_cycles=unit_cycles)
    for unit, (completed, progress) in enumerate(begins[1:]):
        need = first + unit * step
        assert completed > number or (completed == number and progress >= need), (unit, begins)
    assert slowest < 60 or begins[1][0] == number  # not as late as the producer's end


def test_without_a_chase_no_unit_waits():
    producer = Producer([[1] * 1000], seed=0, slowest=60)
    begins = run({"chase": 0, "chase_engine": Engine.ARRAY, "chase_first": 999}, producer, 5)
    assert begins[-1][0] == 0
    assert begins[-1][1] < 10


def test_an_instruction_starts_once_what_it_waits_for_is_complete():
    units = [[1] * 3] * 4
    begins = run({"wait_load": 3}, Producer(units, seed=1, slowest=20), 1, engine=Engine.LOAD)
    assert begins[0][0] == 3

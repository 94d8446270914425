"""Control registers and counters: 64 bits that carry, one cause per cycle, settings that stay."""

import pytest

from hw.isa import Counter, Engine, Register
from hw.rtl.control.registers import ControlRegisters
from hw.targets import get_target
from tests.hw.simulate import run_testbench

CAUSES = [Counter(k) for k in range(Counter.ARRAY_BUSY, Counter.ARRAY_FETCH + 1)]
WAITS = {Engine.ARRAY: Counter.ARRAY_WAIT_ARRAY, Engine.VECTOR: Counter.ARRAY_WAIT_VECTOR,
         Engine.LOAD: Counter.ARRAY_WAIT_LOAD, Engine.STORE: Counter.ARRAY_WAIT_STORE}


class Registers(ControlRegisters):
    """Shows its counters to the tests."""

    def _count(self, m):
        self.counts = super()._count(m)
        return self.counts


def simulate(script):
    dut = Registers(get_target("sim-8x8-axi"))

    async def testbench(ctx):
        await script(ctx, dut)

    run_testbench(dut, testbench)


async def read(ctx, dut, offset):
    """(known, value) of a register."""
    ctx.set(dut.offset, offset)
    await ctx.tick().repeat(dut.READ_LATENCY)
    return ctx.get(dut.known), ctx.get(dut.read_data)


async def read_counter(ctx, dut, counter):
    halves = [await read(ctx, dut, Register.COUNTERS + 8 * counter + 4 * k) for k in range(2)]
    assert all(known for known, _ in halves)
    return halves[0][1] | halves[1][1] << 32


async def write(ctx, dut, offset, value):
    ctx.set(dut.offset, offset)
    ctx.set(dut.write_data, value)
    ctx.set(dut.write, 1)
    await ctx.tick()
    ctx.set(dut.write, 0)
    await ctx.tick().repeat(dut.WRITE_LATENCY - 1)


@pytest.mark.parametrize("counter", [Counter.CYCLES, Counter.ARRAY_FETCH, Counter.LOAD_BYTES,
                                     Counter.STORE_BYTES])
def test_counters_carry_into_the_high_word_and_are_cleared(counter):
    n_cycles, start = 5, (1 << 32) - 3

    async def script(ctx, dut):
        amount = {Counter.LOAD_BYTES: 8, Counter.STORE_BYTES: 16}.get(counter, 1)
        ctx.set(dut.load_bytes, 8)
        ctx.set(dut.store_bytes, 16)
        await ctx.tick()  # the counters are cleared behind a reset
        ctx.set(dut.counts[counter], start)
        ctx.set(dut.run.busy, 1)
        await ctx.tick().repeat(n_cycles)
        ctx.set(dut.run.busy, 0)
        await ctx.tick().repeat(2)
        assert await read_counter(ctx, dut, counter) == start + n_cycles * amount
        ctx.set(dut.run.begin, 1)
        await ctx.tick()
        ctx.set(dut.run.begin, 0)
        for other in Counter:
            assert await read_counter(ctx, dut, other) == 0

    simulate(script)


SITUATIONS = [
    ({"go": 1, "waiting": 1, "blocked": 0b1111}, Counter.ARRAY_BUSY),
    ({"draining": 1, "waiting": 1, "blocked": 0b1}, Counter.ARRAY_DRAIN),
    ({"chasing": 1, "waiting": 1, "blocked": 0b10}, Counter.ARRAY_CHASE),
    ({"waiting": 1}, Counter.ARRAY_FETCH),
    ({"blocked": 0b1111}, Counter.ARRAY_FETCH),
    ({}, Counter.ARRAY_FETCH),
    *(({"waiting": 1, "blocked": 0b1111 << engine & 0b1111}, counter)
      for engine, counter in WAITS.items()),
]


@pytest.mark.parametrize(("signals", "cause"), SITUATIONS)
def test_every_cycle_has_one_cause(signals, cause):
    async def script(ctx, dut):
        places = {"go": dut.activity.go, "draining": dut.activity.draining,
                  "chasing": dut.activity.chasing, "waiting": dut.array.waiting,
                  "blocked": dut.array.blocked}
        for name, value in signals.items():
            ctx.set(places[name], value)
        ctx.set(dut.run.busy, 1)
        await ctx.tick().repeat(7)
        ctx.set(dut.run.busy, 0)
        await ctx.tick().repeat(2)
        found = {counter: await read_counter(ctx, dut, counter) for counter in CAUSES}
        assert found == dict.fromkeys(CAUSES, 0) | {cause: 7}
        assert await read_counter(ctx, dut, Counter.CYCLES) == 7

    simulate(script)


def test_settings_stay_and_a_stop_moves_the_program_on():
    async def script(ctx, dut):
        for register, signal in ((Register.REGION_BASE, dut.region.base),
                                 (Register.REGION_LIMIT, dut.region.limit),
                                 (Register.WATCHDOG, dut.run.watchdog_limit),
                                 (Register.CYCLE_LIMIT, dut.run.cycle_limit)):
            await write(ctx, dut, register, 0xC0DE0000 + register)
            assert ctx.get(signal) == 0xC0DE0000 + register
            assert await read(ctx, dut, register) == (1, 0xC0DE0000 + register)
        await write(ctx, dut, Register.PROGRAM_ADDRESS, 5)
        assert ctx.get(dut.run.program_address) == 5
        ctx.set(dut.run.busy, 1)
        ctx.set(dut.run.index, 9)
        await ctx.tick()
        ctx.set(dut.run.busy, 0)
        await ctx.tick()
        assert await read(ctx, dut, Register.PROGRAM_ADDRESS) == (1, 9)
        assert ctx.get(dut.run.resume), "the program goes on where it has stopped"
        await write(ctx, dut, Register.PROGRAM_ADDRESS, 9)
        assert not ctx.get(dut.run.resume), "the host has named a place"

    simulate(script)


def test_starts_and_aborts_are_pulses():
    async def script(ctx, dut):
        await write(ctx, dut, Register.CONTROL, 0b100)
        assert not ctx.get(dut.run.abort_request), "nothing runs"
        await write(ctx, dut, Register.CONTROL, 0b011)
        assert (ctx.get(dut.run.start), ctx.get(dut.run.single_step)) == (1, 1)
        ctx.set(dut.run.busy, 1)
        await ctx.tick()
        assert not ctx.get(dut.run.start)
        await write(ctx, dut, Register.CONTROL, 0b101)
        assert (ctx.get(dut.run.start), ctx.get(dut.run.abort_request)) == (0, 1)
        await ctx.tick()
        assert not ctx.get(dut.run.abort_request)

    simulate(script)

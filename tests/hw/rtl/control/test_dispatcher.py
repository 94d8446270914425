"""The dispatcher with engines that only take time: order, waits, chases, errors, the watchdog."""

# amaranth: UnusedElaboratable=no

import random

import pytest

from hw.isa import N_WORDS, Engine, ErrorCode, Opcode, encode
from hw.rtl.control.dispatcher import Dispatcher
from hw.targets import get_target
from tests.hw.simulate import component, run_testbench

pytestmark = pytest.mark.slow

TARGET = get_target("sim-8x8-axi")
LATENCY = 2
OPCODES = {Engine.ARRAY: Opcode.MATMUL, Engine.VECTOR: Opcode.ADD, Engine.LOAD: Opcode.LOAD,
           Engine.STORE: Opcode.STORE}
END = [encode(Opcode.HALT)]


class Engines:
    """Fake engines: an instruction takes ``external_base`` cycles or, for the others, chosen ones.

    events: (cycle, "start" or "complete", engine, its number). refuse, stuck, lost, bad_read,
    bad_result : an engine and a number there, of an instruction that is refused, never done, never
    complete, or reads or writes what is not there.
    """

    def __init__(self, seed=0, *, length=20, refuse=None, stuck=None, lost=None, bad_read=None,
                 bad_result=None):
        self.rng = random.Random(seed)
        self.length, self.refuse, self.stuck, self.lost = length, refuse, stuck, lost
        self.bad_read, self.bad_result = bad_read, bad_result
        self.shared = {}  # what a shared unit says after so many cycles
        self.events = []
        self.units = []

    def process(self, dut, engine):
        port = dut.engines[engine]
        control, written = port.control, port.written

        async def testbench(ctx):
            number = 0
            cycle = 0
            todo = []  # (cycle at which it completes)
            running = 0
            while True:
                ctx.set(control.done, 0)
                ctx.set(written.complete, 0)
                ctx.set(control.unit_next, 0)
                ctx.set(control.error, 0)
                started = ctx.get(control.start)
                if ctx.get(control.abort):
                    running, todo = 0, []
                elif started:
                    self.events.append((cycle, "start", engine, number))
                    if self.refuse == (engine, number):
                        ctx.set(control.error, ErrorCode.FIELD)
                    else:
                        running = self.rng.randint(4, self.length)
                        if self.stuck == (engine, number):
                            running = 1 << 30
                    number += 1
                elif running:
                    running -= 1
                    if running == 0:
                        ctx.set(control.done, 1)
                        if self.bad_read == (engine, number - 1):  # its last, a cycle later
                            self.shared[cycle + 1 + Dispatcher.SHARED_LATENCY] = (engine, 0)
                        last = todo[-1] if todo else cycle
                        todo.append(max(last + 1, cycle + self.rng.randint(0, 30)))
                done = sum(e[1:3] == ("complete", engine) for e in self.events)
                if todo and todo[0] <= cycle and self.lost != (engine, done):
                    todo.pop(0)
                    ctx.set(written.complete, 1)
                    if self.bad_result == (engine, done):
                        self.shared[cycle + Dispatcher.SHARED_LATENCY] = (engine, 1)
                    self.events.append((cycle, "complete", engine, done))
                if cycle in self.shared:
                    where, of_result = self.shared.pop(cycle)
                    ctx.set(dut.shared.engine, where)
                    ctx.set(dut.shared.of_result, of_result)
                    ctx.set(dut.shared.code, ErrorCode.ADDRESS)
                await ctx.tick()
                cycle += 1
        return testbench


def fetch_process(dut, program):
    """The instruction memory."""
    memory = [word for record in program for word in record]

    async def testbench(ctx):
        pipe = [0] * LATENCY
        while True:
            address = ctx.get(dut.fetch_address)
            pipe = [memory[address] if address < len(memory) else 0, *pipe[:-1]]
            await ctx.tick()
            ctx.set(dut.fetch_data, pipe[LATENCY - 1] if LATENCY > 1 else pipe[0])
    return testbench


def run(program, engines, *, limit=20000, watchdog=1 << 20, cycle_limit=0, single_step=False,
        at=0, target=TARGET):
    """Play a program; returns (error, index, cycles, abort seen)."""
    dut = component(Dispatcher, target=target, fetch_latency=LATENCY)
    result = {}

    async def testbench(ctx):
        ctx.set(dut.run.watchdog_limit, watchdog)
        ctx.set(dut.run.cycle_limit, cycle_limit)
        ctx.set(dut.run.program_address, at)
        ctx.set(dut.run.single_step, single_step)
        ctx.set(dut.run.start, 1)
        await ctx.tick()
        ctx.set(dut.run.start, 0)
        aborted = 0
        for cycle in range(limit):
            await ctx.tick()
            aborted |= ctx.get(dut.array.control.abort)
            if ctx.get(dut.run.done):
                result.update(error=ErrorCode(ctx.get(dut.run.error)), index=ctx.get(dut.run.index),
                              cycles=cycle, aborted=aborted)
                return
        raise AssertionError("the program did not end")

    run_testbench(dut, testbench, fetch_process(dut, program),
                  *(engines.process(dut, engine) for engine in Engine))
    return result


def random_program(rng, n):
    """Random instructions that wait for random earlier ones; returns records and their waits."""
    issued = dict.fromkeys(Engine, 0)
    records, waits = [], []
    for _ in range(n):
        engine = rng.choice(list(Engine))
        needs = {other: rng.randint(0, count) for other, count in issued.items()}
        records.append(encode(OPCODES[engine], **{f"wait_{e.name.lower()}": k
                                                  for e, k in needs.items()}))
        waits.append((engine, issued[engine], needs))
        issued[engine] += 1
    return records + END, waits


@pytest.mark.parametrize("seed", [
    0, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(1, 4))])
def test_every_wait_is_kept_and_everything_runs(seed):
    program, waits = random_program(random.Random(seed), 40)
    engines = Engines(seed)
    result = run(program, engines)
    assert (result["error"], result["index"]) == (ErrorCode.NONE, 40)
    starts = {e[2:]: e[0] for e in engines.events if e[1] == "start"}
    completes = {e[2:]: e[0] for e in engines.events if e[1] == "complete"}
    assert len(starts) == len(completes) == 40
    for engine, number, needs in waits:
        for other, count in needs.items():
            if count:
                assert completes[other, count - 1] < starts[engine, number]


def test_engines_overlap():
    program = [encode(OPCODES[engine]) for engine in Engine] * 5 + END
    engines = Engines(length=200)
    run(program, engines)
    running, most = set(), 0
    for _, what, *who in sorted(engines.events, key=lambda e: e[0]):
        (running.add if what == "start" else running.discard)(tuple(who))
        most = max(most, len(running))
    assert most >= 4


@pytest.mark.parametrize(("word", "error"), [(15, ErrorCode.OPCODE), (3, ErrorCode.OPCODE)])
def test_an_unknown_operation_ends_the_run_behind_the_ones_before(word, error):
    program = [encode(Opcode.ADD), encode(Opcode.MATMUL), [word] + [0] * (N_WORDS - 1), *END]
    engines = Engines()
    result = run(program, engines)
    assert (result["error"], result["index"]) == (error, 2)
    assert sum(e[1] == "complete" for e in engines.events) == 2


def test_loads_are_unknown_without_external_memory():
    result = run([encode(Opcode.LOAD), *END], Engines(), target=get_target("sim-8x8"))
    assert (result["error"], result["index"]) == (ErrorCode.OPCODE, 0)


def test_an_engines_error_names_its_instruction():
    program = [encode(Opcode.ADD), encode(Opcode.MATMUL), encode(Opcode.ADD),
               encode(Opcode.MATMUL), *END]
    result = run(program, Engines(refuse=(Engine.ARRAY, 1)))
    assert (result["error"], result["index"]) == (ErrorCode.FIELD, 3)
    assert result["aborted"]


def test_the_watchdog_ends_what_is_stuck():
    program = [encode(Opcode.ADD), encode(Opcode.MATMUL), *END]
    result = run(program, Engines(stuck=(Engine.ARRAY, 0)), watchdog=500)
    assert (result["error"], result["index"]) == (ErrorCode.WATCHDOG, 1)


WAITS = {"wait_array": 3}  # for ever


@pytest.mark.parametrize(("program", "index", "faults"), [
    ([encode(Opcode.ADD, **WAITS)], 0, {}),
    ([encode(Opcode.MATMUL), encode(Opcode.ADD, **WAITS), encode(Opcode.SYNC)], 1, {}),
    ([encode(Opcode.MATMUL), encode(Opcode.STORE, **WAITS), encode(Opcode.LOAD),
      encode(Opcode.STORE), encode(Opcode.MATMUL)], 1, {}),
    ([encode(Opcode.MATMUL), encode(Opcode.SYNC, **WAITS), encode(Opcode.ADD)], 1, {}),
    ([encode(Opcode.MATMUL), encode(Opcode.ADD, **WAITS), encode(Opcode.SYNC, **WAITS)], 1, {}),
    # An engine that runs comes before one that waits, whatever their order.
    ([encode(Opcode.MATMUL, **WAITS), encode(Opcode.ADD), encode(Opcode.LOAD)], 2,
     {"stuck": (Engine.LOAD, 0)}),
    # Its instruction has gone through the engine, and its results never come.
    ([encode(Opcode.MATMUL), encode(Opcode.ADD), encode(Opcode.ADD, wait_vector=2)], 1,
     {"lost": (Engine.VECTOR, 0)}),
])
def test_a_wait_that_never_comes_is_ended_with_the_index_of_what_waits(program, index, faults):
    result = run([*program, *END], Engines(**faults), watchdog=400)
    assert (result["error"], result["index"]) == (ErrorCode.WATCHDOG, index)


@pytest.mark.parametrize("engine", Engine)
@pytest.mark.parametrize("seed", [
    0, 1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 5))])
def test_an_error_of_a_shared_unit_names_the_instruction_it_found(engine, seed):
    rng = random.Random(seed)
    others = [encode(OPCODES[rng.choice(list(Engine))]) for _ in range(8)]
    program = [record for other in others for record in (other, encode(OPCODES[engine]))]
    places = [k for k, record in enumerate(program) if record[0] & 0xF == OPCODES[engine]]
    number = rng.choice([0, rng.randrange(len(places)), len(places) - 1])
    for kind in "bad_read", "bad_result":
        engines = Engines(seed, length=6, **{kind: (engine, number)})
        result = run([*program, *END], engines)
        assert (result["error"], result["index"]) == (ErrorCode.ADDRESS, places[number]), kind


def test_an_error_in_the_last_result_of_a_program_is_not_lost():
    for seed in range(5):
        engines = Engines(seed, bad_result=(Engine.VECTOR, 0))
        result = run([encode(Opcode.ADD), *END], engines)
        assert (result["error"], result["index"]) == (ErrorCode.ADDRESS, 0)


def test_nothing_is_left_of_an_error_when_the_next_run_starts_at_once():
    dut = component(Dispatcher, target=TARGET, fetch_latency=LATENCY)

    async def testbench(ctx):
        ctx.set(dut.run.watchdog_limit, 1 << 20)
        for wrong in True, False:
            ctx.set(dut.run.start, 1)
            await ctx.tick()
            ctx.set(dut.run.start, 0)
            ctx.set(dut.shared.code, ErrorCode.ADDRESS if wrong else ErrorCode.NONE)
            await ctx.tick()  # busy comes a cycle later
            cycles = 0
            while ctx.get(dut.run.busy):
                await ctx.tick()
                cycles += 1
                assert cycles < 1000
            assert ctx.get(dut.run.done)
            assert ctx.get(dut.run.error) == (ErrorCode.ADDRESS if wrong else ErrorCode.NONE)

    run_testbench(dut, testbench)


def test_the_cycle_limit_ends_a_run():
    program = [encode(Opcode.MATMUL)] * 20 + END
    result = run(program, Engines(), cycle_limit=300)
    assert result["error"] == ErrorCode.WATCHDOG
    assert result["cycles"] < 700


def test_sync_holds_the_fetch():
    program = [encode(Opcode.MATMUL), encode(Opcode.SYNC, wait_array=1), encode(Opcode.ADD), *END]
    engines = Engines(length=200)
    run(program, engines)
    (end,) = (e[0] for e in engines.events if e[1:3] == ("complete", Engine.ARRAY))
    (start,) = (e[0] for e in engines.events if e[1:3] == ("start", Engine.VECTOR))
    assert start > end


def test_single_step_runs_one_instruction_to_its_end():
    program = [encode(Opcode.MATMUL), encode(Opcode.ADD), *END]
    engines = Engines()
    result = run(program, engines, single_step=True)
    assert (result["error"], result["index"]) == (ErrorCode.NONE, 1)
    assert [e[1:] for e in engines.events] == [("start", Engine.ARRAY, 0),
                                               ("complete", Engine.ARRAY, 0)]


def test_the_program_memory_is_a_ring():
    n = TARGET.instruction_words // N_WORDS
    program = END + [encode(Opcode.ADD)] * (n - 1)
    engines = Engines()
    result = run(program, engines, at=n - 3)
    assert (result["error"], result["index"]) == (ErrorCode.NONE, n)
    assert sum(e[1] == "complete" for e in engines.events) == 3


def single_steps(program, engines, *, at, n_steps, resume=True):
    """Steps like those of the registers; returns (error, index) after each."""
    dut = component(Dispatcher, target=TARGET, fetch_latency=LATENCY)
    seen = []

    async def testbench(ctx):
        run = dut.run
        ctx.set(run.watchdog_limit, 1 << 20)
        ctx.set(run.single_step, 1)
        ctx.set(run.program_address, at)
        for _ in range(n_steps):
            ctx.set(run.start, 1)
            await ctx.tick()
            ctx.set(run.start, 0)
            await ctx.tick()
            await ctx.tick().until(~run.busy)
            seen.append((ErrorCode(ctx.get(run.error)), ctx.get(run.index)))
            ctx.set(run.program_address, ctx.get(run.index))
            ctx.set(run.resume, int(resume))

    run_testbench(dut, testbench, fetch_process(dut, program),
                  *(engines.process(dut, engine) for engine in Engine))
    return seen


def test_single_steps_count_on_behind_the_end_of_the_ring():
    n = TARGET.instruction_words // N_WORDS
    program = [encode(Opcode.ADD)] * 2 + [encode(Opcode.MATMUL)] + [encode(Opcode.ADD)] * (n - 3)
    engines = Engines(refuse=(Engine.ARRAY, 0))
    seen = single_steps(program, engines, at=n - 2, n_steps=5)
    assert seen == [*((ErrorCode.NONE, n - 1 + k) for k in range(4)), (ErrorCode.FIELD, n + 2)]
    assert [e[1:] for e in engines.events if e[1] == "start"] == [
        *(("start", Engine.VECTOR, k) for k in range(4)), ("start", Engine.ARRAY, 0)]


def test_an_address_behind_the_memory_is_refused_where_nothing_goes_on():
    n = TARGET.instruction_words // N_WORDS
    program = [encode(Opcode.ADD)] * n
    seen = single_steps(program, Engines(), at=n - 1, n_steps=2, resume=False)
    assert seen == [(ErrorCode.NONE, n), (ErrorCode.ADDRESS, n)]
    # After a refusal no record is kept either.
    seen = single_steps(program, Engines(), at=n, n_steps=2)
    assert seen == [(ErrorCode.ADDRESS, n)] * 2


def test_a_start_behind_the_memory_is_refused():
    result = run(END, Engines(), at=TARGET.instruction_words // N_WORDS)
    assert result["error"] == ErrorCode.ADDRESS

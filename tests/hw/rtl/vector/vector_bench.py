"""Memories, ports and lanes around the vector engine, with random waits everywhere.

    report = run(target, memories, [fields, ...])  # changes the memories
"""

import random
from dataclasses import dataclass, field

import numpy as np

from golden import arith
from hw.isa import FORMAT_WORDS, Format, encode
from hw.isa.instruction import rounding_of
from hw.rtl.memory.waiting import WaitingQueue
from hw.rtl.vector import VectorEngine, Which, vector_item_layout
from sim.unit import unpack
from tests.hw.rtl.vector.vector_model import reads_per_unit
from tests.hw.simulate import component, run_testbench

CLOCK_PERIOD = 1e-8
_ABORT_CYCLES = 100


class WatchdogError(AssertionError):
    """The engine did not finish."""


@dataclass(kw_only=True)
class Report:
    """What happened during a run, and in which cycles."""

    starts: list = field(default_factory=list)
    done: list = field(default_factory=list)
    complete: list = field(default_factory=list)
    progress: list = field(default_factory=list)  # (cycle, amount)
    items: list = field(default_factory=list)  # when each entered the lanes
    errors: list = field(default_factory=list)  # codes
    n_reads: int = 0
    n_weight_reads: int = 0


class _ReadPort:
    """One of the crossbar's read ports, with random waits."""

    def __init__(self, port, banks, rng, stalls, latency, pair):
        self.port, self.banks, self.rng = port, banks, rng
        self.stalls, self.latency, self.pair = stalls, latency, pair
        self.waiting = []
        self.n_reads = 0

    def cycle(self, ctx, now, on_read=None):
        responding = bool(self.waiting and self.waiting[0][0] <= now
                          and self.rng.random() >= self.stalls)
        ctx.set(self.port.response_valid, responding)
        if responding:
            ctx.set(self.port.data, self.waiting.pop(0)[1])
        ready = self.rng.random() >= self.stalls
        ctx.set(self.port.ready, ready)
        if ready and ctx.get(self.port.valid):
            address, bank = ctx.get(self.port.address), self.banks[ctx.get(self.port.bank)]
            if on_read:
                on_read(self.n_reads)
            self.n_reads += 1
            words = [[int(code) for code in bank[a % len(bank)]] for a in (address, address ^ 1)]
            self.waiting.append((now + self.latency, words if self.pair else words[0]))


class Lanes:
    """The rescaler lanes: items in, bytes into the banks and inputs of additions back."""

    def __init__(self, dut, memories, rng, stalls, latency, report):
        self.dut, self.memories, self.rng = dut, memories, rng
        self.stalls, self.latency, self.report = stalls, latency, report
        self.layout = vector_item_layout(memories.target)
        self.under_way = []

    def _result(self, item):
        lanes = self.memories.target.lanes
        if item["which"] == Which.PARAMETERS.value:
            index = (item["parameter"] * lanes + np.arange(lanes)) % len(self.memories.bias)
            bias, multiplier, shift = (v[index] for v in (
                self.memories.bias, self.memories.multiplier, self.memories.shift))
        else:
            bias, multiplier, shift = 0, item["multiplier"], item["shift"]
        zero_point, low, high = item["zero_point"], item["low"], item["high"]
        if item["wide"]:
            zero_point, low, high = 0, arith.INT32_MIN, arith.INT32_MAX
        return arith.requantize(np.array(item["sums"]) + bias, multiplier, shift, zero_point,
                                low, high, rounding_of(item))

    def _retire(self, ctx, now, item):
        values = self._result(item)
        if item["which"] in (Which.FIRST_INPUT.value, Which.SECOND_INPUT.value):
            assert item["wide"] and not item["mask"]
            assert not item["progress"] and not item["instruction_end"]
            ctx.set(self.dut.returned.valid, 1)
            ctx.set(self.dut.returned.which, Which(item["which"]))
            ctx.set(self.dut.returned.values, [int(v) for v in values])
            return
        assert not item["wide"]
        word = self.memories.banks[item["bank"]][item["address"]]
        for lane, value in enumerate(values):
            if item["mask"] >> lane & 1:
                word[item["group"] * len(item["sums"]) + lane] = value
        if item["progress"]:
            self.report.progress.append((now, item["progress"]))
        if item["instruction_end"]:
            self.report.complete.append(now)

    def cycle(self, ctx, now):
        ctx.set(self.dut.returned.valid, 0)
        if self.under_way and self.under_way[0][0] <= now:
            self._retire(ctx, now, self.under_way.pop(0)[1])
        ready = self.rng.random() >= self.stalls
        ctx.set(self.dut.vector.ready, ready)
        if ready and ctx.get(self.dut.vector.valid):
            item = unpack(self.layout, ctx.get(self.dut.vector.payload.as_value()))
            self.under_way.append((now + self.latency, item))
            self.report.items.append(now)


class WritePort:
    """The crossbar's write port `m`."""

    def __init__(self, dut, memories, rng, stalls, report):
        self.port, self.dut, self.memories = dut.m, dut, memories
        self.rng, self.stalls, self.report = rng, stalls, report
        self.under_way = []

    def cycle(self, ctx, now):
        port = self.port
        ctx.set(port.written, 0)
        ctx.set(port.written_progress, 0)
        ctx.set(port.written_end, 0)
        moves = self.rng.random() >= self.stalls
        if moves and self.under_way and self.under_way[0][0] <= now:
            _, bank, address, word, progress, end = self.under_way.pop(0)
            self.memories.banks[bank][address] = word
            ctx.set(port.written, 1)
            ctx.set(port.written_progress, progress)
            ctx.set(port.written_end, end)
            if progress:
                self.report.progress.append((now, progress))
            if end:
                self.report.complete.append(now)
        if ctx.get(port.valid):
            assert len(self.under_way) < WaitingQueue.DEPTH - 2
            columns = self.memories.target.columns
            assert ctx.get(port.enable) == (1 << columns) - 1
            self.under_way.append((now + 2, ctx.get(port.bank), ctx.get(port.address),
                                   [ctx.get(port.data[k]) for k in range(columns)],
                                   ctx.get(port.progress), ctx.get(port.instruction_end)))


def run(target, memories, instructions, *, stalls=0.0, seed=0, unit_cycles=0, latency=6,
        lane_latency=22, watchdog=20000, abort_at=None,
        ignore_units=False):
    """Run instructions one after the other; returns the Report. The memories are changed.

    stalls : probability of a pause per cycle, on each port. unit_cycles : mean cycles until the
    next unit may begin. latency, lane_latency : of reads and of the lanes, in cycles.
    abort_at : cycle in which everything is given up; all instructions then run once again.
    ignore_units : a planted fault, units are announced that are not there.
    """
    dut = component(VectorEngine, target)
    report = Report()
    rng = random.Random(seed)

    async def testbench(ctx):
        lanes = Lanes(dut, memories, rng, stalls, lane_latency, report)
        v = _ReadPort(dut.v, memories.banks, rng, stalls, latency, pair=False)
        w = _ReadPort(dut.w, memories.banks, rng, stalls, latency, pair=True)
        m = WritePort(dut, memories, rng, stalls, report)
        queue, chase, aborting = list(instructions), None, 0
        for now in range(watchdog):
            starts = chase is None and bool(queue) and not aborting
            ctx.set(dut.control.start, starts)
            if starts:
                f = queue.pop(0)
                words = encode(**f | {"chase": int(unit_cycles > 0)})
                ctx.set(dut.control.words, words[:FORMAT_WORDS[Format.VECTOR]])
                chase = Chase(f, memories.target.columns, rng, unit_cycles, v.n_reads)
                report.starts.append(now)
            v.cycle(ctx, now, chase.check if chase else None)
            w.cycle(ctx, now)
            lanes.cycle(ctx, now)
            m.cycle(ctx, now)
            if chase:
                may_begin = chase.cycle(ctx.get(dut.control.unit_next))
                ctx.set(dut.control.unit_ready, may_begin | ignore_units)
            if now == abort_at:
                aborting = _ABORT_CYCLES
            ctx.set(dut.control.abort, aborting > 0)
            if aborting:
                queue, chase = list(instructions), None
                quiet = not (ctx.get(dut.busy) or ctx.get(dut.v.valid) or ctx.get(dut.w.valid)
                             or ctx.get(dut.vector.valid) or ctx.get(dut.m.valid))
                assert quiet or aborting > _ABORT_CYCLES - 3
                aborting -= 1
                report.__init__()
            await ctx.tick()
            if ctx.get(dut.control.done):
                assert chase.n_begun == len(chase.reads), "not every unit was begun"
                report.done.append(now + 1)
                chase = None
            if error := ctx.get(dut.control.error):
                report.errors.append(error)
                chase = None
            if (len(report.done) + len(report.errors) == len(instructions)
                    and len(report.complete) == len(report.done)):
                break
        else:
            raise WatchdogError(f"Not done after {now} cycles: {report}")
        for _ in range(2):
            await ctx.tick()
            assert not ctx.get(dut.control.done) and not ctx.get(dut.busy)
        report.n_reads, report.n_weight_reads = v.n_reads, w.n_reads

    run_testbench(dut, testbench)
    return report


class Chase:
    """Lets one unit after the other begin, and sees that none is read before."""

    LATENCY = 2  # cycles from unit_next until unit_ready is that of the next unit

    def __init__(self, f, columns, rng, unit_cycles, n_reads):
        self.reads = reads_per_unit(f, columns)
        self.ends = np.cumsum(self.reads) + n_reads
        self.rng, self.unit_cycles = rng, unit_cycles
        self.n_allowed = len(self.reads) if not unit_cycles else 0
        self.n_begun = 0
        self.shown = []

    def check(self, n_reads):
        unit = int(np.searchsorted(self.ends, n_reads, side="right"))
        assert unit < len(self.reads), "a word too many was read"
        assert unit < self.n_allowed, f"unit {unit} was read before it was there"

    def cycle(self, unit_next):
        """unit_ready, which lags by LATENCY."""
        if self.n_allowed < len(self.reads) and self.rng.random() * self.unit_cycles < 1:
            self.n_allowed += 1
        self.n_begun += unit_next
        assert self.n_begun <= len(self.reads), "a unit too many was begun"
        self.shown.append(self.n_allowed > self.n_begun or not self.unit_cycles)
        return int(self.shown[max(0, len(self.shown) - 1 - self.LATENCY)])

"""What the engines' gateware reads and writes, unit by unit, recorded in simulation.

A unit is let begin once all before it has come to rest; what is read and written until the engine
rests again belongs to it. One simulation runs several instructions, one after the other.

    first, second = vector_traces(target, [f, g])
    first.reads[k]  # {(memory, word)}: all reads so far once k + 1 units may begin
"""

from dataclasses import dataclass, field

from hw.isa import FORMAT_WORDS, INSTRUCTIONS, Format, LocalMemory, Opcode, encode
from hw.rtl.array.engine import ArrayEngine
from hw.rtl.dma.lines import LineWalker
from hw.rtl.vector import VectorEngine, Which
from sim.unit import unpack
from tests.hw.rtl.vector.vector_bench import Lanes, Report, WritePort
from tests.hw.rtl.vector.vector_model import Memories
from tests.hw.simulate import component, run_testbench

__all__ = ["Trace", "array_traces", "line_traces", "vector_traces"]

REST, WATCHDOG = 60, 30_000  # cycles; nothing takes as long from one event to the next
READY_LATENCY = 2  # cycles from unit_next to the unit_ready of the next unit
READ_LATENCY, LANE_LATENCY = 6, 22


@dataclass
class Trace:
    """Snapshots of sets that grow; ``early``: what is read before any unit may begin."""

    early: set = field(default_factory=set)
    reads: list = field(default_factory=list)
    writes: list = field(default_factory=list)
    progress: list = field(default_factory=list)


class _Recorder:
    """Lets one unit after the other begin, and takes the snapshots."""

    def __init__(self, n_units):
        self.n_units, self.n_allowed, self.n_begun = n_units, 0, 0
        self.trace, self.shown = Trace(), []
        self.reads, self.writes, self.progress = set(), set(), 0
        self._n_events = self._n_seen = self._still = 0

    def read(self, what):
        """Something is read."""
        self.reads.add(what)
        self._n_events += 1

    def write(self, bank, address, progress):
        """A word is written, or none where ``address`` is None."""
        if address is not None:
            self.writes.add((bank, address))
        self.progress += progress
        self._n_events += 1

    def cycle(self, unit_next):
        """unit_ready."""
        self.n_begun += unit_next
        assert self.n_begun <= self.n_allowed, "a unit too many was begun"
        self._still = self._still + 1 if self._n_events == self._n_seen and not unit_next else 0
        self._n_seen = self._n_events
        if self._still == REST:
            self._snapshot()
            self.n_allowed, self._still = self.n_allowed + 1, 0
        self.shown.append(self.n_begun < self.n_allowed <= self.n_units)
        return int(self.shown[max(0, len(self.shown) - 1 - READY_LATENCY)])

    def _snapshot(self):
        if not self.n_allowed:
            self.trace.early = set(self.reads)
            assert not self.writes and not self.n_begun
            return
        self.trace.reads.append(set(self.reads))
        self.trace.writes.append(set(self.writes))
        self.trace.progress.append(self.progress)

    @property
    def is_over(self):
        return self.n_allowed > self.n_units


def _traces(dut, control, format_, instructions, attach):
    """Run instructions. ``attach``: makes of a context the function (recorder, f, cycle) that
    serves the ports in every cycle.
    """
    traces = []

    async def testbench(ctx):
        serve, now = attach(ctx), 0
        for f in instructions:
            recorder = _Recorder(INSTRUCTIONS[f["opcode"]].n_units(f))
            ctx.set(control.words, encode(**f | {"chase": 1})[:FORMAT_WORDS[format_]])
            begin = now
            while not recorder.is_over:
                ctx.set(control.start, now == begin)
                serve(recorder, f, now)
                ctx.set(control.unit_ready, recorder.cycle(ctx.get(control.unit_next)))
                assert not ctx.get(control.error), f
                assert now < begin + WATCHDOG, "not done"
                await ctx.tick()
                now += 1
            traces.append(recorder.trace)

    run_testbench(dut, testbench)
    return traces


class _Always:
    """Random numbers of a bench in which nothing ever waits."""

    def random(self):
        return 1.0


def vector_traces(target, instructions):
    """Traces of the vector engine; ``target`` has banks of 2^16 words.

    Of the parameters a word is one of the memory, with those of a group of channels.
    """
    dut, memories = component(VectorEngine, target), Memories(target)
    lanes = Lanes(dut, memories, _Always(), 0, LANE_LATENCY, Report())
    write_port = WritePort(dut, memories, _Always(), 0, Report())

    def attach(ctx):
        waiting = {"v": [], "w": []}

        def read(recorder, f, now, name, is_pair):
            port, answers = getattr(dut, name), waiting[name]
            responds = bool(answers) and answers[0][0] <= now
            ctx.set(port.response_valid, responds)
            if responds:
                ctx.set(port.data, answers.pop(0)[1])
            ctx.set(port.ready, 1)
            if ctx.get(port.valid):
                bank, address = ctx.get(port.bank), ctx.get(port.address)
                recorder.read((bank, address))
                if is_pair and f["opcode"] == Opcode.LINEAR:  # the only one that looks at both
                    recorder.read((bank, address ^ 1))
                words = [memories.banks[bank][a].tolist() for a in (address, address ^ 1)]
                answers.append((now + READ_LATENCY, words if is_pair else words[0]))

        def serve(recorder, f, now):
            read(recorder, f, now, "v", False)
            read(recorder, f, now, "w", True)
            if lanes.under_way and lanes.under_way[0][0] <= now:
                _note_item(recorder, lanes.under_way[0][1])
            lanes.cycle(ctx, now)
            if write_port.under_way and write_port.under_way[0][0] <= now:
                _, bank, address, _, progress, _ = write_port.under_way[0]
                recorder.write(bank, address, progress)
            write_port.cycle(ctx, now)

        return serve

    return _traces(dut, dut.control, Format.VECTOR, instructions, attach)


def _note_item(recorder, item):
    if item["which"] == Which.PARAMETERS.value and item["mask"]:
        recorder.read((LocalMemory.PARAMETERS, item["parameter"]))
    recorder.write(item["bank"], item["address"] if item["mask"] else None, item["progress"])


def array_traces(target, instructions):
    """Traces of products; reads of ports are (port, bank, address), of port a in bytes."""
    dut = component(ArrayEngine, target)

    def attach(ctx):
        def serve(recorder, f, now):
            for port, bus in ("a", dut.a), ("b", dut.b):
                if ctx.get(bus.valid):
                    recorder.read((port, ctx.get(bus.bank), ctx.get(bus.address)))
            if ctx.get(dut.items.valid):
                item = dut.items.payload
                bank, address, mask, parameter, wide, progress = (
                    ctx.get(item[name]) for name in (
                        "bank", "address", "mask", "parameter", "wide", "progress"))
                if mask and not wide:
                    recorder.read((LocalMemory.PARAMETERS, parameter))
                recorder.write(bank, address if mask else None, progress)

        return serve

    return _traces(dut, dut.control, Format.ARRAY, instructions, attach)


def line_traces(target, instructions, n_memories):
    """Traces of transfers; reads are the lines: (external byte, local word, words)."""
    dut = LineWalker(target, n_memories=n_memories)

    def attach(ctx):
        ctx.set(dut.region_limit, (1 << 32) - 1)
        ctx.set(dut.line.ready, 1)

        def serve(recorder, f, now):
            if ctx.get(dut.line.valid):
                line = unpack(dut.line.payload.shape(), ctx.get(dut.line.payload.as_value()))
                recorder.read((line["address"], line["local"], line["words"]))

        return serve

    return _traces(dut, dut, Format.TRANSFER, instructions, attach)

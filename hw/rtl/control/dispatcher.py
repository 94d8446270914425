"""Dispatcher: fetches instructions in order, hands them to the engines, ends the run.

An instruction goes to the slot of its engine as soon as that is free, and waits there for what it
depends on, so engines overtake each other only as far as the program's waits allow. The
instruction memory is a ring: behind its last whole record the fetch goes on at the first.

Any error ends the run: the engines are told to abort, what is under way is given time to pass,
and only then is the run done. The next start begins from a clean state.
"""

from types import SimpleNamespace

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.isa import ENGINE_OF, FORMAT_WORDS, N_WORDS, Engine, ErrorCode, Opcode
from hw.rtl.common.pipeline import delayed
from hw.rtl.control.error_finder import ErrorFinder
from hw.rtl.control.ports import (
    ENGINES,
    EngineControl,
    EngineProgress,
    EngineState,
    RunControl,
    SharedError,
    engine_format,
)
from hw.rtl.control.slot import COMPLETED_WIDTH, PROGRESS_WIDTH, EngineSlot, instruction_fields

__all__ = ["FLUSH_CYCLES", "Dispatcher"]

#: Cycles after an abort in which everything that is under way reaches its end.
FLUSH_CYCLES = 255
_SYNC_WORDS = 3
#: Cycles from the last word of a SYNC to the comparison with what it waits for.
_SYNC_CYCLES = 4
#: Cycles for which all must be complete before a run ends: its last result may be an error.
_SETTLE_CYCLES = 4


class EnginePort(wiring.Signature):
    """An engine, from the dispatcher's side.

    Members
    -------
    control : EngineControl, to the engine. written : EngineProgress, from who writes its results.
    state : EngineState, for the counters.
    """

    def __init__(self, engine: Engine):
        super().__init__({"control": Out(EngineControl(engine)), "written": In(EngineProgress()),
                          "state": Out(EngineState())})


class Dispatcher(wiring.Component):
    """Runs programs from the instruction memory.

    Arguments
    ---------
    target : hw.targets.Target. fetch_latency : cycles from ``fetch_address`` to ``fetch_data``.

    Members
    -------
    run : RunControl, from the registers. Where the watchdog or the host ends a run ``index`` is
        the oldest instruction of an engine that runs, or else of one whose instruction waits, or
        else what is fetched. ``busy`` is a register, a cycle later than what the dispatcher does.
    moved : a result or a transfer made progress.
    array, vector, load, store : EnginePort; ``engines`` has them by hw.isa.Engine. ``abort``
        reaches each engine from a register of its own.
    shared : SharedError, of SHARED_LATENCY cycles ago.
    """

    SHARED_LATENCY = ErrorFinder.SHARED_LATENCY

    def __init__(self, *, target, fetch_latency: int):
        self.target = target
        self.fetch_latency = fetch_latency
        self.n_records = target.instruction_words // N_WORDS
        super().__init__({
            "run": In(RunControl(target)), "moved": In(1),
            "array": Out(EnginePort(Engine.ARRAY)), "vector": Out(EnginePort(Engine.VECTOR)),
            "load": Out(EnginePort(Engine.LOAD)), "store": Out(EnginePort(Engine.STORE)),
            "fetch_address": Out(range(target.instruction_words)), "fetch_data": In(32),
            "shared": In(SharedError())})

    @property
    def engines(self) -> dict:
        """The port of each engine."""
        return {Engine.ARRAY: self.array, Engine.VECTOR: self.vector, Engine.LOAD: self.load,
                Engine.STORE: self.store}

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.finder = finder = ErrorFinder()
        slots, counts = self._slots(m)
        # The instruction in hand: what it is, where it lies, and the words that have come of it.
        head = SimpleNamespace(
            base=Signal(range(self.target.instruction_words)),
            record=Signal(range(max(2, self.n_records))),
            kept=Signal(), goes_on=Signal(),  # base and record are those of the index
            count=Signal(range(N_WORDS + self.fetch_latency + 2)),
            length=Signal(range(N_WORDS + 1)), opcode=Signal(4), engine=Signal(2),
            known=Signal(), is_engine=Signal(), arriving=Signal(range(N_WORDS)),
            writing=Signal(), committing=Signal())
        one_only = Signal()  # single step
        after = Signal(range(FLUSH_CYCLES + 1))  # cycles that are left of a state
        abort = Signal()
        commits, synced = self._hand_out(m, head, slots, counts, one_only, abort)
        self._find_errors(m, finder, head, slots, counts, commits)
        free = Array([slots[engine].free for engine in ENGINES])[head.engine]
        m.d.sync += self.run.begin.eq(0)
        with m.FSM() as fsm:
            self._begin(m, finder, head, one_only, after)
            self._fetch(m, finder, head, free, synced, one_only, after)
            self._end(m, finder, head, counts.all_complete, after)
        # Registers, as they go to all parts of the accelerator.
        m.d.sync += [self.run.busy.eq(~fsm.ongoing("IDLE")), abort.eq(fsm.ongoing("ABORT"))]
        self._abort_engines(m, abort)
        return m

    def _slots(self, m) -> tuple:
        """The slots by engine, and what is counted: issued and completed instructions.

        ``all_complete`` and, by engine, ``incomplete`` are registers behind that.
        """
        slots = {}
        counts = SimpleNamespace(
            issued={}, completed=Signal(data.ArrayLayout(COMPLETED_WIDTH, len(ENGINES))),
            progress=Signal(data.ArrayLayout(PROGRESS_WIDTH, len(ENGINES))),
            incomplete=Signal(len(ENGINES)), all_complete=Signal())
        issued, completed, progress = counts.issued, counts.completed, counts.progress
        for engine, port in self.engines.items():
            name = engine.name.lower()
            m.submodules[f"slot_{name}"] = slot = slots[engine] = EngineSlot(engine_format(engine))
            issued[engine] = Signal(COMPLETED_WIDTH, name=f"issued_{name}")
            control, state, written = port.control, port.state, port.written
            m.d.comb += [
                slot.completed.eq(completed), slot.progress.eq(progress),
                control.words.eq(slot.words), control.start.eq(slot.start),
                slot.done.eq(control.done), control.unit_ready.eq(slot.unit_ready),
                slot.unit_next.eq(control.unit_next), state.running.eq(slot.running),
                state.waiting.eq(slot.waiting), state.blocked.eq(slot.blocked)]
            with m.If(written.complete):
                m.d.sync += [completed[engine].eq(completed[engine] + 1), progress[engine].eq(0)]
            with m.Elif(written.progress.any()):
                m.d.sync += progress[engine].eq(progress[engine] + written.progress)
            with m.If(self.run.begin):
                m.d.sync += [completed[engine].eq(0), progress[engine].eq(0),
                             issued[engine].eq(0)]
        differs = Cat(issued[e] != completed[e] for e in ENGINES)
        m.d.sync += [counts.incomplete.eq(differs), counts.all_complete.eq(~differs.any())]
        return slots, counts

    def _hand_out(self, m, head, slots, counts, one_only, abort) -> tuple:
        """The words that arrive go into the slots, those of a SYNC stay here.

        Returns by engine whether an instruction is handed over, and whether a SYNC is met.
        """
        fetched = Signal(32, reset_less=True)
        sync_words = Signal(data.ArrayLayout(32, _SYNC_WORDS))
        sync_write, synced = Signal(), Signal()
        commits = Signal(len(ENGINES))
        m.d.sync += [fetched.eq(self.fetch_data), sync_write.eq(head.writing & ~head.is_engine)]
        for engine, slot in slots.items():
            mine = head.is_engine & (head.engine == engine)
            write = Signal(name=f"write_{engine.name.lower()}")
            m.d.sync += [write.eq(head.writing & mine),
                         commits[engine].eq(head.committing & mine)]
            m.d.comb += [
                slot.write.eq(write), slot.write_data.eq(fetched),
                slot.commit.eq(commits[engine]), slot.alone.eq(one_only),
                slot.clear.eq(self.run.begin | abort)]
            with m.If(commits[engine]):
                m.d.sync += counts.issued[engine].eq(counts.issued[engine] + 1)
        with m.If(sync_write):
            m.d.sync += sync_words.eq(Cat(sync_words.as_value()[32:], fetched))
        waits = instruction_fields(sync_words, _SYNC_WORDS)
        m.d.sync += synced.eq(one_only | Cat(
            counts.completed[e] >= waits[f"wait_{e.name.lower()}"] for e in ENGINES).all())
        return commits, synced

    def _find_errors(self, m, finder, head, slots, counts, commits) -> None:
        """What the finder of errors is told."""
        run = self.run
        connect(m, flipped(self.shared), finder.shared)
        m.d.comb += [
            finder.begin.eq(run.begin), finder.busy.eq(run.busy), finder.moved.eq(self.moved),
            finder.abort_request.eq(run.abort_request),
            finder.watchdog_limit.eq(run.watchdog_limit), finder.cycle_limit.eq(run.cycle_limit)]
        for engine, slot in slots.items():
            m.d.comb += [
                finder.errors[engine].eq(self.engines[engine].control.error),
                finder.started[engine].eq(slot.start), finder.running[engine].eq(slot.running),
                finder.oldest[engine].eq(counts.completed[engine])]
        m.d.comb += [
            finder.previous[Engine.LOAD].eq(self.load.control.error_previous),
            finder.previous[Engine.STORE].eq(self.store.control.error_previous),
            finder.incomplete.eq(counts.incomplete), finder.commit.eq(commits.any()),
            finder.commit_engine.eq(head.engine), finder.commit_index.eq(run.index),
            finder.commit_number.eq(Array([counts.issued[e] for e in ENGINES])[head.engine])]

    def _give_up(self, m, finder, head, after) -> None:
        """In a state: an error ends the run."""
        with m.If(finder.found):
            m.d.sync += [self.run.error.eq(finder.code), self.run.done.eq(0),
                         after.eq(FLUSH_CYCLES)]
            with m.If(~finder.at_fetch):
                m.d.sync += self.run.index.eq(finder.index)
            m.d.sync += head.kept.eq(0)
            m.next = "ABORT"

    def _begin(self, m, finder, head, one_only, after) -> None:
        """States in which a run begins: at an address, or where the last one stopped.

        The index counts on behind the end of the ring, so what goes on keeps its record.
        """
        run = self.run
        goes_on = run.resume & head.kept
        with m.State("IDLE"):
            with m.If(run.start):
                m.d.sync += [run.begin.eq(1), run.done.eq(0), run.error.eq(ErrorCode.NONE),
                             one_only.eq(run.single_step), run.index.eq(run.program_address),
                             head.goes_on.eq(goes_on), head.kept.eq(1)]
                with m.If(~goes_on):
                    m.d.sync += [head.record.eq(run.program_address),
                                 head.base.eq(run.program_address * N_WORDS)]
                m.next = "BEGIN"
        with m.State("BEGIN"):
            m.d.sync += [self.fetch_address.eq(head.base), head.count.eq(0)]
            with m.If((run.index >= self.n_records) & ~head.goes_on):
                m.d.sync += [run.error.eq(ErrorCode.ADDRESS), run.done.eq(1), head.kept.eq(0)]
                m.next = "IDLE"
            with m.Else():
                m.next = "HEAD"
            self._give_up(m, finder, head, after)

    def _fetch(self, m, finder, head, free, synced, one_only, after) -> None:
        """States of one instruction: the first word tells its engine and its length, then the
        words go into the slot."""
        with m.State("HEAD"):
            m.d.sync += head.count.eq(head.count + 1)
            with m.If(head.count == self.fetch_latency):
                m.d.sync += head.opcode.eq(self.fetch_data[:4])
                m.next = "DECODE"
            self._give_up(m, finder, head, after)
        with m.State("DECODE"):
            self._decode(m, head)
            m.next = "CHOOSE"
            self._give_up(m, finder, head, after)
        with m.State("CHOOSE"):
            m.d.sync += [self.fetch_address.eq(head.base), head.count.eq(0), head.arriving.eq(0)]
            with m.If(~head.known):
                with m.If(head.opcode != Opcode.HALT):
                    m.d.sync += self.run.error.eq(ErrorCode.OPCODE)
                m.d.sync += after.eq(3)
                m.next = "DRAIN"
            with m.Elif(free | ~head.is_engine):
                m.next = "STREAM"
            self._give_up(m, finder, head, after)
        with m.State("STREAM"):
            m.d.sync += [self.fetch_address.eq(self.fetch_address + 1),
                         head.count.eq(head.count + 1)]
            with m.If(head.count >= self.fetch_latency):
                m.d.comb += head.writing.eq(1)
                m.d.sync += head.arriving.eq(head.arriving + 1)
                with m.If(head.arriving + 1 == head.length):
                    m.d.sync += after.eq(_SYNC_CYCLES)
                    m.next = "COMMIT"
            self._give_up(m, finder, head, after)
        with m.State("COMMIT"):
            with m.If(head.is_engine | (synced & (after == 0))):
                m.d.comb += head.committing.eq(1)
                with m.If(head.record == self.n_records - 1):
                    m.d.sync += [head.record.eq(0), head.base.eq(0)]
                with m.Else():
                    m.d.sync += [head.record.eq(head.record + 1),
                                 head.base.eq(head.base + N_WORDS)]
                m.next = "ADVANCE"
            with m.If(after != 0):
                m.d.sync += after.eq(after - 1)
            self._give_up(m, finder, head, after)
        with m.State("ADVANCE"):
            m.d.sync += [self.run.index.eq(self.run.index + 1), self.fetch_address.eq(head.base),
                         head.count.eq(0), after.eq(3)]
            m.next = "HEAD"
            with m.If(one_only):
                m.next = "DRAIN"
            self._give_up(m, finder, head, after)

    def _decode(self, m, head) -> None:
        """Engine and length of an opcode; without external memory transfers are unknown."""
        with m.Switch(head.opcode):
            for engine in ENGINES:
                codes = [code for code, its in ENGINE_OF.items() if its == engine]
                if engine in (Engine.LOAD, Engine.STORE) and not self.target.bus_bits:
                    continue
                with m.Case(*codes):
                    m.d.sync += [head.known.eq(1), head.is_engine.eq(1), head.engine.eq(engine),
                                 head.length.eq(FORMAT_WORDS[engine_format(engine)])]
            with m.Case(Opcode.SYNC):
                m.d.sync += [head.known.eq(1), head.is_engine.eq(0), head.length.eq(_SYNC_WORDS)]
            with m.Default():
                m.d.sync += [head.known.eq(0), head.is_engine.eq(0)]

    def _end(self, m, finder, head, all_complete, after) -> None:
        """States in which a run ends, by itself or by an error."""
        with m.State("DRAIN"):
            with m.If(~all_complete):
                m.d.sync += after.eq(_SETTLE_CYCLES)
            with m.Elif(after != 0):
                m.d.sync += after.eq(after - 1)
            with m.Else():
                m.d.sync += self.run.done.eq(1)
                m.next = "IDLE"
            self._give_up(m, finder, head, after)
        with m.State("ABORT"):
            with m.If(after != 0):
                m.d.sync += after.eq(after - 1)
            with m.Elif(~self.load.control.busy & ~self.store.control.busy):
                m.d.sync += self.run.done.eq(1)
                m.next = "IDLE"

    def _abort_engines(self, m, abort) -> None:
        """Each engine has its own register, as they lie far apart; those of the same input would
        become one."""
        for engine, port in self.engines.items():
            abort = delayed(m, abort, 1, f"{engine.name.lower()}_abort", reset_less=True)
            m.d.comb += port.control.abort.eq(abort)

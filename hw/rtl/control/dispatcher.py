"""Dispatcher: fetches instructions in order, hands them to the engines, ends the run.

An instruction goes to the slot of its engine as soon as that is free, and waits there for what it
depends on, so engines overtake each other only as far as the program's waits allow. The
instruction memory is a ring: behind its last whole record the fetch goes on at the first.

Any error ends the run: the engines are told to abort, what is under way is given time to pass,
and only then is the run done. The next start begins from a clean state.
"""

from amaranth.hdl import Array, Cat, Module, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import (
    ENGINE_OF,
    FORMAT_WORDS,
    N_WORDS,
    UNBUILT,
    Engine,
    ErrorCode,
    Format,
    Opcode,
)
from hw.rtl.control.error_finder import ErrorFinder
from hw.rtl.control.slot import (
    COMPLETED_WIDTH,
    ENGINES,
    PROGRESS_WIDTH,
    EngineSlot,
    instruction_fields,
)

__all__ = ["Dispatcher", "engine_format"]

#: Cycles after an abort in which everything that is under way reaches its end.
FLUSH_CYCLES = 255
_SYNC_WORDS = 3
#: Cycles from the last word of a SYNC to the comparison with what it waits for.
_SYNC_CYCLES = 4
#: Cycles for which all must be complete before a run ends: its last result may be an error.
_SETTLE_CYCLES = 4


def engine_format(engine):
    """The instruction format of an engine."""
    return Format(min(engine, Format.TRANSFER))


class Dispatcher(wiring.Component):
    """Runs programs from the instruction memory.

    Arguments
    ---------
    target : hw.targets.Target. fetch_latency : cycles from ``fetch_address`` to ``fetch_data``.

    Members
    -------
    start, single_step, abort_request, program_address : begin at instruction ``program_address``.
    cycle_limit, watchdog_limit : cycles; moved : a result or a transfer made progress.
    busy, done, error, index : status; ``index`` is the refused or halting instruction, or the next
        one after a single step. Where the watchdog or the host ends a run it is the oldest
        instruction of an engine that runs, or else of one whose instruction waits, or else what is
        fetched.
    begin : the run begins, for counters. abort : engines return to idle. Like busy these two are
        registers, a cycle later than what the dispatcher itself does.
    E_words, E_start, E_done, E_unit_ready, E_unit_next : as of EngineSlot, for each engine E.
    E_error : ErrorCode, 0 for none. E_complete, E_progress : its results are written.
    E_running, E_waiting, E_blocked : for the counters. E_flushing : it still has bus bursts open.
    E_previous : its error is of the instruction before the one started last.
    shared_error, shared_error_engine, shared_error_of_result : an error that a shared unit found
        for an engine SHARED_LATENCY cycles ago: in a result of its oldest instruction that was not
        complete, or in a read of the one started last.
    """

    SHARED_LATENCY = ErrorFinder.SHARED_LATENCY

    def __init__(self, *, target, fetch_latency):
        self.target = target
        self.fetch_latency = fetch_latency
        self.n_records = target.instruction_words // N_WORDS
        members = {
            "start": In(1), "single_step": In(1), "abort_request": In(1),
            "program_address": In(16), "cycle_limit": In(32), "watchdog_limit": In(32),
            "moved": In(1), "busy": Out(1), "done": Out(1), "error": Out(ErrorCode),
            "index": Out(16), "begin": Out(1), "abort": Out(1),
            "fetch_address": Out(range(target.instruction_words)), "fetch_data": In(32),
            "shared_error": In(ErrorCode), "shared_error_engine": In(2),
            "shared_error_of_result": In(1),
        }
        for engine in ENGINES:
            words = FORMAT_WORDS[engine_format(engine)]
            members |= {f"{engine.name.lower()}_{name}": way for name, way in {
                "words": Out(data.ArrayLayout(32, words)), "start": Out(1), "done": In(1),
                "unit_ready": Out(1), "unit_next": In(1), "error": In(ErrorCode),
                "complete": In(1), "progress": In(16), "running": Out(1), "waiting": Out(1),
                "blocked": Out(len(ENGINES)), "flushing": In(1), "previous": In(1)}.items()}
        super().__init__(members)

    def _of(self, engine, name):
        return getattr(self, f"{engine.name.lower()}_{name}")

    def elaborate(self, platform):
        m = Module()
        slots = {}
        issued = {}
        completed = Signal(data.ArrayLayout(COMPLETED_WIDTH, len(ENGINES)))
        progress = Signal(data.ArrayLayout(PROGRESS_WIDTH, len(ENGINES)))
        for engine in ENGINES:
            name = engine.name.lower()
            m.submodules[f"slot_{name}"] = slot = slots[engine] = EngineSlot(engine_format(engine))
            issued[engine] = Signal(COMPLETED_WIDTH, name=f"issued_{name}")
            m.d.comb += [slot.completed.eq(completed), slot.progress.eq(progress),
                         slot.done.eq(self._of(engine, "done")),
                         slot.unit_next.eq(self._of(engine, "unit_next"))]
            for member in ("words", "start", "unit_ready", "running", "waiting", "blocked"):
                m.d.comb += self._of(engine, member).eq(getattr(slot, member))
            with m.If(self._of(engine, "complete")):
                m.d.sync += [completed[engine].eq(completed[engine] + 1), progress[engine].eq(0)]
            with m.Elif(self._of(engine, "progress").any()):
                m.d.sync += progress[engine].eq(progress[engine]
                                                + self._of(engine, "progress"))
            with m.If(self.begin):
                m.d.sync += [completed[engine].eq(0), progress[engine].eq(0),
                             issued[engine].eq(0)]
        incomplete, all_complete = Signal(len(ENGINES)), Signal()
        differs = Cat(issued[e] != completed[e] for e in ENGINES)
        m.d.sync += [incomplete.eq(differs), all_complete.eq(~differs.any())]

        # Fetch: the first word tells engine and length, then the words go into the slot.
        base = Signal(range(self.target.instruction_words))
        record = Signal(range(max(2, self.n_records)))
        count = Signal(range(N_WORDS + self.fetch_latency + 2))
        length = Signal(range(N_WORDS + 1))
        opcode = Signal(4)
        engine_number = Signal(2)
        known = Signal()
        one_only = Signal()
        after = Signal(range(FLUSH_CYCLES + 1))
        sync_words = Signal(data.ArrayLayout(32, _SYNC_WORDS))
        sync_write = Signal()
        fetched = Signal(32, reset_less=True)
        commits = Signal(len(ENGINES))
        arriving = Signal(range(N_WORDS))
        writing = Signal()
        committing = Signal()
        is_engine = Signal()
        m.submodules.finder = finder = ErrorFinder()
        for name in ("begin", "busy", "moved", "abort_request", "watchdog_limit", "cycle_limit",
                     "shared_error", "shared_error_engine", "shared_error_of_result"):
            m.d.comb += getattr(finder, name).eq(getattr(self, name))
        for engine, slot in slots.items():
            m.d.comb += [
                finder.errors[engine].eq(self._of(engine, "error")),
                finder.previous[engine].eq(self._of(engine, "previous")),
                finder.started[engine].eq(slot.start), finder.running[engine].eq(slot.running),
                finder.oldest[engine].eq(completed[engine])]
        m.d.comb += [
            finder.incomplete.eq(incomplete), finder.commit.eq(commits.any()),
            finder.commit_engine.eq(engine_number), finder.commit_index.eq(self.index),
            finder.commit_number.eq(Array([issued[e] for e in ENGINES])[engine_number])]
        free = Array([slots[e].free for e in ENGINES])[engine_number]
        m.d.sync += [fetched.eq(self.fetch_data), sync_write.eq(writing & ~is_engine)]
        for engine, slot in slots.items():
            mine = is_engine & (engine_number == engine)
            write = Signal(name=f"write_{engine.name.lower()}")
            m.d.sync += [write.eq(writing & mine), commits[engine].eq(committing & mine)]
            m.d.comb += [
                slot.write.eq(write), slot.write_data.eq(fetched),
                slot.commit.eq(commits[engine]), slot.alone.eq(one_only),
                slot.clear.eq(self.begin | self.abort),
            ]
            with m.If(commits[engine]):
                m.d.sync += issued[engine].eq(issued[engine] + 1)
        with m.If(sync_write):
            m.d.sync += sync_words.eq(Cat(sync_words.as_value()[32:], fetched))
        synced = Signal()
        waits = instruction_fields(sync_words, _SYNC_WORDS)
        m.d.sync += synced.eq(one_only | Cat(completed[e] >= waits[f"wait_{e.name.lower()}"]
                                             for e in ENGINES).all())

        def give_up():
            with m.If(finder.found):
                m.d.sync += [self.error.eq(finder.code), self.done.eq(0),
                             after.eq(FLUSH_CYCLES)]
                with m.If(~finder.at_fetch):
                    m.d.sync += self.index.eq(finder.index)
                m.next = "ABORT"

        m.d.sync += self.begin.eq(0)
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [self.begin.eq(1), self.done.eq(0), self.error.eq(ErrorCode.NONE),
                                 one_only.eq(self.single_step),
                                 self.index.eq(self.program_address),
                                 record.eq(self.program_address),
                                 base.eq(self.program_address * N_WORDS)]
                    m.next = "BEGIN"
            with m.State("BEGIN"):
                m.d.sync += [self.fetch_address.eq(base), count.eq(0)]
                with m.If(self.index >= self.n_records):
                    m.d.sync += [self.error.eq(ErrorCode.ADDRESS), self.done.eq(1)]
                    m.next = "IDLE"
                with m.Else():
                    m.next = "HEAD"
                give_up()
            with m.State("HEAD"):
                m.d.sync += count.eq(count + 1)
                with m.If(count == self.fetch_latency):
                    m.d.sync += opcode.eq(self.fetch_data[:4])
                    m.next = "DECODE"
                give_up()
            with m.State("DECODE"):
                with m.Switch(opcode):
                    for engine in ENGINES:
                        codes = [code for code, its in ENGINE_OF.items()
                                 if its == engine and code not in UNBUILT]
                        if engine in (Engine.LOAD, Engine.STORE) and not self.target.bus_bits:
                            continue  # without external memory these are unknown
                        with m.Case(*codes):
                            m.d.sync += [known.eq(1), is_engine.eq(1), engine_number.eq(engine),
                                         length.eq(FORMAT_WORDS[engine_format(engine)])]
                    with m.Case(Opcode.SYNC):
                        m.d.sync += [known.eq(1), is_engine.eq(0), length.eq(_SYNC_WORDS)]
                    with m.Default():
                        m.d.sync += [known.eq(0), is_engine.eq(0)]
                m.next = "CHOOSE"
                give_up()
            with m.State("CHOOSE"):
                m.d.sync += [self.fetch_address.eq(base), count.eq(0), arriving.eq(0)]
                with m.If(~known):
                    with m.If(opcode != Opcode.HALT):
                        m.d.sync += self.error.eq(ErrorCode.OPCODE)
                    m.d.sync += after.eq(3)
                    m.next = "DRAIN"
                with m.Elif(free | ~is_engine):
                    m.next = "STREAM"
                give_up()
            with m.State("STREAM"):
                m.d.sync += [self.fetch_address.eq(self.fetch_address + 1), count.eq(count + 1)]
                with m.If(count >= self.fetch_latency):
                    m.d.comb += writing.eq(1)
                    m.d.sync += arriving.eq(arriving + 1)
                    with m.If(arriving + 1 == length):
                        m.d.sync += after.eq(_SYNC_CYCLES)
                        m.next = "COMMIT"
                give_up()
            with m.State("COMMIT"):
                with m.If(is_engine | (synced & (after == 0))):
                    m.d.comb += committing.eq(1)
                    with m.If(record == self.n_records - 1):
                        m.d.sync += [record.eq(0), base.eq(0)]
                    with m.Else():
                        m.d.sync += [record.eq(record + 1), base.eq(base + N_WORDS)]
                    m.next = "ADVANCE"
                with m.If(after != 0):
                    m.d.sync += after.eq(after - 1)
                give_up()
            with m.State("ADVANCE"):
                m.d.sync += [self.index.eq(self.index + 1), self.fetch_address.eq(base),
                             count.eq(0), after.eq(3)]
                m.next = "HEAD"
                with m.If(one_only):
                    m.next = "DRAIN"
                give_up()
            with m.State("DRAIN"):
                with m.If(~all_complete):
                    m.d.sync += after.eq(_SETTLE_CYCLES)
                with m.Elif(after != 0):
                    m.d.sync += after.eq(after - 1)
                with m.Else():
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
                give_up()
            with m.State("ABORT"):
                with m.If(after != 0):
                    m.d.sync += after.eq(after - 1)
                with m.Elif(~self.load_flushing & ~self.store_flushing):
                    m.d.sync += self.done.eq(1)
                    m.next = "IDLE"
        # Registers, as they go to all parts of the accelerator.
        m.d.sync += [self.busy.eq(~fsm.ongoing("IDLE")), self.abort.eq(fsm.ongoing("ABORT"))]
        return m

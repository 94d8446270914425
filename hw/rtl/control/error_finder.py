"""ErrorFinder: which error ends a run, and the place in the program of the instruction it is of.

An error names an instruction by its engine and its number there, which is looked up in the places
of the last instructions handed out.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.isa import ErrorCode
from hw.rtl.common.pipeline import delayed
from hw.rtl.control.ports import ENGINES, SharedError

__all__ = ["ErrorFinder"]

#: Bits of an instruction's number in its engine. An engine never has as many as eight under way:
#: one waits, one runs, the others have left but for their results.
_NUMBER_WIDTH = 3


class ErrorFinder(wiring.Component):
    """The first error of an engine, a shared unit, the watchdog or the host, some stages on.

    Members
    -------
    begin, busy, moved, abort_request, watchdog_limit, cycle_limit, shared : as of Dispatcher.
    errors, previous, started, running, incomplete, oldest : by engine: its error, and whether that
        is of the instruction before; an instruction starts, runs, or is not complete; the number of
        the oldest one that is not.
    commit, commit_engine, commit_number, commit_index : an instruction is handed to its engine.
    found, code : there is an error. at_fetch : of the instruction that is fetched, else ``index``.
    """

    SHARED_LATENCY = 2

    def __init__(self):
        n = len(ENGINES)
        super().__init__({
            "begin": In(1), "busy": In(1), "moved": In(1), "abort_request": In(1),
            "watchdog_limit": In(32), "cycle_limit": In(32),
            "shared": In(SharedError()),
            "errors": In(data.ArrayLayout(ErrorCode, n)), "previous": In(n), "started": In(n),
            "running": In(n), "incomplete": In(n),
            "oldest": In(data.ArrayLayout(_NUMBER_WIDTH, n)),
            "commit": In(1), "commit_engine": In(2), "commit_number": In(_NUMBER_WIDTH),
            "commit_index": In(16),
            "found": Out(1), "code": Out(ErrorCode), "at_fetch": Out(1), "index": Out(16)})

    def elaborate(self, platform) -> Module:
        m = Module()
        expired = self._watch(m)
        with_engine = data.StructLayout({"code": ErrorCode, "engine": 2, "number": _NUMBER_WIDTH})
        m.submodules.places = places = Memory(shape=16, depth=len(ENGINES) << _NUMBER_WIDTH,
                                              init=[])
        handed = places.write_port()
        m.d.comb += [handed.en.eq(self.commit), handed.data.eq(self.commit_index),
                     handed.addr.eq(Cat(self.commit_number, self.commit_engine))]
        latest = {e: Signal(_NUMBER_WIDTH, name=f"latest_{e.name.lower()}") for e in ENGINES}
        for engine in ENGINES:
            with m.If(self.begin):
                m.d.sync += latest[engine].eq(-1)
            with m.Elif(self.started[engine]):
                m.d.sync += latest[engine].eq(latest[engine] + 1)

        # Each error and its instruction.
        own = {e: Signal(with_engine, name=f"error_{e.name.lower()}") for e in ENGINES}
        shared, ended = Signal(with_engine), Signal(with_engine)
        nowhere = Signal()
        arrived = []
        for engine, error in own.items():
            here = Signal(with_engine, name=f"arrived_{engine.name.lower()}")
            previous = Signal(name=f"previous_{engine.name.lower()}")
            m.d.sync += [
                here.code.eq(self.errors[engine]), here.engine.eq(engine),
                here.number.eq(latest[engine] + self.started[engine]),
                previous.eq(self.previous[engine]), error.eq(here),
                error.number.eq(here.number - previous)]
            arrived.append(here)
        then = [Array([delayed(m, numbers[e], self.SHARED_LATENCY, f"{name}_{e.name.lower()}")
                       for e in ENGINES])[self.shared.engine]
                for name, numbers in (("latest", latest), ("oldest", self.oldest))]
        m.d.sync += [shared.code.eq(self.shared.code), shared.engine.eq(self.shared.engine),
                     shared.number.eq(Mux(self.shared.of_result, then[1], then[0]))]
        m.d.sync += [ended.code.eq(Mux(expired | self.abort_request, ErrorCode.WATCHDOG,
                                       ErrorCode.NONE)),
                     nowhere.eq(~self.incomplete.any())]
        for found in self.incomplete, self.running:
            for engine in reversed(ENGINES):
                with m.If(found[engine]):
                    m.d.sync += [ended.engine.eq(engine), ended.number.eq(self.oldest[engine])]

        # One of them.
        chosen = Signal(with_engine)
        chosen_nowhere = Signal()
        m.d.sync += [chosen.eq(ended), chosen_nowhere.eq(nowhere)]
        for error in (*reversed(own.values()), shared):
            with m.If(error.code != ErrorCode.NONE):
                m.d.sync += [chosen.eq(error), chosen_nowhere.eq(0)]

        # Its place in the program.
        place = places.read_port(domain="comb")
        m.d.comb += place.addr.eq(Cat(chosen.number, chosen.engine))
        m.d.sync += [self.found.eq(chosen.code != ErrorCode.NONE), self.code.eq(chosen.code),
                     self.at_fetch.eq(chosen_nowhere), self.index.eq(place.data)]
        with m.If(~self.busy):  # what is left of the run before
            m.d.sync += [self.found.eq(0), *(error.code.eq(ErrorCode.NONE) for error in (
                *arrived, *own.values(), shared, ended, chosen))]
        return m

    def _watch(self, m) -> Value:
        """Whether nothing has moved for too long, or the run takes too long."""
        quiet, cycles = Signal(32), Signal(32)
        expired = Signal()
        m.d.sync += [quiet.eq(quiet + 1), cycles.eq(cycles + 1)]
        with m.If(self.moved | ~self.busy):
            m.d.sync += quiet.eq(0)
        with m.If(~self.busy):
            m.d.sync += cycles.eq(0)
        m.d.sync += expired.eq(self.busy & (
            (quiet >= self.watchdog_limit)
            | (self.cycle_limit.any() & (cycles >= self.cycle_limit))))
        return expired

"""What LOAD and STORE have in common: instructions under way, errors, abort."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa import Engine, ErrorCode
from hw.rtl.control.ports import EngineControl, EngineProgress, Region
from hw.rtl.dma.bursts import BurstIssuer, check_bursts
from hw.rtl.dma.lines import LineWalker

__all__ = ["TransferEngine"]


class TransferEngine(wiring.Component):
    """An engine core (hw/isa/layout.py) for the instructions of format TRANSFER.

    Arguments
    ---------
    target : hw.targets.Target with ``bus_bits``. max_beats : of a burst, a power of two in 2..256.
    outstanding : bursts under way at once, a power of two up to 32.

    Members
    -------
    control : EngineControl. ``start`` comes only after ``done`` or while not ``busy``. ``done``:
        the last address is out and the next instruction may start; at most two instructions are
        under way: ``done`` waits until the one before is complete. A unit of the chase is a line.
        ``error``: in place of ``done`` and ``complete`` of the refused instruction; the engine is
        idle then. ``error_previous`` may be of the instruction before one started in this cycle.
        ``abort``: pulse or level; open bursts are finished, their data discarded, then ``busy``
        falls; ``done``, ``complete``, ``progress`` and ``error`` stay 0 from the next cycle on.
        ``busy``: from the cycle after ``start`` until nothing is under way.
    written : EngineProgress. ``progress``: words of a finished line. ``complete``: an
        instruction's last word has arrived. Both come one cycle later, and may precede ``done``.
    bytes : that crossed the bus in the cycle before.
    region : Region, bytes outside are never named on the bus.

    Raises ValueError for a target without a bus, or other lengths or counts.
    """

    ENGINE: Engine
    FAILURE = None  #: ErrorCode of a response other than OKAY
    N_MEMORIES = None

    def __init__(self, target, bus, ports, *, max_beats: int, outstanding: int):
        if not target.bus_bits:
            raise ValueError(f"Target '{target.name}' has no external bus")
        check_bursts(max_beats, outstanding)
        self.target = target
        self.bus_bytes = target.bus_bits // 8
        self.beats_per_word = target.word_bytes // self.bus_bytes
        self.max_beats = max_beats
        self.outstanding = outstanding
        super().__init__({
            "control": In(EngineControl(self.ENGINE)), "written": Out(EngineProgress()),
            "bytes": Out(range(self.bus_bytes + 1)), "region": In(Region()), "bus": Out(bus),
            **ports,
        })

    def front(self, m: Module) -> tuple:
        """The units that make bursts of an instruction, as submodules."""
        m.submodules.walker = walker = LineWalker(self.target, n_memories=self.N_MEMORIES)
        m.submodules.issuer = issuer = BurstIssuer(
            self.target, max_beats=self.max_beats, outstanding=self.outstanding)
        return walker, issuer

    def supervise(self, m: Module, walker, issuer, *, failed, failed_parity, is_drained, retired,
                progress, completes) -> Value:
        """Start, finish and give up instructions; returns the level ``stop``.

        walker, issuer : of ``front``.
        failed : pulse, a response other than OKAY, of an instruction of ``failed_parity``.
        is_drained : nothing is under way behind the bursts. retired : pulse, a burst is over.
        progress : words of a line that are now where they belong, or 0; completes : pulse, those
        of an instruction are.
        """
        control, written = self.control, self.written
        parity = Signal()  # of the instruction started last
        is_issuing = Signal()  # it is not done
        n_under_way = Signal(range(3))
        is_aborting, has_failed, is_failure = Signal(), Signal(), Signal()
        failed_of = Signal()  # parity of the instruction that failed
        refusal = Signal(ErrorCode)
        gives_up, stop, has_issued, is_over, ends = (Signal() for _ in range(5))
        is_refused = Signal()
        m.d.comb += [
            walker.words.eq(control.words), walker.start.eq(control.start & ~stop),
            walker.parity.eq(parity),
            walker.unit_ready.eq(control.unit_ready), control.unit_next.eq(walker.unit_next),
            walker.region_base.eq(self.region.base), walker.region_limit.eq(self.region.limit),
            issuer.retired.eq(retired),
            stop.eq(is_aborting | has_failed), walker.stop.eq(stop), issuer.stop.eq(stop),
            gives_up.eq(is_aborting | control.abort),
            is_refused.eq(refusal != ErrorCode.NONE),
            has_issued.eq(walker.idle & ~walker.line.valid & issuer.idle),
            is_over.eq(has_issued & ~issuer.issued & (issuer.n_open == 0) & is_drained),
            control.error_previous.eq(is_failure & (failed_of ^ parity ^ control.start)),
        ]
        m.d.sync += [
            written.progress.eq(Mux(gives_up, 0, progress)),
            written.complete.eq(completes & ~gives_up),
            control.done.eq(0), control.error.eq(ErrorCode.NONE), is_failure.eq(0),
            n_under_way.eq(n_under_way + control.start - completes),
        ]
        with m.If(control.start):
            m.d.sync += [is_issuing.eq(1), parity.eq(~parity), control.busy.eq(1)]
        with m.If(control.abort & (control.busy | control.start)):
            m.d.sync += is_aborting.eq(1)
        with m.If(failed & ~has_failed):
            m.d.sync += [has_failed.eq(1), failed_of.eq(failed_parity)]

        with m.If(walker.error != ErrorCode.NONE):
            m.d.sync += [refusal.eq(walker.error), is_issuing.eq(0)]
        with m.Elif(is_issuing & has_issued & (n_under_way != 2) & ~has_failed & ~gives_up):
            m.d.sync += [is_issuing.eq(0), control.done.eq(1)]

        # The bus is silent: report what happened, once.
        with m.If(is_aborting):
            m.d.comb += ends.eq(is_over)
        with m.Elif(~control.abort):
            with m.If(has_failed):
                m.d.comb += ends.eq(is_over)
                with m.If(is_over):
                    m.d.sync += [control.error.eq(self.FAILURE), is_failure.eq(1)]
            with m.Elif(is_refused):
                m.d.comb += ends.eq(is_over)
                with m.If(is_over):
                    m.d.sync += control.error.eq(refusal)
            with m.Elif(~is_issuing & (n_under_way == 0) & ~control.start):
                m.d.sync += control.busy.eq(0)
        with m.If(ends):
            m.d.sync += [
                control.busy.eq(0), is_aborting.eq(0), has_failed.eq(0),
                refusal.eq(ErrorCode.NONE), is_issuing.eq(0), n_under_way.eq(0)]
        return stop

"""What LOAD and STORE have in common: instructions under way, errors, abort."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.isa import ErrorCode
from hw.rtl.dma.bursts import BurstIssuer, check_bursts
from hw.rtl.dma.lines import WORDS_LAYOUT, LineWalker

__all__ = ["TransferEngine"]


class TransferEngine(wiring.Component):
    """An engine core (hw/isa/layout.py) for the instructions of format TRANSFER.

    Arguments
    ---------
    target : hw.targets.Target with ``bus_bits``. max_beats : of a burst, a power of two in 2..256.
    outstanding : bursts under way at once, a power of two up to 32.

    Members
    -------
    words : the instruction, stable from ``start`` to ``done``.
    start : pulse, only after ``done`` or while not ``busy``.
    done : pulse, the last address is out and the next instruction may start. At most two
        instructions are under way: ``done`` waits until the one before is complete.
    unit_ready, unit_next : the chase, one unit per line; ``unit_ready`` is looked at three cycles
        after ``start`` or ``unit_next`` at the earliest.
    error : ErrorCode for one cycle, in place of ``done`` and ``complete`` of the refused
        instruction; the engine is idle then. ``error_previous`` is up with it where the error is
        of the instruction before the one started last (in this cycle, perhaps).
    abort : pulse or level. Open bursts are finished, their data discarded, then ``busy`` falls;
        ``done``, ``complete``, ``progress`` and ``error`` stay 0 from the next cycle on.
    busy : from the cycle after ``start`` until nothing is under way.
    progress : words of a finished line, 0 otherwise. complete : pulse, an instruction's last word
        has arrived. Both come one cycle after that, and may precede ``done``.
    bytes : that crossed the bus in the cycle before.
    region_base, region_limit : bytes outside this region are never named on the bus.

    Raises ValueError for a target without a bus, or other lengths or counts.
    """

    FAILURE = None  #: ErrorCode of a response other than OKAY
    N_MEMORIES = None

    def __init__(self, target, bus, ports, *, max_beats, outstanding):
        if not target.bus_bits:
            raise ValueError(f"Target '{target.name}' has no external bus")
        check_bursts(max_beats, outstanding)
        self.target = target
        self.bus_bytes = target.bus_bits // 8
        self.beats_per_word = target.word_bytes // self.bus_bytes
        self.max_beats = max_beats
        self.outstanding = outstanding
        super().__init__({
            "words": In(WORDS_LAYOUT), "start": In(1), "done": Out(1), "unit_ready": In(1),
            "unit_next": Out(1), "error": Out(ErrorCode), "error_previous": Out(1),
            "abort": In(1), "busy": Out(1), "progress": Out(16), "complete": Out(1),
            "bytes": Out(range(self.bus_bytes + 1)), "region_base": In(32),
            "region_limit": In(32), "bus": Out(bus), **ports,
        })

    def front(self, m: Module):
        """The units that make bursts of an instruction, as submodules."""
        m.submodules.walker = walker = LineWalker(self.target, n_memories=self.N_MEMORIES)
        m.submodules.issuer = issuer = BurstIssuer(
            self.target, max_beats=self.max_beats, outstanding=self.outstanding)
        return walker, issuer

    def control(self, m: Module, walker, issuer, *, failed, failed_parity, is_drained, retired,
                progress, completes):
        """Start, finish and give up instructions; returns the level ``stop``.

        walker, issuer : of ``front``.
        failed : pulse, a response other than OKAY, of an instruction of ``failed_parity``.
        is_drained : nothing is under way behind the bursts. retired : pulse, a burst is over.
        progress : words of a line that are now where they belong, or 0; completes : pulse, those
        of an instruction are.
        """
        parity = Signal()  # of the instruction started last
        is_issuing = Signal()  # it is not done
        n_under_way = Signal(range(3))
        is_aborting, has_failed, is_failure = Signal(), Signal(), Signal()
        failed_of = Signal()  # parity of the instruction that failed
        refusal = Signal(ErrorCode)
        gives_up, stop, has_issued, is_over, ends = (Signal() for _ in range(5))
        is_refused = Signal()
        m.d.comb += [
            walker.words.eq(self.words), walker.start.eq(self.start & ~stop),
            walker.parity.eq(parity),
            walker.unit_ready.eq(self.unit_ready), self.unit_next.eq(walker.unit_next),
            walker.region_base.eq(self.region_base), walker.region_limit.eq(self.region_limit),
            issuer.retired.eq(retired),
            stop.eq(is_aborting | has_failed), walker.stop.eq(stop), issuer.stop.eq(stop),
            gives_up.eq(is_aborting | self.abort),
            is_refused.eq(refusal != ErrorCode.NONE),
            has_issued.eq(walker.idle & ~walker.line.valid & issuer.idle),
            is_over.eq(has_issued & ~issuer.issued & (issuer.n_open == 0) & is_drained),
            self.error_previous.eq(is_failure & (failed_of ^ parity ^ self.start)),
        ]
        m.d.sync += [
            self.progress.eq(Mux(gives_up, 0, progress)),
            self.complete.eq(completes & ~gives_up),
            self.done.eq(0), self.error.eq(ErrorCode.NONE), is_failure.eq(0),
            n_under_way.eq(n_under_way + self.start - completes),
        ]
        with m.If(self.start):
            m.d.sync += [is_issuing.eq(1), parity.eq(~parity), self.busy.eq(1)]
        with m.If(self.abort & (self.busy | self.start)):
            m.d.sync += is_aborting.eq(1)
        with m.If(failed & ~has_failed):
            m.d.sync += [has_failed.eq(1), failed_of.eq(failed_parity)]

        with m.If(walker.error != ErrorCode.NONE):
            m.d.sync += [refusal.eq(walker.error), is_issuing.eq(0)]
        with m.Elif(is_issuing & has_issued & (n_under_way != 2) & ~has_failed & ~gives_up):
            m.d.sync += [is_issuing.eq(0), self.done.eq(1)]

        # The bus is silent: report what happened, once.
        with m.If(is_aborting):
            m.d.comb += ends.eq(is_over)
        with m.Elif(~self.abort):
            with m.If(has_failed):
                m.d.comb += ends.eq(is_over)
                with m.If(is_over):
                    m.d.sync += [self.error.eq(self.FAILURE), is_failure.eq(1)]
            with m.Elif(is_refused):
                m.d.comb += ends.eq(is_over)
                with m.If(is_over):
                    m.d.sync += self.error.eq(refusal)
            with m.Elif(~is_issuing & (n_under_way == 0) & ~self.start):
                m.d.sync += self.busy.eq(0)
        with m.If(ends):
            m.d.sync += [
                self.busy.eq(0), is_aborting.eq(0), has_failed.eq(0), refusal.eq(ErrorCode.NONE),
                is_issuing.eq(0), n_under_way.eq(0)]
        return stop

"""Cuts lines into bursts that cross no 4 KB boundary, and offers them on an address channel."""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.rtl.dma.axi import BOUNDARY
from hw.rtl.dma.lines import LINE_LAYOUT

__all__ = ["BURST_LAYOUT", "BurstIssuer", "check_bursts"]

#: One burst: ``length`` + 1 beats; where a line starts on the chip, and which ends it contains.
BURST_LAYOUT = data.StructLayout({
    "length": 8, "memory": 3, "local": 16, "nibbles": 1, "nibble_shift": 3, "is_line_start": 1,
    "is_line_end": 1, "is_instruction_end": 1, "parity": 1})


def check_bursts(max_beats, outstanding) -> None:
    """Raise ValueError where BurstIssuer cannot be built so."""
    if max_beats not in (2, 4, 8, 16, 32, 64, 128, 256):
        raise ValueError(f"Burst length must be a power of two in 2..256, not {max_beats}")
    if outstanding not in (2, 4, 8, 16, 32):
        raise ValueError(f"Outstanding bursts must be a power of two in 2..32, not {outstanding}")


class BurstIssuer(wiring.Component):
    """One burst in three cycles at most; the first burst of a line follows the last one's end.

    Arguments
    ---------
    target : hw.targets.Target. max_beats : of a burst, a power of two in 2..256.
    outstanding : bursts that may be under way at once, a power of two in 2..32.

    Members
    -------
    line : In(stream.Signature(LINE_LAYOUT)).
    valid, ready, address, length : the address channel; valid stands until ready is given.
    issued : pulse for the cycle in which ``valid`` rises for the burst described by ``burst``.
    retired : pulse, a burst is over. stop : offer no further burst.
    idle : no line is being cut. n_open : bursts offered and not retired.
    """

    def __init__(self, target, *, max_beats, outstanding):
        self.bus_bytes = target.bus_bits // 8
        self.beats_per_word = target.word_bytes // self.bus_bytes
        self.max_beats = max_beats
        self.outstanding = outstanding
        super().__init__({
            "line": In(stream.Signature(LINE_LAYOUT)), "stop": In(1), "retired": In(1),
            "valid": Out(1), "ready": In(1), "address": Out(32), "length": Out(8),
            "issued": Out(1), "burst": Out(BURST_LAYOUT),
            "idle": Out(1), "n_open": Out(range(outstanding + 1)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        line = self.line.payload
        beat = exact_log2(self.bus_bytes)
        address = Signal(32, reset_less=True)
        n_left = Signal(16 + exact_log2(self.beats_per_word), reset_less=True)
        held = Signal(LINE_LAYOUT, reset_less=True)
        is_first = Signal()
        limit, n_beats = Signal(9, reset_less=True), Signal(9, reset_less=True)
        is_end = Signal()
        may_issue = Signal()

        # The last block of max_beats before the boundary bounds a burst, the others do not.
        in_block = address[beat:beat + exact_log2(self.max_beats)]
        block = address[beat + exact_log2(self.max_beats):exact_log2(BOUNDARY)]
        to_boundary = Mux(block.all(), self.max_beats - in_block, self.max_beats)
        # `issued` is a cycle late in n_open, but bursts are three cycles apart.
        m.d.sync += [
            self.n_open.eq(self.n_open + self.issued - self.retired), self.issued.eq(0),
            may_issue.eq(self.n_open != self.outstanding)]
        with m.If(self.ready):
            m.d.sync += self.valid.eq(0)

        def take_line():
            m.d.comb += self.line.ready.eq(1)
            m.d.sync += [
                held.eq(line), address.eq(line.address), is_first.eq(1),
                n_left.eq(line.words.shift_left(exact_log2(self.beats_per_word)))]
            with m.If(self.line.valid):
                m.next = "LIMIT"
            with m.Else():
                m.next = "IDLE"

        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                with m.If(~self.stop):
                    take_line()
            with m.State("LIMIT"):
                m.d.sync += limit.eq(to_boundary)
                m.next = "LENGTH"
            with m.State("LENGTH"):
                m.d.sync += [n_beats.eq(Mux(n_left <= limit, n_left, limit)),
                             is_end.eq(n_left <= limit)]
                m.next = "ISSUE"
            with m.State("ISSUE"):
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(may_issue & (~self.valid | self.ready)):
                    m.d.sync += [
                        self.valid.eq(1), self.issued.eq(1),
                        self.address.eq(address), self.length.eq(n_beats - 1),
                        self.burst.length.eq(n_beats - 1), self.burst.memory.eq(held.memory),
                        self.burst.local.eq(held.local), self.burst.parity.eq(held.parity),
                        self.burst.nibbles.eq(held.nibbles),
                        self.burst.nibble_shift.eq(held.nibble_shift),
                        self.burst.is_line_start.eq(is_first), self.burst.is_line_end.eq(is_end),
                        self.burst.is_instruction_end.eq(is_end & held.is_last),
                        is_first.eq(0), n_left.eq(n_left - n_beats),
                        address.eq(address + (n_beats << beat))]
                    m.next = "LIMIT"
                    with m.If(is_end):
                        take_line()
        return m

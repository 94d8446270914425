"""LOAD: external memory to the scratchpad banks, the parameters or the instructions."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.dma.axi import OKAY, ReadSignature, constant_controls
from hw.dma.bursts import BURST_LAYOUT
from hw.dma.engine import TransferEngine
from hw.isa import ErrorCode, LocalMemory
from hw.stream import SkidBuffer, SmallFIFO

__all__ = ["LoadEngine", "SmallWriteSignature", "bank_write_signature"]

#: Write port of the memories of 32-bit words, always accepted. ``address`` counts such words.
SmallWriteSignature = wiring.Signature({
    "valid": Out(1), "is_instructions": Out(1), "address": Out(16), "data": Out(32)})


def bank_write_signature(word_bytes):
    """Write port `l` of the crossbar, the engine's view; ``enable`` has one bit per byte."""
    return wiring.Signature({
        "valid": Out(1), "ready": In(1), "bank": Out(2), "address": Out(16),
        "data": Out(8 * word_bytes), "enable": Out(word_bytes)})


class LoadEngine(TransferEngine):
    """Reads lines of words; see TransferEngine for the members that are not here.

    A bank takes one bus beat per cycle, parameters and instructions 4 bytes per cycle. There
    ``line_words`` still counts words of ``target.word_bytes``; ``local_base`` and ``local_step``
    count 32-bit words.

    Arguments
    ---------
    beats_held : beats between the bus and the banks, a power of two.

    Members
    -------
    bus : Out(ReadSignature). l : Out(bank_write_signature). small : Out(SmallWriteSignature).
    """

    FAILURE = ErrorCode.BUS_READ
    N_MEMORIES = len(LocalMemory)

    def __init__(self, target, *, max_beats=16, outstanding=16, beats_held=16):
        self.beats_held = beats_held
        super().__init__(target, ReadSignature(target.bus_bits), {
            "l": Out(bank_write_signature(target.word_bytes)),
            "small": Out(SmallWriteSignature)}, max_beats=max_beats, outstanding=outstanding)

    def elaborate(self, platform):
        m = Module()
        bus, bus_bits = self.bus, self.target.bus_bits
        walker, issuer = self.front(m)
        m.submodules.beats = beats = SmallFIFO(
            data.StructLayout({"data": bus_bits, "resp": 2}), self.beats_held)
        m.submodules.bursts = bursts = SmallFIFO(BURST_LAYOUT, self.outstanding)
        m.submodules.words = words = SkidBuffer(data.StructLayout({
            "bank": 2, "address": 16, "data": 8 * self.target.word_bytes, "is_line_end": 1,
            "is_instruction_end": 1}))
        constant_controls(m, bus, "ar", bus_bits)
        wiring.connect(m, walker.line, issuer.line)
        m.d.comb += [
            bus.arvalid.eq(issuer.valid), issuer.ready.eq(bus.arready),
            bus.araddr.eq(issuer.address), bus.arlen.eq(issuer.length),
            # There is a place for every burst that may be open.
            bursts.i.valid.eq(issuer.issued), bursts.i.payload.eq(issuer.burst),
            beats.i.valid.eq(bus.rvalid), bus.rready.eq(beats.i.ready),
            beats.i.payload.data.eq(bus.rdata), beats.i.payload.resp.eq(bus.rresp),
        ]
        m.d.sync += self.bytes.eq(Mux(bus.rvalid & bus.rready, self.bus_bytes, 0))

        beat, burst = beats.o.payload, bursts.o.payload
        take, is_small, is_bad, is_written, stop = (Signal() for _ in range(5))
        is_last_beat, is_word_end, is_last_part = Signal(), Signal(), Signal()
        index = Signal(8)
        address, next_address = Signal(16), Signal(16, reset_less=True)
        at_line_start = Signal(init=1)
        m.d.comb += [
            is_small.eq(burst.memory[2]), is_bad.eq(beat.resp != OKAY),
            is_last_beat.eq(index == burst.length),
            is_written.eq(take & ~is_bad & ~stop),
            address.eq(Mux(at_line_start, burst.local, next_address)),
            beats.o.ready.eq(take), bursts.o.ready.eq(take & is_last_beat),
        ]
        with m.If(beats.o.valid & bursts.o.valid):
            # A word for the banks may wait in front of the crossbar: it comes first.
            m.d.comb += take.eq(stop | Mux(
                is_small, (is_last_part | is_bad) & ~words.o.valid, words.i.ready))
        with m.If(take):
            m.d.sync += index.eq(index + 1)
            with m.If(is_last_beat):
                m.d.sync += index.eq(0)

        # Words for a bank, assembled from one or two beats.
        if self.beats_per_word == 1:
            m.d.comb += [is_word_end.eq(1), words.i.payload.data.eq(beat.data)]
        else:
            first_half = Signal(bus_bits, reset_less=True)
            m.d.comb += [is_word_end.eq(index[0]),
                         words.i.payload.data.eq(Cat(first_half, beat.data))]
            with m.If(take):
                m.d.sync += first_half.eq(beat.data)
        m.d.comb += [
            words.i.valid.eq(is_written & is_word_end & ~is_small),
            words.i.payload.bank.eq(burst.memory), words.i.payload.address.eq(address),
            words.i.payload.is_line_end.eq(is_last_beat & burst.is_line_end),
            words.i.payload.is_instruction_end.eq(is_last_beat & burst.is_instruction_end),
            self.l.valid.eq(words.o.valid), words.o.ready.eq(self.l.ready),
            self.l.bank.eq(words.o.payload.bank), self.l.address.eq(words.o.payload.address),
            self.l.data.eq(words.o.payload.data), self.l.enable.eq(~0),
        ]

        # 32-bit words for a small memory, one part of a beat after the other.
        n_parts = self.bus_bytes // 4
        part = Signal(range(n_parts))
        part_written = Signal()
        m.d.comb += [
            is_last_part.eq(part == n_parts - 1),
            part_written.eq(beats.o.valid & bursts.o.valid & is_small & ~words.o.valid & ~is_bad
                            & ~stop)]
        m.d.sync += [
            self.small.valid.eq(part_written),
            self.small.is_instructions.eq(burst.memory == LocalMemory.INSTRUCTIONS),
            self.small.address.eq(address),
            self.small.data.eq(Array(beat.data.word_select(k, 32) for k in range(n_parts))[part])]
        with m.If(take):
            m.d.sync += part.eq(0)
        with m.Elif(part_written):
            m.d.sync += part.eq(part + 1)

        with m.If(part_written | words.i.valid):
            m.d.sync += [next_address.eq(address + 1), at_line_start.eq(0)]
        with m.If(take & is_last_beat & (burst.is_line_end | stop)):
            m.d.sync += at_line_start.eq(1)

        sent = words.o.valid & self.l.ready
        small_end = is_written & is_small & is_word_end
        ends_line = is_last_beat & burst.is_line_end
        m.d.comb += stop.eq(self.control(
            m, walker, issuer, failed=take & is_bad, failed_parity=burst.parity,
            is_drained=~words.o.valid, retired=take & is_last_beat,
            ended_words=sent | small_end,
            ended_line=(sent & words.o.payload.is_line_end) | (small_end & ends_line),
            ended_instruction=(sent & words.o.payload.is_instruction_end)
            | (small_end & is_last_beat & burst.is_instruction_end)))
        return m

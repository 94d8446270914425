"""LOAD: external memory to the scratchpad banks, the parameters or the instructions."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import Out

from hw.isa import Engine, ErrorCode, LocalMemory
from hw.rtl.common.stream import RegisterSlice, SmallFIFO
from hw.rtl.dma.axi import OKAY, ReadSignature, constant_controls
from hw.rtl.dma.bursts import BURST_LAYOUT
from hw.rtl.dma.engine import TransferEngine
from hw.rtl.memory.crossbar import WaitingWrite
from hw.rtl.memory.scratchpad import word_layout
from hw.rtl.memory.waiting import WaitingQueue

__all__ = ["LoadEngine", "SmallWriteSignature"]

#: Write port of the memories of 32-bit words, always accepted. ``address`` counts such words.
SmallWriteSignature = wiring.Signature({
    "valid": Out(1), "is_instructions": Out(1), "address": Out(16), "data": Out(32)})


class LoadEngine(TransferEngine):
    """Reads lines of words; see TransferEngine for the members that are not here.

    A bank takes one bus beat per cycle, parameters and instructions 4 bytes per cycle. There
    ``line_words`` still counts words of ``target.word_bytes``; ``local_base`` and ``local_step``
    count 32-bit words. With ``nibbles`` a word outside becomes two words of a bank: its codes of
    4 bits, low half of the first byte first, become bytes. ``line_words`` and the progress count
    words outside.

    Arguments
    ---------
    beats_held : beats between the bus and the banks, a power of two.

    Members
    -------
    bus : Out(ReadSignature). l : Out(hw.rtl.memory.crossbar.WaitingWrite). small :
    Out(SmallWriteSignature).
    """

    ENGINE = Engine.LOAD
    FAILURE = ErrorCode.BUS_READ
    N_MEMORIES = len(LocalMemory)
    #: Words that the crossbar may have accepted and not written: its queue, and three under way.
    MAX_PENDING = WaitingQueue.DEPTH + 3

    def __init__(self, target, *, max_beats=16, outstanding=16, beats_held=16):
        self.beats_held = beats_held
        super().__init__(target, ReadSignature(target.bus_bits), {
            "l": Out(WaitingWrite(target.word_bytes)), "small": Out(SmallWriteSignature)},
            max_beats=max_beats, outstanding=outstanding)

    def elaborate(self, platform) -> Module:
        m = Module()
        bus, bus_bits = self.bus, self.target.bus_bits
        walker, issuer = self.front(m)
        m.submodules.beats = beats = SmallFIFO(
            data.StructLayout({"data": bus_bits, "resp": 2}), self.beats_held)
        m.submodules.bursts = bursts = SmallFIFO(BURST_LAYOUT, self.outstanding)
        constant_controls(m, bus_bits, size=bus.arsize, burst=bus.arburst, cache=bus.arcache)
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

        # The beat in front, the burst that it belongs to, and where it goes.
        beat, burst = beats.o.payload, bursts.o.payload
        is_here, is_bad, stop, take = (Signal() for _ in range(4))
        is_last_beat, is_line_end, is_word_end, is_beat_end = (Signal() for _ in range(4))
        second_half = Signal()  # of a beat that holds two words of nibbles
        index = Signal(8)
        at_burst_start = Signal(init=1)
        address, next_address = Signal(16), Signal(16, reset_less=True)
        m.d.comb += [
            is_here.eq(beats.o.valid & bursts.o.valid), is_bad.eq(beat.resp != OKAY),
            is_last_beat.eq(index == burst.length),
            is_line_end.eq(is_last_beat & burst.is_line_end),
            is_word_end.eq(1 if self.beats_per_word == 1 else index[0]),
            is_beat_end.eq(1 if self.beats_per_word == 2 else ~burst.nibbles | second_half),
            address.eq(Mux(at_burst_start & burst.is_line_start, burst.local, next_address)),
            beats.o.ready.eq(take), bursts.o.ready.eq(take & is_last_beat),
        ]
        is_small = burst.memory[2]
        n_words = Signal(16)
        progress = Signal(16)
        m.d.comb += progress.eq(Mux(is_line_end & is_beat_end, n_words + 1, 0))
        place = {"address": address, "progress": progress,
                 "instruction_end": is_last_beat & is_beat_end & burst.is_instruction_end}

        usable = is_here & ~is_bad & ~stop
        written_progress, written_end = self.l.written_progress, self.l.written_end
        word_pushed, word_ready, all_written = self._write_bank(
            m, beat, usable & ~is_small & (is_word_end | burst.nibbles), take, burst,
            second_half, place)
        # Words that the crossbar has not written yet come first.
        part_pushed, is_last_part = self._write_small(
            m, beat, usable & is_small & all_written, take, burst.memory, place)
        m.d.comb += take.eq(is_here & (stop | is_bad | Mux(
            is_small, is_last_part & all_written, word_ready & is_beat_end)))
        small_end = part_pushed & is_last_part & is_word_end
        with m.If(take):
            m.d.sync += [index.eq(Mux(is_last_beat, 0, index + 1)), second_half.eq(0)]
        with m.Elif(word_pushed):
            m.d.sync += second_half.eq(1)
        with m.If(take & is_last_beat):
            m.d.sync += at_burst_start.eq(1)
        with m.Elif(word_pushed | part_pushed):
            m.d.sync += at_burst_start.eq(0)
        with m.If(word_pushed | part_pushed):
            m.d.sync += next_address.eq(address + 1)
        with m.If(stop | (take & is_line_end)):
            m.d.sync += n_words.eq(0)
        with m.Elif((word_pushed & is_word_end & is_beat_end) | small_end):
            m.d.sync += n_words.eq(n_words + 1)

        m.d.comb += stop.eq(self.supervise(
            m, walker, issuer, failed=take & is_bad, failed_parity=burst.parity,
            is_drained=all_written, retired=take & is_last_beat,
            progress=Mux(small_end, progress, written_progress),
            completes=(small_end & place["instruction_end"]) | written_end))
        return m

    def _write_bank(self, m, beat, offered, take, burst, second_half, place) -> tuple:
        """Port l; words are assembled from one or two beats, or from the nibbles of half a word.

        Returns whether a word is pushed, whether one would be, and whether all are written.
        """
        l = self.l
        m.submodules.words = words = RegisterSlice(data.StructLayout({
            "bank": l.bank.shape(), "data": word_layout(self.target.word_bytes),
            **{name: value.shape() for name, value in place.items()}}))
        word = beat.data
        if self.beats_per_word == 2:
            first_half = Signal(beat.data.shape(), reset_less=True)
            word = Cat(first_half, beat.data)
            with m.If(take):
                m.d.sync += first_half.eq(beat.data)
        m.d.comb += [
            words.i.valid.eq(offered), words.i.payload.bank.eq(burst.memory),
            words.i.payload.data.eq(Mux(burst.nibbles, self._unpacked(beat, burst, second_half),
                                        word)),
            l.valid.eq(words.o.valid), words.o.ready.eq(l.ready),
            l.enable.eq(~0),
            *(words.i.payload[name].eq(value) for name, value in place.items()),
            l.bank.eq(words.o.payload.bank), l.data.eq(words.o.payload.data),
            l.address.eq(words.o.payload.address), l.progress.eq(words.o.payload.progress),
            l.instruction_end.eq(words.o.payload.instruction_end),
        ]
        n_pending = Signal(range(self.MAX_PENDING + 1))
        pushed = Signal()
        m.d.comb += pushed.eq(offered & words.i.ready)
        m.d.sync += n_pending.eq(n_pending + pushed - l.written)
        return pushed, words.i.ready, n_pending == 0

    def _unpacked(self, beat, burst, second_half) -> Value:
        """A word of bytes from the nibbles of a beat, or of half of it where it is a whole word."""
        half = beat.data
        if self.beats_per_word == 1:
            half = half.word_select(second_half, 4 * self.target.word_bytes)
        return Cat((half.word_select(k, 4).as_signed() << burst.nibble_shift)[:8]
                   for k in range(self.target.word_bytes))

    def _write_small(self, m, beat, offered, take, memory, place) -> tuple:
        """Port small; one part of a beat after the other.

        Returns whether a part is written and whether it is the beat's last.
        """
        n_parts = self.bus_bytes // 4
        part = Signal(range(n_parts))
        pushed = Signal()
        m.d.comb += pushed.eq(offered)
        with m.If(take):
            m.d.sync += part.eq(0)
        with m.Elif(pushed):
            m.d.sync += part.eq(part + 1)
        m.d.sync += [
            self.small.valid.eq(pushed),
            self.small.is_instructions.eq(memory == LocalMemory.INSTRUCTIONS),
            self.small.address.eq(place["address"]),
            self.small.data.eq(Array(beat.data.word_select(k, 32) for k in range(n_parts))[part])]
        return pushed, part == n_parts - 1

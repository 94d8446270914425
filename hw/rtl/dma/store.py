"""STORE: a scratchpad bank to external memory."""

from amaranth.hdl import Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.isa import Engine, ErrorCode
from hw.rtl.common.stream import SmallFIFO
from hw.rtl.dma.axi import OKAY, WriteSignature, constant_controls
from hw.rtl.dma.bursts import BURST_LAYOUT
from hw.rtl.dma.engine import TransferEngine
from hw.targets import N_BANKS

__all__ = ["StoreEngine", "bank_read_signature"]


def bank_read_signature(word_bytes) -> wiring.Signature:
    """Read port `s` of the crossbar, the engine's view: answers come in the order of requests."""
    return wiring.Signature({
        "valid": Out(1), "ready": In(1), "bank": Out(2), "address": Out(16),
        "response_valid": In(1), "data": In(8 * word_bytes)})


class StoreEngine(TransferEngine):
    """Writes lines of words; see TransferEngine for the members that are not here.

    A word has arrived once the response of its burst has; ``progress`` counts such lines. After a
    refused burst, or on abort, the beats that open bursts still owe are sent without strobes.

    Arguments
    ---------
    words_held : words between the bank and the bus, requests under way included, a power of two.

    Members
    -------
    bus : Out(WriteSignature). s : Out(bank_read_signature).
    """

    ENGINE = Engine.STORE
    FAILURE = ErrorCode.BUS_WRITE
    N_MEMORIES = N_BANKS

    def __init__(self, target, *, max_beats=16, outstanding=8, words_held=16):
        self.words_held = words_held
        super().__init__(target, WriteSignature(target.bus_bits), {
            "s": Out(bank_read_signature(target.word_bytes))},
            max_beats=max_beats, outstanding=outstanding)

    def elaborate(self, platform) -> Module:
        m = Module()
        bus = self.bus
        walker, issuer = self.front(m)
        depth = self.outstanding
        m.submodules.bursts = bursts = SmallFIFO(BURST_LAYOUT, depth)  # they still owe beats
        m.submodules.answers = answers = SmallFIFO(BURST_LAYOUT, depth)  # they await a response
        m.submodules.words = words = SmallFIFO(8 * self.target.word_bytes, self.words_held)
        constant_controls(m, self.target.bus_bits, size=bus.awsize, burst=bus.awburst,
                          cache=bus.awcache)
        m.d.comb += [
            bus.awvalid.eq(issuer.valid), issuer.ready.eq(bus.awready),
            bus.awaddr.eq(issuer.address), bus.awlen.eq(issuer.length), bus.bready.eq(1),
            # There is a place for every burst that may be open.
            bursts.i.valid.eq(issuer.issued), bursts.i.payload.eq(issuer.burst),
            answers.i.valid.eq(issuer.issued), answers.i.payload.eq(issuer.burst),
        ]
        stop = Signal()
        is_drained = self._read_words(m, walker, issuer, words, stop)
        self._send_beats(m, words, bursts, stop)

        response, is_bad = Signal(), Signal(reset_less=True)
        m.d.sync += [response.eq(bus.bvalid), is_bad.eq(bus.bresp != OKAY)]
        burst = answers.o.payload
        is_written = response & ~is_bad & ~stop
        n_words, n_arrived = Signal(16), Signal(16)
        m.d.comb += n_arrived.eq(
            n_words + ((burst.length + 1) >> exact_log2(self.beats_per_word)))
        with m.If(stop):
            m.d.sync += n_words.eq(0)
        with m.Elif(response):
            m.d.sync += n_words.eq(Mux(burst.is_line_end, 0, n_arrived))
        m.d.comb += [
            answers.o.ready.eq(response),
            stop.eq(self.supervise(
                m, walker, issuer, failed=response & is_bad, failed_parity=burst.parity,
                is_drained=is_drained, retired=response,
                progress=Mux(is_written & burst.is_line_end, n_arrived, 0),
                completes=is_written & burst.is_instruction_end))]
        return m

    def _read_words(self, m, walker, issuer, words, stop) -> Value:
        """Request the words of each line; returns whether nothing is requested or held."""
        s = self.s
        line = walker.line.payload
        place = data.StructLayout({"bank": 2, "address": 16, "n_left": 16})
        waiting, present = Signal(place, reset_less=True), Signal(place, reset_less=True)
        is_waiting, is_present = Signal(), Signal()
        n_free = Signal(range(self.words_held + 1), init=self.words_held)
        asks, is_last, moves, freed = Signal(), Signal(), Signal(), Signal()
        m.d.comb += [
            # A line enters the cutting into bursts and the reading together.
            issuer.line.payload.eq(line), issuer.line.valid.eq(walker.line.valid & ~is_waiting),
            walker.line.ready.eq(issuer.line.ready & ~is_waiting),
            asks.eq(is_present & (n_free != 0) & (~s.valid | s.ready) & ~stop),
            is_last.eq(present.n_left == 1), moves.eq(~is_present | (asks & is_last)),
            freed.eq(words.o.valid & words.o.ready),
            words.i.valid.eq(s.response_valid), words.i.payload.eq(s.data),
        ]
        with m.If(moves):
            m.d.sync += [present.eq(waiting), is_present.eq(is_waiting), is_waiting.eq(0)]
        with m.Elif(asks):
            m.d.sync += [present.address.eq(present.address + 1),
                         present.n_left.eq(present.n_left - 1)]
        with m.If(walker.line.valid & walker.line.ready):
            m.d.sync += [is_waiting.eq(1), waiting.bank.eq(line.memory),
                         waiting.address.eq(line.local), waiting.n_left.eq(line.words)]
        with m.If(stop):
            m.d.sync += [is_waiting.eq(0), is_present.eq(0)]
        with m.If(asks):
            m.d.sync += [s.valid.eq(1), s.bank.eq(present.bank), s.address.eq(present.address)]
        with m.Elif(s.ready):
            m.d.sync += s.valid.eq(0)
        m.d.sync += n_free.eq(n_free - asks + freed)
        return ~is_waiting & ~is_present & (n_free == self.words_held)

    def _send_beats(self, m, words, bursts, stop) -> None:
        """The write data channel. A stopped engine sends what it owes without waiting for words."""
        bus = self.bus
        index = Signal(8)
        moves, sends, is_last, is_word_end = (Signal() for _ in range(4))
        m.d.comb += [
            moves.eq(~bus.wvalid | bus.wready),
            sends.eq(moves & bursts.o.valid & (words.o.valid | stop)),
            is_last.eq(index == bursts.o.payload.length),
            is_word_end.eq((index & (self.beats_per_word - 1)) == self.beats_per_word - 1),
            bursts.o.ready.eq(sends & is_last),
            words.o.ready.eq((sends & is_word_end) | stop),
        ]
        with m.If(moves):
            m.d.sync += bus.wvalid.eq(sends)
        with m.If(sends):
            m.d.sync += [
                index.eq(Mux(is_last, 0, index + 1)), bus.wlast.eq(is_last),
                bus.wstrb.eq(Mux(stop, 0, ~0)),
                bus.wdata.eq(words.o.payload if self.beats_per_word == 1 else Mux(
                    index[0], words.o.payload[bus.wdata.shape().width:], words.o.payload))]
        m.d.sync += self.bytes.eq(
            Mux(bus.wvalid & bus.wready & bus.wstrb[0], self.bus_bytes, 0))

"""The lines of a transfer: field and address checks, the chase, one line descriptor at a time."""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out
from amaranth.utils import exact_log2

from hw.isa import FIELDS, FORMAT_WORDS, MAX_NIBBLE_SHIFT, ErrorCode, Format, local_depths
from hw.targets import N_BANKS

__all__ = ["LINE_LAYOUT", "WORDS_LAYOUT", "LineWalker"]

WORDS_LAYOUT = data.ArrayLayout(32, FORMAT_WORDS[Format.TRANSFER])

#: One line: first byte outside, words, where on the chip, and whether it is the last of its
#: instruction. ``parity`` alternates from one instruction to the next.
LINE_LAYOUT = data.StructLayout({
    "address": 32, "words": 16, "memory": 3, "local": 16, "nibbles": 1, "nibble_shift": 3,
    "is_last": 1, "parity": 1})


class LineWalker(wiring.Component):
    """Steps through the lines of one LOAD or STORE, at most one line in four cycles.

    A line is handed out once its unit is ready and its addresses have been checked; ``unit_next``
    is pulsed then. ``error`` is pulsed instead, and the walk ends, for a field (FIELD) before the
    first line, or for the first line that lies outside (ADDRESS).

    Arguments
    ---------
    target : hw.targets.Target. n_memories : how many of LocalMemory may be named.

    Members
    -------
    words, start, unit_ready, unit_next : see hw.rtl.dma. parity : of the instruction that starts.
    region_base, region_limit : bytes outside this region are never named.
    stop : give up the walk, within five cycles.
    idle : nothing to walk; the last line may still wait in ``line``.
    line : Out(stream.Signature(LINE_LAYOUT))
    """

    def __init__(self, target, *, n_memories):
        self.target = target
        self.n_memories = n_memories
        super().__init__({
            "words": In(WORDS_LAYOUT), "start": In(1), "parity": In(1), "stop": In(1),
            "unit_ready": In(1), "unit_next": Out(1),
            "region_base": In(32), "region_limit": In(32),
            "line": Out(stream.Signature(LINE_LAYOUT)), "idle": Out(1), "error": Out(ErrorCode),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        word_bytes = self.target.word_bytes
        f = {field.name: self.words[field.word][field.offset:field.offset + field.width]
             for field in FIELDS[Format.TRANSFER]}
        # One bit more than an address has: what leaves the address space is never inside.
        external, external_end = Signal(33), Signal(34)
        local, local_end = Signal(17), Signal(20)
        local_words, depth = Signal(19), Signal(range(max(local_depths(self.target)) + 1))
        n_left = Signal(16)
        is_last, is_outside, is_field_wrong, is_wrong = Signal(), Signal(3), Signal(), Signal()
        word_bits = exact_log2(word_bytes)
        is_word_wise = f["local_memory"] >= N_BANKS
        is_no_unpacking = (is_word_wise | (f["nibble_shift"] > MAX_NIBBLE_SHIFT)
                           | (self.n_memories == N_BANKS))  # a STORE
        step = Mux(f["n_lines"] == 1, 0, f["external_step"])
        with m.If(self.line.ready | self.stop):
            m.d.sync += self.line.valid.eq(0)
        m.d.sync += [self.unit_next.eq(0), self.error.eq(ErrorCode.NONE)]
        with m.FSM():
            with m.State("IDLE"):
                m.d.comb += self.idle.eq(1)
                with m.If(self.start):
                    m.next = "PREPARE"
            with m.State("PREPARE"):
                depths = local_depths(self.target)[:self.n_memories]
                m.d.sync += [
                    external.eq(f["external_base"]), local.eq(f["local_base"]),
                    n_left.eq(f["n_lines"]),
                    local_words.eq(Mux(is_word_wise,
                                       f["line_words"].shift_left(word_bits - 2),
                                       f["line_words"] << f["nibbles"])),
                    depth.eq(Array(depths)[f["local_memory"]]),
                    is_field_wrong.eq(
                        (f["n_lines"] == 0) | (f["line_words"] == 0)
                        | (f["local_memory"] >= self.n_memories)
                        | ((f["external_base"] | step)[:word_bits] != 0)
                        | (f["nibbles"] & is_no_unpacking)),
                ]
                m.next = "ENDS"
            with m.State("ENDS"):
                m.d.sync += [
                    external_end.eq(external + f["line_words"].shift_left(word_bits)),
                    local_end.eq(local + local_words), is_last.eq(n_left == 1)]
                m.next = "COMPARE"
            with m.State("COMPARE"):
                m.d.sync += is_outside.eq(
                    Cat(external < self.region_base, external_end > self.region_limit,
                             local_end > depth))
                m.next = "DECIDE"
            with m.State("DECIDE"):
                m.d.sync += is_wrong.eq(is_field_wrong | is_outside.any())
                m.next = "HAND OUT"
            with m.State("HAND OUT"):
                with m.If(self.stop):
                    m.next = "IDLE"
                with m.Elif(is_wrong):
                    m.d.sync += self.error.eq(
                        Mux(is_field_wrong, ErrorCode.FIELD, ErrorCode.ADDRESS))
                    m.next = "IDLE"
                with m.Elif(self.unit_ready & ~self.line.valid):
                    m.d.sync += [
                        self.line.valid.eq(1), self.unit_next.eq(1),
                        self.line.payload.address.eq(external),
                        self.line.payload.words.eq(f["line_words"]),
                        self.line.payload.memory.eq(f["local_memory"]),
                        self.line.payload.local.eq(local),
                        self.line.payload.nibbles.eq(f["nibbles"]),
                        self.line.payload.nibble_shift.eq(f["nibble_shift"]),
                        self.line.payload.is_last.eq(is_last),
                        self.line.payload.parity.eq(self.parity),
                        external.eq(external[:32] + f["external_step"]),
                        local.eq(local[:16] + f["local_step"]), n_left.eq(n_left - 1)]
                    m.next = "ENDS"
                    with m.If(is_last):
                        m.next = "IDLE"
        return m

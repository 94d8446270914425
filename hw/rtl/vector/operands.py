"""Operands: joins steps, words and weights, and lays the words out for the three multipliers.

A step is taken when its word, its weights and room for its result are there; from then on nothing
waits. DEPTHWISE multiplies a word and the words of the two columns before it, which are three and
six steps old, by the three columns of the kernel.
"""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.isa import DEPTHWISE_KERNEL
from hw.rtl.common.loops import LateLevel
from hw.rtl.common.pipeline import own_copy
from hw.rtl.memory.scratchpad import word_layout
from hw.rtl.vector.geometry import GEOMETRY_LAYOUT
from hw.rtl.vector.steps import DEPTH, tag_layout
from hw.rtl.vector.weights import N_MULTIPLIERS

__all__ = ["Operands"]

_NEWEST = N_MULTIPLIERS - 1


class Operands(wiring.Component):
    """Takes steps in order.

    Members
    -------
    geometry, pad : the instruction.
    tags : of the steps. word_valid, word : a word that was read arrives.
    weights_available, has_room, wants_word : what a step must wait for.
    used : a step is taken, in this cycle. claims : and it will give a result. frees : and its
        weights are not needed again. row : of the kernel, of this step.
    pair_valid, pair_word : a word of a pair, PAIR_LATENCY cycles after it was taken.
    valid, first, last, x : operands, WORD_LATENCY cycles after.
    """

    PAIR_LATENCY = 1
    LATENCY = 2

    def __init__(self, word_bytes):
        self.word_bytes = word_bytes
        word = self._word = word_layout(word_bytes)
        super().__init__({
            "geometry": In(GEOMETRY_LAYOUT), "pad": In(signed(8)),
            "tags": In(stream.Signature(tag_layout(word_bytes))),
            "word_valid": In(1), "word": In(word),
            "weights_available": In(1), "has_room": In(1), "wants_word": In(1),
            "used": Out(1), "claims": Out(1), "row": Out(range(DEPTHWISE_KERNEL)),
            "frees": Out(1),
            "pair_valid": Out(1), "pair_word": Out(word),
            "valid": Out(1), "first": Out(1), "last": Out(1),
            "x": Out(data.ArrayLayout(word, N_MULTIPLIERS))})

    def _words(self, m, drop):
        """The words that were read, first in first out: (the oldest, there is one)."""
        m.submodules.words = cells = Memory(shape=self._word.size, depth=DEPTH, init=[])
        write, read = cells.write_port(), cells.read_port(domain="comb")
        m.d.comb += [write.en.eq(self.word_valid), write.data.eq(self.word.as_value())]
        m.d.sync += [write.addr.eq(write.addr + self.word_valid),
                     read.addr.eq(read.addr + drop)]
        return (data.View(self._word, read.data),
                LateLevel(m, "words", DEPTH, self.word_valid, drop).any)

    def elaborate(self, platform) -> Module:
        m = Module()
        g, tag = self.geometry, self.tags.payload
        drop = Signal()
        word, is_there = self._words(m, drop)
        row = Signal(range(DEPTHWISE_KERNEL))
        m.d.comb += [
            self.used.eq(self.tags.valid & (is_there | ~tag.takes) & self.weights_available
                         & (self.has_room | ~tag.emits) & self.wants_word),
            self.tags.ready.eq(self.used), drop.eq(self.used & tag.drops),
            self.claims.eq(self.used & tag.emits), self.frees.eq(self.used & tag.frees),
            self.row.eq(Mux(tag.first, 0, row))]
        with m.If(self.used):
            m.d.sync += row.eq(self.row + 1)

        taken = Signal(data.StructLayout({"valid": 1, "first": 1, "last": 1, "replaced": 1}))
        is_linear = own_copy(m, g.is_linear, "is_linear")
        taken_word = Signal(self._word, reset_less=True)
        # What stands in for the word in all channels: padding, or the inputs of LINEAR.
        bytes_ = Signal(data.ArrayLayout(signed(8), 2), reset_less=True)
        pairs = Array([word.as_value().word_select(k, 16) for k in range(self.word_bytes // 2)])
        m.d.sync += [
            taken.valid.eq(self.used), taken.first.eq(tag.first), taken.last.eq(tag.emits),
            taken.replaced.eq(is_linear | ~tag.takes), taken_word.eq(word),
            bytes_.eq(Mux(is_linear, pairs[tag.pair], self.pad))]
        is_pair = own_copy(m, g.is_pair, "is_pair")
        m.d.comb += [self.pair_valid.eq(taken.valid & is_pair), self.pair_word.eq(taken_word)]

        m.d.sync += [self.valid.eq(taken.valid & ~is_pair), self.first.eq(taken.first),
                     self.last.eq(taken.last)]
        held = [Signal(self._word, name=f"word_{age}", reset_less=True)
                for age in range(_NEWEST * DEPTHWISE_KERNEL + 1)]
        for age, register in enumerate(held):
            if age == 0:
                following = Mux(taken.replaced, bytes_[0].replicate(self.word_bytes), taken_word)
            else:
                following = held[age - 1]
            if age == DEPTHWISE_KERNEL:  # where LINEAR's second input goes
                following = Mux(is_linear, bytes_[1].replicate(self.word_bytes), following)
            with m.If(own_copy(m, self.used, f"taken_{age}")):
                m.d.sync += register.eq(following)
        for k in range(N_MULTIPLIERS):
            m.d.comb += self.x[k].eq(held[(_NEWEST - k) * DEPTHWISE_KERNEL])
        return m

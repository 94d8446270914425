"""Emitter: items for the lanes, or words for the write port, from results and their places.

Three stages: which one comes next, its operands, and the item itself. Inputs of additions go before
sums, so that sums are in stock when the next words are not there yet.

MAXPOOL and LOOKUP do not use the lanes, but instructions are to end in order: they send one item
without effect through them and write nothing before that is back.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FORMAT_WORDS, Format
from hw.rtl.common.pipeline import own_copy
from hw.rtl.common.stream import SkidBuffer
from hw.rtl.control.slot import instruction_fields
from hw.rtl.memory.crossbar import WaitingWrite
from hw.rtl.memory.waiting import WaitingQueue
from hw.rtl.vector.geometry import GEOMETRY_LAYOUT
from hw.rtl.vector.pairs import input_layout
from hw.rtl.vector.places import place_layout
from hw.rtl.vector.ports import SUM_WIDTH, Which, vector_item_layout

__all__ = ["Emitter"]

_FINE_BITS = 2  # of the left shift of differences


class Emitter(wiring.Component):
    """Sends everything that an instruction gives.

    Members
    -------
    words, geometry : the instruction.
    places : where results go. available, take, group, sums, drop : as of ResultStore.
    inputs : as of PairUnit. returned : pulse, one has passed the lanes.
    vector : items for the lanes. m : write port of the crossbar, which is never asked whether it is
        ready: m_room says that there is room for a word.
    finished : pulse, the last one has gone.
    """

    def __init__(self, target):
        self.target = target
        self.item = vector_item_layout(target)
        sums = data.ArrayLayout(signed(SUM_WIDTH), target.lanes)
        super().__init__({
            "words": In(data.ArrayLayout(32, FORMAT_WORDS[Format.VECTOR])),
            "geometry": In(GEOMETRY_LAYOUT),
            "places": In(stream.Signature(place_layout(target.lanes))),
            "available": In(1), "take": Out(1), "group": Out(2), "sums": In(sums),
            "drop": Out(1),
            "inputs": In(stream.Signature(input_layout(target.lanes))), "returned": In(1),
            "vector": Out(stream.Signature(self.item)),
            "m": Out(WaitingWrite(target.word_bytes)), "m_room": In(1), "finished": Out(1)})

    def _choose(self, m):
        """Stage 1: what comes next, as a stream."""
        g, place = self.geometry, self.places.payload
        is_pair, by_words = (own_copy(m, g[name], name) for name in ("is_pair", "by_words"))
        m.submodules.chosen = chosen = SkidBuffer(data.StructLayout({
            "which": Which, "is_word": 1, "is_result": 1, "place": place.shape(),
            "differences": self.inputs.payload.differences.shape()}))
        fence_sent, may_emit = Signal(), Signal()
        with m.If(self.returned | ~by_words):
            m.d.sync += may_emit.eq(1)
        fence = by_words & ~fence_sent & self.places.valid
        is_input, is_result = Signal(), Signal()
        item, move = chosen.i.payload, chosen.i.ready
        m.d.comb += [
            is_input.eq(self.inputs.valid | fence),
            is_result.eq(~self.inputs.valid & may_emit & self.places.valid & self.available),
            chosen.i.valid.eq(is_input | is_result),
            self.inputs.ready.eq(move), self.places.ready.eq(move & is_result),
            self.take.eq(move & is_result & place.drops), item.is_result.eq(is_result),
            item.is_word.eq(by_words & ~is_input), item.place.eq(place),
            item.place.mask.eq(Mux(is_input, 0, place.mask)),
            item.place.line_ends.eq(place.line_ends & ~is_input),
            item.place.ends.eq(place.ends & ~is_input)]
        with m.If(is_input):
            m.d.comb += item.which.eq(Mux(self.inputs.payload.is_second, Which.SECOND_INPUT,
                                          Which.FIRST_INPUT))
        with m.Else():
            m.d.comb += item.which.eq(Mux(is_pair, Which.SUM, Which.PARAMETERS))
        m.d.comb += item.differences.eq(self.inputs.payload.differences)
        with m.If(move):
            m.d.sync += fence_sent.eq(fence_sent | fence)
        return chosen.o

    def elaborate(self, platform) -> Module:
        m = Module()
        f = instruction_fields(self.words, format_=Format.VECTOR)
        g, word_bytes = self.geometry, self.target.word_bytes
        source = self._choose(m)
        # The item waits in parts that move together: they lie all over the device.
        shapes = {name: field.shape for name, field in self.item if name != "sums"}
        m.submodules.out = out = WaitingQueue(data.StructLayout({"is_word": 1} | shapes))
        out_sums = [WaitingQueue(signed(SUM_WIDTH)) for _ in range(self.target.lanes)]
        for lane, part in enumerate(out_sums):
            m.submodules[f"out_sum_{lane}"] = part
            m.d.comb += [part.i.valid.eq(out.i.valid), part.o.ready.eq(out.o.ready)]
        move = out.i.ready
        m.d.comb += [
            source.ready.eq(move), self.group.eq(source.payload.place.source),
            self.drop.eq(move & source.valid & source.payload.is_result
                         & source.payload.place.drops)]

        # Stage 2: the operands. Differences are shifted in this stage and the next.
        chosen = Signal(source.payload.shape(), reset_less=True)
        chosen_valid = Signal()
        is_input = [Signal(name=f"is_input_{k}", attrs={"keep": 1})
                    for k in range(self.target.lanes)]  # copies, each for one lane's sum
        sums = Signal(self.sums.shape(), reset_less=True)
        shifts = [own_copy(m, f["left_shift"], f"left_shift_{k}") for k in range(self.target.lanes)]
        shifted = [(difference << shift[:_FINE_BITS]).as_signed()
                   for difference, shift in zip(source.payload.differences, shifts)]
        differences = Signal(data.ArrayLayout(shifted[0].shape(), len(shifted)), reset_less=True)
        which = source.payload.which
        scale = {name: Signal(self.item[name].shape, name=name, reset_less=True)
                 for name in ("multiplier", "shift")}
        with m.If(move):
            m.d.sync += [
                *(value.eq(Mux(which == Which.FIRST_INPUT, f[f"{name}_0"], Mux(
                    which == Which.SECOND_INPUT, f[f"{name}_1"], f[f"{name}_2"])))
                  for name, value in scale.items()),
                chosen_valid.eq(source.valid), chosen.eq(source.payload), sums.eq(self.sums),
                *(mine.eq((which == Which.FIRST_INPUT) | (which == Which.SECOND_INPUT))
                  for mine in is_input),
                *(mine.eq(value) for mine, value in zip(differences, shifted))]
        place = chosen.place

        # Stage 3: the item, in a buffer. A word of codes takes the place of the sums.
        made = out.i.payload
        m.d.comb += [
            out.i.valid.eq(chosen_valid), made.is_word.eq(chosen.is_word),
            made.which.eq(chosen.which), made.wide.eq(is_input[0]),
            made.progress.eq(Mux(place.line_ends, g.line_progress, 0)),
            made.instruction_end.eq(place.ends),
            *(made[name].eq(place[name]) for name in ("address", "group", "mask", "parameter")),
            *(made[name].eq(value) for name, value in scale.items()),
            *(part.i.payload.eq(Mux(its_input, difference << (shift[_FINE_BITS:] << _FINE_BITS),
                                    value))
              for part, its_input, value, difference, shift
              in zip(out_sums, is_input, sums, differences, shifts))]

        item, is_word = out.o.payload, out.o.payload.is_word
        m.d.comb += [
            out.o.ready.eq(Mux(is_word, self.m_room, self.vector.ready)),
            self.vector.valid.eq(out.o.valid & ~is_word),
            self.finished.eq(out.o.valid & out.o.ready & item.instruction_end)]
        sent = self.vector.payload
        m.d.comb += [
            *(sent[name].eq(item[name]) for name in shapes),
            *(mine.eq(part.o.payload) for mine, part in zip(sent.sums, out_sums)),
            sent.bank.eq(f["out_bank"]), sent.plane.eq(0),
            *(sent[name].eq(f[name]) for name in ("gemmlowp", "zero_point", "low", "high")),
            self.m.valid.eq(out.o.valid & is_word & self.m_room), self.m.bank.eq(f["out_bank"]),
            self.m.address.eq(item.address), self.m.enable.eq(~0),
            self.m.data.eq(Cat(part.o.payload for part in out_sums)[:8 * word_bytes]),
            self.m.progress.eq(item.progress), self.m.instruction_end.eq(item.instruction_end)]
        return m

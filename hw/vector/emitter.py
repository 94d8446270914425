"""Emitter: items for the lanes, or words for the write port, from results and their places.

Two stages: which one comes next, and the item itself. Inputs of additions go before sums, so that
sums are in stock when the next words are not there yet.

MAXPOOL does not use the lanes, but instructions are to end in order: it sends one item without
effect through them and writes nothing before that is back.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.crossbar import WaitingWrite
from hw.isa import FORMAT_WORDS, Format
from hw.slot import instruction_fields
from hw.vector.add import DIFFERENCE_WIDTH
from hw.vector.geometry import GEOMETRY_LAYOUT
from hw.vector.places import place_layout
from hw.vector.ports import SUM_WIDTH, Which, vector_item_layout

__all__ = ["Emitter"]


class Emitter(wiring.Component):
    """Sends everything that an instruction gives.

    Members
    -------
    words, geometry : the instruction.
    places : where results go. available, group, sums, drop : as of ResultStore.
    offered, is_second, differences, taken : as of AddUnit.
    vector : items for the lanes. m : write port of the crossbar.
    returned : pulse, an input of an addition has passed the lanes.
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
            "available": In(1), "group": Out(2), "sums": In(sums), "drop": Out(1),
            "offered": In(1), "is_second": In(1), "taken": Out(1),
            "differences": In(data.ArrayLayout(signed(DIFFERENCE_WIDTH), target.lanes)),
            "vector": Out(stream.Signature(self.item)),
            "returned": In(1), "m": Out(WaitingWrite(target.word_bytes)), "finished": Out(1)})

    def elaborate(self, platform):
        m = Module()
        f = instruction_fields(self.words, format_=Format.VECTOR)
        g, lanes, word_bytes = self.geometry, self.target.lanes, self.target.word_bytes

        fence_sent, fence_passed = Signal(), Signal()
        fence = g.is_maximum & ~fence_sent & self.places.valid
        with m.If(self.returned):
            m.d.sync += fence_passed.eq(1)

        # Stage 1: choose.
        chosen = Signal(data.StructLayout({
            "which": Which, "is_maximum": 1, "place": self.places.payload.shape()}))
        chosen_valid, move_chosen, move = Signal(), Signal(), Signal()
        chosen_sums = Signal(self.sums.shape(), reset_less=True)
        is_input, is_result = Signal(), Signal()
        place = self.places.payload
        m.d.comb += [
            move_chosen.eq(~chosen_valid | move),
            is_input.eq(self.offered | fence),
            is_result.eq(~is_input & self.places.valid & self.available),
            self.taken.eq(move_chosen & self.offered),
            self.places.ready.eq(move_chosen & is_result),
            self.drop.eq(move_chosen & is_result & (place.word_ends | g.is_add)),
            self.group.eq(Mux(g.is_add, 0, place.group))]
        with m.If(move_chosen):
            m.d.sync += [
                fence_sent.eq(fence_sent | fence),
                chosen_valid.eq(is_input | is_result),
                chosen.is_maximum.eq(g.is_maximum & ~fence),
                chosen.place.eq(place), chosen.place.mask.eq(Mux(is_input, 0, place.mask)),
                chosen.place.line_ends.eq(place.line_ends & ~is_input),
                chosen.place.ends.eq(place.ends & ~is_input),
                chosen.which.eq(Mux(is_input, Mux(self.is_second, Which.SECOND_INPUT,
                                                      Which.FIRST_INPUT),
                                    Mux(g.is_add, Which.SUM, Which.PARAMETERS)))]
            for lane in range(lanes):
                m.d.sync += chosen_sums[lane].eq(Mux(self.offered, self.differences[lane],
                                                     self.sums[lane]))

        # Stage 2: the item. A word of maxima is in the same register.
        item = Signal(self.item, reset_less=True)
        word_valid, gone = Signal(), Signal()
        is_first, is_second = (chosen.which == which for which in (Which.FIRST_INPUT,
                                                                   Which.SECOND_INPUT))
        m.d.comb += [
            gone.eq((self.vector.valid & self.vector.ready) | (word_valid & self.m.ready)),
            move.eq(((~self.vector.valid & ~word_valid) | gone)
                    & (fence_passed | ~chosen.is_maximum)),
            self.finished.eq(gone & item.instruction_end)]
        with m.If(gone):
            m.d.sync += [self.vector.valid.eq(0), word_valid.eq(0)]
        with m.If(move):
            m.d.sync += [
                self.vector.valid.eq(chosen_valid & ~chosen.is_maximum),
                word_valid.eq(chosen_valid & chosen.is_maximum),
                item.which.eq(chosen.which), item.wide.eq(is_first | is_second),
                item.progress.eq(Mux(chosen.place.line_ends, g.line_progress, 0)),
                item.instruction_end.eq(chosen.place.ends)]
            for name in ("address", "group", "mask", "parameter"):
                m.d.sync += item[name].eq(chosen.place[name])
            for name in ("multiplier", "shift"):
                m.d.sync += item[name].eq(Mux(is_first, f[f"{name}_0"], Mux(
                    is_second, f[f"{name}_1"], f[f"{name}_2"])))
            for lane in range(lanes):
                difference = chosen_sums[lane][:DIFFERENCE_WIDTH].as_signed()
                m.d.sync += item.sums[lane].eq(Mux(
                    is_first | is_second, difference << f["left_shift"], chosen_sums[lane]))
        out = self.vector.payload
        m.d.comb += [
            out.eq(item), out.bank.eq(f["out_bank"]), out.plane.eq(0),
            *(out[name].eq(f[name]) for name in ("gemmlowp", "zero_point", "low", "high")),
            self.m.valid.eq(word_valid), self.m.bank.eq(f["out_bank"]),
            self.m.address.eq(item.address), self.m.enable.eq(~0),
            self.m.data.eq(item.sums.as_value()[:8 * word_bytes]),
            self.m.progress.eq(item.progress), self.m.instruction_end.eq(item.instruction_end)]
        return m

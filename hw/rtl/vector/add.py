"""AddUnit: the operands of additions for the lanes, and the sums of what comes back.

    y = rescale_2(rescale_0((q0 - z0) << s) + rescale_1((q1 - z1) << s))

Each group of channels uses the lanes three times: once per input and once for the sum.
"""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.loops import Countdown
from hw.rtl.common.pipeline import delayed, registered
from hw.rtl.common.stream import SkidBuffer
from hw.rtl.memory.scratchpad import word_layout
from hw.rtl.vector.geometry import GEOMETRY_LAYOUT
from hw.rtl.vector.places import GroupCount
from hw.rtl.vector.ports import SUM_WIDTH, Which, returned_signature

__all__ = ["AddUnit", "input_layout"]

_DIFFERENCE_WIDTH = 9


def input_layout(lanes):
    """A group of one of the inputs of an addition."""
    return data.StructLayout({
        "is_second": 1, "differences": data.ArrayLayout(signed(_DIFFERENCE_WIDTH), lanes)})


class AddUnit(wiring.Component):
    """Offers the inputs of additions group by group, the first input before the second.

    Members
    -------
    geometry, n_channels, zero_point_0, zero_point_1 : the instruction.
    load : begin, a pulse; the geometry is stable since the cycle before.
    wants_word : there is room for the next word (of ADD; else always); words come as first,
        second, first, ...
    takes_word : it is under way. word_valid, word : it arrives.
    has_room : there is room for one more sum. claims : it is taken.
    inputs : code - zero point of each group, and which input it is of.
    returned : from the lanes. sums : one cycle after the second result. valid_next : in the next
        cycle.
    """

    def __init__(self, target):
        self.target = target
        super().__init__({
            "geometry": In(GEOMETRY_LAYOUT), "n_channels": In(16), "zero_point_0": In(signed(8)),
            "zero_point_1": In(signed(8)), "load": In(1),
            "wants_word": Out(1), "takes_word": In(1), "word_valid": In(1),
            "word": In(word_layout(target.columns)),
            "has_room": In(1), "claims": Out(1),
            "inputs": Out(stream.Signature(input_layout(target.lanes))),
            "returned": In(returned_signature(target)), "valid_next": Out(1),
            "sums": Out(data.ArrayLayout(signed(SUM_WIDTH), target.lanes))})

    def elaborate(self, platform):
        m = Module()
        target, lanes = self.target, self.target.lanes
        n_groups = target.columns // lanes
        # Both stand one chunk ahead: what is known of the next chunk is loaded as it begins.
        chunks = Countdown(m, "chunks", self.geometry.n_chunks)
        counted = GroupCount(m, target, self.n_channels)
        held = [Signal(self.word.shape(), name=f"held_{k}", reset_less=True) for k in range(2)]
        claimed, full = Signal(2), Signal(2)  # a word is under way or here; it is here
        takes_second, arrives_second = Signal(), Signal()
        group, last_group = Signal.like(counted.last), Signal.like(counted.last)
        group_end, begins = Signal(), Signal()
        is_second, valid, move, go = Signal(), Signal(), Signal(), Signal()
        # The lanes' readiness ends here: it comes from afar.
        m.submodules.inputs = inputs = SkidBuffer(input_layout(lanes))
        item = registered(m, inputs.i.payload)
        wiring.connect(m, inputs.o, wiring.flipped(self.inputs))
        m.d.comb += [
            move.eq(~inputs.i.valid | inputs.i.ready),
            go.eq(move & ~begins & Mux(is_second, full[1], full[0] & self.has_room)),
            self.claims.eq(go & ~is_second)]
        m.d.sync += self.wants_word.eq(
            ~self.geometry.is_add | ~Mux(takes_second ^ self.takes_word, claimed[1], claimed[0]))
        for k in range(2):
            with m.If(self.word_valid & (arrives_second == k)):
                m.d.sync += [held[k].eq(self.word), full[k].eq(1)]
            with m.If(self.takes_word & (takes_second == k)):
                m.d.sync += claimed[k].eq(1)
            with m.If(go & (is_second == k) & group_end):
                m.d.sync += [full[k].eq(0), claimed[k].eq(0)]
        m.d.sync += [takes_second.eq(takes_second ^ self.takes_word),
                     arrives_second.eq(arrives_second ^ self.word_valid),
                     is_second.eq(is_second ^ go)]
        with m.If(go & is_second):
            m.d.sync += [group.eq(Mux(group_end, 0, group + 1)),
                         group_end.eq(group + 1 == last_group)]
        # A chunk takes two inputs and this cycle at least; the load is as long before the first.
        loaded = delayed(m, self.load, GroupCount.SETTLING - 1, "load")
        m.d.sync += begins.eq((go & is_second & group_end) | loaded)
        with m.If(begins):
            chunks.step()
            m.d.sync += [counted.step(chunks.last), last_group.eq(counted.last),
                         group_end.eq(counted.alone)]
        with m.If(self.load):
            m.d.sync += [chunks.load(), counted.load()]

        # Stage 1: the codes of a group; stage 2: without their zero point.
        words = [Array([word.as_value().word_select(k, 8 * lanes) for k in range(n_groups)])[group]
                 for word in held]
        codes = Signal(data.ArrayLayout(signed(8), lanes), reset_less=True)
        zero_point = Signal(signed(8))
        late_second = Signal()
        with m.If(move):
            m.d.sync += [
                valid.eq(go), late_second.eq(is_second),
                codes.eq(Mux(is_second, words[1], words[0])),
                zero_point.eq(Mux(is_second, self.zero_point_1, self.zero_point_0)),
                inputs.i.valid.eq(valid), item.is_second.eq(late_second)]
            m.d.sync += [item.differences[lane].eq(codes[lane] - zero_point)
                         for lane in range(lanes)]

        first = Signal(self.sums.shape(), reset_less=True)
        with m.If(self.returned.valid & (self.returned.which == Which.FIRST_INPUT)):
            m.d.sync += first.eq(self.returned.values)
        is_pair = self.returned.valid & (self.returned.which == Which.SECOND_INPUT)
        m.d.comb += self.valid_next.eq(is_pair)
        sums = registered(m, self.sums)
        with m.If(is_pair):
            m.d.sync += [sums[lane].eq(first[lane] + self.returned.values[lane])
                         for lane in range(lanes)]
        return m

"""PairUnit: the operations on pairs of words, ADD and MUL, group by group.

    ADD    y = rescale_2(rescale_0((q0 - z0) << s) + rescale_1((q1 - z1) << s))
    MUL    y = rescale_2((q0 - z0) * (q1 - z1))

Each group of channels of ADD uses the lanes three times: once per input and once for the sum. One
of MUL takes both inputs at once and uses the lanes once.
"""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.loops import Countdown
from hw.rtl.common.pipeline import delayed, own_copy, registered
from hw.rtl.common.stream import SkidBuffer
from hw.rtl.memory.scratchpad import word_layout
from hw.rtl.vector.booth import DIFFERENCE_WIDTH, MULTIPLY_LATENCY, multiply_differences
from hw.rtl.vector.geometry import GEOMETRY_LAYOUT
from hw.rtl.vector.places import GroupCount
from hw.rtl.vector.ports import SUM_WIDTH, Which, returned_signature

__all__ = ["PairUnit", "input_layout"]


def input_layout(lanes) -> data.StructLayout:
    """A group of one of the inputs of an addition."""
    return data.StructLayout({
        "is_second": 1, "differences": data.ArrayLayout(signed(DIFFERENCE_WIDTH), lanes)})


class PairUnit(wiring.Component):
    """Takes words as first, second, first, ... and goes through the groups of each pair.

    Members
    -------
    geometry, n_channels, zero_point_0, zero_point_1 : the instruction.
    load : begin, a pulse; the geometry is stable since the cycle before.
    wants_next : in the next cycle there is room for one more word (of pairs; else always).
    takes_word : it is under way. word_valid, word : it arrives.
    has_room : there is room for one more result. claims : it is taken.
    inputs : ADD: code - zero point of each group, the first input before the second.
    returned : from the lanes.
    sums : ADD: one cycle after the second input's result. products : MUL.
    valid_next : there is one of them in the next cycle.
    """

    def __init__(self, target):
        self.target = target
        sums = data.ArrayLayout(signed(SUM_WIDTH), target.lanes)
        super().__init__({
            "geometry": In(GEOMETRY_LAYOUT), "n_channels": In(16), "zero_point_0": In(signed(8)),
            "zero_point_1": In(signed(8)), "load": In(1),
            "wants_next": Out(1), "takes_word": In(1), "word_valid": In(1),
            "word": In(word_layout(target.columns)),
            "has_room": In(1), "claims": Out(1),
            "inputs": Out(stream.Signature(input_layout(target.lanes))),
            "returned": In(returned_signature(target)), "valid_next": Out(1),
            "sums": Out(sums), "products": Out(sums)})

    def _words(self, m, uses):
        """The first and the second word: [(word, it is here)]; ``uses[k]``: word k is used up."""
        held = [Signal(self.word.shape(), name=f"held_{k}", reset_less=True) for k in range(2)]
        claimed, full = Signal(2), Signal(2)  # a word is under way or here; it is here
        takes_second, arrives_second = Signal(), Signal()
        m.d.comb += self.wants_next.eq(~self.geometry.is_pair
                                       | ~Mux(takes_second ^ self.takes_word, claimed[1],
                                              claimed[0]))
        for k in range(2):
            with m.If(self.word_valid & (arrives_second == k)):
                m.d.sync += [held[k].eq(self.word), full[k].eq(1)]
            with m.If(self.takes_word & (takes_second == k)):
                m.d.sync += claimed[k].eq(1)
            with m.If(uses[k]):
                m.d.sync += [full[k].eq(0), claimed[k].eq(0)]
        m.d.sync += [takes_second.eq(takes_second ^ self.takes_word),
                     arrives_second.eq(arrives_second ^ self.word_valid)]
        return list(zip(held, full))

    def _groups(self, m, go):
        """The group of the present chunk: (its number, it is the last one, a chunk begins).

        ``go``: it is used up. What is known of the next chunk is loaded as it begins: channels and
        chunks are counted one chunk ahead.
        """
        chunks = Countdown(m, "chunks", self.geometry.n_chunks)
        counted = GroupCount(m, self.target, self.n_channels)
        group, last_group = Signal.like(counted.last), Signal.like(counted.last)
        group_end, begins = Signal(), Signal()
        with m.If(go):
            m.d.sync += [group.eq(Mux(group_end, 0, group + 1)),
                         group_end.eq(group + 1 == last_group)]
        # A chunk takes a group and this cycle at least; the load is as long before the first.
        loaded = delayed(m, self.load, GroupCount.SETTLING - 1, "load")
        m.d.sync += begins.eq((go & group_end) | loaded)
        with m.If(begins):
            chunks.step()
            m.d.sync += [counted.step(chunks.last), last_group.eq(counted.last),
                         group_end.eq(counted.alone)]
        with m.If(self.load):
            m.d.sync += [chunks.load(), counted.load()]
        return group, group_end, begins

    def _multiply(self, m, valid, x, words, group):
        """MUL: the products of a group; returns whether there is one in the next cycle.

        ``valid``: the group is chosen. ``x``: the first input's differences two cycles later.
        ``words``: the groups of the second word.
        """
        codes, differences = (Signal(data.ArrayLayout(signed(width), self.target.lanes),
                                     name=name, reset_less=True)
                              for name, width in (("second_codes", 8),
                                                  ("second_differences", DIFFERENCE_WIDTH)))
        m.d.sync += codes.eq(words[group])
        for lane in range(self.target.lanes):
            zero_point = own_copy(m, self.zero_point_1, f"second_zero_point_{lane}")
            m.d.sync += differences[lane].eq(codes[lane] - zero_point)
            m.d.comb += self.products[lane].eq(
                multiply_differences(m, x[lane], differences[lane]))
        return delayed(m, valid, 1 + MULTIPLY_LATENCY, "product_valid")

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes = self.target.lanes
        is_mul = own_copy(m, self.geometry.is_mul, "is_mul")
        is_second, valid, move, go, ends = Signal(), Signal(), Signal(), Signal(), Signal()
        uses = Signal(2)
        (first_word, first_here), (second_word, second_here) = self._words(m, uses)
        group, group_end, begins = self._groups(m, ends)
        # The lanes' readiness ends here: it comes from afar.
        m.submodules.inputs = inputs = SkidBuffer(input_layout(lanes))
        item = registered(m, inputs.i.payload)
        wiring.connect(m, inputs.o, wiring.flipped(self.inputs))
        m.d.comb += [
            move.eq(~inputs.i.valid | inputs.i.ready),
            go.eq(move & ~begins & Mux(is_second, second_here, first_here & self.has_room
                                       & (second_here | ~is_mul))),
            ends.eq(go & (is_second | is_mul)), self.claims.eq(go & ~is_second),
            uses[0].eq(go & ~is_second & group_end), uses[1].eq(ends & group_end)]
        m.d.sync += is_second.eq(is_second ^ (go & ~is_mul))

        # Stage 1: the codes of a group; stage 2: without their zero point.
        n_groups = self.target.columns // lanes
        words = [Array([word.as_value().word_select(k, 8 * lanes) for k in range(n_groups)])
                 for word in (first_word, second_word)]
        codes = Signal(data.ArrayLayout(signed(8), lanes), reset_less=True)
        zero_points = [Signal(signed(8), name=f"zero_point_{lane}", attrs={"keep": 1})
                       for lane in range(lanes)]
        late_second = Signal()
        with m.If(move):  # always, of MUL
            m.d.sync += [
                valid.eq(go & ~is_mul), late_second.eq(is_second),
                codes.eq(Mux(is_second, words[1][group], words[0][group])),
                *(mine.eq(Mux(is_second, self.zero_point_1, self.zero_point_0))
                  for mine in zero_points),
                inputs.i.valid.eq(valid), item.is_second.eq(late_second)]
            m.d.sync += [item.differences[lane].eq(codes[lane] - zero_points[lane])
                         for lane in range(lanes)]
        product_next = self._multiply(m, go & is_mul, item.differences, words[1], group)

        # What returns comes from afar: it takes a cycle, and what it is another.
        returned = Signal(self.returned.values.shape(), reset_less=True)
        m.d.sync += returned.eq(self.returned.values)
        is_first, is_pair = (self.returned.valid & (self.returned.which == which)
                             for which in (Which.FIRST_INPUT, Which.SECOND_INPUT))
        m.d.comb += self.valid_next.eq(own_copy(m, is_pair, "is_pair") | product_next)
        first = Signal(self.sums.shape(), reset_less=True)
        sums = registered(m, self.sums)
        for lane in range(lanes):
            with m.If(own_copy(m, is_first, f"is_first_{lane}")):
                m.d.sync += first[lane].eq(returned[lane])
            with m.If(own_copy(m, is_pair, f"is_pair_{lane}")):
                m.d.sync += sums[lane].eq(first[lane] + returned[lane])
        return m

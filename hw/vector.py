"""VectorUnit: residual add and maximum pooling, on words that the array ports bring.

Add: both words are split into groups of ``lanes`` codes; each group uses the rescaler lanes three
times, once per input and once for the sum, so a group takes three cycles and the pipeline stays
full:  y = rescale_2(rescale_0((q0 - z0) << s) + rescale_1((q1 - z1) << s)).
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, enum, wiring
from amaranth.lib.wiring import In, Out

from hw.array import ACCUMULATOR_WIDTH
from hw.readout import destination_layout
from hw.scratchpad import word_layout
from hw.walker import ADDRESS_WIDTH

__all__ = ["ADD_PASSES", "AddUnit", "MaxUnit", "Pass"]


class Pass(enum.Enum, shape=2):
    """Which use of the rescaler an item of an addition is; also the index of its multiplier."""

    FIRST_INPUT = 0
    SECOND_INPUT = 1
    SUM = 2


ADD_PASSES = len(Pass)


class AddUnit(wiring.Component):
    """Feeds additions to the rescaler lanes and its own intermediate results back.

    Members
    -------
    start : an instruction begins. words_valid : ``word_0`` holds the last word of the first
        input, ``word_1`` that of the second; not again within ADD_PASSES * word / lanes cycles,
        and always a multiple of ADD_PASSES cycles apart.
    valid, values, which, destination : items for the lanes.
    returned_valid, returned_which, returned : their results, ``lane_latency`` cycles later.
    """

    def __init__(self, *, target, lane_latency):
        self.target = target
        self.lane_latency = lane_latency
        lanes = data.ArrayLayout(signed(ACCUMULATOR_WIDTH), target.lanes)
        super().__init__({
            "start": In(1), "out_base": In(ADDRESS_WIDTH),
            "zero_point_0": In(signed(8)), "zero_point_1": In(signed(8)), "left_shift": In(5),
            "words_valid": In(1), "word_0": In(word_layout(target.word_bytes)),
            "word_1": In(word_layout(target.word_bytes)),
            "valid": Out(1), "values": Out(lanes), "which": Out(Pass),
            "destination": Out(destination_layout(target.lanes)),
            "returned_valid": In(1), "returned_which": In(Pass), "returned": In(lanes),
        })

    def elaborate(self, platform):
        m = Module()
        lanes, word_bytes = self.target.lanes, self.target.word_bytes
        n_groups = word_bytes // lanes
        held = [Signal(word_layout(word_bytes), name=f"held_{k}") for k in range(2)]
        busy = Signal()
        which = Signal(Pass)
        group = Signal(range(max(2, n_groups)))
        end = Signal()
        m.d.comb += end.eq((which == Pass.SUM) & (group == n_groups - 1))
        with m.If(which == Pass.SUM):
            m.d.sync += which.eq(Pass.FIRST_INPUT)
        with m.Else():
            m.d.sync += which.eq(which.as_value() + 1)
        with m.If(busy & (which == Pass.SUM)):
            m.d.sync += group.eq(Mux(end, 0, group + 1))
            with m.If(end):
                m.d.sync += busy.eq(0)
        with m.If(self.words_valid):
            m.d.sync += [busy.eq(1), which.eq(Pass.FIRST_INPUT), group.eq(0),
                         held[0].eq(self.word_0), held[1].eq(self.word_1)]

        # The two inputs of a group, then, in the slot left free, the sum of an earlier group.
        second = which == Pass.SECOND_INPUT
        zero_point = Mux(second, self.zero_point_1, self.zero_point_0)
        groups = [Array([Cat(h[g * lanes + k] for k in range(lanes)) for g in range(n_groups)])
                  for h in held]
        codes = Signal(data.ArrayLayout(signed(8), lanes))
        picked = [g[group] if n_groups > 1 else g[0] for g in groups]
        m.d.comb += codes.as_value().eq(Mux(second, picked[1], picked[0]))

        first_result = Signal(self.returned.shape())
        with m.If(self.returned_which == Pass.FIRST_INPUT):
            m.d.sync += first_result.eq(self.returned)
        sums = Signal(self.returned.shape())
        sums_valid = Signal()
        m.d.sync += [sums_valid.eq(self.returned_valid
                                   & (self.returned_which == Pass.SECOND_INPUT))]
        m.d.sync += [sums[k].eq(first_result[k] + self.returned[k]) for k in range(lanes)]
        # The second input enters in slot 1, its result is summed lane_latency + 2 cycles later
        # (one for the output register below); wait until that is slot 2.
        for stage in range(-(self.lane_latency + 1) % ADD_PASSES):
            late = Signal.like(sums, name=f"sums_{stage}")
            late_valid = Signal(name=f"valid_{stage}")
            m.d.sync += [late.eq(sums), late_valid.eq(sums_valid)]
            sums, sums_valid = late, late_valid

        address = Signal(ADDRESS_WIDTH)
        byte = Signal(6)
        with m.If(sums_valid):
            m.d.sync += byte.eq(byte + lanes)
            with m.If(byte + lanes == word_bytes):
                m.d.sync += [byte.eq(0), address.eq(address + 1)]
        with m.If(self.start):
            m.d.sync += [address.eq(self.out_base), byte.eq(0)]

        m.d.sync += [
            self.valid.eq(sums_valid | (busy & (which != Pass.SUM))),
            self.which.eq(Mux(sums_valid, Pass.SUM, which)),
            self.destination.address.eq(address), self.destination.byte.eq(byte),
            self.destination.mask.eq(~0), self.destination.single.eq(0),
        ]
        for k in range(lanes):
            scaled = (codes[k] - zero_point) << self.left_shift
            m.d.sync += self.values[k].eq(Mux(sums_valid, sums[k], scaled))
        return m


class MaxUnit(wiring.Component):
    """The byte-wise maximum of every ``n_words`` words, at successive addresses from ``out_base``.
    """

    def __init__(self, *, word_bytes):
        self.word_bytes = word_bytes
        super().__init__({
            "start": In(1), "n_words": In(16), "out_base": In(ADDRESS_WIDTH),
            "word_valid": In(1), "word": In(word_layout(word_bytes)),
            "valid": Out(1), "address": Out(ADDRESS_WIDTH),
            "maximum": Out(word_layout(word_bytes)),
        })

    def elaborate(self, platform):
        m = Module()
        count = Signal(16)
        is_first = Signal()
        m.d.comb += is_first.eq(count == 0)
        m.d.sync += self.valid.eq(0)
        with m.If(self.valid):
            m.d.sync += self.address.eq(self.address + 1)
        with m.If(self.word_valid):
            for k in range(self.word_bytes):
                with m.If(is_first | (self.word[k] > self.maximum[k])):
                    m.d.sync += self.maximum[k].eq(self.word[k])
            m.d.sync += count.eq(count + 1)
            with m.If(count + 1 == self.n_words):
                m.d.sync += [count.eq(0), self.valid.eq(1)]
        with m.If(self.start):
            m.d.sync += [count.eq(0), self.address.eq(self.out_base)]
        return m

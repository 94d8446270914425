"""ResultStore: sums of words of channels wait here for the lanes, maxima for the write port.

A result's room is claimed before it is computed, so computing never waits.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.rtl.common.loops import Level
from hw.rtl.common.pipeline import own_copy
from hw.rtl.memory.scratchpad import exact_bits
from hw.rtl.vector.ports import SUM_WIDTH

__all__ = ["ResultStore"]

_DEPTH = 16


class ResultStore(wiring.Component):
    """Holds up to 16 results.

    Members
    -------
    claim : room for one more result is taken. has_room : there is some; it follows a claim two
        cycles later, for which one place is kept in reserve.
    put_next : the next cycle brings a result. word_next : and it is a ``word``, a sum per channel;
        else it is ``group_sums``, a result of one group, which counts as group 0.
    available : the oldest result that is not taken yet is here. take : it is, in this cycle.
    sums : ``group`` of the oldest result. drop : it is used up, in the cycle of ``take`` or later.
    """

    def __init__(self, target):
        self.target = target
        sums = data.ArrayLayout(signed(SUM_WIDTH), target.lanes)
        super().__init__({
            "claim": In(1), "has_room": Out(1),
            "put_next": In(1), "word_next": In(1),
            "word": In(data.ArrayLayout(signed(SUM_WIDTH), target.columns)),
            "group_sums": In(sums),
            "available": Out(1), "take": In(1), "group": In(2), "sums": Out(sums),
            "drop": In(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes = self.target.lanes
        n_groups = self.target.columns // lanes
        # Copies, each for one sum of a group: the memory lies all over the device.
        parts = [(group, lane) for group in range(n_groups) for lane in range(lanes)]
        puts = [Signal(name=f"put_{g}_{k}", attrs={"keep": 1}) for g, k in parts]
        put_word = own_copy(m, self.word_next, "put_word")
        write_places, read_places = (
            [Signal(range(_DEPTH), name=f"{name}_place_{g}_{k}", attrs={"keep": 1})
             for g, k in parts] for name in ("write", "read"))
        claimed, dropped, here = Signal(), Signal(), Signal()
        m.d.sync += [claimed.eq(self.claim), dropped.eq(self.drop), here.eq(puts[0]),
                     *(put.eq(self.put_next) for put in puts),
                     *(place.eq(place + put) for place, put in zip(write_places, puts)),
                     *(place.eq(place + self.drop) for place in read_places)]
        m.d.comb += [
            self.has_room.eq(Level(m, "claimed", _DEPTH - 1, claimed, dropped).room),
            self.available.eq(Level(m, "here", _DEPTH, here, self.take).any)]
        groups = [[] for _ in range(n_groups)]
        for (g, k), put, write_place, read_place in zip(parts, puts, write_places, read_places):
            m.submodules[f"sum_{g}_{k}"] = cells = Memory(shape=SUM_WIDTH, depth=_DEPTH, init=[])
            write, read = cells.write_port(), cells.read_port(domain="comb")
            content = self.word[g * lanes + k]
            if g == 0:
                content = Mux(put_word, content, self.group_sums[k])
            m.d.comb += [write.en.eq(put), write.addr.eq(write_place), write.data.eq(content),
                         read.addr.eq(read_place)]
            groups[g].append(read.data)
        group = self.group[:exact_bits(n_groups)]
        m.d.comb += self.sums.eq(Array(Cat(sums) for sums in groups)[group] if n_groups > 1
                                 else Cat(groups[0]))
        return m

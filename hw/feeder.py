"""Feeder: turns scratchpad words into one byte per lane and cycle, skewed by one cycle per lane.

Each lane is a shift register of a word's length whose first byte goes to the array.

transposing  the word of slot i belongs to lane i, which loads it whole and shifts it out
direct       byte i of every word belongs to lane i, which inserts it i places from its output

Both give lane i a delay of i cycles, which is the skew of a systolic array; lanes that are given
nothing supply zeros.
"""

from amaranth.hdl import Array, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Feeder"]


class Feeder(wiring.Component):
    """Feeds ``n_lanes`` rows or columns of the array from words of ``word_bytes``.

    Members
    -------
    word : one scratchpad word, byte 0 lowest.
    start : the word is the first (lane 0) of a transposing period; the next cycles bring the rest.
    direct : the word is one step of the reduction for all lanes.
    sub : with ``direct``, which group of ``n_lanes`` bytes of the word is meant.
    lanes : the bytes that enter the array; lane i lags lane 0 by i cycles.

    Lane 0's first byte appears LATENCY cycles after its word.
    """

    LATENCY = 1

    def __init__(self, *, n_lanes, word_bytes):
        self.n_lanes = n_lanes
        self.word_bytes = word_bytes
        self.n_groups = -(-word_bytes // n_lanes)
        super().__init__({
            "word": In(data.ArrayLayout(signed(8), word_bytes)),
            "start": In(1),
            "direct": In(1),
            "sub": In(range(max(2, self.n_groups))),
            "lanes": Out(data.ArrayLayout(signed(8), n_lanes)),
        })

    def elaborate(self, platform):
        m = Module()
        load = self.start
        for lane in range(self.n_lanes):
            taps = [Signal(signed(8), name=f"lane{lane}_byte{k}") for k in range(self.word_bytes)]
            choices = [self.word[group * self.n_lanes + lane]
                       if group * self.n_lanes + lane < self.word_bytes else 0
                       for group in range(self.n_groups)]
            step = choices[0] if self.n_groups == 1 else Array(choices)[self.sub]
            for k, tap in enumerate(taps):
                shifted = taps[k + 1] if k + 1 < self.word_bytes else 0
                if k == lane:
                    shifted = Mux(self.direct, step, shifted)
                m.d.sync += tap.eq(Mux(load, self.word[k], shifted))
            m.d.comb += self.lanes[lane].eq(taps[0])
            if lane + 1 < self.n_lanes:
                following = Signal(name=f"load{lane + 1}")
                m.d.sync += following.eq(load)
                load = following
        return m

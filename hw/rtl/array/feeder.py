"""Feeder: turns scratchpad words into one byte per lane and cycle, skewed by one cycle per lane.

Each lane is a shift register of a word's length whose first byte goes to the array, over another
register, which gives a lane and the array's edge a cycle to meet.

transposing  the word of slot i belongs to lane i, which loads it whole and shifts it out
direct       byte i of every word belongs to lane i, which inserts it i places from its output

Both give lane i a delay of i cycles, which is the skew of a systolic array. Cycles that are no
slot of a period supply zeros, so nothing needs to stop the array.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Feeder"]

_BYTE = 8
_BYTES_PER_LOAD = 8  #: of a word, that one control register drives


class Feeder(wiring.Component):
    """Feeds ``n_lanes`` rows or columns of the array from words of ``word_bytes``.

    A period is ``slots`` cycles in a row, at least ``n_lanes`` of them when transposing; periods
    may follow each other at once or after any pause, and the mode may change between them.

    Members
    -------
    word : one scratchpad word, byte 0 lowest. Transposing, it is looked at in the first
        ``n_lanes`` slots of a period only.
    slot : this cycle is a slot of a period.
    start : with ``slot``, it is the first one. Transposing, lane i now gives bytes 0, 1, ... of
        the word of slot i: zeros behind the word if the period is longer, and the next period
        overrides what a shorter one leaves.
    direct : the period is direct: the word is one step of the reduction for all lanes.
    lanes : the bytes that enter the array; lane i lags lane 0 by i cycles.

    Lane 0's byte for a slot appears LATENCY cycles after it. Raises ValueError for words with
    fewer bytes than lanes.
    """

    LATENCY = 2

    def __init__(self, *, n_lanes, word_bytes):
        if word_bytes < n_lanes:
            raise ValueError(f"Words need a byte for each of {n_lanes} lanes, not {word_bytes}")
        self.n_lanes = n_lanes
        self.word_bytes = word_bytes
        super().__init__({
            "word": In(data.ArrayLayout(signed(_BYTE), word_bytes)),
            "slot": In(1), "start": In(1), "direct": In(1),
            "lanes": Out(data.ArrayLayout(signed(_BYTE), n_lanes)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        word = self.word.as_value()
        slot, load = self.slot, self.slot & self.start & ~self.direct
        loads = [load] * (1 + (self.word_bytes - 1) // _BYTES_PER_LOAD)
        for lane in range(self.n_lanes):
            held = Signal(_BYTE * self.word_bytes, name=f"lane{lane}", reset_less=True)
            here = slice(_BYTE * lane, _BYTE * (lane + 1))
            above = Cat(held[_BYTE:], Const(0, _BYTE))
            shifted = Cat(above[:here.start], Mux(self.direct, word[here], above[here]),
                          above[here.stop:])
            for k, load in enumerate(loads):
                part = slice(_BYTE * _BYTES_PER_LOAD * k, _BYTE * _BYTES_PER_LOAD * (k + 1))
                m.d.sync += held[part].eq(Mux(load, word[part], shifted[part]))
            next_slot = Signal(name=f"slot{lane + 1}")
            byte = Signal(signed(_BYTE), name=f"byte{lane}", reset_less=True)
            m.d.sync += [next_slot.eq(slot), byte.eq(Mux(next_slot, held[:_BYTE], 0))]
            m.d.comb += self.lanes[lane].eq(byte)
            # Copies that start differently, which does no harm, stay apart in synthesis.
            next_loads = [Signal(name=f"load{lane + 1}_{k}", init=k % 2, reset_less=True)
                          for k in range(len(loads))]
            m.d.sync += [late.eq(load) for late, load in zip(next_loads, loads)]
            slot, loads = next_slot, next_loads
        return m

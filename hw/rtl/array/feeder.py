"""Feeder: turns scratchpad words into one byte per lane and cycle, skewed by one cycle per lane.

Byte b of every word is delayed by b cycles, in a memory of its own. What stands side by side behind
that is a diagonal of the words that came, and each lane takes one byte of it:

transposing  byte s in slot s, counted from the lane's turn: bytes 0, 1, ... of the lane's own word
direct       always the byte of its own number

Both give lane i a delay of i cycles, which is the skew of a systolic array. Cycles that are no
slot of a period supply zeros, so nothing needs to stop the array.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.pipeline import delayed, one_of

__all__ = ["Feeder"]

_BYTE = 8
_IN_REGISTERS = 2  #: bytes whose delay is too short for a memory


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
        diagonal = self._diagonal(m)
        # Transposing, the byte of this slot, one-hot; a lane's turn comes a cycle after that of the
        # lane before, with the same byte.
        turn, following = Signal(self.word_bytes), Signal(self.word_bytes)
        m.d.comb += turn.eq(Mux(self.slot & ~self.direct, Mux(self.start, 1, following), 0))
        with m.If(self.slot):
            m.d.sync += following.eq(turn << 1)
        direct = self.slot & self.direct
        for lane in range(self.n_lanes):
            own, byte = Signal(name=f"own{lane}"), Signal(signed(_BYTE), name=f"byte{lane}",
                                                          reset_less=True)
            m.d.sync += own.eq(turn[lane] | direct)
            turn = delayed(m, turn, 1, f"turn{lane}")
            direct = delayed(m, direct, 1, f"direct{lane}")
            chosen = Cat(turn[:lane], own, turn[lane + 1:])
            m.d.sync += byte.eq(one_of(zip(chosen, diagonal)))
            m.d.comb += self.lanes[lane].eq(byte)
        return m

    def _diagonal(self, m) -> list:
        """Byte b of the word of b + 1 cycles ago, for every b."""
        depth = 1 << (self.word_bytes - 1).bit_length()
        # Never reset: the memories go on, and so do their addresses, one a cycle behind the other.
        address = Signal(range(depth), reset_less=True)
        m.d.sync += address.eq(address + 1)
        diagonal, read_address = [], address
        for b in range(self.word_bytes):
            if b <= _IN_REGISTERS:
                late = delayed(m, self.word[b], b, f"late{b}", reset_less=True)
            else:
                m.submodules[f"bytes{b}"] = cells = memory.Memory(shape=_BYTE, depth=depth, init=[])
                write, read = cells.write_port(), cells.read_port(domain="comb")
                m.d.comb += [write.en.eq(1), write.addr.eq(address), write.data.eq(self.word[b]),
                             read.addr.eq(read_address)]
                late = read.data
            here = Signal(signed(_BYTE), name=f"diagonal{b}", reset_less=True)
            m.d.sync += here.eq(late)
            diagonal.append(here)
            following = Signal(range(depth), name=f"address{b + 1}", init=-(b + 1) % depth,
                               reset_less=True)
            m.d.sync += following.eq(read_address)
            read_address = following
        return diagonal

"""On-chip memories: scratchpad banks, per-channel parameters, instructions.

Behind every block RAM is a register, with nothing between the two.
"""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FIELDS_PER_CHANNEL
from hw.rtl.common.pipeline import registered

__all__ = ["FIELDS_PER_CHANNEL", "PARAMETER_LAYOUT", "Bank", "ParameterMemory", "WordMemory",
           "exact_bits", "word_layout"]

#: What the rescaler needs of one output channel.
PARAMETER_LAYOUT = data.StructLayout({"bias": signed(32), "multiplier": 31, "shift": 6})

# Synthesis need not make a read give the old value of a word that is being written.
_FREE_COLLISIONS = {"no_rw_check": 1}


_REACH = 8  #: bytes of a bank that one register of a row reaches


def word_layout(word_bytes) -> data.ArrayLayout:
    """A scratchpad word: ``word_bytes`` codes, byte 0 lowest."""
    return data.ArrayLayout(signed(8), word_bytes)


def exact_bits(count) -> int:
    """Bits of an index below ``count``: none where there is only one."""
    return (count - 1).bit_length()


def _address(rows) -> int:
    """The shape of an address; at least one bit, since a port of none is no port."""
    return max(1, exact_bits(len(rows)))


class Bank(wiring.Component):
    """``depth`` words as two memories, even words and odd words, so that a pair can be read.

    Arguments
    ---------
    depth : an even number of words, else ValueError. word_bytes : bytes of one.

    Members
    -------
    read_rows : word 2 * row of the even and word 2 * row + 1 of the odd memory are read.
    read_data : both words, LATENCY cycles later.
    write_row, write_data : one word, for either memory.
    write_enable : one bit per byte, for the even and for the odd memory.

    What a read gives of a word that is being written in the same cycle is left open. The bank's
    memory lies all over the device: everything that enters is registered once more inside, rows
    for every _REACH bytes of the word.
    """

    LATENCY = 3

    def __init__(self, *, depth, word_bytes):
        if depth % 2 or depth < 2:
            raise ValueError(f"Depth must be even and at least 2, not {depth}")
        self.depth = depth
        self.word_bytes = word_bytes
        rows = range(depth // 2)
        super().__init__({
            "read_rows": In(data.ArrayLayout(_address(rows), 2)),
            "read_data": Out(data.ArrayLayout(word_layout(word_bytes), 2)),
            "write_row": In(_address(rows)), "write_data": In(word_layout(word_bytes)),
            "write_enable": In(data.ArrayLayout(word_bytes, 2)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        write_data = Signal(8 * self.word_bytes, reset_less=True)
        m.d.sync += write_data.eq(self.write_data.as_value())
        for parity, name in enumerate(("even", "odd")):
            content = Signal(8 * self.word_bytes, name=f"{name}_data", reset_less=True)
            m.d.comb += self.read_data[parity].eq(content)
            for first in range(0, self.word_bytes, _REACH):
                part = slice(8 * first, 8 * (first + _REACH))
                n_bytes = min(_REACH, self.word_bytes - first)
                m.submodules[f"{name}_{first}"] = cells = memory.Memory(
                    shape=data.ArrayLayout(8, n_bytes), depth=self.depth // 2, init=[],
                    attrs=_FREE_COLLISIONS)
                write, read = cells.write_port(granularity=1), cells.read_port()
                read_row, write_row = (
                    Signal(self.write_row.shape(), name=f"{name}_{what}_row_{first}",
                           attrs={"keep": 1}, reset_less=True) for what in ("read", "write"))
                enable = Signal(n_bytes, name=f"{name}_enable_{first}")
                m.d.sync += [
                    read_row.eq(self.read_rows[parity]), write_row.eq(self.write_row),
                    enable.eq(self.write_enable[parity][first:first + n_bytes]),
                    content[part].eq(read.data.as_value())]
                m.d.comb += [
                    read.addr.eq(read_row), read.en.eq(1), write.addr.eq(write_row),
                    write.en.eq(enable), write.data.eq(write_data[part])]
        return m


class WordMemory(wiring.Component):
    """A memory of plain words with one read and one write port.

    Arguments
    ---------
    depth : words. width : bits of one. in_block_ram : however small it is.

    Members
    -------
    read_address, read_data : the word there, LATENCY cycles later.
    write_address, write_data, write_enable : a word is written.
    """

    LATENCY = 2

    def __init__(self, *, depth, width, in_block_ram=False):
        self.depth = depth
        self.width = width
        self.in_block_ram = in_block_ram
        super().__init__({
            "read_address": In(range(depth)), "read_data": Out(width),
            "write_address": In(range(depth)), "write_data": In(width), "write_enable": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.memory = cells = memory.Memory(
            shape=self.width, depth=self.depth, init=[],
            attrs=_FREE_COLLISIONS | ({"ram_style": "block"} if self.in_block_ram else {}))
        read, write = cells.read_port(), cells.write_port()
        m.d.comb += [
            read.addr.eq(self.read_address), read.en.eq(1),
            write.addr.eq(self.write_address), write.en.eq(self.write_enable),
            write.data.eq(self.write_data),
        ]
        m.d.sync += registered(m, self.read_data).eq(read.data)
        return m


class ParameterMemory(wiring.Component):
    """Bias, multiplier and shift of ``lanes`` channels a word, written in 32-bit words.

    Members
    -------
    read_address : a word; read_data : its channels, LATENCY cycles later.
    write_valid, write_address, write_data : 32-bit word ``channel * FIELDS_PER_CHANNEL + field``,
        field 0 bias, 1 multiplier, 2 shift, 3 ignored. A channel's three fields are written in
        this order, and change together with the last one, WRITE_LATENCY cycles later: kept apart
        they would need a third more block RAM.
    """

    LATENCY = 2
    WRITE_LATENCY = 2

    def __init__(self, *, depth, lanes):
        self.depth = depth
        self.lanes = lanes
        self._lane_bits = exact_bits(lanes)
        super().__init__({
            "read_address": In(_address(range(depth))),
            "read_data": Out(data.ArrayLayout(PARAMETER_LAYOUT, lanes)),
            "write_valid": In(1), "write_address": In(range(depth * lanes * FIELDS_PER_CHANNEL)),
            "write_data": In(32),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        field_bits = exact_bits(FIELDS_PER_CHANNEL)
        field = self.write_address[:field_bits]
        channel = Signal(PARAMETER_LAYOUT, reset_less=True)
        for index, (name, _) in enumerate(PARAMETER_LAYOUT):
            with m.If(self.write_valid & (field == index)):
                m.d.sync += channel[name].eq(self.write_data)
        completed = self.write_valid & (field == len(dict(PARAMETER_LAYOUT)) - 1)
        address = Signal(_address(range(self.depth)), reset_less=True)
        m.d.sync += address.eq(self.write_address[field_bits + self._lane_bits:])
        for lane in range(self.lanes):
            cells = WordMemory(depth=self.depth, width=PARAMETER_LAYOUT.size)
            m.submodules[f"lane_{lane}"] = cells
            enable = Signal(name=f"enable_{lane}")
            m.d.sync += enable.eq(
                completed & (self.write_address[field_bits:][:self._lane_bits] == lane))
            m.d.comb += [
                cells.read_address.eq(self.read_address),
                self.read_data[lane].as_value().eq(cells.read_data),
                cells.write_address.eq(address), cells.write_data.eq(channel),
                cells.write_enable.eq(enable),
            ]
        return m

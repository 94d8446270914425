"""On-chip memories: scratchpad banks, per-channel parameters, instructions."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, memory, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["PARAMETER_LAYOUT", "Bank", "ParameterMemory", "WordMemory", "word_layout"]

#: What the rescaler needs of one output channel.
PARAMETER_LAYOUT = data.StructLayout({"bias": signed(32), "multiplier": 31, "shift": 6})


def word_layout(word_bytes):
    """A scratchpad word: ``word_bytes`` codes, byte 0 lowest."""
    return data.ArrayLayout(signed(8), word_bytes)


class Bank(wiring.Component):
    """One read and one write port; bytes are written one by one.

    ``read_data`` follows ``read_address`` by LATENCY cycles: the memory's own output register is
    used, with nothing between it and the block RAM.
    """

    LATENCY = 2

    def __init__(self, *, depth, word_bytes):
        self.depth = depth
        self.word_bytes = word_bytes
        super().__init__({
            "read_address": In(range(depth)), "read_data": Out(word_layout(word_bytes)),
            "write_address": In(range(depth)), "write_data": In(word_layout(word_bytes)),
            "write_enable": In(word_bytes),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = cells = memory.Memory(
            shape=data.ArrayLayout(8, self.word_bytes), depth=self.depth, init=[])
        read, write = cells.read_port(), cells.write_port(granularity=1)
        m.d.comb += [
            read.addr.eq(self.read_address), read.en.eq(1),
            write.addr.eq(self.write_address), write.en.eq(self.write_enable),
            write.data.eq(self.write_data.as_value()),
        ]
        m.d.sync += self.read_data.eq(read.data.as_value())
        return m


class WordMemory(wiring.Component):
    """A memory of plain words with one read and one write port; LATENCY as of Bank."""

    LATENCY = 2

    def __init__(self, *, depth, width):
        self.depth = depth
        self.width = width
        super().__init__({
            "read_address": In(range(depth)), "read_data": Out(width),
            "write_address": In(range(depth)), "write_data": In(width), "write_enable": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.memory = cells = memory.Memory(shape=self.width, depth=self.depth, init=[])
        read, write = cells.read_port(), cells.write_port()
        m.d.comb += [
            read.addr.eq(self.read_address), read.en.eq(1),
            write.addr.eq(self.write_address), write.en.eq(self.write_enable),
            write.data.eq(self.write_data),
        ]
        m.d.sync += self.read_data.eq(read.data)
        return m


class ParameterMemory(wiring.Component):
    """Bias, multiplier and shift of ``lanes`` channels a word, written field by field.

    ``write_lane`` and ``write_field`` (0 bias, 1 multiplier, 2 shift) select what ``write_data``
    replaces.
    """

    LATENCY = 2

    def __init__(self, *, depth, lanes):
        self.depth = depth
        self.lanes = lanes
        super().__init__({
            "read_address": In(range(depth)),
            "read_data": Out(data.ArrayLayout(PARAMETER_LAYOUT, lanes)),
            "write_address": In(range(depth)), "write_lane": In(range(max(2, lanes))),
            "write_field": In(2), "write_data": In(32), "write_enable": In(1),
        })

    def elaborate(self, platform):
        m = Module()
        for lane in range(self.lanes):
            for index, (name, field) in enumerate(PARAMETER_LAYOUT):
                cells = WordMemory(depth=self.depth, width=field.width)
                m.submodules[f"{name}_{lane}"] = cells
                selected = Signal(name=f"write_{name}_{lane}")
                m.d.comb += [
                    selected.eq((self.write_lane == lane) & (self.write_field == index)),
                    cells.read_address.eq(self.read_address),
                    self.read_data[lane][name].eq(cells.read_data),
                    cells.write_address.eq(self.write_address),
                    cells.write_data.eq(self.write_data),
                    cells.write_enable.eq(self.write_enable & selected),
                ]
        return m

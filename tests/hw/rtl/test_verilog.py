"""The Verilog that is written: copies of a bit are a replication, and say the same."""

import re

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.verilog import convert, to_verilog


class Copies(wiring.Component):
    def __init__(self):
        super().__init__({"a": In(1), "b": In(2), "o": Out(12)})

    def elaborate(self, platform):
        m = Module()
        late = Signal(12)
        m.d.sync += late.eq(Cat(self.b[0], self.b[0], self.a.replicate(5), self.b[1],
                                self.b[0].replicate(3), self.a))
        m.d.comb += self.o.eq(late)
        return m


def bits(text):
    """Every concatenation of the text, bit by bit."""
    def spread(match):
        return ", ".join([match[2].strip()] * int(match[1]))

    text = re.sub(r"\{(\d+)\{ ([^{}]*) \}\}", spread, text)
    return re.findall(r"\{ ([^{}]*) \}", text)


def test_copies_are_one_replication_in_their_place():
    text = to_verilog(Copies(), "copies")
    assert "{ a, {3{ b[0] }}, b[1], {5{ a }}, b[0], b[0] }" in text
    assert bits(text) == bits(convert(Copies(), "copies"))

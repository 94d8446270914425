"""Small stream components for the tests of the harness: one right, the others each wrong once."""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

LAYOUT = data.StructLayout({"a": signed(8), "b": data.ArrayLayout(signed(5), 3)})


class Increment(wiring.Component):
    """Adds 1 to `a`, wrapping; one register; `fault` plants a protocol error."""

    def __init__(self, fault: str = ""):
        self.fault = fault
        super().__init__({"i": In(stream.Signature(LAYOUT)), "o": Out(stream.Signature(LAYOUT))})

    def elaborate(self, platform):
        m = Module()
        move = Signal()
        noise = Signal(8)
        m.d.sync += noise.eq(noise + 1)
        free = {"overwrites": 1, "hangs": 0}.get(self.fault, ~self.o.valid | self.o.ready)
        m.d.comb += [move.eq(free), self.i.ready.eq(move)]
        with m.If(move):
            m.d.sync += [self.o.valid.eq(self.i.valid),
                         self.o.payload.a.eq(self.i.payload.a + 1),
                         self.o.payload.b.eq(self.i.payload.b)]
        if self.fault == "withdraws":
            with m.If(noise[:3] == 0):
                m.d.sync += self.o.valid.eq(0)
        if self.fault == "babbles":
            with m.If(noise[:3] == 0):
                m.d.sync += self.o.valid.eq(1)
        return m


class Negate(wiring.Component):
    """Combinational: no clock port at all."""

    def __init__(self):
        super().__init__({"i": In(stream.Signature(signed(8))),
                          "o": Out(stream.Signature(signed(9)))})

    def elaborate(self, platform):
        m = Module()
        m.d.comb += [self.o.payload.eq(-self.i.payload), self.o.valid.eq(self.i.valid),
                     self.i.ready.eq(self.o.ready)]
        return m

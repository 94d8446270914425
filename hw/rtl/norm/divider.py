"""A sequential unsigned divider: one quotient bit per clock, restoring."""

from amaranth.hdl import Cat, Module, Mux, Signal, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Divider"]


class Divider(wiring.Component):
    """quotient = dividend // divisor.

    Arguments
    ---------
    dividend_width, divisor_width : bits, unsigned.

    Members
    -------
    start : In(1), takes the operands in this clock.
    dividend, divisor : operands; a divisor of 0 gives an undefined quotient.
    busy : Out(1), from the clock after start for dividend_width clocks.
    quotient : Out(dividend_width), valid once busy is low, until the next start.
    """

    def __init__(self, dividend_width, divisor_width):
        super().__init__({
            "start": In(1), "dividend": In(unsigned(dividend_width)),
            "divisor": In(unsigned(divisor_width)),
            "busy": Out(1), "quotient": Out(unsigned(dividend_width))})

    def elaborate(self, platform) -> Module:
        m = Module()
        width = len(self.dividend)
        divisor = Signal.like(self.divisor)
        remainder = Signal(len(divisor))
        steps = Signal(range(width + 1))
        # The dividend leaves `quotient` at the top as the quotient's bits enter at the bottom.
        shifted = Cat(self.quotient[-1], remainder)
        difference = shifted - divisor
        fits = shifted >= divisor
        m.d.comb += self.busy.eq(steps != 0)
        with m.If(self.start):
            m.d.sync += [self.quotient.eq(self.dividend), divisor.eq(self.divisor),
                         remainder.eq(0), steps.eq(width)]
        with m.Elif(self.busy):
            m.d.sync += [remainder.eq(Mux(fits, difference, shifted)),
                         self.quotient.eq(Cat(fits, self.quotient)), steps.eq(steps - 1)]
        return m

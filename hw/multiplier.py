"""The vendor hook for multiplications: a product with registered inputs and output."""

from amaranth.hdl import ClockSignal, Const, Instance, Module, Shape, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["Multiplier", "MultiplierECP5"]


class Multiplier(wiring.Component):
    """p = a * b, two clocks later: a register before and a register after the product.

    Arguments
    ---------
    a_shape, b_shape : shapes of the operands, signed or unsigned.

    Members
    -------
    a, b : operands.
    p : product, wide enough for every pair of operands.

    A target with hard multipliers subclasses this and overrides `product`.
    """

    LATENCY = 2

    def __init__(self, a_shape, b_shape):
        a_shape, b_shape = Shape.cast(a_shape), Shape.cast(b_shape)
        p_shape = (Const(0, a_shape) * Const(0, b_shape)).shape()
        super().__init__({"a": In(a_shape), "b": In(b_shape), "p": Out(p_shape)})

    def product(self, m):
        """Add to `m` what drives `p` with a * b, LATENCY clocks later."""
        a = Signal(self.a.shape(), reset_less=True)
        b = Signal(self.b.shape(), reset_less=True)
        p = Signal(self.p.shape(), reset_less=True)
        m.d.sync += [a.eq(self.a), b.eq(self.b), p.eq(a * b)]
        m.d.comb += self.p.eq(p)

    def elaborate(self, platform):
        m = Module()
        self.product(m)
        return m


class MultiplierECP5(Multiplier):
    """One MULT18X18D with its own input and output registers (Lattice ECP5).

    Operands have at most 18 bits signed or 17 bits unsigned; raises ValueError beyond.
    """

    OPERAND_WIDTH = 18

    def __init__(self, a_shape, b_shape):
        for name, shape in ("a", Shape.cast(a_shape)), ("b", Shape.cast(b_shape)):
            width = shape.width + (not shape.signed)
            if width > self.OPERAND_WIDTH:
                raise ValueError(f"Operand {name} must fit {self.OPERAND_WIDTH} signed bits, "
                                 f"not {width}")
        super().__init__(a_shape, b_shape)

    def product(self, m):
        width = self.OPERAND_WIDTH
        a = Signal(width)
        b = Signal(width)
        p = Signal(2 * width)
        m.d.comb += [a.eq(self.a), b.eq(self.b), self.p.eq(p)]
        ports = {f"i_A{k}": a[k] for k in range(width)}
        ports |= {f"i_B{k}": b[k] for k in range(width)}
        ports |= {f"o_P{k}": p[k] for k in range(2 * width)}
        registers = {}
        for register in "INPUTA", "INPUTB", "OUTPUT":
            registers |= {f"p_REG_{register}_CLK": "CLK0", f"p_REG_{register}_CE": "CE0",
                          f"p_REG_{register}_RST": "RST0"}
        m.submodules.mult = Instance(
            "MULT18X18D", **registers, p_REG_PIPELINE_CLK="NONE", p_GSR="DISABLED",
            p_SOURCEB_MODE="B_SHIFT", p_RESETMODE="SYNC",
            i_CLK0=ClockSignal(), i_CE0=Const(1), i_RST0=Const(0),
            i_SIGNEDA=Const(1), i_SIGNEDB=Const(1), i_SOURCEA=Const(0), i_SOURCEB=Const(0),
            **ports)

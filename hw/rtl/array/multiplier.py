"""The vendor hook for multiplications: a product with registered inputs and output."""

from amaranth.hdl import Cat, ClockSignal, Const, Instance, Module, Shape, Signal, Value
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["MULTIPLIERS", "Multiplier", "MultiplierECP5"]


class Multiplier(wiring.Component):
    """p = a * b, two clocks later: a register before and a register after the product.

    Arguments
    ---------
    a_shape, b_shape : shapes of the operands, signed or unsigned.

    Members
    -------
    a, b : operands.
    p : product, wide enough for every pair of operands.

    This portable version leaves the choice of cells to the synthesis tool. A target with hard
    multipliers subclasses it and overrides `multiply`.
    """

    LATENCY = 2

    def __init__(self, a_shape, b_shape):
        a_shape, b_shape = Shape.cast(a_shape), Shape.cast(b_shape)
        self.check(a_shape, b_shape)
        p_shape = (Const(0, a_shape) * Const(0, b_shape)).shape()
        super().__init__({"a": In(a_shape), "b": In(b_shape), "p": Out(p_shape)})

    @classmethod
    def check(cls, a_shape, b_shape) -> None:
        """Raise ValueError for operands that the multiplier cannot take."""

    @classmethod
    def multiply(cls, m, a, b, *, name="product") -> Value:
        """Add to `m` what computes a * b; returns the product, LATENCY clocks later.

        For callers that have many: it makes no module of its own. `name` is unique in `m`.
        """
        a_now = Signal(a.shape(), name=f"{name}_a", reset_less=True)
        b_now = Signal(b.shape(), name=f"{name}_b", reset_less=True)
        p = Signal((a_now * b_now).shape(), name=name, reset_less=True)
        m.d.sync += [a_now.eq(a), b_now.eq(b), p.eq(a_now * b_now)]
        return p

    def elaborate(self, platform) -> Module:
        m = Module()
        m.d.comb += self.p.eq(self.multiply(m, self.a, self.b))
        return m


class MultiplierECP5(Multiplier):
    """One MULT18X18D with its own input and output registers (Lattice ECP5).

    Operands have at most 18 bits signed or 17 bits unsigned; raises ValueError beyond.
    """

    OPERAND_WIDTH = 18

    @classmethod
    def check(cls, a_shape, b_shape) -> None:
        for name, shape in ("a", a_shape), ("b", b_shape):
            width = shape.width + (not shape.signed)
            if width > cls.OPERAND_WIDTH:
                raise ValueError(f"Operand {name} must fit {cls.OPERAND_WIDTH} signed bits, "
                                 f"not {width}")

    @classmethod
    def multiply(cls, m, a, b, *, name="product") -> Value:
        width = cls.OPERAND_WIDTH
        cls.check(a.shape(), b.shape())
        ports, shift = {}, 0
        for port, operand in ("A", a), ("B", b):
            # Left-justified: zeros below simulate faster than copies of the sign above.
            aligned = Signal(width, name=f"{name}_{port.lower()}")
            free = width - len(operand) - (not operand.shape().signed)
            m.d.comb += aligned.eq(Cat(Const(0, free), operand))
            ports |= {f"i_{port}{k}": aligned[k] for k in range(width)}
            shift += free
        p = Signal(2 * width, name=name)
        ports |= {f"o_P{k}": p[k] for k in range(2 * width)}
        registers = {}
        for register in "INPUTA", "INPUTB", "OUTPUT":
            registers |= {f"p_REG_{register}_CLK": "CLK0", f"p_REG_{register}_CE": "CE0",
                          f"p_REG_{register}_RST": "RST0"}
        m.submodules[f"{name}_mult"] = Instance(
            "MULT18X18D", **registers, p_REG_PIPELINE_CLK="NONE", p_GSR="DISABLED",
            p_SOURCEB_MODE="B_SHIFT", p_RESETMODE="SYNC",
            i_CLK0=ClockSignal(), i_CE0=Const(1), i_RST0=Const(0),
            i_SIGNEDA=Const(1), i_SIGNEDB=Const(1), i_SOURCEA=Const(0), i_SOURCEB=Const(0),
            **ports)
        shape = (a * b).shape()
        product = p[shift:shift + shape.width]
        return product.as_signed() if shape.signed else product


#: The vendor hooks by the name that a target gives.
MULTIPLIERS = {"portable": Multiplier, "ecp5": MultiplierECP5}

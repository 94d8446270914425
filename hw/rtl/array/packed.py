"""Two exact int8 products from one hard multiplier of 18 x 18 bits.

The products share the activation a: P = (w1 * 2^10 + w0) * a = p1 * 2^10 + p0, where p0 and p1
have 15 bits, so that they overlap in five. With floor shifts and h = p0 >> 10, which fits 5 bits:

    p0 = h * 2^10 + P mod 2^10          H = P >> 10 = p1 + h

A small product in logic gives low = p1 mod 2^5, hence h = (H - low) mod 2^5 as a signed number,
and p1 = H - h: its five lowest bits are low, the others those of H with at most one added or
subtracted, depending on where the difference of the low bits, -31..31, lies.

Weights are in [-127, 127]: with -128 the packed operand overflows its 18 bits. Lowering never
gives such a weight; 8-bit digits of gradients would have to be clamped.
"""

from typing import Any

from amaranth.hdl import Cat, Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.array.multiplier import Multiplier

__all__ = ["PRODUCT_WIDTH", "PackedPair", "PackedWeights", "packed_latency", "packed_products"]

_OFFSET = 10  #: bits between the two weights
PRODUCT_WIDTH = 15  #: of a product of [-127, 127] and [-128, 127], signed
_LOW = PRODUCT_WIDTH - _OFFSET


class PackedWeights(data.Struct):
    """Two weights as a packed multiplier takes them; what can be passed on from pair to pair."""

    w0: signed(8)
    upper: signed(8)  #: w1, less one where w0 is negative
    low: _LOW  #: of w1

    def pack(self, w0, w1) -> Any:
        """Return the assignment of two weights; w0 may come out of a register, w1 late."""
        return self.eq(Cat(w0, (w1 - w0[-1])[:8], w1[:_LOW]))


def packed_latency(multiplier_class) -> int:
    """Cycles from the operands to p1, by which p0 is a cycle ahead."""
    return multiplier_class.LATENCY + 2


def packed_products(m, multiplier_class, a, weights, *, name="pair") -> tuple:
    """Add to `m` the products of `a` (int8) and two `weights` (PackedWeights).

    Returns (p0, p1): p1 is `packed_latency` cycles late, p0 one cycle less: in a systolic array
    the column of w0 is one cycle ahead, too.
    """
    def register(what, value, stage, shape=None):
        late = Signal(shape or len(value), name=f"{name}_{what}_{stage}", reset_less=True)
        m.d.sync += late.eq(value)
        return late

    operand = Cat(weights.w0, weights.w0[-1].replicate(_OFFSET - 8), weights.upper).as_signed()
    product = multiplier_class.multiply(m, operand, a, name=f"{name}_product")
    # Beside it, low = w1 * a mod 2^5 in as many cycles: perhaps waiting, two parts, their sum.
    w, x = weights.low, a[:_LOW]
    for stage in range(multiplier_class.LATENCY - 2):
        w, x = register("w", w, stage), register("x", x, stage)
    part_0 = register("part_0", (w * x[:2])[:_LOW], 0)
    part_1 = register("part_1", (w[:_LOW - 2] * x[2:])[:_LOW - 2], 0)
    low = register("low", Cat(part_0[:2], part_0[2:] + part_1)[:_LOW], 0)

    difference = product[_OFFSET:_OFFSET + _LOW] - low  # -31..31
    difference = register("difference", difference, 1).as_signed()
    low = register("low", low, 1)
    high = register("high", product[_OFFSET + _LOW:_OFFSET + PRODUCT_WIDTH], 1)
    p0 = Cat(register("product", product[:_OFFSET], 1), difference[:_LOW]).as_signed()
    above, below = (difference[-2:] == 0b01), (difference[-2:] == 0b10)
    change = Cat(above | below, below.replicate(len(high) - 1))  # +1, -1 or 0
    p1 = Cat(register("low", low, 2), register("high", (high + change)[:len(high)], 2))
    return p0, p1.as_signed()


class PackedPair(wiring.Component):
    """``products[k] = a * weights[k]``, LATENCY cycles later, with one multiplier.

    Members
    -------
    a, weights : the operands; weights are in [-127, 127], -128 gives wrong products.
    products : one per weight.
    """

    def __init__(self, *, multiplier_class=Multiplier):
        self.multiplier_class = multiplier_class
        super().__init__({
            "a": In(signed(8)), "weights": In(data.ArrayLayout(signed(8), 2)),
            "products": Out(data.ArrayLayout(signed(PRODUCT_WIDTH), 2)),
        })

    @property
    def latency(self) -> int:
        """Cycles from operands to products."""
        return packed_latency(self.multiplier_class)

    def elaborate(self, platform) -> Module:
        m = Module()
        weights = Signal(PackedWeights)
        m.d.comb += weights.pack(self.weights[0], self.weights[1])
        p0, p1 = packed_products(m, self.multiplier_class, self.a, weights)
        m.d.sync += self.products[0].eq(p0)
        m.d.comb += self.products[1].eq(p1)
        return m

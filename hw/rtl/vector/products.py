"""Products: three multipliers for every channel, their sum, and an accumulator.

The multipliers are radix-4 Booth (hw.rtl.vector.booth), in LUTs. The one that the lowest digit's
partial product lacks travels with the product to the adder behind.
"""

from amaranth.hdl import Cat, Module, Mux, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.pipeline import Pipeline, registered
from hw.rtl.memory.scratchpad import word_layout
from hw.rtl.vector.booth import add_carry, partial_products
from hw.rtl.vector.ports import SUM_WIDTH
from hw.rtl.vector.weights import N_MULTIPLIERS

__all__ = ["Products"]

_CODE_WIDTH = 8


class Products(wiring.Component):
    """sum of weights[k] * x[k] per channel, added up from ``first`` to ``last``.

    Members
    -------
    valid, first, last, x, weights : a step.
    sums : the total, LATENCY cycles after the step with ``last``. valid_next : in the next cycle.
    """

    LATENCY = 5

    def __init__(self, columns):
        self.columns = columns
        words = data.ArrayLayout(word_layout(columns), N_MULTIPLIERS)
        super().__init__({
            "valid": In(1), "first": In(1), "last": In(1), "x": In(words), "weights": In(words),
            "sums": Out(data.ArrayLayout(signed(SUM_WIDTH), columns)), "valid_next": Out(1)})

    def _sum_of_products(self, m, j):
        """Channel j: (sum, lacks), SUM_LATENCY cycles after the operands."""
        operands = {}
        for k in range(N_MULTIPLIERS):
            (p0, _), (p1, lacks1), (p2, lacks2), (p3, lacks3) = partial_products(
                self.x[k][j], self.weights[k][j])
            operands |= {
                f"low_{k}": Cat(p0[:2], add_carry(p0[2:].as_signed(), p1, lacks1)).as_signed(),
                f"high_{k}": Cat(p2[:2], add_carry(p2[2:].as_signed(), p3, lacks3)).as_signed(),
                f"lacks_{k}": self.weights[k][j][1], f"lacks_high_{k}": lacks2}
        pipe = Pipeline(m, valid=0)
        now = pipe.stage(**operands)
        products = {}
        for k in range(N_MULTIPLIERS):
            low, high = getattr(now, f"low_{k}"), getattr(now, f"high_{k}")
            upper = add_carry(low[4:].as_signed(), high, getattr(now, f"lacks_high_{k}"))
            products[f"p_{k}"] = Cat(low[:4], upper)[:2 * _CODE_WIDTH].as_signed()
        used = [f"{name}_{k}" for k in range(N_MULTIPLIERS)
                for name in ("low", "high", "lacks_high")]
        now = pipe.stage(drop=used, **products)
        now = pipe.stage(drop=("p_0", "p_1", "lacks_0"),
                         p_01=add_carry(now.p_0, now.p_1, now.lacks_0)[:17].as_signed())
        now = pipe.stage(drop=("p_01", "p_2", "lacks_1"),
                         total=add_carry(now.p_01, now.p_2, now.lacks_1)[:18].as_signed())
        return now.total, now.lacks_2

    def elaborate(self, platform) -> Module:
        m = Module()
        pipe = Pipeline(m, valid=self.valid, first=self.first, last=self.last & self.valid)
        for _ in range(self.LATENCY - 1):
            now = pipe.stage()
        sums = registered(m, self.sums)
        for j in range(self.columns):
            total, lacks = self._sum_of_products(m, j)
            with m.If(now.valid):
                m.d.sync += sums[j].eq(add_carry(Mux(now.first, 0, sums[j]), total, lacks))
        m.d.comb += self.valid_next.eq(now.last)
        return m

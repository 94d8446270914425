# amaranth: UnusedElaboratable=no
"""The vendor multipliers, plain and packed, give exact products."""

import random
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

import sim.unit
from hw.rtl.array.multiplier import MULTIPLIERS, Multiplier, MultiplierECP5
from hw.rtl.array.packed import PackedPair
from tests.hw.simulate import run_testbench

MODELS = {"portable": [], "ecp5": [Path(sim.unit.__file__).with_name("ecp5.v")]}
SHAPES = {"bytes": (signed(8), signed(8)), "mixed": (unsigned(17), signed(18)),
          "unsigned": (unsigned(5), unsigned(16)), "narrow": (signed(18), signed(3))}
WEIGHTS = (-127, -126, -64, -33, -32, -17, -16, -1, 0, 1, 15, 16, 31, 32, 64, 126, 127)
ACTIVATIONS = (-128, -127, -65, -32, -17, -1, 0, 1, 16, 31, 64, 127)


class Products(wiring.Component):
    """Streams of operands through one multiplier per pair of shapes and a packed pair."""

    def __init__(self, multiplier_class):
        self.units = {name: multiplier_class(*shapes) for name, shapes in SHAPES.items()}
        self.pair = PackedPair(multiplier_class=multiplier_class)
        pair = self.pair.signature.members
        operands = {f"{name}_{x}": shape for name, shapes in SHAPES.items()
                    for x, shape in zip("ab", shapes)}
        products = {name: unit.p.shape() for name, unit in self.units.items()}
        super().__init__({
            "i": In(stream.Signature(data.StructLayout(
                operands | {"a": pair["a"].shape, "weights": pair["weights"].shape}),
                always_ready=True)),
            "o": Out(stream.Signature(data.StructLayout(
                products | {"pair": pair["products"].shape}), always_ready=True))})

    def elaborate(self, platform):
        m = Module()
        m.submodules.pair = self.pair
        m.d.comb += [self.pair.a.eq(self.i.payload.a),
                     self.pair.weights.eq(self.i.payload.weights),
                     self.o.payload.pair.eq(self.pair.products)]
        for name, unit in self.units.items():
            m.submodules[name] = unit
            product = unit.p
            m.d.comb += [unit.a.eq(self.i.payload[f"{name}_a"]),
                         unit.b.eq(self.i.payload[f"{name}_b"])]
            for stage in range(self.pair.latency - unit.LATENCY):
                late = Signal.like(product, name=f"{name}_{stage}")
                m.d.sync += late.eq(product)
                product = late
            m.d.comb += self.o.payload[name].eq(product)
        valid = self.i.valid
        for stage in range(self.pair.latency):
            late = Signal(name=f"valid_{stage}")
            m.d.sync += late.eq(valid)
            valid = late
        m.d.comb += self.o.valid.eq(valid)
        return m


def bounds(shape):
    return (-(1 << shape.width - 1), (1 << shape.width - 1) - 1) if shape.signed else (
        0, (1 << shape.width) - 1)


def operands(seed=0):
    """Items: every combination of the packed corners, and for the others corners and noise."""
    rng = random.Random(seed)
    pairs = [(w0, w1, a) for w0 in WEIGHTS for w1 in WEIGHTS for a in ACTIVATIONS]
    pairs += [(rng.randint(-127, 127), rng.randint(-127, 127), rng.randint(-128, 127))
              for _ in range(1000)]
    items = []
    for w0, w1, a in pairs:
        item = {"a": a, "weights": [w0, w1]}
        for name, shapes in SHAPES.items():
            for x, shape in zip("ab", shapes):
                low, high = bounds(shape)
                item[f"{name}_{x}"] = rng.choice((low, high, rng.randint(low, high)))
        items.append(item)
    return items


def expected(item):
    return {"pair": [item["a"] * w for w in item["weights"]]} | {
        name: item[f"{name}_a"] * item[f"{name}_b"] for name in SHAPES}


@pytest.mark.slow
def test_products_are_exact_on_the_portable_hook():
    """Amaranth's own simulator; the vendors' cells have models in Verilog only."""
    dut, items, results = Products(Multiplier), operands(), []

    async def testbench(ctx):
        for item in [*items, *items[:dut.pair.latency]]:
            if ctx.get(dut.o.valid):
                payload = ctx.get(dut.o.payload)
                results.append({name: payload[name] for name in SHAPES} |
                               {"pair": [payload.pair[0], payload.pair[1]]})
            ctx.set(dut.i.payload, item)
            ctx.set(dut.i.valid, 1)
            await ctx.tick()

    run_testbench(dut, testbench)
    assert results == [expected(item) for item in items]


@pytest.mark.slow
@pytest.mark.parametrize("multiplier", [
    name if name == "ecp5" else pytest.param(name, marks=pytest.mark.long)
    for name in sorted(MULTIPLIERS)])
def test_products_are_exact_in_verilator(monkeypatch, multiplier):
    build = sim.unit.build
    monkeypatch.setattr(sim.unit, "build", lambda sources, *args, **options: build(
        [*sources, *MODELS[multiplier]], *args, **options))
    items = operands()
    results = sim.unit.run_stream(Products(MULTIPLIERS[multiplier]), items)
    assert results == [expected(item) for item in items]


def test_operands_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="Operand a must fit 18 signed bits, not 19"):
        MultiplierECP5(18, 8)
    with pytest.raises(ValueError, match="Operand b must fit 18 signed bits, not 20"):
        MultiplierECP5(signed(18), signed(20))

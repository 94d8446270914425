# amaranth: UnusedElaboratable=no
"""Parts of the vector engine on their own."""

import random

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.sim import Simulator

from hw.rtl.common.loops import Countdown, Level
from hw.rtl.vector.booth import (
    DIFFERENCE_WIDTH,
    MULTIPLY_LATENCY,
    add_carry,
    multiply_differences,
    partial_products,
)
from hw.rtl.vector.products import Products
from tests.hw.simulate import run_testbench


def simulate(design, testbench):
    run_testbench(design, testbench)


def test_partial_products_of_every_weight():
    m = Module()
    x, w = Signal(signed(8)), Signal(signed(8))
    parts = [(Signal(signed(9), name=f"p_{k}"), Signal(name=f"lacks_{k}")) for k in range(4)]
    for mine, pair in zip(parts, partial_products(x, w)):
        m.d.comb += [signal.eq(value) for signal, value in zip(mine, pair)]

    async def testbench(ctx):
        for b in range(-128, 128):
            for a in (-128, -127, -77, -1, 0, 1, 64, 127):
                ctx.set(x, a)
                ctx.set(w, b)
                total = sum((ctx.get(value) + ctx.get(lacks)) << 2 * k
                            for k, (value, lacks) in enumerate(parts))
                assert total == a * b

    sim = Simulator(m)
    sim.add_testbench(testbench)
    sim.run()


def test_add_carry():
    m = Module()
    a, b, c, y = Signal(signed(4)), Signal(signed(6)), Signal(), Signal(signed(8))
    m.d.comb += y.eq(add_carry(a, b, c))

    async def testbench(ctx):
        for values in [(i, j, k) for i in range(-8, 8) for j in range(-32, 32) for k in range(2)]:
            for signal, value in zip((a, b, c), values):
                ctx.set(signal, value)
            assert ctx.get(y) == sum(values)

    sim = Simulator(m)
    sim.add_testbench(testbench)
    sim.run()


def test_product_of_every_difference():
    m = Module()
    a, b = (Signal(signed(DIFFERENCE_WIDTH), name=name) for name in "ab")
    p = Signal(signed(2 * DIFFERENCE_WIDTH))
    m.d.comb += p.eq(multiply_differences(m, a, b))
    pairs = [(i, j) for j in range(-256, 256) for i in (-256, -255, -128, -1, 0, 1, 2, 85, 255)]
    got = []

    async def testbench(ctx):
        for i, j in [*pairs, *[(0, 0)] * (MULTIPLY_LATENCY - 1)]:
            ctx.set(a, i)
            ctx.set(b, j)
            await ctx.tick()
            got.append(ctx.get(p))

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()
    assert got[MULTIPLY_LATENCY - 1:] == [i * j for i, j in pairs]


def test_sums_of_products_with_gaps():
    columns, rng = 4, random.Random(1)
    dut = Products(columns)
    corner = (-128, -127, -1, 0, 1, 127)
    expected, got = [], []

    def word():
        return [rng.choice((rng.choice(corner), rng.randint(-128, 127))) for _ in range(columns)]

    async def testbench(ctx):
        total = None
        for step in range(400):
            valid = step < 390 and rng.random() < 0.8
            if valid:
                first, last = total is None, rng.random() < 0.3
                x, w = [word() for _ in range(3)], [word() for _ in range(3)]
                ctx.set(dut.x, x)
                ctx.set(dut.weights, w)
                ctx.set(dut.first, first)
                ctx.set(dut.last, last)
                total = [(0 if first else total[j]) + sum(x[k][j] * w[k][j] for k in range(3))
                         for j in range(columns)]
                if last:
                    expected.append((step + Products.LATENCY, total))
                    total = None
            ctx.set(dut.valid, valid)
            arrives = ctx.get(dut.valid_next)
            await ctx.tick()
            if arrives:
                got.append((step + 1, [ctx.get(dut.sums[j]) for j in range(columns)]))

    simulate(dut, testbench)
    assert len(got) > 50 and got == expected


@pytest.mark.parametrize("count", [1, 2, 5])
def test_countdown(count):
    m = Module()
    value = Signal(4, init=count)
    counter = Countdown(m, "counter", value)
    load, step = Signal(), Signal()
    with m.If(step):
        counter.step()
    with m.If(load):
        m.d.sync += counter.load()

    async def testbench(ctx):
        await ctx.tick()
        ctx.set(load, 1)
        await ctx.tick()
        ctx.set(load, 0)
        ctx.set(step, 1)
        lasts = []
        for _ in range(3 * count):
            lasts.append(ctx.get(counter.last))
            await ctx.tick()
        assert lasts == [*[0] * (count - 1), 1] * 3

    simulate(m, testbench)


@pytest.mark.parametrize("depth", [3, 15, 16])
def test_level_and_its_flags(depth):
    m = Module()
    put, take = Signal(), Signal()
    level = Level(m, "level", depth, put, take)
    rng = random.Random(depth)

    async def testbench(ctx):
        held = 0
        for step in range(600):
            filling = step // 40 % 2  # one item over the depth may still come
            puts = held <= depth and rng.random() < (0.9 if filling else 0.3)
            takes = held > 0 and rng.random() < (0.2 if filling else 0.9)
            ctx.set(put, puts)
            ctx.set(take, takes)
            held += puts - takes
            await ctx.tick()
            assert (ctx.get(level.any), ctx.get(level.room)) == (held > 0, held < depth)

    simulate(m, testbench)

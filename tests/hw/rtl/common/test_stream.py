# amaranth: UnusedElaboratable=no
"""Stream primitives keep every item, in order, at full rate, whatever the stalls."""

import random

import pytest
from amaranth.hdl import Module
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.pipeline import Pipeline
from hw.rtl.common.stream import (
    Elastic,
    RegisterSlice,
    SkidBuffer,
    SmallFIFO,
    StreamFIFO,
    payload_shape,
)
from tests.hw.simulate import WatchdogError, run_testbench, simulate

PAIR = data.StructLayout({"a": 8, "b": 4})


class Increment(wiring.Component):
    """A three-stage pipeline that never stalls: x + 1."""

    LATENCY = 3

    def __init__(self):
        super().__init__({"i": In(stream.Signature(8, always_ready=True)),
                          "o": Out(stream.Signature(8, always_ready=True))})

    def elaborate(self, platform):
        m = Module()
        pipe = Pipeline(m, valid=self.i.valid, x=self.i.payload)
        pipe.stage(x=pipe.now.x + 1)
        pipe.stage()
        pipe.stage()
        m.d.comb += [self.o.valid.eq(pipe.now.valid), self.o.payload.eq(pipe.now.x)]
        return m


BUFFERS = {
    "register slice": lambda: RegisterSlice(8),
    "skid buffer": lambda: SkidBuffer(8),
    "fifo": lambda: StreamFIFO(8, 5),
    "small fifo": lambda: SmallFIFO(8, 4),
    "smallest fifo": lambda: SmallFIFO(8, 2),
    "elastic": lambda: Elastic(Increment()),
}


def expected(name, items):
    return [(item + 1) % 256 if name == "elastic" else item for item in items]


@pytest.mark.slow
@pytest.mark.parametrize("stalls", [0.0, 0.3, 0.8])
@pytest.mark.parametrize("name", BUFFERS)
def test_keeps_every_item_in_order(name, stalls):
    rng = random.Random(name)
    items = [rng.randrange(256) for _ in range(300)]
    assert simulate(BUFFERS[name](), items, n_outputs=len(items), stalls=stalls,
                    seed=3) == expected(name, items)


def test_struct_payloads():
    items = [{"a": k, "b": k % 16} for k in range(40)]
    for dut in SkidBuffer(PAIR), RegisterSlice(PAIR), StreamFIFO(PAIR, 3), SmallFIFO(PAIR, 16):
        assert simulate(dut, items, n_outputs=40, stalls=0.5, seed=5) == items


@pytest.mark.parametrize("name", BUFFERS)
def test_full_rate_without_stalls(name):
    dut, n_items, latency = BUFFERS[name](), 100, 12
    n_taken = 0

    async def testbench(ctx):
        nonlocal n_taken
        ctx.set(dut.i.valid, 1)
        ctx.set(dut.o.ready, 1)
        for _ in range(n_items + latency):
            *_, valid = await ctx.tick().sample(dut.o.valid)
            n_taken += valid

    run_testbench(dut, testbench)
    assert n_taken >= n_items


def test_elastic_never_overflows_behind_a_blocked_output():
    dut, n_accepted = Elastic(Increment()), 0

    async def testbench(ctx):
        nonlocal n_accepted
        ctx.set(dut.i.valid, 1)
        for _ in range(100):
            *_, ready = await ctx.tick().sample(dut.i.ready)
            n_accepted += ready

    run_testbench(dut, testbench)
    assert n_accepted == dut.depth


def test_payload_shape_sees_through_flipped_interfaces():
    assert payload_shape(SkidBuffer(PAIR).i) == PAIR
    assert payload_shape(wiring.flipped(SkidBuffer(PAIR).o)) == PAIR


def test_a_fifo_of_one_item_is_rejected():
    with pytest.raises(ValueError, match="FIFO depth must be at least 2, not 1"):
        StreamFIFO(8, 1)


@pytest.mark.parametrize("depth", [1, 12])
def test_a_small_fifo_needs_a_power_of_two(depth):
    with pytest.raises(ValueError, match=f"FIFO depth must be a power of two from 2, not {depth}"):
        SmallFIFO(8, depth)


def test_the_watchdog_ends_a_stuck_simulation():
    with pytest.raises(WatchdogError, match="after 2 of 3 results"):
        simulate(SkidBuffer(8), [1, 2], n_outputs=3, watchdog=50)


def test_the_harness_refuses_values_that_would_be_truncated():
    with pytest.raises(ValueError, match="Value 256 does not fit"):
        simulate(SkidBuffer(8), [256], n_outputs=1)

# amaranth: UnusedElaboratable=no
"""The queue of waiting requests keeps every item, in order, at full rate, whatever the stalls."""

import random

import pytest

from hw.rtl.memory.waiting import WaitingQueue
from tests.hw.simulate import run_testbench, simulate


@pytest.mark.parametrize("stalls", [0.0, 0.3, 0.8])
def test_keeps_every_item_in_order(stalls):
    rng = random.Random(0)
    items = [rng.randrange(256) for _ in range(300)]
    assert simulate(WaitingQueue(8), items, n_outputs=300, stalls=stalls, seed=3) == items


@pytest.mark.parametrize("held", [0, 1, 2, 10])
def test_full_rate_also_after_the_output_has_waited(held):
    dut, seen = WaitingQueue(8), []

    async def testbench(ctx):
        ctx.set(dut.i.valid, 1)
        for cycle in range(60):
            ctx.set(dut.o.ready, cycle >= held)
            accepted = ctx.get(dut.i.ready)
            if ctx.get(dut.o.valid):
                seen.append((cycle, ctx.get(dut.o.payload)))
            await ctx.tick()
            ctx.set(dut.i.payload, ctx.get(dut.i.payload) + accepted)

    run_testbench(dut, testbench)
    first = max(held, WaitingQueue.LATENCY)
    assert [item for item in seen if item[0] >= held] == [
        (first + k, k) for k in range(60 - first)]

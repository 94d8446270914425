"""The array behind its feeders multiplies matrices, whichever way its operands arrive."""

import numpy as np
import pytest
from amaranth.hdl import Module
from amaranth.sim import Simulator

from hw.array import MacArray
from hw.feeder import Feeder
from hw.isa import Feed

N_TILES, IDLE_AFTER = 3, 60


def slot_word(operand, feed, step, word_bytes):
    """The word a port is given in slot ``step`` of a tile; operand: int (lanes, depth)."""
    n_lanes = len(operand)
    if feed == Feed.DIRECT:
        return [int(v) for v in operand[:, step]] + [0] * (word_bytes - n_lanes)
    lane, period = step % word_bytes, step // word_bytes
    if lane >= n_lanes:
        return [0] * word_bytes
    return [int(v) for v in operand[lane, period * word_bytes:(period + 1) * word_bytes]]


def multiply(a, b, feeds):
    """Product tiles a (T, rows, depth) x b (T, columns, depth), back to back.

    Returns the popped results (T + 1, rows, columns); the last tile was given no words at all.
    """
    (n_tiles, rows, depth), columns = a.shape, b.shape[1]
    word_bytes = max(rows, columns)
    m = Module()
    m.submodules.array = array = MacArray(rows=rows, columns=columns)
    feeders = [Feeder(n_lanes=n, word_bytes=word_bytes) for n in (rows, columns)]
    m.submodules.feeder_a, m.submodules.feeder_b = feeders
    m.d.comb += [array.a.eq(feeders[0].lanes), array.b.eq(feeders[1].lanes)]
    results = []

    async def testbench(ctx):
        pops = set()
        for cycle in range((n_tiles + 1) * depth + IDLE_AFTER):
            tile, step = divmod(cycle, depth)
            for feeder, operand, feed in zip(feeders, (a, b), feeds):
                live = tile < n_tiles
                word = [0] * word_bytes
                if live:
                    word = slot_word(operand[tile], feed, step, word_bytes)
                ctx.set(feeder.word, word)
                ctx.set(feeder.start, int(live and feed == Feed.TRANSPOSING
                                          and step % word_bytes == 0))
                ctx.set(feeder.direct, int(feed == Feed.DIRECT))
            tile, step = divmod(cycle - Feeder.LATENCY, depth)
            live = 0 <= tile <= n_tiles  # the tile after the last one is nothing but zeros
            ctx.set(array.first, int(live and step == 0))
            ctx.set(array.last, int(live and step == depth - 1))
            if live and step == depth - 1:
                start = cycle + array.result_latency
                pops |= {start + array.POP_SPACING * row for row in range(rows)}
            ctx.set(array.pop, int(cycle in pops))
            await ctx.tick()
            if ctx.get(array.results_valid):
                results.append([ctx.get(array.results[j]) for j in range(columns)])

    sim = Simulator(m)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()
    return np.array(results).reshape(n_tiles + 1, rows, columns)


def operands(rows, columns, seed=0, n_periods=2):
    rng = np.random.default_rng(seed)
    depth = max(rows, columns) * n_periods
    a, b = (rng.integers(-128, 128, (N_TILES, n, depth)) for n in (rows, columns))
    a[0], b[0] = -128, -128  # the largest products
    return a, b


@pytest.mark.parametrize("feed_b", list(Feed))
@pytest.mark.parametrize("feed_a", list(Feed))
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 5), (5, 3), (4, 4)])
def test_tiles_back_to_back_equal_numpy(rows, columns, feed_a, feed_b):
    a, b = operands(rows, columns)
    results = multiply(a, b, (feed_a, feed_b))
    assert np.array_equal(results[:-1], a @ b.transpose(0, 2, 1))
    assert not results[-1].any(), "lanes that are given nothing supply zeros"


def test_a_long_reduction_of_the_largest_products_is_exact():
    depth = 600
    a, b = np.full((1, 2, depth), -128), np.full((1, 2, depth), -128)
    results = multiply(a, b, (Feed.DIRECT, Feed.DIRECT))
    assert results[0].max() == depth * 128 * 128


def test_a_planted_fault_is_seen():
    a, b = operands(2, 2)
    results = multiply(a, b, (Feed.TRANSPOSING, Feed.DIRECT))
    b[1, 0, 3] += 1
    assert not np.array_equal(results[:-1], a @ b.transpose(0, 2, 1))

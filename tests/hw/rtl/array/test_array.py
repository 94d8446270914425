# amaranth: UnusedElaboratable=no
"""The array behind its feeders multiplies matrices, whichever way its operands arrive."""

import numpy as np
import pytest
from amaranth.hdl import Module

from hw.isa import Feed
from hw.rtl.array.array import MacArray
from hw.rtl.array.feeder import Feeder
from tests.hw.simulate import component, fresh_components, run_testbench

pytestmark = pytest.mark.slow

BOTH_WAYS = [(a, b) for a in Feed for b in Feed]


def fed_array(rows, columns, **options):
    """(module, array, feeders): an array behind two feeders."""
    m = Module()
    m.submodules.array = array = MacArray(rows=rows, columns=columns, **options)
    feeders = [Feeder(n_lanes=n, word_bytes=columns) for n in (rows, columns)]
    m.submodules.feeder_a, m.submodules.feeder_b = feeders
    m.d.comb += [array.a.eq(feeders[0].lanes), array.b.eq(feeders[1].lanes)]
    return m, array, feeders


class Bench:
    """An array behind two feeders, and a schedule that is as tight as their contract allows.

    feeds: of ports a and b; slots: cycles per period; spacing: cycles between pops; gap: idle
    cycles before every period (a stall).
    """

    def __init__(self, rows, columns, *, feeds=BOTH_WAYS[0], slots=None, spacing=None, gap=0,
                 **options):
        self.m, self.array, self.feeders = component(fed_array, rows, columns, **options)
        self.feeds, self.slots, self.gap = feeds, slots or columns, gap
        self.spacing = spacing or self.array.POP_SPACING
        self.rows, self.columns = rows, columns

    def _word(self, port, operand, step):
        """The word a port is given in a step of a tile; operand: int (lanes, depth)."""
        word = np.full(self.columns, -77)  # what must not matter
        if self.feeds[port] == Feed.DIRECT:
            word[:len(operand)] = operand[:, step]
        elif (lane := step % self.slots) < len(operand):
            bytes_ = operand[lane, step - lane:][:min(self.slots, self.columns)]
            word[:len(bytes_)] = bytes_
        return [int(v) for v in word]

    def _schedule(self, tiles):
        """The cycles of the feeders (tile, step) and those of the pops."""
        array, cycles, pops = self.array, [None] * self.columns, []  # copies of controls settle
        for number, (a, _) in enumerate(tiles):
            depth = a.shape[1]
            earliest = 0
            if number:  # the tile before is read out in time
                earliest = pops[-1] - array.hold_latency - Feeder.LATENCY
            for step in range(depth):
                if step % self.slots == 0:
                    cycles += [None] * self.gap
                if step == (depth - 1) // self.slots * self.slots:
                    cycles += [None] * (earliest - (depth - 1 - step) - len(cycles))
                cycles.append((number, step))
            first_pop = len(cycles) - 1 + Feeder.LATENCY + array.result_latency
            pops += [first_pop + self.spacing * row for row in range(self.rows)]
        return cycles, pops

    def products(self, tiles):
        """Run tiles (a (rows, depth), b (columns, depth)); returns (T, rows, columns)."""
        cycles, pops = self._schedule(tiles)
        array, results, valid_at = self.array, [], []
        rows_popped = {cycle: divmod(at, self.rows) for at, cycle in enumerate(pops)}

        async def testbench(ctx):
            for cycle in range(pops[-1] + array.pop_latency + 4):
                now = cycles[cycle] if cycle < len(cycles) else None
                for port, feeder in enumerate(self.feeders):
                    ctx.set(feeder.slot, int(now is not None))
                    if now is not None:
                        tile, step = now
                        ctx.set(feeder.word, self._word(port, tiles[tile][port], step))
                        ctx.set(feeder.start, int(step % self.slots == 0))
                        ctx.set(feeder.direct, int(self.feeds[port] == Feed.DIRECT))
                late = cycle - Feeder.LATENCY
                now = cycles[late] if 0 <= late < len(cycles) else None
                ctx.set(array.first, int(now is not None and now[1] == 0))
                ctx.set(array.last, int(now is not None
                                        and now[1] == tiles[now[0]][0].shape[1] - 1))
                ctx.set(array.place, 0 if now is None else now[0] % array.n_tiles)
                ctx.set(array.pop, int(cycle in rows_popped))
                tile, row = rows_popped.get(cycle, (0, 0))
                ctx.set(array.row, row)
                ctx.set(array.row_place, tile % array.n_tiles)
                if ctx.get(array.results_valid):
                    valid_at.append(cycle)
                    results.append([ctx.get(array.results[j]) for j in range(self.columns)])
                await ctx.tick()

        run_testbench(self.m, testbench)
        assert valid_at == [pop + array.pop_latency for pop in pops]
        return np.array(results).reshape(len(tiles), self.rows, self.columns)


def random_tiles(rows, columns, depths, seed=0, low_b=-128):
    rng = np.random.default_rng(seed)
    return [(rng.integers(-128, 128, (rows, depth)), rng.integers(low_b, 128, (columns, depth)))
            for depth in depths]


def check(bench, tiles):
    results = bench.products(tiles)
    for result, (a, b) in zip(results, tiles, strict=True):
        assert np.array_equal(result, a @ b.T)


@pytest.mark.parametrize("feeds", BOTH_WAYS)
@pytest.mark.parametrize(("rows", "columns"), [(2, 2), (3, 5), (4, 4)])
def test_tiles_back_to_back_equal_numpy(rows, columns, feeds):
    tiles = random_tiles(rows, columns, [3 * columns, 2 * columns, 4 * columns])
    tiles.append((np.full((rows, columns), -128), np.full((columns, columns), -128)))
    check(Bench(rows, columns, feeds=feeds), tiles)


@pytest.mark.parametrize("feeds", BOTH_WAYS)
@pytest.mark.parametrize(("slots", "gap"), [(4, 0), (5, 0), (9, 0), (4, 1), (6, 3), (11, 2)])
def test_periods_shorter_and_longer_than_a_word_with_and_without_stalls(feeds, slots, gap):
    rows, columns = 3, 8
    if feeds[1] == Feed.TRANSPOSING:
        slots += columns - 4  # at least as many as there are lanes
    tiles = random_tiles(rows, columns, [slots, 3 * slots, 2 * slots])
    for port, feed in enumerate(feeds):
        if feed == Feed.TRANSPOSING:
            for tile in tiles:  # beyond the word there is nothing
                tile[port][:, np.arange(tile[port].shape[1]) % slots >= columns] = 0
    check(Bench(rows, columns, feeds=feeds, slots=slots, gap=gap), tiles)


@pytest.mark.parametrize("spacing", [2, 3, 4, 7])
def test_pops_of_any_spacing(spacing):
    tiles = random_tiles(4, 4, [1, 4, 9, 30, 1, 1], seed=spacing)
    check(Bench(4, 4, feeds=(Feed.DIRECT, Feed.DIRECT), slots=1, spacing=spacing), tiles)


WEIGHTS = (-127, -126, -64, -33, -32, -17, -16, -1, 0, 1, 15, 16, 31, 32, 64, 126, 127)
ACTIVATIONS = (-128, -127, -65, -32, -17, -1, 0, 1, 16, 31, 64, 127)


def test_a_packed_array_is_exact_for_all_extremes():
    rows, columns = 2, 4
    w0, w1, x = (v.ravel() for v in np.meshgrid(WEIGHTS, WEIGHTS, ACTIVATIONS))
    depth = 4  # so that a wrong product cannot hide behind another
    tiles = []
    for at in range(0, len(x), 4):
        a, b = np.zeros((rows, depth), int), np.zeros((columns, depth), int)
        a[0], a[1], b[:2], b[2:] = x[at], -x[at].clip(-127), [[w0[at]], [w1[at]]], w1[at]
        tiles.append((a, b))
    check(Bench(rows, columns, feeds=(Feed.DIRECT, Feed.DIRECT), slots=1, packed=True), tiles)


@pytest.mark.parametrize("feeds", BOTH_WAYS)
def test_a_packed_array_equals_a_plain_one_in_time_and_value(feeds):
    rows, columns = 5, 8
    tiles = random_tiles(rows, columns, [8, 16, 24], low_b=-127)
    plain, packed = (Bench(rows, columns, feeds=feeds, packed=packed) for packed in (False, True))
    assert np.array_equal(packed.products(tiles), plain.products(tiles))
    assert packed.array.pop_latency == plain.array.pop_latency
    assert packed.array.result_latency == plain.array.result_latency + 1


def test_odd_columns_are_not_packed():
    with pytest.raises(ValueError, match="come in pairs, not 5"):
        MacArray(rows=2, columns=5, packed=True)


def test_a_long_reduction_of_the_largest_products_is_exact():
    depth = 600
    a, b = np.full((2, depth), -128), np.full((2, depth), -128)
    result, = Bench(2, 2, feeds=(Feed.DIRECT, Feed.DIRECT)).products([(a, b)])
    assert (result == depth * 128 * 128).all()


@pytest.mark.parametrize(("constant", "wrong"), [
    ("result_latency", -1), ("hold_latency", 1), ("pop_latency", 1), ("POP_SPACING", -1)])
@pytest.mark.parametrize("packed", [False, True])
def test_the_latencies_are_as_small_as_they_can_be(monkeypatch, packed, constant, wrong):
    options = {"feeds": (Feed.DIRECT, Feed.DIRECT), "slots": 1, "packed": packed}
    shape = 5, 6  # one tile of results, two groups of rows
    tiles = random_tiles(*shape, [1, 4, 1, 1], low_b=-127)
    check(Bench(*shape, **options), tiles)
    value = getattr(Bench(*shape, **options).array, constant) + wrong
    monkeypatch.setattr(MacArray, constant, value)
    with fresh_components(), pytest.raises(AssertionError):
        check(Bench(*shape, **options), tiles)


@pytest.mark.parametrize("spacing", [2, pytest.param(3, marks=pytest.mark.long)])
@pytest.mark.parametrize(("rows", "columns", "n_tiles"), [
    (1, 2, 1), (1, 4, 2), (2, 12, 4), (2, 16, 8), (4, 4, 1), (5, 9, 2), (8, 10, 1), (8, 11, 2),
    (7, 8, 1)])
def test_tiles_as_close_as_their_pops(rows, columns, n_tiles, spacing):
    bench = Bench(rows, columns, feeds=(Feed.DIRECT, Feed.DIRECT), slots=1, spacing=spacing)
    assert bench.array.n_tiles == n_tiles
    check(bench, random_tiles(rows, columns, [1, 4, 9, 30, 1, 1, 2, 1, 1, 1], seed=spacing))

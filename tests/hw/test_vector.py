"""The add unit keeps the rescaler lanes full for any latency of theirs; the max unit's maxima."""

import random

import pytest
from amaranth.sim import Simulator

from hw.targets import Target
from hw.vector import ADD_PASSES, AddUnit, MaxUnit, Pass

WATCHDOG = 3000


def run(dut, script):
    async def testbench(ctx):
        await script(ctx)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()


def rescaled(which, value):
    """A stand-in for the lanes that tells the two inputs apart."""
    return {Pass.FIRST_INPUT: 3 * value + 1, Pass.SECOND_INPUT: 5 * value - 2}[which]


def add(target, latency, words, zero_points, left_shift, base, gap):
    """Return [(address, byte, sums)]; the lanes answer with rescaled() after ``latency`` cycles."""
    dut = AddUnit(target=target, lane_latency=latency)
    period = ADD_PASSES * target.word_bytes // target.lanes + gap
    n_items = len(words) * target.word_bytes // target.lanes
    items = []

    async def script(ctx):
        ctx.set(dut.out_base, base)
        ctx.set(dut.zero_point_0, zero_points[0])
        ctx.set(dut.zero_point_1, zero_points[1])
        ctx.set(dut.left_shift, left_shift)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        under_way = []  # what entered the lanes, oldest first; None for nothing
        for cycle in range(WATCHDOG):
            index, phase = divmod(cycle, period)
            ctx.set(dut.words_valid, int(phase == 0 and index < len(words)))
            if phase == 0 and index < len(words):
                ctx.set(dut.word_0, words[index][0])
                ctx.set(dut.word_1, words[index][1])
            entering = None
            if ctx.get(dut.valid):
                which = Pass(ctx.get(dut.which))
                values = [ctx.get(dut.values[k]) for k in range(target.lanes)]
                if which == Pass.SUM:
                    items.append((ctx.get(dut.destination.address),
                                  ctx.get(dut.destination.byte), values))
                    assert ctx.get(dut.destination.mask) == (1 << target.lanes) - 1
                else:
                    entering = which, [rescaled(which, v) for v in values]
            under_way.append(entering)
            leaving = under_way.pop(0) if len(under_way) > latency else None
            ctx.set(dut.returned_valid, int(leaving is not None))
            if leaving:
                ctx.set(dut.returned_which, leaving[0])
                ctx.set(dut.returned, leaving[1])
            if len(items) == n_items:
                return
            await ctx.tick()
        raise AssertionError("the additions do not end")

    run(dut, script)
    return items


@pytest.mark.parametrize("gap", [0, ADD_PASSES])
@pytest.mark.parametrize("latency", [6, 7, 8])
@pytest.mark.parametrize(("rows", "columns"), [(4, 4), (3, 5), (2, 8)])
def test_sums_are_right_and_in_place(rows, columns, latency, gap):
    target = Target(name="add", rows=rows, columns=columns)
    rng = random.Random(f"{rows}-{columns}")
    n, lanes = target.word_bytes, target.lanes
    words = [[[rng.choice([-128, 127, rng.randrange(-128, 128)]) for _ in range(n)]
              for _ in range(2)] for _ in range(4)]
    zero_points, left_shift, base = (-128, 77), 12, 1000
    expected = []
    for index, pair in enumerate(words):
        scaled = [[rescaled(which, (q - z) << left_shift) for q in word] for which, word, z in
                  zip((Pass.FIRST_INPUT, Pass.SECOND_INPUT), pair, zero_points)]
        sums = [x + y for x, y in zip(*scaled)]
        expected += [(base + index, byte, sums[byte:byte + lanes]) for byte in range(0, n, lanes)]
    assert add(target, latency, words, zero_points, left_shift, base, gap) == expected


@pytest.mark.parametrize("n_words", [1, 2, 9])
def test_maxima_of_every_few_words(n_words):
    dut, rng = MaxUnit(word_bytes=4), random.Random(n_words)
    words = [[rng.choice([-128, 127, rng.randrange(-128, 128)]) for _ in range(4)]
             for _ in range(5 * n_words)]
    words[:n_words] = [[-128] * 4] * n_words
    outputs = []

    async def script(ctx):
        ctx.set(dut.n_words, n_words)
        ctx.set(dut.out_base, 40)
        ctx.set(dut.start, 1)
        await ctx.tick()
        ctx.set(dut.start, 0)
        queue = list(words)
        for _ in range(WATCHDOG):
            pause = rng.random() < 0.3
            ctx.set(dut.word_valid, int(bool(queue) and not pause))
            if queue and not pause:
                ctx.set(dut.word, queue.pop(0))
            await ctx.tick()
            if ctx.get(dut.valid):
                outputs.append((ctx.get(dut.address), [ctx.get(dut.maximum[k]) for k in range(4)]))
            if len(outputs) == 5:
                return

    run(dut, script)
    groups = [words[first:first + n_words] for first in range(0, len(words), n_words)]
    assert outputs == [(40 + index, [max(column) for column in zip(*group)])
                       for index, group in enumerate(groups)]

# amaranth: UnusedElaboratable=no
"""The feeder skews its lanes by one cycle each, in both modes, and is silent when given nothing."""

import random

import pytest

from hw.isa import Feed
from hw.rtl.array.feeder import Feeder
from tests.hw.simulate import run_testbench

SHAPES = [(2, 2), (4, 4), (3, 5), (2, 8), (5, 16)]


def feed(dut, cycles):
    """Play cycles (dicts of the feeder's inputs); return per cycle the list of lane values."""
    seen = []

    async def testbench(ctx):
        for cycle in cycles:
            ctx.set(dut.word, cycle.get("word", [-1] * dut.word_bytes))
            for name in ("slot", "start", "direct"):
                ctx.set(getattr(dut, name), cycle.get(name, 0))
            await ctx.tick()
            seen.append([ctx.get(dut.lanes[lane]) for lane in range(dut.n_lanes)])

    run_testbench(dut, testbench)
    return seen


def period(dut, feed_mode, n_slots, rng):
    """The inputs of one period with random words, and its bytes per slot and lane."""
    words = [[rng.randrange(-128, 128) for _ in range(dut.word_bytes)] for _ in range(n_slots)]
    direct = int(feed_mode == Feed.DIRECT)
    # Words beyond the lanes of a transposing period must not matter: they are left random.
    inputs = [{"word": word, "slot": 1, "start": int(slot == 0), "direct": direct}
              for slot, word in enumerate(words)]
    if direct:
        return inputs, [word[:dut.n_lanes] for word in words]
    return inputs, [[words[lane][slot] if slot < dut.word_bytes else 0
                     for lane in range(dut.n_lanes)] for slot in range(n_slots)]


def check(dut, plan, seed=0):
    """Play a plan of (feed, slots) and pauses (None, cycles) and compare every byte."""
    rng = random.Random(seed)
    cycles, expected = [], []
    for mode, count in plan:
        if mode is None:
            inputs, values = [{"direct": rng.randrange(2)}] * count, [[0] * dut.n_lanes] * count
        else:
            inputs, values = period(dut, mode, count, rng)
        cycles += inputs
        expected += values
    cycles += [{}] * (dut.n_lanes + dut.LATENCY)
    seen = feed(dut, cycles)
    start = dut.LATENCY - 1  # seen[c] is what the array gets in the cycle after c
    skewed = [[seen[start + k + lane][lane] for lane in range(dut.n_lanes)]
              for k in range(len(expected))]
    assert skewed == expected
    assert not any(seen[start + k][lane] for lane in range(dut.n_lanes) for k in range(lane))
    assert not any(seen[-1])


@pytest.mark.parametrize("mode", list(Feed))
@pytest.mark.parametrize(("n_lanes", "word_bytes"), SHAPES)
def test_periods_shorter_and_longer_than_a_word(n_lanes, word_bytes, mode):
    dut = Feeder(n_lanes=n_lanes, word_bytes=word_bytes)
    lengths = (word_bytes, n_lanes, word_bytes, word_bytes + 3, n_lanes, n_lanes, word_bytes + 1)
    check(dut, [(mode, n_slots) for n_slots in lengths])


@pytest.mark.parametrize("n_slots", [4, 6])
def test_a_pause_after_a_short_period_is_silent(n_slots):
    plan = []
    for pause in (1, 2, 3, 9):
        plan += [(Feed.TRANSPOSING, n_slots), (None, pause)]
    check(Feeder(n_lanes=4, word_bytes=8), plan)


@pytest.mark.parametrize("seed", range(4))
def test_any_order_of_modes_lengths_and_pauses(seed):
    rng = random.Random(seed)
    n_lanes, word_bytes = SHAPES[1 + seed]
    plan = []
    for _ in range(30):
        mode = rng.choice((None, Feed.DIRECT, Feed.TRANSPOSING))
        plan.append((mode, rng.randint(n_lanes if mode == Feed.TRANSPOSING else 1,
                                       word_bytes + 3)))
    check(Feeder(n_lanes=n_lanes, word_bytes=word_bytes), plan, seed)


def test_words_shorter_than_the_lanes_are_refused():
    with pytest.raises(ValueError, match="a byte for each of 5 lanes, not 4"):
        Feeder(n_lanes=5, word_bytes=4)

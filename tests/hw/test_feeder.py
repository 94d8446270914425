"""The feeder skews its lanes by one cycle each, in both modes, and is silent when given nothing."""

import pytest
from amaranth.sim import Simulator

from hw.feeder import Feeder


def feed(dut, slots, n_cycles):
    """Play slots (dicts of the feeder's inputs); return per cycle the list of lane values."""
    seen = []

    async def testbench(ctx):
        for cycle in range(n_cycles):
            slot = slots[cycle] if cycle < len(slots) else {}
            ctx.set(dut.word, slot.get("word", [0] * dut.word_bytes))
            for name in ("start", "direct", "sub"):
                ctx.set(getattr(dut, name), slot.get(name, 0))
            await ctx.tick()
            seen.append([ctx.get(dut.lanes[lane]) for lane in range(dut.n_lanes)])

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()
    return seen


def lane_streams(seen, n_lanes, n_bytes):
    """Undo the skew: lane i from cycle i on."""
    return [[seen[lane + k][lane] for k in range(n_bytes)] for lane in range(n_lanes)]


@pytest.mark.parametrize(("n_lanes", "word_bytes"), [(2, 2), (4, 4), (3, 5), (2, 8)])
def test_transposing_shifts_each_word_out_of_its_lane(n_lanes, word_bytes):
    words = [[16 * slot + k - 60 for k in range(word_bytes)] for slot in range(n_lanes)]
    slots = [{"word": words[slot] if slot < n_lanes else [0] * word_bytes, "start": slot == 0}
             for slot in range(word_bytes)]
    seen = feed(Feeder(n_lanes=n_lanes, word_bytes=word_bytes), slots, 3 * word_bytes)
    assert lane_streams(seen, n_lanes, word_bytes) == words
    outside = [seen[c][lane] for lane in range(n_lanes) for c in range(len(seen))
               if not lane <= c < lane + word_bytes]
    assert not any(outside)


@pytest.mark.parametrize(("n_lanes", "word_bytes"), [(2, 2), (4, 4), (3, 5), (2, 8), (5, 16)])
def test_direct_takes_the_chosen_group_of_lanes(n_lanes, word_bytes):
    dut = Feeder(n_lanes=n_lanes, word_bytes=word_bytes)
    words = [[(7 * slot + 11 * k) % 255 - 127 for k in range(word_bytes)] for slot in range(9)]
    slots = [{"word": word, "direct": 1, "sub": slot % dut.n_groups}
             for slot, word in enumerate(words)]
    # The mode lasts as long as an instruction: past its last word, zeros.
    slots += [{"direct": 1}] * (2 * word_bytes)
    seen = feed(dut, slots, len(slots))
    assert lane_streams(seen, n_lanes, len(words)) == [
        [(word + [0] * n_lanes)[slot % dut.n_groups * n_lanes + lane]
         for slot, word in enumerate(words)] for lane in range(n_lanes)]
    assert not any(seen[-1])


def test_idle_lanes_supply_zeros():
    assert not any(map(any, feed(Feeder(n_lanes=4, word_bytes=4), [], 12)))

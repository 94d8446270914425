"""Every allocator: what is live never overlaps, and what does not fit is said."""

import numpy as np
import pytest

from hw.compiler.memory.allocator import NoRoom
from hw.compiler.memory.external import ExternalMemory
from hw.compiler.memory.lifetimes import Lifetimes
from hw.compiler.memory.pool import Pool

BANKS = (64, 48)


def lifetimes():
    return Lifetimes(BANKS, "memory")


def pool():
    return Pool(BANKS, "memory")


def external():
    return ExternalMemory(8)


@pytest.mark.parametrize("make", [lifetimes, pool, external])
def test_live_buffers_are_apart_and_aligned(make):
    rng = np.random.default_rng(0)
    for _ in range(20):
        memory, live, refused = make(), [], 0
        banks = range(len(memory.depths))
        for now in range(40):
            memory.now = now
            n_words, align = (int(n) for n in rng.integers(1, (20, 4)))
            try:
                buffer = memory.take(n_words, [*banks], align=align)
            except NoRoom:
                refused += 1
            else:
                assert buffer.base % align == 0
                assert buffer.end <= memory.depths[buffer.bank]
                assert all(buffer.bank != other.bank or buffer.base >= other.end
                           or other.base >= buffer.end for other in live)
                live.append(buffer)
            if make is pool and len(live) > 5:
                memory.give_back(live.pop(int(rng.integers(len(live)))))
        assert refused or make is not lifetimes


@pytest.mark.parametrize("make", [lifetimes, pool])
def test_the_first_bank_with_room_is_taken_and_no_room_is_said(make):
    memory = make()
    assert [memory.take(40, [0, 1]).bank for _ in range(2)] == [0, 1]
    with pytest.raises(NoRoom, match="^40 words of memory in 64, 48$"):
        memory.take(40, [0, 1])


def test_external_memory_ends():
    memory = external()
    memory.take(memory.depths[0] - 1)
    memory.take(1)
    with pytest.raises(NoRoom, match="1 words of external memory in 536870912"):
        memory.take(1)


def test_lifetimes_that_do_not_meet_share_a_place():
    memory = lifetimes()
    first, second = (memory.take(60, [0], live=live) for live in ((0, 3), (4, 9)))
    assert first.base == second.base == 0
    assert memory.find(10, 0, (3, 4)) is None
    assert memory.find(4, 0, (3, 4)) == 60

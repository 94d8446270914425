"""Where things lie on the chip: how long buffers live on, conflicts of banks, tight memories."""

from dataclasses import replace

import numpy as np
import pytest

from hw.compiler import DoesNotFit, compile_program
from hw.compiler.memory import build
from hw.compiler.memory.allocate import Item
from hw.targets import get_target
from tests import programs
from tests.hw.compiler.compiled import assert_as_golden

SLACK = 3


def words_alive(items):
    """Words by moment, from the first to the last of any item."""
    begin, end = min(item.first for item in items), max(item.last for item in items)
    return {at: sum(item.n_words for item in items if item.first <= at <= item.last)
            for at in range(begin, end + 1)}


@pytest.mark.parametrize("seed", range(20))
def test_buffers_live_on_as_far_as_there_is_room_and_never_end_early(seed):
    rng = np.random.default_rng(seed)
    firsts = rng.integers(-1, 12, 15)
    items = [Item(name=k, n_words=int(rng.integers(1, 50)), first=int(first),
                  last=int(first + rng.integers(0, 5))) for k, first in enumerate(firsts)]
    needed = words_alive(items)
    assert [item.last - old.last for item, old in zip(build._outliving(items, 10**6), items)] == [
        SLACK] * len(items)
    assert build._outliving(items, 0) == items
    room = max(needed.values()) + 20
    longer = build._outliving(items, room)
    for item, old in zip(longer, items):
        assert replace(item, last=old.last) == old and 0 <= item.last - old.last <= SLACK
    alive = words_alive(longer)
    assert max(alive.values()) <= room
    for item, old in zip(longer, items):    # what ends early has no room to live on
        assert item.last - old.last == SLACK or (
            alive.get(item.last + 1, 0) + item.n_words > room)


@pytest.mark.parametrize("conflicts", [(1000, 0), (0, 1000)])
def test_of_two_arrangements_the_one_with_fewer_conflicts_is_taken(conflicts, monkeypatch):
    program, target = programs.linear_net(), get_target("sim-8x8")
    real, seen = build._arrangements, []

    def two(*arguments):
        (_, where), *_ = real(*arguments)
        shifted = {key: (bank, base + 8) for key, (bank, base) in where.items()}
        seen[:] = [where, shifted]
        yield from zip(conflicts, seen)
    monkeypatch.setattr(build, "_arrangements", two)
    image = compile_program(program, target)
    wanted = seen[conflicts.index(0)]
    assert (image.place("input").bank, image.place("input").base) == wanted["input", 0]


@pytest.mark.parametrize("make", [programs.residual_net, programs.pool_net,
                                  programs.conv_shapes_net, programs.linear_net,
                                  programs.pixel_net], ids=lambda make: make.__name__)
def test_programs_in_tight_banks_wait_for_all_that_they_must(make):
    program, n_fits = make(), 0
    for words in (64, 96, 128, 160, 224, 320, 448, 640):
        for batch in (1, 2):
            target = replace(get_target("sim-4x4"), bank_words=(words,) * 4)
            try:
                assert_as_golden(program, target, programs.random_codes(program, batch), batch)
            except DoesNotFit:
                continue
            n_fits += 1
    assert n_fits >= 3

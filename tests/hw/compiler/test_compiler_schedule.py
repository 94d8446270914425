"""Waits and chases: conservative, not more than needed, and each of them for a reason."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from golden.errors import LockstepError
from hw.compiler import compile_program
from hw.compiler.memory.allocate import Conflicts, Item, allocate
from hw.compiler.scheduling.schedule import Scheduler, chase_line
from hw.isa import N_WORDS, Engine, Opcode, decode
from hw.machine.hazards import check
from hw.targets import get_target
from tests import programs

TARGET = get_target("sim-8x8")


def fields_of(image):
    return [decode([int(word) for word in record])
            for record in image.instructions.reshape(-1, N_WORDS)]


@given(st.lists(st.integers(0, 50), min_size=1, max_size=30), st.integers(1, 900))
def test_a_chase_never_begins_a_unit_too_early(rises, total):
    need = np.minimum(np.cumsum(rises), total)
    line = chase_line(need, total)
    if line is None:
        assert need[-1] + 50 * len(need) >= total
        return
    first, step = line
    assert (first + step * np.arange(len(need)) >= need).all()
    assert first < total


@pytest.mark.parametrize(("need", "total", "best"), [
    ([8, 16, 24, 32], 64, (8, 8)),
    ([32, 64], 64, (32, 32)),
    ([20, 36, 52, 64, 64], 64, (20, 16)),
    ([64, 64], 64, None),
    ([5], 64, (5, 0)),
])
def test_a_chase_is_as_close_as_a_line_can_be(need, total, best):
    assert chase_line(np.array(need), total) == best


def test_every_wait_that_is_left_out_is_a_hazard_or_implied():
    """Without any one chase or wait the check complains; only what others imply may go."""
    program = programs.concat_net()
    fields = fields_of(compile_program(program, TARGET))
    check(fields, TARGET)
    needed = implied = 0
    for index, f in enumerate(fields):
        for name in ("chase", "wait_array", "wait_vector"):
            if f[name]:
                changed = [dict(other) for other in fields]
                changed[index][name] = 0 if name == "chase" else f[name] - 1
                try:
                    check(changed, TARGET)
                    implied += 1
                except LockstepError:
                    needed += 1
    assert needed > 4
    assert implied <= needed


def test_a_chase_that_is_one_too_low_is_a_hazard():
    make = programs.Maker("chain", (8, 9, 9), 0)
    image = compile_program(make.program(make.conv(make.conv(make.input, 8), 8)), TARGET)
    fields = fields_of(image)
    assert fields[1]["chase"]
    check(fields, TARGET)
    rows = TARGET.rows
    with pytest.raises(LockstepError):
        check([fields[0], fields[1] | {"chase_first": fields[1]["chase_first"] - rows}], TARGET)


def test_chases_can_be_left_out():
    make = programs.Maker("chain", (8, 9, 9), 0)
    program = make.program(make.conv(make.conv(make.input, 8), 8))
    scheduler = Scheduler(target=TARGET, chases=False)
    plain = [scheduler.add(f | {"chase": 0, "wait_array": 0})
             for f in fields_of(compile_program(program, TARGET))[:-1]]
    assert [f["wait_array"] for f in plain] == [0, 1]
    check(plain, TARGET)
    assert scheduler.everything() == {"wait_array": 2}
    assert scheduler.counts[Engine.ARRAY] == 2
    assert scheduler.add(decode([Opcode.HALT] + [0] * (N_WORDS - 1)))["opcode"] == Opcode.HALT


# Allocation.


def test_things_alive_together_do_not_overlap_and_forbidden_pairs_part():
    rng = np.random.default_rng(0)
    for _ in range(30):
        items = [Item(name=k, n_words=int(rng.integers(1, 900)), first=int(f), last=int(f + n),
                      align=1 + int(rng.integers(2)))
                 for k, (f, n) in enumerate(rng.integers(0, 9, (24, 2)))]
        conflicts = Conflicts()
        for one, other in rng.integers(0, 24, (10, 2)):
            conflicts.forbid(int(one), int(other))
        found = allocate(items, TARGET, conflicts)
        assert found is not None
        where = found[1]
        for one in items:
            bank, base = where[one.name]
            assert base + one.n_words <= TARGET.bank_words[bank]
            assert base % one.align == 0
            for other in items:
                if one is other:
                    continue
                if other.name in conflicts.of(one.name):
                    assert where[other.name][0] != bank
                if (where[other.name][0] == bank and one.first <= other.last
                        and other.first <= one.last):
                    start = where[other.name][1]
                    assert base + one.n_words <= start or start + other.n_words <= base


def test_what_cannot_be_placed_is_none():
    items = [Item(name=k, n_words=8000, first=0, last=1) for k in range(5)]
    assert allocate(items, TARGET, Conflicts()) is None
    assert allocate(items[:4], TARGET, Conflicts()) is not None
    conflicts = Conflicts()
    for one in range(5):
        for other in range(one):
            conflicts.forbid(one, other)
    small = [Item(name=k, n_words=1, first=0, last=1) for k in range(5)]
    assert allocate(small[:4], TARGET, conflicts) is not None
    assert allocate(small, TARGET, conflicts) is None

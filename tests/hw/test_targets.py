"""Targets: known names, free shapes, and what follows from a shape."""

import pytest

from golden.errors import LockstepError
from hw.targets import TARGETS, Target, get_target

SHAPES = [(r, c) for r in range(2, 17) for c in range(2, 17)]


@pytest.mark.parametrize("name", list(TARGETS))
def test_known_targets_have_their_names(name):
    assert get_target(name) == TARGETS[name]
    assert get_target(name).name == name


def test_every_free_shape_has_consistent_sizes():
    ids = set()
    for rows, columns in SHAPES:
        target = get_target(f"array-{rows}x{columns}")
        assert (target.rows, target.columns, target.n_macs) == (rows, columns, rows * columns)
        assert target.word_bytes == max(rows, columns)
        assert rows % target.lanes == columns % target.lanes == 0
        assert target.lanes in (1, 2, 4)
        host = target.host_word_bytes
        assert host >= max(4, target.word_bytes)
        assert host & host - 1 == 0
        assert host < 2 * max(4, target.word_bytes)
        ids.add(target.configuration_id)
    assert len(ids) == len(SHAPES)


@pytest.mark.parametrize("name", ["array-1x4", "array-4x17", "array-0x0"])
def test_sides_are_limited(name):
    with pytest.raises(LockstepError, match=rf"Target '{name}': .* must be in 2\.\.16, not "):
        get_target(name)


def test_an_unknown_target_lists_the_known_ones():
    with pytest.raises(LockstepError, match="Unknown target 'array-4': known are sim-4x4, .*"
                                            "array-ROWSxCOLUMNS"):
        get_target("array-4")


def test_wrong_kinds_are_type_errors():
    with pytest.raises(TypeError, match="Rows must be an integer, not 4.0"):
        Target(name="float", rows=4.0, columns=4)

"""Targets: known names, free shapes, and what follows from a shape."""

import pytest

from golden.errors import LockstepError
from hw.targets import TARGETS, Target, device_of, get_target

SHAPES = [(r, c) for c in (4, 8, 16) for r in range(2, c + 1)]


@pytest.mark.parametrize("name", list(TARGETS))
def test_known_targets_have_their_names(name):
    assert get_target(name) == TARGETS[name]
    assert get_target(name).name == name


def test_targets_for_any_device_come_first_and_every_other_has_one():
    with_device = [target.device is not None for target in TARGETS.values()]
    assert with_device == sorted(with_device)
    for target in TARGETS.values():
        device = device_of(target)
        assert target.device in (None, device.name)
        assert set(device.goals_mhz) <= set(TARGETS)


def test_every_free_shape_has_consistent_sizes():
    ids = set()
    for rows, columns in SHAPES:
        target = get_target(f"array-{rows}x{columns}")
        assert (target.rows, target.columns, target.n_macs) == (rows, columns, rows * columns)
        assert target.word_bytes == columns
        assert columns % target.lanes == 0
        ids.add(target.configuration_id)
    assert len(ids) == len(SHAPES)


@pytest.mark.parametrize(("name", "message"), [
    ("array-1x4", r"Rows must be in 2\.\.4 \(columns\), not 1"),
    ("array-9x8", r"Rows must be in 2\.\.8 \(columns\), not 9"),
    ("array-4x5", r"Columns must be one of \(4, 8, 16\), not 5"),
    ("array-3x4x0", r"Lanes must be one of \(4, 8\) and at most 4 \(columns\), not 0"),
    ("array-4x32", r"Columns must be one of \(4, 8, 16\), not 32"),
])
def test_sides_are_limited(name, message):
    with pytest.raises(LockstepError, match=f"Target '{name}': {message}"):
        get_target(name)


@pytest.mark.parametrize(("fields", "message"), [
    ({"bus_bits": 32}, r"Bus bits must be one of \(0, 64, 128\), not 32"),
    ({"bus_bits": 64}, "A bus of 64 bits needs words of at least as many, not 32"),
    ({"bank_words": (64, 64)}, r"Bank words must be 4 even numbers in 2\.\.65536"),
    ({"bank_words": (64, 64, 64, 63)}, r"Bank words must be 4 even numbers in 2\.\.65536"),
    ({"bank_words": (64, 64, 64, 1 << 17)}, r"Bank words must be 4 even numbers in 2\.\.65536"),
])
def test_memories_and_buses_are_checked(fields, message):
    with pytest.raises(ValueError, match=message):
        Target(name="wrong", rows=4, columns=4, **fields)


def test_an_unknown_target_lists_the_known_ones():
    with pytest.raises(LockstepError, match="Unknown target 'array-4': known are sim-4x4, .*"
                                            "array-ROWSxCOLUMNS"):
        get_target("array-4")


def test_wrong_kinds_are_type_errors():
    with pytest.raises(TypeError, match="Rows must be an integer, not 4.0"):
        Target(name="float", rows=4.0, columns=4)

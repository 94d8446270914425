"""The sites of multipliers and block RAMs: all different, and the ways between them short."""

import itertools
import re

import pytest

from synthesis.floorplan import RAM_SITES, SITES, fix_block_rams, fix_multipliers


def netlist(rows, columns, n_lanes, *, step=1):
    """The multipliers of an array, every `step`-th column having its own, and of the lanes."""
    names = [f"shell.unit.array.array.p_{i}_{j}_mult"
             for i in range(rows) for j in range(0, columns, step)]
    names += [f"shell.unit.lanes.lane_{k}.product_mult" for k in range(n_lanes)]
    cells = {name: {"type": "MULT18X18D", "attributes": {}} for name in names}
    return {"cells": cells | {"shell.sum": {"type": "TRELLIS_FF", "attributes": {}}}}


def sites(module):
    return {name: cell["attributes"]["BEL"] for name, cell in module["cells"].items()
            if "BEL" in cell["attributes"]}


def distance(one, other):
    (x, y), (u, v) = (map(int, re.match(r"X(\d+)/Y(\d+)", site).groups()) for site in (one, other))
    return abs(x - u), abs(y - v)


def test_the_device_has_three_rows_of_52_sites():
    assert [len(row) for row in SITES.values()] == [52, 52, 52]
    assert len(set(itertools.chain(*SITES.values()))) == 156
    assert (SITES[10][0], SITES[34][5], SITES[58][51]) == (
        "X4/Y10/MULT18_0", "X14/Y34/MULT18_1", "X119/Y58/MULT18_5")


@pytest.mark.parametrize("n_lanes", [12, 16, 24])
@pytest.mark.parametrize(("rows", "columns", "step"), [(8, 16, 1), (16, 16, 2), (8, 14, 1)])
def test_neighbours_in_the_array_lie_side_by_side(rows, columns, step, n_lanes):
    module = netlist(rows, columns, n_lanes, step=step)
    assert fix_multipliers(module) == rows * columns // step + n_lanes
    placed = sites(module)
    assert len(set(placed.values())) == len(placed)
    for i, j in itertools.product(range(rows), range(0, columns, step)):
        here = placed[f"shell.unit.array.array.p_{i}_{j}_mult"]
        for other in ((i + 1, j), (i, j + step)):
            there = placed.get("shell.unit.array.array.p_{}_{}_mult".format(*other))
            if there:
                dx, dy = distance(here, there)
                assert dx <= 60
                assert dy in (0, 24)
    lanes = [site for name, site in placed.items() if "lane" in name]
    room = 52 - (rows - 2 * (52 // (columns // step))) * columns // step
    assert sum(distance(lanes[0], site)[1] > 0 for site in lanes) == max(0, n_lanes - room)
    assert max(max(distance(lanes[0], site)) for site in lanes) <= 60


@pytest.mark.parametrize("shape", [(4, 4, 16), (8, 8, 16), (12, 13, 16)])
def test_small_and_too_large_arrays_are_left_to_the_placer(shape):
    module = netlist(*shape)
    assert fix_multipliers(module) == 0
    assert sites(module) == {}


def memories(*, slices=(16, 16, 8, 4), n_parts=2, n_lanes=8, others=4):
    """The block RAMs of four banks in parts of eight bytes, of the lanes, and some others."""
    names = [f"shell.unit.crossbar.bank_{bank}.{parity}_{8 * part}.0.{index}"
             for bank, count in enumerate(slices) for parity in ("even", "odd")
             for part in range(n_parts) for index in range(count)]
    for lane in range(n_lanes):
        names += [f"shell.unit.lanes.parameters.lane_{lane}.memory.0.{index}" for index in (0, 1)]
        names.append(f"shell.unit.vector.lookup.lane_{lane}.memory.0.0")
    names += [f"shell.unit.instructions.memory.0.{index}" for index in range(others)]
    return {"cells": {name: {"type": "DP16KD", "attributes": {}} for name in names}}


def test_the_device_has_four_rows_of_52_block_rams():
    assert [len(row) for row in RAM_SITES.values()] == [52] * 4
    assert len(set(itertools.chain(*RAM_SITES.values()))) == 208
    assert (RAM_SITES[22][0], RAM_SITES[46][27], RAM_SITES[82][51]) == (
        "X4/Y22/EBR0", "X64/Y46/EBR3", "X120/Y82/EBR3")


def test_bytes_of_a_word_lie_from_left_to_right_and_lanes_between_their_bytes():
    module = memories()
    assert fix_block_rams(module) == 204
    placed = sites(module)
    assert len(set(placed.values())) == 204
    columns = {name: int(site[1:site.index("/")]) for name, site in placed.items()}
    of_byte = {}
    for bank, (count, per_byte) in enumerate([(16, 2), (16, 2), (8, 1), (4, 0.5)]):
        for part, index in itertools.product((0, 8), range(count)):
            for parity in ("even", "odd"):
                name = f"shell.unit.crossbar.bank_{bank}.{parity}_{part}.0.{index}"
                of_byte.setdefault(part + int(index / per_byte), []).append(columns[name])
    assert sorted(of_byte) == list(range(16))
    assert all(max(x) - min(x) <= 24 for x in of_byte.values())
    middles = [sum(x) / len(x) for _, x in sorted(of_byte.items())]
    assert middles == sorted(middles)
    for lane in range(8):
        for name in (f"lanes.parameters.lane_{lane}.memory.0.0", f"vector.lookup.lane_{lane}."):
            x = next(x for key, x in columns.items() if name in key)
            assert middles[lane] < x < middles[lane + 8]


def test_what_has_one_address_lies_in_one_row():
    module = memories()
    fix_block_rams(module)
    rows = {}
    for name, site in sites(module).items():
        if "bank_" in name:
            rows.setdefault(name.partition(".0.")[0], set()).add(site.split("/")[1])
    assert len(rows) == 16
    assert all(len(row) == 1 for row in rows.values())


def test_few_and_too_many_block_rams_are_left_to_the_placer():
    for module in (memories(slices=(8, 8, 8, 4)), memories(others=20), {"cells": {}}):
        assert fix_block_rams(module) == 0
        assert sites(module) == {}

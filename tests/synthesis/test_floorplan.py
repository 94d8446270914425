"""The sites of an array's multipliers: all different, and the ways between elements short."""

import itertools
import re

import pytest

from synthesis.floorplan import SITES, fix_multipliers


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

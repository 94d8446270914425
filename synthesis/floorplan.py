"""Floorplan of a large array on the LFE5U-85F: which multiplier site each product takes.

The device has three rows of 52 multipliers, the array needs most of them. Left to itself the
analytical placer, which finds no pins to hold on to, gathers the logic in one corner and spreads
the multipliers over the whole device, 40 tiles from their sums. With the sites given the logic
settles around them. Columns of the array lie side by side, its rows share the three rows of sites;
row 0, the lanes' multipliers and so the way of the results out of the array share the last one.
Lanes that find no room there stand in the middle of the next row.
"""

import re

__all__ = ["SITES", "fix_multipliers"]

_ROWS = (58, 34, 10)
_MIDDLE = 7  #: blocks of sites left of a gap of two tiles
_PER_ROW = 52
_ARRAY = re.compile(r"\barray\.p_(\d+)_(\d+)(?!\d)")


def _site(row: int, index: int) -> str:
    """The name of one of the 52 sites of a row, from the left."""
    block, place = divmod(index, 4)
    number = (0, 1, 4, 5)[place]
    x = 4 + 9 * block + number + (2 if block >= _MIDDLE else 0)
    return f"X{x}/Y{row}/MULT18_{number}"


#: Sites of the device by row, from the left.
SITES = {row: [_site(row, index) for index in range(_PER_ROW)] for row in _ROWS}


def fix_multipliers(module: dict) -> int:
    """Give the multipliers of a netlist their sites, in place; returns how many.

    module : of yosys's JSON. Arrays that leave a row of sites free are left to the placer.
    """
    cells = {name: cell for name, cell in module["cells"].items() if cell["type"] == "MULT18X18D"}
    places = {name: tuple(map(int, match.groups())) for name in cells
              if (match := _ARRAY.search(name))}
    others = sorted(set(cells) - set(places))
    if len(places) <= (len(_ROWS) - 1) * _PER_ROW or len(cells) > len(_ROWS) * _PER_ROW:
        return 0
    columns = {column: k for k, column in enumerate(sorted({j for _, j in places.values()}))}
    n_rows = 1 + max(i for i, _ in places.values())
    share = _PER_ROW // len(columns)  # rows of the array in a full row of sites
    first = n_rows - share * (len(_ROWS) - 1)
    for number, row in enumerate(_ROWS):
        begin, end = (0, first) if not number else (first + share * (number - 1),
                                                    first + share * number)
        here = {(columns[j], i): name for name, (i, j) in places.items() if begin <= i < end}
        line = [here[key] for key in sorted(here)]
        middle = sum(2 * k < len(columns) for k, _ in here)
        guests, others = others[:_PER_ROW - len(line)], others[_PER_ROW - len(line):]
        for site, name in zip(SITES[row], [*line[:middle], *guests, *line[middle:]]):
            cells[name]["attributes"]["BEL"] = site
    return len(cells)

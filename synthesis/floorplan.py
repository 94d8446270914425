"""Floorplan of a large accelerator on the LFE5U-85F: sites of its multipliers and block RAMs.

The device has three rows of 52 multipliers, the array needs most of them. Left to itself the
analytical placer, which finds no pins to hold on to, gathers the logic in one corner and spreads
the multipliers over the whole device, 40 tiles from their sums. With the sites given the logic
settles around them. Columns of the array lie side by side, its rows share the three rows of sites;
row 0, the lanes' multipliers and so the way of the results out of the array share the last one.
Lanes that find no room there stand in the middle of the next row.

The device has four rows of 52 block RAMs, and the accelerator needs nearly all. The placer makes
its positions legal in any order, which scatters the bytes of a word over the whole device. Here
byte k of all banks takes the k-th part of the rows from the left, as column k of the array does,
and what belongs to a lane lies between the two bytes that the lane writes.
"""

import re

from scipy.optimize import linear_sum_assignment

__all__ = ["RAM_SITES", "SITES", "fix_block_rams", "fix_multipliers"]

_ROWS = (58, 34, 10)
_MIDDLE = 7  #: blocks of sites left of a gap of two tiles
_PER_ROW = 52
_ARRAY = re.compile(r"\barray\.p_(\d+)_(\d+)(?!\d)")


_RAM_ROWS = (22, 46, 70, 82)
#: The device's rows that the even and the odd words of each bank prefer: all RAMs of one of these
#: have the same address.
_BANK_ROWS = {(0, "even"): 46, (0, "odd"): 70, (1, "even"): 22, (1, "odd"): 82, (2, "even"): 46,
              (2, "odd"): 82, (3, "even"): 22, (3, "odd"): 22}
_LANE_ROW, _OTHER_ROW = 70, 22
_WIDTH = 124
_PART_BYTES = 8
_BANK = re.compile(r"\bcrossbar\.bank_(\d+)\.(even|odd)_(\d+)\.\d+\.(\d+)$")
_OF_LANE = re.compile(r"\b(?:parameters|lookup)\.lane_(\d+)\.memory\.\d+\.\d+$")


def _left(block: int) -> int:
    """The first column of a block of four sites."""
    return 4 + 9 * block + (2 if block >= _MIDDLE else 0)


def _site(row: int, index: int) -> str:
    """The name of one of the 52 sites of a row, from the left."""
    block, place = divmod(index, 4)
    number = (0, 1, 4, 5)[place]
    return f"X{_left(block) + number}/Y{row}/MULT18_{number}"


def _ram_column(index: int) -> int:
    return _left(index // 4) + 2 * (index % 4)


def _ram_site(row: int, index: int) -> str:
    return f"X{_ram_column(index)}/Y{row}/EBR{index % 4}"


#: Sites of the device by row, from the left.
SITES = {row: [_site(row, index) for index in range(_PER_ROW)] for row in _ROWS}
RAM_SITES = {row: [_ram_site(row, index) for index in range(_PER_ROW)] for row in _RAM_ROWS}


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


def _wishes(names: list[str]) -> dict[str, tuple[float, float]]:
    """Where each block RAM would like to be: tile column and row."""
    banks = {name: (int(match[1]), match[2], int(match[3]), int(match[4])) for name in names
             if (match := _BANK.search(name))}
    lanes = {name: int(match[1]) for name in names if (match := _OF_LANE.search(name))}
    if not banks:
        return {}
    parts = {first for _, _, first, _ in banks.values()}
    part_bytes = min(parts - {0}, default=_PART_BYTES)
    word_bytes = part_bytes * len(parts)
    n_slices = {}  # of a part, by bank
    for bank, _, _, index in banks.values():
        n_slices[bank] = max(n_slices.get(bank, 0), index + 1)
    n_lanes = 1 + max(lanes.values(), default=0)
    bytes_of = {name: first + (index + 0.5) * part_bytes / n_slices[bank]
                for name, (bank, _, first, index) in banks.items()}
    bytes_of |= {name: (word_bytes - n_lanes + 1) / 2 + lane for name, lane in lanes.items()}
    rows = {name: _BANK_ROWS[bank, parity] for name, (bank, parity, *_) in banks.items()}
    rows |= dict.fromkeys(lanes, _LANE_ROW)
    return {name: (_WIDTH * bytes_of.get(name, word_bytes / 2) / word_bytes,
                   rows.get(name, _OTHER_ROW)) for name in names}


def fix_block_rams(module: dict) -> int:
    """Give the block RAMs of a netlist with banks their sites, in place; returns how many.

    module : of yosys's JSON. Designs that leave a row of sites free are left to the placer. The
    sites are those that make the sum of the squared ways to where they would like to be smallest.
    """
    cells = {name: cell for name, cell in module["cells"].items() if cell["type"] == "DP16KD"}
    n_rows = len(_RAM_ROWS)
    names = sorted(cells)
    wishes = _wishes(names)
    if not wishes or not (n_rows - 1) * _PER_ROW < len(cells) <= n_rows * _PER_ROW:
        return 0
    sites = [(_ram_column(index), row, site) for row, line in RAM_SITES.items()
             for index, site in enumerate(line)]
    ways = [[(wishes[name][0] - x) ** 2 + (wishes[name][1] - y) ** 2 for x, y, _ in sites]
            for name in names]
    for k, chosen in zip(*linear_sum_assignment(ways)):
        cells[names[k]]["attributes"]["BEL"] = sites[chosen][2]
    return len(names)

"""The late paths of a placed design on ECP5, in seconds and by what they have in common.

    nextpnr-ecp5 --85k ... --json netlist.json --no-route --write placed.json
    python -m synthesis.late_paths placed.json --limit 8.3

nextpnr times paths after routing, a quarter of an hour later, and names the worst one. Here a net
takes as long as its ends are apart, which tells what to mend, not what a router will reach: on the
accelerator it agreed with routed paths within a nanosecond. Paths are counted by the signals of the
source at their beginning and end, indices left out: what is wrong with one bit is wrong with all.
"""

import json
import re
import sys
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path

from cli import command as cli
from golden.errors import LockstepError
from synthesis.paths import source_name

__all__ = ["LatePaths", "late_paths", "main"]

NET_NS, TILE_NS = 0.25, 0.062  #: of a net, and of each tile between its ends
LUT_NS, CARRY_NS, INTO_CARRY_NS, OUT_OF_CARRY_NS = 0.24, 0.035, 0.45, 0.4
CONTROL_NS = 0.15  #: of an enable or a reset, beside its net
SOURCE_NS = {"TRELLIS_FF": 0.52, "DP16KD": 1.0, "MULT18X18D": 0.8}
_OTHER_SOURCE_NS = 0.5
_LUT, _MEMORY_MODE, _CARRY_MODE = "TRELLIS_COMB", "DPRAM", "CCU2"
_CLOCKED = {"CLK", "WCK", "WRE", "WD", "WAD0", "WAD1", "WAD2", "WAD3"}  # of a lookup table
_CONTROLS = {"LSR", "CE"}
_CONSTANTS = "$PACKER"
_BEL = re.compile(r"X(\d+)/Y(\d+)/")


@dataclass(frozen=True, kw_only=True)
class LatePaths:
    """Paths alike: first and last signal, the latest's ns, how many ends, levels of the latest."""

    source: str
    end: str
    ns: float
    n_ends: int
    levels: int


class _Timing:
    """Arrival times of a placed netlist: module of yosys's JSON as nextpnr writes it."""

    def __init__(self, module: dict):
        self.cells = module["cells"]
        self.place = {name: (int(match[1]), int(match[2])) for name, cell in self.cells.items()
                       if (match := _BEL.match(cell["attributes"].get("NEXTPNR_BEL", "")))}
        self._names: dict[int, str] = {}
        for name, net in module["netnames"].items():
            for bit in net["bits"]:
                if len(name) < len(self._names.get(bit, name + " ")):
                    self._names[bit] = name
        self._driver = {bit: (name, port) for name, cell in self.cells.items()
                        if not name.startswith(_CONSTANTS)
                        for port, bits in cell["connections"].items()
                        if cell["port_directions"].get(port) == "output"
                        for bit in bits if isinstance(bit, int)}
        self._arrival: dict[int, tuple[float, int | None]] = {}

    def net_ns(self, bit: int, cell: str) -> float:
        """From the driver of a net to one of its cells."""
        places = [self.place.get(name) for name in (self._driver[bit][0], cell)]
        if None in places:
            return NET_NS
        (x, y), (u, v) = places
        return NET_NS + TILE_NS * (abs(x - u) + abs(y - v))

    def _inputs(self, bit: int) -> list[tuple[int, float]]:
        """Of the lookup table that drives a net: (input net, ns through net and table)."""
        name, output = self._driver[bit]
        cell = self.cells[name]
        carries = cell["parameters"].get("MODE") == _CARRY_MODE
        inputs = []
        for port, bits in cell["connections"].items():
            if cell["port_directions"].get(port) != "input" or port in _CLOCKED:
                continue
            direct = port in ("FCI", "FXA", "FXB")  # wires of their own
            through = LUT_NS
            if carries and output == "FCO":
                through = CARRY_NS if port == "FCI" else INTO_CARRY_NS
            elif carries and port == "FCI":
                through = OUT_OF_CARRY_NS
            inputs += [(one, through + (0 if direct else self.net_ns(one, name)))
                       for one in bits if isinstance(one, int) and one in self._driver]
        return inputs

    def arrival(self, bit: int) -> float:
        """ns from the clock until a net's driver has its value."""
        waiting, under_way = [bit], set()
        while waiting:
            here = waiting[-1]
            kind = self.cells[self._driver[here][0]]["type"]
            if here in self._arrival:
                waiting.pop()
                continue
            if kind != _LUT:
                self._arrival[here] = SOURCE_NS.get(kind, _OTHER_SOURCE_NS), None
                continue
            inputs = self._inputs(here)
            missing = [one for one, _ in inputs if one not in self._arrival]
            if missing and here not in under_way:
                under_way.add(here)
                waiting += missing
                continue
            self._arrival[here] = max(
                ((self._arrival[one][0] + ns, one) for one, ns in inputs
                 if one in self._arrival), default=(0.0, None))
        return self._arrival[bit][0]

    def ends(self):
        """Of every clocked input: (ns, net, what it belongs to)."""
        for name, cell in self.cells.items():
            is_table = cell["type"] == _LUT
            if is_table and cell["parameters"].get("MODE") != _MEMORY_MODE:
                continue
            q = cell["connections"].get("Q") or [None]
            owner = self._signal(self._names.get(q[0], name))
            for port, bits in cell["connections"].items():
                if (cell["port_directions"].get(port) != "input" or port.startswith("CLK")
                        or port == "WCK" or (is_table and port not in _CLOCKED)):
                    continue
                for bit in bits:
                    if bit in self._driver:
                        ns = self.arrival(bit) + self.net_ns(bit, name)
                        is_control = port in _CONTROLS
                        yield (ns + CONTROL_NS * is_control, bit,
                               f"{owner}.{port}" if is_control else owner)

    def beginning(self, bit: int) -> tuple[str, int]:
        """The first signal of the latest path to a net, and the tables on it."""
        levels = 0
        while (before := self._arrival[bit][1]) is not None:
            bit, levels = before, levels + 1
        return self._signal(self._names.get(bit, self._driver[bit][0])), levels

    @staticmethod
    def _signal(name: str) -> str:
        name = re.sub(r"\[\d+\]|\$\d+", "", source_name(name))
        return re.sub(r"\d+", "#", name)


def late_paths(module: dict, limit_ns: float) -> list[LatePaths]:
    """Paths later than ``limit_ns``, the latest kind first.

    module : the top of the JSON that nextpnr-ecp5 writes after placing. Raises LockstepError where
    nothing in it is placed.
    """
    return _late(_Timing(module), limit_ns)


def _late(timing: _Timing, limit_ns: float) -> list[LatePaths]:
    if not timing.place:
        raise LockstepError("nothing in this netlist is placed")
    kinds: dict[tuple, list] = defaultdict(list)
    for ns, bit, end in timing.ends():
        if ns > limit_ns:
            source, levels = timing.beginning(bit)
            kinds[source, end].append((ns, levels))
    found = [LatePaths(source=source, end=end, ns=max(paths)[0], n_ends=len(paths),
                       levels=max(paths)[1]) for (source, end), paths in kinds.items()]
    return sorted(found, key=lambda kind: (-kind.ns, kind.source, kind.end))


def main(argv: list[str] | None = None) -> int:
    """Print the late paths of a placed netlist."""
    parser = cli.Parser(prog="python -m synthesis.late_paths",
                        description=__doc__.partition("\n")[0])
    parser.add_argument("placed", type=Path, metavar="PLACED.json",
                        help="written by nextpnr-ecp5 --write")
    parser.add_argument("--limit", type=float, default=8.3, metavar="NS",
                        help="what is later is shown (default %(default)s)")
    args = parser.parse_args(argv)
    try:
        modules = json.loads(args.placed.read_text())["modules"].values()
        top = max(modules, key=lambda module: len(module["cells"]))
        timing = _Timing(top)
    except OSError as error:
        raise LockstepError(f"{args.placed}: {error.strerror}") from None
    except (ValueError, KeyError, TypeError, AttributeError):
        raise LockstepError(f"{args.placed} is no netlist of nextpnr-ecp5") from None
    found = _late(timing, args.limit)
    for kind in found:
        print(f"{kind.ns:5.1f} ns {kind.n_ends:5} ends {kind.levels:3} levels  "
              f"{kind.source} -> {kind.end}")
    print(f"{sum(kind.n_ends for kind in found):,} ends later than {args.limit:g} ns",
          file=sys.stderr)
    return 0


if __name__ == "__main__":
    cli.run(main)

"""Names and paths: what the tools call a cell, said in the names of the source."""

import re
from collections import defaultdict

from synthesis.design import SHELL, UNIT

__all__ = ["path_summary", "source_name", "unit_table"]

_CELLS = "TRELLIS_FF|LUT4|CCU2C|PFUMX|L6MUX21|DP16KD|MULT18X18D|TRELLIS_DPR16X4|TRELLIS_IO"
# yosys names a cell after a wire, a cell type and a port, again and again: a_TRELLIS_FF_Q_DI_LUT4_Z
_DERIVED = re.compile(rf"(_({_CELLS})(_|$).*|\$.*)$")
_PREFIX = re.compile(rf"^({SHELL}\.)?({UNIT}\.)?")
COLUMNS = {"LUT4": "luts", "CCU2C": "luts", "TRELLIS_DPR16X4": "luts", "TRELLIS_FF": "ffs",
           "MULT18X18D": "dsps", "DP16KD": "brams"}
_LUTS_PER = {"CCU2C": 2, "TRELLIS_DPR16X4": 4}


def source_name(name: str) -> str:
    """The source's hierarchical name behind a cell's or a net's name in the netlist.

    >>> source_name("shell.unit.array.total_0_0_TRELLIS_FF_Q_11_DI_CCU2C_S1$CCU2_COMB0")
    'array.total_0_0'
    """
    name = _PREFIX.sub("", name).replace("<", "[").replace(">", "]")
    at = 1 if name.startswith("$") else 0
    return name[:at] + _DERIVED.sub("", name[at:]) or name


def path_summary(path: list[dict]) -> dict:
    """A path of nextpnr's report: from, to, ns, logic_ns, routing_ns and the signals it runs by.

    steps: per signal of the source its name, the ns of the logic that makes it and of its wires,
    and where the Verilog declares it. KeyError for a path without delays.
    """
    if not path:
        raise KeyError("path")
    steps: list[dict] = []
    pending = 0.0  # logic before the net that carries its result
    for hop in path:
        if hop["type"] != "routing":
            pending += hop["delay"]
            continue
        name = source_name(hop["net"])
        if not steps or steps[-1]["signal"] != name:
            source = next((text for text in hop.get("sources", ()) if text[0] != "/"), "")
            steps.append({"signal": name, "logic_ns": 0.0, "routing_ns": 0.0, "source": source})
        steps[-1]["logic_ns"] += pending
        steps[-1]["routing_ns"] += hop["delay"]
        pending = 0.0
    end = source_name(path[-1]["to"]["cell"])
    if pending or not steps or steps[-1]["signal"] != end:
        steps.append({"signal": end, "logic_ns": pending, "routing_ns": 0.0, "source": ""})
    routing = sum(hop["delay"] for hop in path if hop["type"] == "routing")
    total = sum(hop["delay"] for hop in path)
    for step in steps:
        step |= {key: round(step[key], 2) for key in ("logic_ns", "routing_ns")}
    return {"from": source_name(path[0]["from"]["cell"]), "to": end, "ns": round(total, 2),
            "logic_ns": round(total - routing, 2), "routing_ns": round(routing, 2),
            "steps": steps}


def unit_table(cells: dict[str, dict]) -> list[dict]:
    """Per submodule of the unit the cells that carry its name, the largest first.

    A lookup table has no name of its own, but that of the register or wire it drives: its
    submodule is where its result is used or named, and the sums are estimates.
    """
    sums: dict[str, dict] = defaultdict(lambda: {"luts": 0, "ffs": 0, "dsps": 0, "brams": 0})
    for name, cell in cells.items():
        if name.startswith(f"{SHELL}.") and cell["type"] in COLUMNS:
            parts = source_name(name).split(".")
            group = parts[0] if len(parts) > 1 else "top"
            sums[group][COLUMNS[cell["type"]]] += _LUTS_PER.get(cell["type"], 1)
    return sorted(({"unit": name, **row} for name, row in sums.items()),
                  key=lambda row: (-row["luts"], row["unit"]))

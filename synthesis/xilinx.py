"""Xilinx: what synth_xilinx makes of a design, counted against the part's limits.

There is no open place and route for these parts here, so there is no clock frequency. LUTs are
counted as yosys maps them, two small ones in one LUT6 not merged.
"""

import time
from pathlib import Path

from golden.errors import LockstepError
from hw.targets import Device
from synthesis.cache import cached, content_key, write_json
from synthesis.design import SHELL, Design
from synthesis.tools import YOSYS, read_json, run_tool, tool_version

__all__ = ["LOG", "NAMES", "NO_CLOCK", "synthesize", "used_resources"]

LOG = "yosys.log"
NAMES = {"luts": "LUT", "ffs": "flip-flops", "dsps": "DSP48E1", "brams": "BRAM36"}
NO_CLOCK = "no place and route for this part: no clock frequency"
SCRIPT = """\
read_verilog -sv {name}.v shell.v
synth_xilinx -family {part} -flatten -noiopad -noclkbuf -top {shell}
check -assert
tee -q -o unit.json stat -json
"""
# Resources of one cell; BRAM in halves of a BRAM36. A cell that is not listed is an error.
LUTS = {**{f"LUT{n}": 1 for n in range(1, 7)}, "INV": 1, "SRL16E": 1, "SRLC32E": 1,
        "RAM16X1D": 2, "RAM32X1S": 1, "RAM64X1S": 1, "RAM128X1S": 2, "RAM256X1S": 4,
        "RAM32X1D": 2, "RAM64X1D": 2, "RAM128X1D": 4, "RAM32M": 4, "RAM64M": 4}
FLIP_FLOPS = {f"FD{kind}E{edge}" for kind in "RSCP" for edge in ("", "_1")}
DSPS = {"DSP48E1"}
HALF_BRAMS = {"RAMB36E1": 2, "RAMB18E1": 1}
FREE = {"CARRY4", "MUXF7", "MUXF8", "GND", "VCC", "$scopeinfo"}


def synthesize(design: Design, device: Device, cache: Path) -> Path:
    """The folder with figures.json, the Verilog and yosys.log of a design."""
    version = tool_version(YOSYS)
    texts = {f"{design.name}.v": design.source, "shell.v": design.shell(),
             "netlist.ys": SCRIPT.format(name=design.name, shell=SHELL, part=device.part)}
    key = content_key("xilinx", version, texts)

    def make(folder):
        for file, text in texts.items():
            (folder / file).write_text(text)
        begin = time.monotonic()
        run_tool(folder, YOSYS, LOG, "-q", "-l", LOG, "-s", "netlist.ys", writes_log=True)
        stat = read_json(folder / "unit.json", YOSYS, LOG)
        try:
            cells = dict(stat["design"]["num_cells_by_type"])
        except (KeyError, TypeError):
            raise LockstepError(f"{YOSYS} left no cell counts in unit.json (see {folder / LOG})"
                                ) from None
        write_json(folder / "figures.json", {
            "synthesis_s": round(time.monotonic() - begin, 1), "version": version,
            "netlist_key": key, "cells": cells})

    return cached(cache, f"{design.name}-xilinx-{key}", make)


def used_resources(cells: dict[str, int]) -> dict[str, int]:
    """luts, ffs, dsps (DSP48E1) and brams (BRAM36: two BRAM18 are one) of a netlist's cells.

    Raises LockstepError for a type of cell that is not known, for it might cost something.
    """
    halves = sum(n * HALF_BRAMS.get(kind, 0) for kind, n in cells.items())
    used = {"luts": sum(n * LUTS.get(kind, 0) for kind, n in cells.items()),
            "ffs": sum(n for kind, n in cells.items() if kind in FLIP_FLOPS),
            "dsps": sum(n for kind, n in cells.items() if kind in DSPS),
            "brams": -(-halves // 2)}
    unknown = sorted(set(cells) - {*LUTS, *FLIP_FLOPS, *DSPS, *HALF_BRAMS, *FREE})
    if unknown:
        raise LockstepError(f"The netlist has cells that are not counted: {', '.join(unknown)}")
    return used

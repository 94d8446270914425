"""ECP5: yosys once, nextpnr per seed, each step cached by content."""

import json
import os
import shutil
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import median_low

from golden.errors import LockstepError
from hw.targets import Device
from synthesis import block_ram, floorplan
from synthesis.cache import cached, content_key, write_json
from synthesis.design import SHELL, SHIFT_CLOCK, UNIT_CLOCK, WRAPPER, Design
from synthesis.paths import path_summary, unit_table
from synthesis.tools import NEXTPNR, YOSYS, read_json, run_tool, stop_tools, tool_version

__all__ = ["LOG", "NAMES", "median_of", "netlist_resources", "place_seeds", "synthesize"]

# The default one leaves a large array's wires a fifth longer, and then they cannot be routed.
PLACER = "static"
LOG = "yosys.log"
KINDS = {"luts": "TRELLIS_COMB", "ffs": "TRELLIS_FF", "dsps": "MULT18X18D", "brams": "DP16KD",
         "distributed_ram": "TRELLIS_RAMW"}
NAMES = {"luts": "LUT4", "ffs": "flip-flops", "dsps": "MULT18X18D", "brams": "DP16KD"}
# Logic cells (TRELLIS_COMB) that nextpnr makes of one netlist cell, and cells that take none.
LOGIC_CELLS = {"LUT4": 1, "CCU2C": 2, "TRELLIS_DPR16X4": 4}
# Registers whose wire says `keep` are copies for separate loads, which yosys would merge.
SCRIPT = """\
read_verilog -sv {name}.v shell.v
hierarchy -top {shell}
proc
setattr -set keep 1 a:keep=1 %ci1 t:$*dff* %i
synth_ecp5 -nodsp -top {shell}
tee -q -o unit.json stat -json
design -stash unit
read_verilog -sv shell.v wrapper.v
blackbox {shell}
synth_ecp5 -nodsp -top {wrapper}
tee -q -o wrapper.json stat -json
delete ={shell}
design -copy-from unit {shell}
flatten
check -assert
write_json netlist.json
"""


def synthesize(design: Design, cache: Path) -> Path:
    """The folder with netlist.json, figures.json, the Verilog and yosys.log of a design."""
    version = tool_version(YOSYS)
    script = SCRIPT.format(name=design.name, shell=SHELL, wrapper=WRAPPER)
    texts = {f"{design.name}.v": design.source, "shell.v": design.shell(),
             "wrapper.v": design.wrapper(), "netlist.ys": script}
    steps = [Path(step.__file__).read_text() for step in (block_ram, floorplan)]
    key = content_key("ecp5", version, texts, *steps)

    def make(folder):
        for file, text in texts.items():
            (folder / file).write_text(text)
        begin = time.monotonic()
        run_tool(folder, YOSYS, LOG, "-q", "-l", LOG, "-s", "netlist.ys", writes_log=True)
        seconds = round(time.monotonic() - begin, 1)
        netlist = read_json(folder / "netlist.json", YOSYS, LOG)
        cells = {name: _cell_counts(folder, name) for name in ("unit", "wrapper")}
        try:
            top = netlist["modules"][WRAPPER]
            absorbed = block_ram.absorb_output_registers(top)
            fixed = {"fixed_multipliers": floorplan.fix_multipliers(top),
                     "fixed_block_rams": floorplan.fix_block_rams(top)}
            units = unit_table(top["cells"])
        except (KeyError, TypeError, AttributeError) as error:
            raise LockstepError(f"{YOSYS} left an incomplete netlist.json: {error!r} "
                                f"(see {folder / LOG})") from None
        if absorbed:
            cells["unit"]["TRELLIS_FF"] -= absorbed
        if absorbed or any(fixed.values()):
            (folder / "netlist.json").write_text(json.dumps(netlist))
        figures = {"synthesis_s": seconds, "version": version, "netlist_key": key, "cells": cells,
                   "registers_in_block_ram": absorbed, **fixed, "units": units}
        write_json(folder / "figures.json", figures)

    return cached(cache, f"{design.name}-netlist-{key}", make)


def netlist_resources(cells: dict[str, int]) -> dict[str, int]:
    """What a netlist needs at least, before packing; cells: number of each type."""
    return {"luts": sum(cells.get(kind, 0) * n for kind, n in LOGIC_CELLS.items()),
            "ffs": cells.get("TRELLIS_FF", 0), "dsps": cells.get("MULT18X18D", 0),
            "brams": cells.get("DP16KD", 0)}


def place_seeds(netlist: Path, design: Design, device: Device, *, seeds: Sequence[int],
                frequency_mhz: float, jobs: int = 1, cache: Path, nextpnr: str = NEXTPNR,
                progress=lambda figures: None) -> list[dict]:
    """Place and route once per seed, `jobs` at a time; returns the figures in the seeds' order.

    nextpnr: the pinned package, or a program of the user's.
    """
    def work(seed):
        figures = _route(netlist, design, device, seed, frequency_mhz, cache, nextpnr)
        progress(figures)
        return figures

    with ThreadPoolExecutor(jobs) as pool:
        futures = [pool.submit(work, seed) for seed in seeds]
        try:
            return [future.result() for future in futures]
        except BaseException:
            for future in futures:
                future.cancel()
            stop_tools()
            raise


def median_of(routes: list[dict]) -> dict:
    """The run of median fmax (of an even number the slower of the middle two)."""
    middle = median_low(route["fmax_mhz"] for route in routes)
    return next(route for route in routes if route["fmax_mhz"] == middle)


def _cell_counts(folder: Path, name: str) -> dict[str, int]:
    stat = read_json(folder / f"{name}.json", YOSYS, LOG)
    try:
        return dict(stat["design"]["num_cells_by_type"])
    except (KeyError, TypeError):
        raise LockstepError(f"{YOSYS} left no cell counts in {name}.json (see {folder / LOG})"
                            ) from None


def _route(netlist: Path, design: Design, device: Device, seed: int, frequency_mhz: float,
           cache: Path, nextpnr: str) -> dict:
    version = tool_version(nextpnr)
    options = (device.part, "--package", device.package, "--speed", str(device.speed_grade),
               "--freq", str(float(frequency_mhz)), "--seed", str(seed), "--timing-allow-fail",
               "--lpf-allow-unconstrained", "--placer", PLACER)
    cells = read_json(netlist / "figures.json", YOSYS, LOG)["cells"]
    log = f"seed{seed}.nextpnr.log"

    def make(folder):
        try:
            os.link(netlist / "netlist.json", folder / "netlist.json")
        except OSError:
            shutil.copy(netlist / "netlist.json", folder)
        begin = time.monotonic()
        run_tool(folder, nextpnr, log, *options, "--json", "netlist.json", "--report",
                 "nextpnr.json")
        seconds = round(time.monotonic() - begin, 1)
        raw = read_json(folder / "nextpnr.json", nextpnr, log)
        try:
            figures = _figures(raw, cells["wrapper"])
        except (KeyError, TypeError, ValueError) as error:
            raise LockstepError(f"{nextpnr} left an incomplete nextpnr.json: {error!r} "
                                f"(see {folder / log})") from None
        (folder / "netlist.json").unlink()
        write_json(folder / "figures.json",
                   {"seed": seed, **figures, "place_route_s": seconds, "version": version})

    key = content_key(netlist.name, version, options)
    folder = cached(cache, f"{design.name}-seed{seed}-{key}", make)
    return read_json(folder / "figures.json", nextpnr, log) | {"log": str(folder / log)}


def _figures(raw: dict, wrapper_cells: dict[str, int]) -> dict:
    """The figures of nextpnr's report; KeyError where something is missing."""
    used = {key: raw["utilization"][kind]["used"] for key, kind in KINDS.items()}
    own = netlist_resources(wrapper_cells)
    used = {key: n - own.get(key, 0) for key, n in used.items()}
    available = {key: raw["utilization"][kind]["available"] for key, kind in KINDS.items()}
    fmax = [clock["achieved"] for name, clock in raw["fmax"].items() if UNIT_CLOCK in name]
    paths = {(_side(path["from"]), _side(path["to"])): path["path"]
             for path in raw["critical_paths"]}
    if not fmax:
        raise KeyError(f"fmax of {UNIT_CLOCK}")
    ports = {name: path_summary(paths[ends])["ns"] if ends in paths else None
             for name, ends in (("input_ns", (SHIFT_CLOCK, UNIT_CLOCK)),
                                ("output_ns", (UNIT_CLOCK, SHIFT_CLOCK)))}
    return {"fmax_mhz": round(fmax[0], 1), "used": used, "available": available, "ports": ports,
            "critical_path": path_summary(paths[UNIT_CLOCK, UNIT_CLOCK])}


def _side(text: str) -> str:
    """The clock in nextpnr's name of a path's end."""
    return next((clock for clock in (UNIT_CLOCK, SHIFT_CLOCK) if clock in text), text)

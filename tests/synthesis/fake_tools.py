"""Stand-ins for yosys and nextpnr that work, or fail in one of the ways tools fail."""

import json
import sys
from pathlib import Path

from synthesis.design import Design
from synthesis.tools import NEXTPNR, YOSYS

CELLS = {"LUT4": 100, "CCU2C": 10, "TRELLIS_FF": 200, "MULT18X18D": 4, "DP16KD": 2,
         "$scopeinfo": 3}
WRAPPER_CELLS = {"LUT4": 9, "TRELLIS_FF": 21}
USED = {"TRELLIS_COMB": 129, "TRELLIS_FF": 221, "MULT18X18D": 4, "DP16KD": 2, "TRELLIS_RAMW": 0}
AVAILABLE = {"TRELLIS_COMB": 83640, "TRELLIS_FF": 83640, "MULT18X18D": 156, "DP16KD": 208,
             "TRELLIS_RAMW": 10455}
FMAX = {1: 120.04, 2: 100.0, 3: 110.0, 4: 90.0}

# A fault is one of these words in a file `fault` beside the tool; `calls` counts the runs.
FAULTS = ("message", "silent", "early", "missing", "cut", "signal", "incomplete")

SCRIPT = '''#!{python}
import json, os, signal, sys, time
from pathlib import Path
here = Path(__file__)
data = json.loads(here.with_suffix(".json").read_text())
fault_file = here.with_name(here.stem + ".fault")
fault = fault_file.read_text() if fault_file.exists() else ""
with open(here.with_suffix(".calls"), "a") as calls:
    calls.write(" ".join(sys.argv[1:]) + "\\n")
arguments = sys.argv[1:]
def option(name):
    return arguments[arguments.index(name) + 1]
log = open(option("-l"), "w") if "-l" in arguments else sys.stdout
def say(text):
    print(text, file=log, flush=True)
if fault == "silent":
    sys.exit(1)
say("reading the design")
if fault == "message":
    print("ERROR: it does not fit", file=sys.stderr)
    sys.exit(3)
if fault == "signal":
    os.kill(os.getpid(), signal.SIGKILL)
if fault == "hang":
    here.with_suffix(".pid").write_text(str(os.getpid()))
    time.sleep(60)
files = data["files"]
if "--seed" in arguments:
    seed = option("--seed")
    files = {{"nextpnr.json": data["seeds"][seed]}}
for name, content in files.items():
    text = json.dumps(content)
    if fault == "missing" and name == data["main"]:
        continue
    if fault == "cut" and name == data["main"]:
        text = text[:len(text) // 2]
    if fault == "incomplete" and name == data["main"]:
        text = "{{}}"
    Path(name).write_text(text)
if fault != "early":
    say(data["closing"])
'''


class FakeTools:
    """The two tools in a folder; use as tools.BIN."""

    def __init__(self, folder: Path):
        self.folder = folder
        folder.mkdir()
        stat = {name: {"design": {"num_cells_by_type": cells}}
                for name, cells in (("unit", CELLS), ("wrapper", WRAPPER_CELLS))}
        kinds = {"shell.unit.part.sum_TRELLIS_FF_Q": "TRELLIS_FF",
                 "shell.unit.part.sum_TRELLIS_FF_Q_DI_LUT4_Z": "LUT4",
                 "shell.unit.other_TRELLIS_FF_Q_1": "TRELLIS_FF",
                 "received_TRELLIS_FF_Q": "TRELLIS_FF"}
        netlist = {"modules": {"wrapper": {"cells": {
            name: {"type": kind, "parameters": {}, "connections": {}}
            for name, kind in kinds.items()}}}}
        self._write(YOSYS, {
            "main": "netlist.json", "closing": "End of script. Logfile hash: 1",
            "files": {"netlist.json": netlist,
                      **{f"{name}.json": content for name, content in stat.items()}}})
        self._write(NEXTPNR, {
            "main": "nextpnr.json", "closing": "Info: Program finished normally.", "files": {},
            "seeds": {seed: nextpnr_report(fmax) for seed, fmax in FMAX.items()}})

    def _write(self, tool, data):
        path = self.folder / tool
        path.write_text(SCRIPT.format(python=sys.executable))
        path.chmod(0o755)
        path.with_suffix(".json").write_text(json.dumps(data))

    def change(self, tool, **fields):
        """Replace some of what a tool gives: files, main, seeds."""
        path = (self.folder / tool).with_suffix(".json")
        path.write_text(json.dumps(json.loads(path.read_text()) | fields))

    def break_(self, tool, fault):
        """Let a tool fail from now on; fault: one of FAULTS, or None to mend it."""
        path = self.folder / f"{tool}.fault"
        path.unlink(missing_ok=True)
        if fault:
            path.write_text(fault)

    def calls(self, tool) -> list[str]:
        """The command lines of the tool's runs so far."""
        path = (self.folder / tool).with_suffix(".calls")
        return path.read_text().splitlines() if path.exists() else []


def hop(kind, delay, start, end, net=None):
    """One step of a path in nextpnr's report."""
    step = {"type": kind, "delay": delay, "from": {"cell": start}, "to": {"cell": end}}
    return step if net is None else step | {"net": net, "sources": ["unit.v:7.1-7.9"]}


def nextpnr_report(fmax):
    """A report with paths inside the unit, through its ports, and in the wrapper."""
    first, logic, last = ("shell.unit.part.sum_TRELLIS_FF_Q", "shell.unit.next_LUT4_Z",
                          "shell.unit.other_TRELLIS_FF_Q_1")
    inside = [hop("clk-to-q", 0.5, first, first), hop("routing", 1.0, first, logic,
                                                     "shell.unit.part.sum[2]"),
              hop("logic", 0.25, logic, logic),
              hop("routing", 1000 / fmax - 1.75, logic, last, "shell.unit.next"),
              hop("setup", 0.0, last, last)]
    across = [hop("clk-to-q", 0.5, "sent_TRELLIS_FF_Q", "sent_TRELLIS_FF_Q"),
              hop("routing", 2.0, "sent_TRELLIS_FF_Q", first, "sent[1]")]
    slow = [hop("routing", 50.0, "loading_TRELLIS_FF_Q", "received_TRELLIS_FF_Q", "loading")]
    unit, shift = "posedge $glbnet$unit_clock$TRELLIS_IO_IN", "posedge shift_clock$TRELLIS_IO_IN"
    return {
        "fmax": {"$glbnet$unit_clock$TRELLIS_IO_IN": {"achieved": fmax},
                 "shift_clock$TRELLIS_IO_IN": {"achieved": 20.0}},
        "utilization": {kind: {"used": n, "available": AVAILABLE[kind]}
                        for kind, n in USED.items()},
        "critical_paths": [{"from": unit, "to": unit, "path": inside},
                           {"from": shift, "to": shift, "path": slow},
                           {"from": shift, "to": unit, "path": across}]}


def tiny_design() -> Design:
    """A design that only the played tools accept."""
    return Design(name="tiny", verilog="module tiny; input clk; input rst; endmodule",
                  ports={"i": ("in", 8), "o": ("out", 4)})

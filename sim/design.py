"""The simulated design: the accelerator's Verilog, compiled with the driver for a simulator."""

from __future__ import annotations

import tempfile
from functools import cache
from importlib.metadata import version
from pathlib import Path

import golden
import hw
from golden.errors import LockstepError
from hw.rtl.accelerator import Accelerator
from hw.rtl.verilog import to_verilog
from hw.targets import Target
from sim.cache import CACHE, cached, sources_key
from sim.cxxrtl import build_cxxrtl
from sim.runner import Build, build

__all__ = ["SIMULATORS", "accelerator_verilog", "build_accelerator"]

SIMULATORS = ("verilator", "cxxrtl")
FOLDER = Path(__file__).parent
DRIVER, TESTBENCH = FOLDER / "driver.cc", FOLDER / "testbench.sv"
EXTERNAL_MEMORY = FOLDER / "axi_memory.sv"
PRIMITIVES = {"portable": (), "ecp5": (FOLDER / "ecp5.v",)}


@cache
def accelerator_verilog(target: Target) -> str:
    """The accelerator's Verilog, generated once per target and version of the sources."""
    key = sources_key(golden, hw, facts=(target, version("amaranth")))

    def make(work: Path) -> None:
        (work / "accelerator.v").write_text(to_verilog(Accelerator(target), "accelerator"))

    folder = cached(CACHE / "verilog", f"{target.name}-{key}", make)
    return (folder / "accelerator.v").read_text()


def build_accelerator(target: Target, verilog: str | None = None,
                      simulator: str = "verilator") -> Build:
    """Compile the accelerator with the driver; ``verilog`` replaces the generated design.

    Raises LockstepError for an unknown simulator, and for external memory on cxxrtl.
    """
    if simulator not in SIMULATORS:
        raise LockstepError(f"Unknown simulator '{simulator}': known are {', '.join(SIMULATORS)}")
    if simulator == "cxxrtl" and target.bus_bits:
        raise LockstepError(f"Target {target.name} has external memory, which is simulated with "
                            "verilator only")
    text = verilog if verilog is not None else accelerator_verilog(target)
    with tempfile.TemporaryDirectory(prefix="lockstep-rtl-") as folder:
        source = Path(folder) / "accelerator.v"
        source.write_text(text)
        sources = [source, *PRIMITIVES[target.multiplier], TESTBENCH]
        if simulator == "cxxrtl":
            return build_cxxrtl(sources, "testbench", DRIVER)
        if not target.bus_bits:
            return build(sources, "testbench", driver=DRIVER)
        return build([*sources, EXTERNAL_MEMORY], "testbench", driver=DRIVER,
                     defines={"MEMORY_BITS": target.bus_bits},
                     extra_args=("-CFLAGS", "-DLOCKSTEP_MEMORY"))

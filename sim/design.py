"""The simulated design: the accelerator's Verilog, compiled with the driver for a simulator."""

from __future__ import annotations

import hashlib
import os
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
from sim.cxxrtl import build_cxxrtl
from sim.runner import BUILD_ROOT, Build, build

__all__ = ["SIMULATORS", "accelerator_verilog", "build_accelerator"]

SIMULATORS = ("verilator", "cxxrtl")
FOLDER = Path(__file__).parent
DRIVER, TESTBENCH = FOLDER / "driver.cc", FOLDER / "testbench.sv"
EXTERNAL_MEMORY = FOLDER / "axi_memory.sv"
PRIMITIVES = {"portable": (), "ecp5": (FOLDER / "ecp5.v",)}


@cache
def accelerator_verilog(target: Target) -> str:
    """The accelerator's Verilog, generated once per target and version of the sources."""
    sources = sorted(path for package in (golden, hw)
                     for path in Path(package.__file__).parent.rglob("*.py"))
    key = hashlib.sha256(repr((target, version("amaranth"))).encode())
    for path in sources:
        key.update(path.read_bytes())
    cached = BUILD_ROOT / "verilog" / f"{target.name}-{key.hexdigest()[:16]}.v"
    if not cached.exists():
        cached.parent.mkdir(parents=True, exist_ok=True)
        partial = cached.with_suffix(f".{os.getpid()}.partial")
        partial.write_text(to_verilog(Accelerator(target), "accelerator"))
        os.replace(partial, cached)
    return cached.read_text()


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

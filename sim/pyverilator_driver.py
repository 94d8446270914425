"""Drives one hardware unit by hand through pyverilator: set ports, tick the clock, look.

    unit = PyVerilatorUnit(Rescaler())
    unit["i__valid"] = 1
    unit.tick()
    print(unit["o__payload"])

Ports are named as in the Verilog (`i__payload`), internal signals are not visible. For tests use
`sim.unit`, which stalls streams at random; this driver is for looking at single cycles.
"""

import hashlib
import importlib
import os
import subprocess
import sys
import types
from pathlib import Path

from amaranth.lib import wiring

from sim.cache import cached
from sim.runner import BUILD_ROOT, SimulationError, check_tools, verilator_root
from sim.unit import component_verilog, pack, unpack

__all__ = ["PyVerilatorUnit"]

_MAKE_ARGS = ["CFG_CXXFLAGS_PCH_I=-include", f"PYTHON3={sys.executable}", "OPT_FAST=-O1",
              "OPT_GLOBAL=-O0"]  # Verilator's own library, compiled with every unit

# Without it, two units in one process share Verilator's inline variables, and the second crashes.
_VERILATOR_ARGS = ["-Wno-lint", "-CFLAGS", "-fno-gnu-unique"]


def load_pyverilator() -> types.ModuleType:
    """The pyverilator module, with its faults against Verilator 5 and Python 3.11 cured."""
    # 1. tclwrapper, which only its gtkwave view needs, cannot be imported any more.
    sys.modules.setdefault("tclwrapper", types.ModuleType("tclwrapper"))
    module = importlib.import_module("pyverilator.pyverilator")
    if getattr(module, "_lockstep_shim", False):
        return module
    # 2. Verilator 5 declares ports as references; the parsed names keep the ampersand.
    template = module.template_cpp.template_cpp

    def without_ampersand(top, inputs, outputs, internal, json_data):
        inputs, outputs, internal = ([(name.lstrip("&"), width) for name, width in ports]
                                     for ports in (inputs, outputs, internal))
        code = template(top, inputs, outputs, internal, json_data)
        # Tracing refuses a model whose time has passed; the VCD's time is given at each dump.
        return code.replace("return main_time;", "return 0;")

    # 3. The language standard is hard-coded, and older than Verilator's headers need.
    def call(args, quiet=False):
        args = [arg.replace("--std=c++11", "--std=c++20") for arg in args]
        args += _MAKE_ARGS if args[0] == "make" else _VERILATOR_ARGS
        result = subprocess.run(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                                check=False)
        if result.returncode:
            raise SimulationError(f"{Path(args[0]).name} failed:\n{result.stdout[-3000:]}")

    # 4. Verilator's default context calls every model ever made when a trace starts, destroyed ones
    # too: models live as long as the process.
    del module.PyVerilator.__del__

    module.template_cpp.template_cpp = without_ampersand
    module.call_process = call
    module._lockstep_shim = True
    return module


class PyVerilatorUnit:
    """A component on pyverilator, its ports as items.

    Arguments: `component` with flat ports or streams; `vcd` a file to trace every clock into.
    Reading a payload gives the Python value of its layout (see `sim.unit.unpack`), writing takes
    one. Raises KeyError for an unknown port, ValueError for a value that does not fit.
    """

    def __init__(self, component: wiring.Component, *, vcd: Path | str | None = None,
                 build_root: Path | str = BUILD_ROOT):
        check_tools()
        self._shapes = {"__".join(map(str, path)): member.shape
                        for path, member, _ in component.signature.flatten(component)}
        self._sim = _load(component, Path(build_root).resolve())
        self._shapes |= {name: 1 for name in ("clk", "rst") if name in self._ports()}
        self.cycle = 0
        if vcd is not None:
            self._sim.start_vcd_trace(str(vcd))
        if "rst" in self._shapes:
            self["rst"] = 1
            self.tick()
            self["rst"] = 0
            self.cycle = 0

    def __getitem__(self, port: str):
        return unpack(self._shapes[port], self._sim._read(_cpp_name(port)))

    def __setitem__(self, port: str, value):
        self._sim._write(_cpp_name(port), pack(self._shapes[port], value))

    def tick(self, n_cycles: int = 1) -> None:
        """Let the clock rise and fall."""
        for _ in range(n_cycles):
            self["clk"] = 1
            self["clk"] = 0
            self.cycle += 1

    def close(self) -> None:
        """Finish the waveform, if any."""
        if self._sim.vcd_trace is not None:
            self._sim.stop_vcd_trace()

    def _ports(self):
        return {name for name, _ in self._sim.inputs + self._sim.outputs}


def _cpp_name(port: str) -> str:
    return port.replace("__", "___05F")


def _load(component, root: Path):
    text, name = component_verilog(component)
    module = load_pyverilator()
    key = hashlib.sha256(repr((text, _MAKE_ARGS, _VERILATOR_ARGS)).encode()).hexdigest()[:16]

    def make(work: Path) -> None:
        source = work / f"{name}.v"
        source.write_text(text)
        saved = dict(os.environ)
        os.environ["VERILATOR_ROOT"] = str(verilator_root())
        os.environ["PATH"] = f"{verilator_root() / 'bin'}{os.pathsep}{saved['PATH']}"
        try:
            module.PyVerilator.build(str(source), build_dir=str(work))
        finally:
            os.environ.clear()
            os.environ.update(saved)

    library = cached(root, f"pyverilator-{name}-{key}", make) / f"V{name}"
    return module.PyVerilator(str(library))

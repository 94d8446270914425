"""Runs a Program on the RTL: compile, load over the bus, start, await the end, read back.

Python is not in the cycle loop: it writes one file of bus commands, the Verilog testbench plays
it, and the answers come back in one file. Every tensor is read right after the instructions of
its node (the hardware stops after each when asked to), so the image is the one that is deployed,
memory reuse included. The first image also runs once without stopping, for the cycle counts.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import cache
from importlib.metadata import version
from pathlib import Path

import numpy as np

import golden
import hw
from golden.errors import LockstepError
from hw.accelerator import Accelerator
from hw.compiler import Image, compile
from hw.compiler.image import from_bus, to_bus
from hw.isa import ErrorCode, Register
from hw.targets import Target, get_target
from hw.verilog import to_verilog
from sim.runner import BUILD_ROOT, Build, SimulationError, build, run_to_finish

__all__ = ["RtlReport", "StepReport", "build_accelerator", "run"]

WRITE, READ, START, END = 1, 2, 3, 0
RUN_ALL, RUN_ONE = 0b01, 0b11
TESTBENCH = Path(__file__).with_name("testbench.sv")
PRIMITIVES = {"portable": (), "ecp5": (Path(__file__).with_name("ecp5.v"),)}
_CHUNK = 25  # images per simulator run when there are several jobs


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One node on the hardware. utilisation = macs / (rows * columns * cycles)."""

    node: str
    op: str
    macs: int
    cycles: int
    array_busy: int
    stall: int
    utilisation: float


@dataclass(kw_only=True)
class RtlReport:
    """What the simulated hardware measured. Cycles are of one image, start to done."""

    target: str
    configuration_id: int
    macs: int
    cycles: int
    array_busy: int
    stall: int
    utilisation: float
    steps: list[StepReport] = field(default_factory=list)
    images: int = 0
    simulated_cycles: int = 0
    wall_seconds: float = 0.0
    build_seconds: float = 0.0

    @property
    def cycles_per_second(self) -> float:
        """Simulated clock cycles per wall second, loading and reading back included."""
        return self.simulated_cycles / self.wall_seconds if self.wall_seconds else 0.0


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


def build_accelerator(target: Target, verilog: str | None = None) -> Build:
    """Compile the accelerator with the testbench; ``verilog`` replaces the generated design."""
    text = verilog if verilog is not None else accelerator_verilog(target)
    with tempfile.TemporaryDirectory(prefix="lockstep-rtl-") as folder:
        source = Path(folder) / "accelerator.v"
        source.write_text(text)
        return build([source, *PRIMITIVES[target.multiplier], TESTBENCH], "testbench")


class _Commands:
    """A list of bus commands, and how many words their answers have."""

    def __init__(self):
        self.words: list[np.ndarray] = []
        self.n_answers = 0

    def write(self, address, values):
        values = np.asarray(values, "<u4").ravel()
        self.words += [np.array([WRITE, address, len(values)], "<u4"), values]

    def read(self, address, n_words) -> slice:
        self.words.append(np.array([READ, address, n_words], "<u4"))
        self.n_answers += n_words
        return slice(self.n_answers - n_words, self.n_answers)

    def start(self, control):
        self.words.append(np.array([START, control], "<u4"))

    def to_bytes(self) -> bytes:
        return b"".join([*(w.tobytes() for w in self.words), np.array([END], "<u4").tobytes()])


def _play(build_: Build, commands: _Commands) -> tuple[np.ndarray, int]:
    """Run the commands; return their answers (uint32) and the clock cycles it took."""
    with tempfile.TemporaryDirectory(prefix="lockstep-rtl-") as folder:
        script, answers = Path(folder) / "commands.bin", Path(folder) / "answers.bin"
        script.write_bytes(commands.to_bytes())
        cycles = run_to_finish(build_, plusargs={"commands": script, "answers": answers},
                               max_cycles=2_000_000_000, time_limit=3600)
        values = np.fromfile(answers, "<u4")
    if len(values) != commands.n_answers:
        raise SimulationError(f"The testbench answered {len(values)} words, "
                              f"not {commands.n_answers}")
    return values, cycles


def _read_tensor(commands, image, name):
    place = image.placements[name]
    n_words = place.n_words * image.target.host_word_bytes // 4
    return commands.read(image.bus_address(place), n_words)


_COUNTERS = (Register.CYCLES_LOW, Register.ARRAY_BUSY_LOW, Register.STALL_LOW)


def _read_counters(commands):
    status = commands.read(Register.STATUS, 1)
    return [status, *(commands.read(register, 2) for register in _COUNTERS)]


def _counters(answers, slices, where):
    status, *counts = (answers[s] for s in slices)
    if status[0] & 4:
        raise SimulationError(f"The accelerator stopped with error "
                              f"{ErrorCode(int(status[0]) >> 8 & 0xFF).name} {where}")
    return [int(c[0]) | int(c[1]) << 32 for c in counts]


def _load(commands, image):
    for address, values in image.sections():
        commands.write(address, values)


def _run_images(build_, image, codes, trace) -> tuple[dict[str, np.ndarray], int]:
    """One simulator run over int8 codes (N, *shape); returns tensors by name, and its cycles."""
    commands = _Commands()
    _load(commands, image)
    place = image.placements[image.input]
    words = to_bus(place.pack(codes), image.target.host_word_bytes)
    slices = {name: [] for name in image.placements} if trace else {image.output: []}
    statuses = []
    for picture in words:
        commands.write(Register.PROGRAM_ADDRESS, [0])
        commands.write(image.bus_address(place), picture)
        if not trace:
            commands.start(RUN_ALL)
            statuses.append(commands.read(Register.STATUS, 1))
            slices[image.output].append(_read_tensor(commands, image, image.output))
            continue
        slices[image.input].append(_read_tensor(commands, image, image.input))
        for step in image.steps:
            for _ in range(step.n_instructions):
                commands.start(RUN_ONE)
                statuses.append(commands.read(Register.STATUS, 1))
            slices[step.output].append(_read_tensor(commands, image, step.output))
    answers, cycles = _play(build_, commands)
    for status in statuses:
        _counters(answers, [status], "while running")
    tensors = {}
    for name, parts in slices.items():
        values = np.stack([from_bus(answers[part], image.target.word_bytes,
                                    image.target.host_word_bytes) for part in parts])
        tensors[name] = image.placements[name].unpack(values)
    return tensors, cycles


def measure(build_: Build, image: Image, codes: np.ndarray) -> RtlReport:
    """Cycle counts of one image: the whole program without stopping, and node by node."""
    commands = _Commands()
    _load(commands, image)
    place = image.placements[image.input]
    commands.write(image.bus_address(place),
                   to_bus(place.pack(codes[:1]), image.target.host_word_bytes)[0])
    commands.start(RUN_ALL)
    total = _read_counters(commands)
    commands.write(Register.PROGRAM_ADDRESS, [0])
    per_instruction = []
    for step in image.steps:
        slices = []
        for _ in range(step.n_instructions):
            commands.start(RUN_ONE)
            slices.append(_read_counters(commands))
        per_instruction.append(slices)
    answers, _ = _play(build_, commands)
    peak = image.target.n_macs
    steps = []
    for step, slices in zip(image.steps, per_instruction):
        counts = [_counters(answers, s, f"in node {step.node}") for s in slices]
        cycles, busy, stall = (sum(c) for c in zip(*counts)) if counts else (0, 0, 0)
        steps.append(StepReport(node=step.node, op=step.op, macs=step.macs, cycles=cycles,
                                array_busy=busy, stall=stall,
                                utilisation=step.macs / (peak * cycles) if cycles else 0.0))
    cycles, busy, stall = _counters(answers, total, "in the whole program")
    macs = sum(step.macs for step in steps)
    return RtlReport(target=image.target.name, configuration_id=image.target.configuration_id,
                     macs=macs, cycles=cycles, array_busy=busy, stall=stall,
                     utilisation=macs / (peak * cycles), steps=steps)


def run(program, x, *, target: Target | str = "sim-8x8", jobs: int = 1, image: Image | None = None,
        trace: bool = True, verilog: str | None = None, report: list | None = None,
        progress: Callable[[int], None] | None = None) -> dict[str, np.ndarray]:
    """Run ``program`` on the simulated accelerator; return every tensor by name, int8.

    x: as golden.interpreter.run takes it. image: run this memory image instead of compiling.
    trace: read every tensor, else only the output. verilog: a design in place of the generated
    one. report: a list that receives one RtlReport. progress: called with the number of images
    done since the last call.

    Raises LockstepError for a program that the target cannot run, SimulationError where the
    hardware stops with an error.
    """
    target = get_target(target) if isinstance(target, str) else target
    if image is None:
        image = compile(program, target)
    elif image.target != target:
        raise LockstepError(f"The image is for target {image.target.name}, not {target.name}")
    codes = program.quantize_input(x)
    begin = time.perf_counter()
    build_ = build_accelerator(target, verilog)
    built = time.perf_counter()
    size = max(1, min(_CHUNK, -(-len(codes) // max(1, jobs))))
    chunks = [codes[first:first + size] for first in range(0, len(codes), size)]

    def work(chunk):
        done = _run_images(build_, image, chunk, trace)
        if progress:
            progress(len(chunk))
        return done

    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = list(pool.map(work, chunks))
    wall = time.perf_counter() - built
    tensors = {name: np.concatenate([part[name] for part, _ in results])
               for name in (results[0][0] if results else {})}
    if report is not None and len(codes):
        summary = measure(build_, image, codes)
        summary.images = len(codes)
        summary.simulated_cycles = sum(cycles for _, cycles in results)
        summary.wall_seconds, summary.build_seconds = wall, built - begin
        report.append(summary)
    return tensors

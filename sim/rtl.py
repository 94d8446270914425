"""Runs a Program on the RTL: compile, load over the bus, start, await the end, read back.

Python is not in the cycle loop: it writes one file of bus commands per simulator process,
`sim/driver.cc` plays it on the simulated design, and the answers come back in one file. Every
image runs at full speed; of the traced ones every tensor is read by single steps as well.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import numpy as np

from golden.errors import LockstepError
from golden.program.sources import source_codes
from hw.compiler import Image, compile_program
from hw.isa import Counter
from hw.rtl.vector.weights import N_MULTIPLIERS
from hw.targets import Target, get_target
from sim.batches import groups_of, joined
from sim.commands import play
from sim.design import SIMULATORS, accelerator_verilog, build_accelerator
from sim.images import ImageRuns

__all__ = ["SIMULATORS", "RtlReport", "StepReport", "accelerator_verilog", "build_accelerator",
           "run"]


@dataclass(frozen=True, kw_only=True)
class StepReport:
    """One node by single steps: nothing else runs meanwhile.

    counters: by the names of hw.isa.Counter in lower case; utilisation = macs / (rows * columns *
    cycles), of which vector_macs are computed beside the array, which may pass 1; array_utilisation
    and vector_utilisation are the shares of each engine's own multiplications.
    """

    node: str
    op: str
    macs: int
    cycles: int
    utilisation: float
    vector_macs: int
    array_utilisation: float
    vector_utilisation: float
    counters: dict[str, int]


@dataclass(kw_only=True)
class RtlReport:
    """What the simulated hardware measured.

    macs, cycles, utilisation, counters: of the first run at full speed, start to done; one run
    computes ``batch`` images. Weights and input are resident on the chip; with external memory
    they are there, and all transfers are counted. steps: of the first run by single steps, empty
    where nothing is traced. simulated_cycles, wall_seconds: of all images, loading and reading
    back included.
    """

    target: str
    configuration_id: int
    simulator: str
    batch: int
    macs: int
    cycles: int
    utilisation: float
    vector_macs: int
    array_utilisation: float
    vector_utilisation: float
    counters: dict[str, int]
    steps: list[StepReport] = field(default_factory=list)
    images: int = 0
    traced_images: int = 0
    simulated_cycles: int = 0
    wall_seconds: float = 0.0
    build_seconds: float = 0.0

    @property
    def unexplained(self) -> int:
        """Cycles that none of the array's counters accounts for."""
        causes = range(Counter.ARRAY_BUSY, Counter.ARRAY_FETCH + 1)
        return self.cycles - sum(self.counters[Counter(k).name.lower()] for k in causes)

    @property
    def cycles_per_second(self) -> float:
        """Simulated clock cycles per wall second."""
        return self.simulated_cycles / self.wall_seconds if self.wall_seconds else 0.0


def _shares(target, macs: int, vector_macs: int, cycles: int) -> dict:
    """The fields that say how much of the engines' multiplications were useful."""
    def share(used, per_cycle):
        return used / (per_cycle * cycles) if cycles else 0.0
    return {"macs": macs, "vector_macs": vector_macs, "cycles": cycles,
            "utilisation": share(macs, target.n_macs),
            "array_utilisation": share(macs - vector_macs, target.n_macs),
            "vector_utilisation": share(vector_macs, N_MULTIPLIERS * target.columns)}


def _report(image, simulator, runs, answers) -> RtlReport:
    counters = runs.counters(answers, 0)
    report = RtlReport(
        target=image.target.name, configuration_id=image.target.configuration_id,
        simulator=simulator, batch=image.batch, counters=counters,
        **_shares(image.target, sum(step.macs for step in image.steps),
                  sum(step.vector_macs for step in image.steps), counters["cycles"]))
    for step, counters in zip(image.steps, runs.step_counters(answers, 0)):
        report.steps.append(StepReport(
            node=step.node, op=step.op, counters=counters,
            **_shares(image.target, step.macs, step.vector_macs, counters["cycles"])))
    return report


def _assemble(program, image, found, n_images, n_traced) -> dict[str, np.ndarray]:
    """Tensors of all images from those of the runs, by number."""
    runs = [found[number] for number in sorted(found)]
    tensors = joined(program, runs, n_images)
    for name in image.placements:
        if "#" in name:
            continue
        if name in tensors and name not in image.outputs and program.tensors[name].batched:
            tensors[name] = tensors[name][:n_traced]
        elif name not in tensors and (name in image.outputs or not n_images):
            tensors[name] = np.zeros((0, *image.placements[name].shape),
                                     program.tensors[name].dtype)
    return tensors


def run(program, x, state: dict | None = None, *, target: Target | str = "sim-8x8",
        jobs: int = 1, image: Image | None = None, trace: bool | int = True,
        verilog: str | None = None, simulator: str = "verilator", plusargs: dict | None = None,
        report: list | None = None,
        progress: Callable[[int], None] | None = None) -> dict[str, np.ndarray]:
    """Run ``program`` on the simulated accelerator; return tensors by name.

    x, state: as golden.program.interpreter.run takes them. image: run this memory image instead of
    compiling. trace: of how many images, from the first on, every tensor is read; True is all of
    them. The outputs are always those of all images, at full speed. verilog: a design in place of
    the generated one. simulator: one of SIMULATORS. plusargs: of the external memory
    (sim/axi_memory.sv). report: a list that receives one RtlReport. progress: called with the
    number of images done since the last call. jobs: simulator processes at a time.

    Raises LockstepError for a program that the target cannot run, SimulationError where the
    hardware stops with an error, and where full speed and single steps give different outputs.
    """
    target = get_target(target) if isinstance(target, str) else target
    if image is None:
        image = compile_program(program, target)
    elif image.target != target:
        raise LockstepError(f"The image is for target {image.target.name}, not {target.name}")
    groups, n_images = groups_of(program, image, source_codes(program, x, state))
    batch = image.batch
    n_traced = n_images if trace is True else min(n_images, int(trace))
    begin = time.perf_counter()
    build = build_accelerator(target, verilog, simulator)
    built = time.perf_counter()

    def work(share):
        runs = ImageRuns(image)
        for k in share:
            runs.add(groups[k], traced=k * batch < n_traced)
        answers = play(build, runs.commands, plusargs=plusargs,
                       on_progress=lambda: progress and progress(batch))
        runs.check(answers)
        return runs, answers, {k: runs.tensors(answers, at) for at, k in enumerate(share)}

    shares = [range(first, len(groups), jobs) for first in range(min(jobs, len(groups)))]
    with ThreadPoolExecutor(max(1, jobs)) as pool:
        results = list(pool.map(work, shares))
    wall = time.perf_counter() - built
    if report is not None and results:
        summary = _report(image, simulator, *results[0][:2])
        summary.images, summary.traced_images = n_images, n_traced
        summary.simulated_cycles = sum(answers.cycles for _, answers, _ in results)
        summary.wall_seconds, summary.build_seconds = wall, built - begin
        report.append(summary)
    found = {k: tensors for _, _, part in results for k, tensors in part.items()}
    return _assemble(program, image, found, n_images, n_traced)

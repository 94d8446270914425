"""The rtl backend of flows/sim.py: what the simulated accelerator runs."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from tqdm import tqdm

from cli.inputs import count_images
from golden.errors import LockstepError

if TYPE_CHECKING:
    from sim.rtl import RtlReport

__all__ = ["DEFAULT_TARGET", "RtlOptions", "SimulationFailure", "check_batch", "prepare_rtl",
           "rtl_options", "run_rtl"]

DEFAULT_TARGET = "sim-8x8"


class SimulationFailure(RuntimeError):
    """The simulated hardware stopped with an error or hung: a finding, not bad input."""


@dataclass(frozen=True, kw_only=True)
class RtlOptions:
    """What the rtl backend runs.

    target: a hw.targets.Target; batch: images that one run computes; image: a hw.compiler.Image in
    place of the compiled program;
    verilog: text of a design in place of the generated one; jobs: simulations at a time
    traced: of how many images every tensor is read, True for all; simulator: verilator or cxxrtl
    """

    target: object
    batch: int = 1
    image: object = None
    verilog: str | None = None
    jobs: int = 1
    traced: bool | int = True
    simulator: str = "verilator"


def check_batch(program, batch) -> None:
    """LockstepError for a number of images per run (None: not said) that a program cannot have."""
    if batch is not None and batch < 1:
        raise LockstepError(f"--batch must be at least 1, not {batch}")
    if batch is not None and program.batch is not None:
        raise LockstepError(f"Program {program.name} has a batch of its own, of {program.batch} "
                            f"images: --batch has no effect on it")


def rtl_options(program, *, target=None, image=None, verilog=None, batch=None,
                **options) -> RtlOptions:
    """RtlOptions from a target's name and the paths of an image folder and a Verilog file.

    batch: images that one run computes; options: jobs, traced and simulator, as they are.

    Raises LockstepError for an unknown target, an image of another program or target, files that
    cannot be read, and a batch where the image or the program says it.
    """
    from hw.targets import get_target

    chosen = get_target(target or DEFAULT_TARGET)
    check_batch(program, batch)
    if image is not None and batch is not None:
        raise LockstepError("--batch has no effect on an image that is already compiled")
    if image is not None:
        from hw.compiler import Image

        path, image = image, Image.load(image)
        if image.program_sha256 != program.sha256:
            raise LockstepError(f"Image {path} is of a program with sha256 {image.program_sha256}, "
                                f"not {program.sha256}")
        if target is not None and image.target != chosen:
            raise LockstepError(f"Image {path} is for target {image.target.name}, not {target}")
        chosen = image.target
    if verilog is not None:
        try:
            verilog = Path(verilog).read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise LockstepError(f"Verilog {verilog} cannot be read: {error}") from None
    return RtlOptions(target=chosen, image=image, verilog=verilog, batch=batch or 1, **options)


def prepare_rtl(program, options) -> RtlOptions:
    """The options with the program compiled, so that what cannot run is found before anything runs.

    Raises LockstepError for a program that the target cannot run and a missing C++ compiler.
    """
    from hw.compiler import compile_program
    from sim.runner import check_tools

    check_tools()
    if options.image is not None:
        return options
    return replace(options, image=compile_program(program, options.target, options.batch))


def run_rtl(program, x, options) -> "tuple[dict[str, np.ndarray], RtlReport]":
    """The trace of the simulated accelerator and its `sim.rtl.RtlReport`.

    The output is that of all images at full speed, the other tensors those of the traced images.
    Raises SimulationFailure where the hardware stops with an error or hangs.
    """
    from sim import rtl
    from sim.runner import SimulationError

    reports = []
    try:
        with tqdm(total=count_images(program, x), unit="image", disable=None, leave=False) as bar:
            trace = rtl.run(program, x, target=options.target, jobs=options.jobs,
                            image=options.image, verilog=options.verilog, report=reports,
                            trace=options.traced, simulator=options.simulator,
                            progress=bar.update)
    except SimulationError as error:
        raise SimulationFailure(str(error)) from error
    return trace, reports[0]

"""The rtl backend of flows/sim.py: what the simulated accelerator runs, and what it measured."""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from golden.errors import LockstepError

DEFAULT_TARGET = "sim-8x8"


class SimulationFailure(RuntimeError):
    """The simulated hardware stopped with an error or hung: a finding, not bad input."""


@dataclass(frozen=True, kw_only=True)
class RtlOptions:
    """What the rtl backend runs.

    target: a hw.targets.Target; image: a hw.compiler.Image in place of the compiled program;
    verilog: text of a design in place of the generated one; jobs: simulations at a time
    """

    target: object
    image: object = None
    verilog: str | None = None
    jobs: int = 1


def rtl_options(program, *, target=None, image=None, verilog=None, jobs=1):
    """RtlOptions from a target's name and the paths of an image folder and a Verilog file.

    Raises LockstepError for an unknown target, an image of another program or target, and files
    that cannot be read.
    """
    from hw.targets import get_target

    chosen = get_target(target or DEFAULT_TARGET)
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
    return RtlOptions(target=chosen, image=image, verilog=verilog, jobs=jobs)


def prepare_rtl(program, options):
    """The options with the program compiled, so that what cannot run is found before anything runs.

    Raises LockstepError for a program that the target cannot run and a missing C++ compiler.
    """
    from hw.compiler import compile
    from sim.runner import check_tools

    check_tools()
    if options.image is not None:
        return options
    return replace(options, image=compile(program, options.target))


def run_rtl(program, x, options):
    """The trace of the simulated accelerator and its `sim.rtl.RtlReport`.

    Raises SimulationFailure where the hardware stops with an error or hangs.
    """
    from sim import rtl
    from sim.runner import SimulationError

    reports = []
    try:
        with tqdm(total=len(x), unit="image", disable=None, leave=False) as bar:
            trace = rtl.run(program, x, target=options.target, jobs=options.jobs,
                            image=options.image, verilog=options.verilog, report=reports,
                            progress=bar.update)
    except SimulationError as error:
        raise SimulationFailure(str(error)) from error
    return trace, reports[0]


def hardware_fields(program, report):
    """The fields of R.json that an RtlReport gives, totals and per op.

    bytes_moved counts the operands, weights, biases and results of an op once each, for one image.
    """
    nodes = {node.name: node for node in program.nodes}
    steps = []
    for step in report.steps:
        node = nodes[step.node]
        arrays = [value for name, value in vars(node.op).items() if isinstance(value, np.ndarray)]
        tensors = sum(int(np.prod(program.tensors[name].shape))
                      for name in (*node.inputs, *node.outputs))
        steps.append({**asdict(step), "bytes_moved": tensors + sum(a.nbytes for a in arrays)})
    fields = {name: getattr(report, name) for name in (
        "configuration_id", "macs", "cycles", "array_busy", "stall", "utilisation",
        "simulated_cycles", "wall_seconds", "build_seconds", "cycles_per_second")}
    total = sum(step["bytes_moved"] for step in steps)
    return {**fields, "bytes_moved": total, "ops": steps}

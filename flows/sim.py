"""Run an integer program on one backend, or on all four and compare every tensor.

Without --backend the program runs on golden (numpy), torch, onnx (ONNX Runtime) and rtl (the
generated Verilog, simulated); every tensor of every backend is compared with golden's. The rtl
backend runs every image at full speed; of the first ones, the traced, it reads every tensor, by
single steps. Exit status 0: the same bits; 1: differences; 2: bad input.
"""

import argparse
import json
import os
import re
import sys
import time
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from cli import command as cli
from cli.hardware_report import hardware_fields, print_report
from cli.inputs import DEFAULT_INPUTS, count_images, find_inputs, load_inputs
from cli.rtl_backend import DEFAULT_TARGET, SimulationFailure, prepare_rtl, rtl_options, run_rtl
from golden.errors import LockstepError
from golden.program import Program
from golden.program.compare import compare
from golden.program.encoding import npz

if TYPE_CHECKING:
    from sim.rtl import RtlReport

__all__ = ["BACKENDS", "DEFAULT_INPUTS", "SimulationFailure", "load_inputs", "main",
           "print_comparison", "simulate", "tally", "trace_file", "write_file", "write_traces"]

BACKENDS = ("golden", "torch", "onnx", "rtl")
LONGEST_FILE_NAME = 255  # bytes
DEFAULT_TRACED = 4  # images that rtl runs by single steps as well
SIMULATORS = ("verilator", "cxxrtl")
SHOWN_DIFFERENCES = 10  # tensors per backend in the printed list


def parse(argv) -> argparse.Namespace:
    """Command line."""
    parser = cli.Parser(
        prog="flows/sim.py", description="Run a program and compare the backends, op by op.")
    parser.add_argument("--program", required=True, metavar="PROGRAM", help="folder of the program")
    parser.add_argument("--inputs", metavar="X.npy", help="batch first, float or int8 codes; "
                        "a .npz file where the program has several inputs "
                        f"(default {DEFAULT_INPUTS} beside the program, else random codes)")
    parser.add_argument("--images", type=int, metavar="N", help="only the first N images")
    parser.add_argument("--backend", choices=BACKENDS, help="one backend instead of all four")
    parser.add_argument("--target", metavar="T", help="hardware target of the rtl backend "
                        f"(default {DEFAULT_TARGET}, or the image's)")
    parser.add_argument("--image", metavar="DIR", help="let rtl run this memory image as deployed")
    parser.add_argument("--batch", type=int, metavar="N", help="images that one run of the "
                        "accelerator computes (default 1)")
    parser.add_argument("--verilog", metavar="FILE", help="let rtl run this accelerator.v")
    parser.add_argument("--simulator", choices=SIMULATORS, default=SIMULATORS[0],
                        help="of the rtl backend (default %(default)s)")
    parser.add_argument("--traced", type=int, metavar="N", help="images of which rtl reads every "
                        f"tensor (default {DEFAULT_TRACED}, with --trace all)")
    parser.add_argument("--device", default="cpu", help="device of the torch backend")
    parser.add_argument("--outputs", metavar="Y.npy", help="write the integer output "
                        "codes, in the layout of the file that the program came from; .npz "
                        "for several outputs")
    parser.add_argument("--trace", metavar="DIR", help="write every tensor, DIR/BACKEND/NAME.npy")
    parser.add_argument("--report", metavar="R.json", help="write cycles, utilisation, differences")
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)), metavar="N",
                        help="simulations at a time (default: the cores)")
    arguments = parser.parse_args(argv)
    for name, least in (("jobs", 1), ("images", 1), ("traced", 0)):
        value = getattr(arguments, name)
        if value is not None and value < least:
            raise LockstepError(f"--{name} must be at least {least}, not {value}")
    if arguments.traced is None:
        arguments.traced = True if arguments.trace else DEFAULT_TRACED
    return arguments


def run_backend(name, program, x, *, rtl=None, device="cpu"
                ) -> "tuple[dict[str, np.ndarray], RtlReport | None]":
    """Run one backend; rtl: `RtlOptions`. Returns (trace, hardware report or None)."""
    if name == "golden":
        from golden.program.interpreter import run
        return run(program, x), None
    if name == "torch":
        from sw.executor import run
        return run(program, x, device=device), None
    if name == "onnx":
        from sw.formats.onnx.runtime import run
        return run(program, x), None
    return run_rtl(program, x, rtl)


def tally(traces, differences) -> list[dict]:
    """Rows {backend, tensors, values, differences} for every backend compared with golden."""
    reference, rows = traces["golden"], []
    for backend, trace in traces.items():
        if backend == "golden":
            continue
        shared = [name for name in reference if name in trace]
        rows.append({"backend": backend, "tensors": len(shared), "of": len(reference),
                     "values": int(sum(trace[name].size for name in shared)),
                     "differences": sum(d.n_different for d in differences
                                        if d.backend == backend)})
    return rows


def print_comparison(rows, differences) -> None:
    """The table of `tally`, then the first differences of each backend in the order of the ops."""
    print(f"{'backend':<8} {'tensors compared':>17} {'values compared':>17} {'differences':>12}")
    for row in rows:
        tensors = f"{row['tensors']:,} of {row['of']:,}"
        print(f"{row['backend']:<8} {tensors:>17} {row['values']:>17,} {row['differences']:>12,}")
    shown = Counter()
    for difference in differences:
        order = "then" if shown[difference.backend] else "first"
        shown[difference.backend] += 1
        if shown[difference.backend] > SHOWN_DIFFERENCES:
            continue
        print(f"{difference.backend}: {order} differs at {difference.node} ({difference.op}), "
              f"tensor {difference.tensor}, index {tuple(map(int, difference.index))}: expected "
              f"{difference.expected}, got {difference.actual} "
              f"({difference.n_different:,} values differ)")
    for backend, number in shown.items():
        if number > SHOWN_DIFFERENCES:
            print(f"{backend}: {number - SHOWN_DIFFERENCES} more tensors differ")


def check_outputs(arguments, backends, program) -> None:
    """LockstepError where an output would replace a folder that no earlier run has written, or a
    tensor's name is too long for a file's."""
    for path in filter(None, (arguments.outputs, arguments.report)):
        cli.check_file(path)
    if arguments.outputs and len(program.outputs) > 1 and not arguments.outputs.endswith(".npz"):
        raise LockstepError(f"Program {program.name} has {len(program.outputs)} outputs, so "
                            f"--outputs must end in .npz")
    for backend in backends if arguments.trace else ():
        folder = Path(arguments.trace) / backend
        if folder.is_dir() and any(path.suffix != ".npy" for path in folder.iterdir()):
            raise LockstepError(f"{folder} is not an earlier trace and is left as it is")
    for name in program.tensors if arguments.trace else ():
        if len(os.fsencode(trace_file(name))) > LONGEST_FILE_NAME:
            raise LockstepError(f"Option --trace cannot name a file after tensor {name[:40]}...: "
                                f"file names have at most {LONGEST_FILE_NAME} bytes")


def trace_file(name) -> str:
    """The file of a tensor: its name with what no file name holds percent-encoded, `/` as `%2F`,
    so that no two tensors share one."""
    return re.sub("[%/\0\ud800-\udfff]", lambda found: f"%{ord(found[0]):02X}", name) + ".npy"


def write_traces(directory, traces) -> None:
    """Every tensor of every backend, directory/BACKEND/NAME.npy."""
    with cli.replacing(directory) as temporary:
        for backend, trace in traces.items():
            (temporary / backend).mkdir()
            for name, tensor in trace.items():
                np.save(temporary / backend / trace_file(name), tensor)


def write_outputs(file, program, trace) -> None:
    """The output's array, or an archive of those of several by name."""
    outputs = {name: program.output_array(trace[name], name) for name in program.outputs}
    if len(outputs) == 1:
        np.save(file, outputs[program.outputs[0]])
    else:
        file.write(npz(outputs))


def write_file(path, write) -> None:
    """Create `path` by `write(binary file)` and one rename."""
    path = Path(path)
    with cli.replacing(path.parent) as temporary, open(temporary / path.name, "wb") as file:
        write(file)


def simulate(program, x, backends, **options
             ) -> "tuple[dict[str, dict[str, np.ndarray]], dict[str, float], RtlReport | None]":
    """Run the backends in order. Returns (traces, seconds, hardware report or None)."""
    traces, seconds, hardware = {}, {}, None
    if "rtl" in backends:
        options["rtl"] = prepare_rtl(program, options["rtl"])
    for name in backends:
        print(f"{name}: {count_images(program, x)} images ...", file=sys.stderr, flush=True)
        start = time.perf_counter()
        traces[name], report = run_backend(name, program, x, **options)
        seconds[name] = time.perf_counter() - start
        hardware = report or hardware
        print(f"{name}: {seconds[name]:.2f} s", file=sys.stderr, flush=True)
    return traces, seconds, hardware


def main(argv=None) -> int:
    """Run the backends; prints the comparison, 1 where values differ."""
    arguments = parse(argv)
    program = Program.load(arguments.program)
    rtl = rtl_options(program, target=arguments.target, image=arguments.image,
                      verilog=arguments.verilog, batch=arguments.batch, jobs=arguments.jobs,
                      traced=arguments.traced, simulator=arguments.simulator)
    backends = (arguments.backend,) if arguments.backend else BACKENDS
    if arguments.batch is not None and "rtl" not in backends:
        raise LockstepError(f"--batch has no effect on the {arguments.backend} backend")
    path = find_inputs(arguments.program, arguments.inputs)
    x = load_inputs(program, path, arguments.images)
    check_outputs(arguments, backends, program)
    print(f"program {program.name}, sha256 {program.sha256}")
    n_images = count_images(program, x)
    print(f"inputs  {path or 'random codes'}, {n_images} images")

    try:
        traces, seconds, hardware = simulate(program, x, backends, rtl=rtl,
                                             device=arguments.device)
    except SimulationFailure as failure:
        print(f"rtl: failed: {failure}")
        return 1
    differences = compare(traces, program) if "golden" in traces and len(traces) > 1 else []
    rows = tally(traces, differences) if len(traces) > 1 else []
    if rows:
        print_comparison(rows, differences)

    report = {"program": {"name": program.name, "sha256": program.sha256},
              "target": rtl.target.name, "images": n_images,
              "seconds": {name: round(value, 4) for name, value in seconds.items()},
              "comparison": rows,
              "differences": [asdict(difference) for difference in differences]}
    if hardware is not None:
        report.update(hardware_fields(program, rtl.target, hardware))
        print_report(report)
        per_run = f" ({hardware.batch} in {hardware.cycles:,})" if hardware.batch > 1 else ""
        print(f"rtl     {round(hardware.cycles / hardware.batch):,} cycles per image{per_run}, "
              f"array utilisation "
              f"{hardware.array_utilisation:.1%}, vector {hardware.vector_utilisation:.1%}, "
              f"{hardware.cycles_per_second:,.0f} cycles/s simulated, "
              f"{hardware.traced_images} of {n_images} images traced")
    if arguments.outputs:
        write_file(arguments.outputs,
                   lambda file: write_outputs(file, program, traces[backends[0]]))
        print(f"outputs {arguments.outputs}")
    if arguments.trace:
        write_traces(arguments.trace, traces)
        print(f"traces  {arguments.trace}")
    if arguments.report:
        text = json.dumps(report, indent=2, default=int) + "\n"
        write_file(arguments.report, lambda file: file.write(text.encode()))
        print(f"report  {arguments.report}")
    return 1 if any(row["differences"] for row in rows) else 0


if __name__ == "__main__":
    cli.run(main)

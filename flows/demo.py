"""The whole way once: train in 8 bits, lower, generate the RTL, prove the bits equal, deploy.

Trains the digits network in float and in 8 bits, runs the integer program on numpy, torch, ONNX
Runtime and the simulated hardware, compares every tensor of every image, and writes the
deployment folder. Exit status 1 where any value differs. The summary is also written as JSON.
"""

import json
import os
import time
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from cli import command as cli
from cli.rtl_backend import rtl_options
from flows import deploy, rtl, sim, train
from golden.errors import LockstepError
from golden.program import Program
from golden.program.compare import compare

__all__ = ["main"]

MODEL, DATASET = "resnet_digits", "digits"
FLOAT, EIGHT_BIT = "{'quantize': False}", "{'quantize': True}"


class Stages:
    """Prints and times the stages. ``seconds``: wall time by stage, in order."""

    def __init__(self):
        self.seconds = {}

    @contextmanager
    def __call__(self, title):
        """Print the title and time the block."""
        print(f"\n== {title}", flush=True)
        start = time.perf_counter()
        yield
        self.seconds[title] = round(time.perf_counter() - start, 2)


def _train(arguments, name, model_config):
    """Train, and return the run's config.json."""
    train.main(["--model", MODEL, "--model-config", model_config, "--dataset", DATASET,
                "--save", name, "--runs-dir", arguments.runs_dir, "--seed", str(arguments.seed),
                "--epochs", str(arguments.epochs)])
    return json.loads((Path(arguments.runs_dir) / name / "config.json").read_text())


def _unlike_simulation(run, program, x, trace):
    """Per tensor, share and size of the codes that differ from the folded float simulation's."""
    from models import build_model
    from sw.lower.simulate import differing_codes, simulate
    from sw.train.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(run / "checkpoint.pt", model=MODEL)
    model = build_model(checkpoint.model, checkpoint.model_config)
    checkpoint.restore(model)
    return {name: {"share": share, "largest": largest} for name, (share, largest)
            in differing_codes(simulate(model, x, program=program), trace).items()}


def demo(arguments) -> dict:
    """Run all stages; returns the summary."""
    from hw.targets import get_target

    target = get_target(arguments.target)
    run, output = Path(arguments.runs_dir) / "demo", Path(arguments.output)
    stage = Stages()
    with stage("train in float"):
        in_float = _train(arguments, "demo_float", FLOAT)
    with stage("train in 8 bits, lower to integers"):
        in_8_bits = _train(arguments, "demo", EIGHT_BIT)
    program = Program.load(run / "program")
    x = sim.load_inputs(program, run / sim.DEFAULT_INPUTS, arguments.images)
    if len(x) < arguments.images:
        raise LockstepError(f"--images must be at most {len(x)}, not {arguments.images}")
    with stage(f"generate Verilog for {target.name}"):
        for path in rtl.write_rtl(target, output / "rtl"):
            print(f"wrote {path}")
    with stage("run on every backend and compare"):
        traces, seconds, hardware = sim.simulate(
            program, x, sim.BACKENDS, rtl=rtl_options(program, target=target.name,
                                                      jobs=arguments.jobs))
        differences = compare(traces, program)
        rows = sim.tally(traces, differences)
        sim.print_comparison(rows, differences)
    with stage("deploy"):
        deploy.deploy(program, target, x[:deploy.DEFAULT_VECTORS], output / "deploy")
        print(f"wrote {output / 'deploy'}")
    labels = np.load(run / "test_labels.npy")[:len(x)]
    right = {name: float((trace[program.outputs[0]].reshape(len(x), -1).argmax(1) == labels).mean())
             for name, trace in traces.items()}
    return {
        "accuracy": {"float": in_float["test_accuracy"], "8-bit simulated":
                     in_8_bits["test_accuracy"], "integer": in_8_bits["integer_accuracy"]},
        "accuracy_on_compared_images": right,
        "images": len(x), "backends": list(traces), "comparison": rows,
        "tensors": sum(row["tensors"] for row in rows),
        "values": sum(row["values"] for row in rows),
        "differences": sum(row["differences"] for row in rows),
        "codes_unlike_the_float_simulation": _unlike_simulation(run, program, x, traces["golden"]),
        "target": target.name, "cycles_per_image": hardware.cycles,
        "array_utilisation": hardware.array_utilisation,
        "vector_utilisation": hardware.vector_utilisation,
        "simulated_cycles_per_second": hardware.cycles_per_second,
        "seconds": stage.seconds, "backend_seconds": {k: round(v, 2) for k, v in seconds.items()},
        "simulator_build_seconds": round(hardware.build_seconds, 2),
        "files": {"run": str(run), "verilog": str(output / "rtl"),
                  "deployment": str(output / "deploy")},
    }


def print_summary(summary: dict) -> None:
    """The closing summary."""
    print("\n== summary")
    rows = [(f"accuracy, {name}", f"{100 * value:.2f} %")
            for name, value in summary["accuracy"].items()]
    rows += [
        ("images compared", f"{summary['images']:,}"),
        ("backends", ", ".join(summary["backends"])),
        ("tensors compared", f"{summary['tensors']:,} of each image, {summary['values']:,} values"),
        ("differences", f"{summary['differences']:,}"),
        ("cycles per image", f"{summary['cycles_per_image']:,} on {summary['target']}"),
        ("utilisation", f"array {summary['array_utilisation']:.1%}, vector engine "
                        f"{summary['vector_utilisation']:.1%}"),
        ("simulation speed", f"{summary['simulated_cycles_per_second']:,.0f} cycles/s"),
    ]
    rows += [(f"time, {name}", f"{value:.1f} s") for name, value in summary["seconds"].items()]
    rows += list(summary["files"].items())
    width = max(len(name) for name, _ in rows)
    for name, value in rows:
        print(f"  {name:<{width}}  {value}")


def main(argv=None) -> int:
    """Command line."""
    parser = cli.Parser(prog="flows/demo.py", description=__doc__.partition("\n")[0])
    parser.add_argument("--target", default="sim-8x8", help="hardware target (default %(default)s)")
    parser.add_argument("--images", type=int, default=100, help="test images to compare")
    parser.add_argument("--epochs", type=int, default=20, help="passes over the data")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)),
                        help="simulations at a time (default: the cores)")
    parser.add_argument("--runs-dir", default="runs", help="folder of the runs")
    parser.add_argument("-o", "--output", default="build", metavar="DIR",
                        help="folder of the Verilog and the deployment (default %(default)s)")
    arguments = parser.parse_args(argv)
    for name in ("images", "epochs", "jobs"):
        if getattr(arguments, name) < 1:
            raise LockstepError(f"--{name} must be at least 1, not {getattr(arguments, name)}")
    summary = demo(arguments)
    print_summary(summary)
    path = Path(arguments.runs_dir) / "demo" / "summary.json"
    text = json.dumps(summary, indent=2) + "\n"
    sim.write_file(path, lambda file: file.write(text.encode()))
    print(f"  wrote {path}")
    return 1 if summary["differences"] else 0


if __name__ == "__main__":
    cli.run(main)

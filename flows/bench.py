"""Benchmarks: `python flows/bench.py SUITE -o DIR` writes DIR/SUITE.json, a list of rows
{name, value, unit, goal, met, command, context}, and the results page DIR/SUITE.md.

digits: the demo's network, several seeds. accuracy: CIFAR-10, ResNet-8 and ResNet-20, what 8 bits
cost. train-speed: seconds per training step beside float32 and Brevitas. accelerator: cycles of
whole networks on the RTL, beside the routed design and published ones. tflite: imported models
against LiteRT's reference kernels. onnx: which networks of the onnx package can be quantized, and
imported quantized models against ONNX Runtime. ptq: CIFAR-10 networks quantized to 8 and 4 bits
without retraining, method by method, beside ONNX Runtime and Brevitas.
"""

import argparse
import json
import sys
from pathlib import Path

from benchmarks import print_rows, results_page
from cli import command as cli
from cli.rtl_backend import SimulationFailure
from golden.errors import LockstepError


def _digits(arguments: argparse.Namespace, command: str) -> list[dict]:
    from benchmarks import digits

    return digits.measure(arguments.seeds or 5, arguments.epochs or 20, command)


def _accuracy(arguments: argparse.Namespace, command: str) -> list[dict]:
    from benchmarks import accuracy

    return accuracy.measure(arguments, command)


def _train_speed(arguments: argparse.Namespace, command: str) -> list[dict]:
    from benchmarks import train_speed

    return train_speed.measure(arguments, command)


def _accelerator(arguments: argparse.Namespace, command: str) -> list[dict]:
    from benchmarks import accelerator

    return accelerator.measure(arguments, command)


def _tflite(arguments: argparse.Namespace, command: str) -> list[dict]:
    from benchmarks import tflite

    return tflite.measure(arguments, command)


def _onnx(arguments: argparse.Namespace, command: str) -> list[dict]:
    from benchmarks import onnx

    return onnx.measure(arguments, command)


def _ptq(arguments: argparse.Namespace, command: str) -> list[dict]:
    from benchmarks import ptq

    return ptq.measure(arguments, command)


def _ptq_page(suite: str, rows: list[dict]) -> str:
    from benchmarks import ptq_table

    return ptq_table.page(suite, rows)


def _accelerator_page(suite: str, rows: list[dict]) -> str:
    from benchmarks import accelerator

    return accelerator.page(suite, rows)


SUITES = {"digits": _digits, "accuracy": _accuracy, "train-speed": _train_speed,
          "accelerator": _accelerator, "tflite": _tflite, "onnx": _onnx, "ptq": _ptq}
PAGES = {"accelerator": _accelerator_page, "ptq": _ptq_page}  # others: results_page
DEFAULTS = {"threads": 2, "repetitions": 15}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command line; options that a suite does not use are refused by it or without meaning."""
    parser = cli.Parser(prog="flows/bench.py",
                        description="Measure; write JSON and a results page.")
    parser.add_argument("suite", help=f"one of: {', '.join(SUITES)}")
    parser.add_argument("-o", "--output", default="build/bench", metavar="DIR")
    parser.add_argument("--seeds", type=int, help="number of seeds (digits 5, accuracy 3), ptq: "
                        "draws of calibration images (1)")
    parser.add_argument("--epochs", type=int,
                        help="epochs per training (digits 20, accuracy 16 and 8, ptq 20)")
    parser.add_argument("--datasets-dir", default="data",
                        help="accuracy, tflite, ptq: where CIFAR-10 and the models are")
    parser.add_argument("--networks",
                        help="accuracy, accelerator, onnx, ptq: which, comma-separated")
    parser.add_argument("--variants", help="accuracy, and ptq's widths such as w4a4: "
                        "comma-separated, default all")
    parser.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    parser.add_argument("--threads", type=int, help="CPU threads (default 2)")
    parser.add_argument("--compile", action="store_true", help="accuracy: torch.compile")
    parser.add_argument("--report-only", action="store_true",
                        help="accuracy: rows of the trainings that are already there")
    parser.add_argument("--images", type=int, help="ptq: images to calibrate on (default 256)")
    parser.add_argument("--test-images", type=int, metavar="N",
                        help="ptq: only the first N of the test set")
    parser.add_argument("--checkpoint", action="append", default=[], metavar="NETWORK=FILE",
                        help="ptq: a trained float network; repeatable")
    parser.add_argument("--repetitions", type=int, help="train-speed: of each step")
    parser.add_argument("--batch-size", type=int,
                        help="train-speed, and ptq's training: images per step")
    parser.add_argument("--target", help="accelerator: hardware target (default ecp5-85k)")
    parser.add_argument("--synthesis", metavar="REPORT.json", help="accelerator: what "
                        "flows/synth.py wrote of the same hardware, comma-separated "
                        "(default build/synth/report.json)")
    parser.set_defaults(**DEFAULTS)
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run a suite, print its rows, write DIR/SUITE.json and the page DIR/SUITE.md.

    Returns 1 and writes nothing where simulated hardware fails or disagrees with golden.
    """
    arguments = parse(argv)
    if arguments.suite not in SUITES:
        raise LockstepError(f"Unknown suite {arguments.suite!r}; known: {', '.join(SUITES)}")
    for name in ("seeds", "epochs", "repetitions", "threads", "batch_size", "images",
                 "test_images"):
        value = getattr(arguments, name)
        if value is not None and value < 1:
            raise LockstepError(f"{name.replace('_', ' ').capitalize()} must be at least 1, "
                                f"not {value}")
    given = [f"--{name.replace('_', '-')} {getattr(arguments, name)}"
             for name in ("seeds", "epochs", "networks", "variants", "threads", "batch_size",
                          "images", "test_images", "repetitions", "target")
             if getattr(arguments, name) != DEFAULTS.get(name)]
    command = " ".join(["python flows/bench.py", arguments.suite, *given,
                        *(f"--checkpoint {entry}" for entry in arguments.checkpoint),
                        *(["--compile"] if arguments.compile else [])])
    try:
        rows = SUITES[arguments.suite](arguments, command)
    except SimulationFailure as failure:
        print(f"error: {failure}", file=sys.stderr)
        return 1
    print_rows(rows)
    output, page = Path(arguments.output), PAGES.get(arguments.suite, results_page)
    with cli.replacing(output) as temporary:
        (temporary / f"{arguments.suite}.json").write_text(json.dumps(rows, indent=1) + "\n")
        (temporary / f"{arguments.suite}.md").write_text(page(arguments.suite, rows))
    print(f"wrote {output / arguments.suite}.json and {arguments.suite}.md")
    return 0


if __name__ == "__main__":
    cli.run(main)

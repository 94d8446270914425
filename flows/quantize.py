"""Quantize a float network without retraining it: checkpoint or ONNX model -> integer program.

The options of the published code of arXiv 1810.05723 keep their names and meanings, with readable
names beside them; docs/quantizing.md describes all of them. What no integer MAC array executes is
evaluated as a simulation, and one line says so.
"""

import argparse
import contextlib
import json
import math
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

from cli import command as cli
from golden.errors import LockstepError
from golden.program import storage

if TYPE_CHECKING:
    from torch import Tensor, nn

    from sw.data.dataset import Dataset
    from sw.ptq.config import PtqConfig

__all__ = ["configuration", "main", "parse"]

CLIPS = {"no": "min_max", "gaus": "aciq_gauss", "laplace": "aciq_laplace", "mix": "aciq_mix"}


def _bits(text: str) -> int:
    """4 or int4; the configuration checks the range."""
    digits = text.removeprefix("int")
    if not digits.lstrip("-").isdecimal():
        raise argparse.ArgumentTypeError(f"must be a number or int with a number, such as 4 or "
                                         f"int4, not {text!r}")
    return int(digits)


def _layer_bits(text: str) -> tuple[str, tuple[int, int]]:
    layer, _, widths = text.rpartition("=")
    weight, _, activation = widths.partition(",")
    if not layer or not activation:
        raise argparse.ArgumentTypeError(f"must be LAYER=W,A, such as stem=8,4, not {text!r}")
    return layer, (_bits(weight), _bits(activation))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command line."""
    from sw.ptq.config import LOGITS_RANGES
    from sw.quantize.recipe import STATIC_RANGES

    parser = cli.Parser(prog="flows/quantize.py", description=__doc__.splitlines()[0])
    parser.add_argument("source", nargs="?", metavar="CHECKPOINT_OR_ONNX",
                        help="a float network's checkpoint, or a file that ends in .onnx")
    parser.add_argument("--checkpoint", help="the same, by name")
    parser.add_argument("-a", "--arch", help="model that the checkpoint must be of")
    parser.add_argument("-o", "--output", metavar="PROGRAM", help="folder of the integer program")
    parser.add_argument("--report", metavar="JSON", help="accuracies, settings, layer by layer")
    parser.add_argument("--dataset", help="data set name (default the checkpoint's)")
    parser.add_argument("--datasets-dir", default="data", help="where data sets are kept")
    parser.add_argument("-b", "--batch-size", type=int, default=256, metavar="N",
                        help="images evaluated at once (default 256)")
    parser.add_argument("--threads", type=int, default=1, help="CPU threads (default 1)")

    group = parser.add_argument_group("calibration")
    group.add_argument("--images", type=int, default=256, metavar="N",
                       help="training images to calibrate on (default 256)")
    group.add_argument("--inputs", metavar="X.npy", help="calibrate on these images, float32 "
                       "(N, C, H, W) as an ONNX model takes them, in place of a data set")
    group.add_argument("-sh", "--shuffle", action=argparse.BooleanOptionalAction, default=True,
                       help="draw them at random, not the first ones (default on)")
    group.add_argument("--seed", type=int, default=0,
                       help="of that draw, of AdaRound's and distillation's")
    group.add_argument("-c", "--clipping", "--clip", choices=CLIPS,
                       help="activation clip: none, or ACIQ's (default no)")
    group.add_argument("--calibration", choices=STATIC_RANGES,
                       help="rule of the activation ranges; -c names four of them")
    group.add_argument("--weight-calibration", choices=STATIC_RANGES, default="min_max",
                       help="rule of the weight ranges (default min_max)")
    group.add_argument("--logits-calibration", choices=LOGITS_RANGES, default="min_max",
                       help="rule of the logits' range: extremes, or where the answers change "
                       "least (default min_max)")
    group.add_argument("--percentile", type=float, default=99.99, metavar="P")

    group = parser.add_argument_group("widths, each 2 to 8")
    group.add_argument("-qw", "--qweight", "--weight-bits", type=_bits, default=8,
                       dest="weight_bits", metavar="int4", help="of weights (default 8)")
    group.add_argument("--qtype", "--activation-bits", type=_bits, default=8,
                       dest="activation_bits", metavar="int4",
                       help="of activations that a product reads (default 8)")
    group.add_argument("--sum-bits", type=_bits, default=8, metavar="N",
                       help="of activations that only additions and pools read (default 8)")
    group.add_argument("--ends-8-bit", action=argparse.BooleanOptionalAction, default=True,
                       help="8 bits for first layer and classifier (default on)")
    group.add_argument("--layer-bits", type=_layer_bits, action="append", default=[],
                       metavar="LAYER=W,A", help="of one layer's weights and output; repeatable")

    group = parser.add_argument_group("methods")
    group.add_argument("-pcq_w", "--per-channel-weights", action=argparse.BooleanOptionalAction,
                       default=True, help="a scale per output channel (default on)")
    group.add_argument("-pcq_a", "--per-channel-activations", action="store_true",
                       help="a scale per channel of an activation; simulation only")
    group.add_argument("-baw", "--bit-allocation", action="store_true",
                       help="bits per channel of the weights, of mean --weight-bits")
    group.add_argument("-baa", "--bit-allocation-activations", action="store_true",
                       help="bits per channel of the activations; needs -pcq_a")
    correction = group.add_mutually_exclusive_group()
    correction.add_argument("-bcw", "--bias-correction", dest="bias_correction", default="none",
                            action="store_const", const="weight",
                            help="restore mean and deviation of every channel's weights")
    correction.add_argument("--output-correction", dest="bias_correction", action="store_const",
                            const="output", help="restore the mean of every channel's output")
    equalisation = group.add_mutually_exclusive_group()
    equalisation.add_argument("--equalize", action="store_const", const="weights", default="none",
                              help="cross-layer equalisation of the weights' ranges first")
    equalisation.add_argument("--equalize-activations", action="store_const", const="activations",
                              dest="equalize", help="the same of the activations' ranges")
    group.add_argument("--adaround", action="store_true", help="learn how to round the weights")
    group.add_argument("--adaround-iterations", type=int, default=1000, metavar="N",
                       help="per layer (default 1000)")
    group.add_argument("--distill", action="store_true", help="tune the scales and biases of all "
                       "layers to the float network's answers at last")
    group.add_argument("--distill-steps", type=int, default=160, metavar="N",
                       help="of 64 images (default 160)")
    return parser.parse_args(argv)


def configuration(arguments: argparse.Namespace) -> "PtqConfig":
    """The PtqConfig of the command line; LockstepError for settings that cannot work."""
    from sw.ptq.config import AdaRoundConfig, DistillationConfig, PtqConfig

    if arguments.calibration and arguments.clipping:
        raise LockstepError("--clipping and --calibration are two names of one choice; give one")
    if arguments.images < 1:
        raise LockstepError(f"Option --images must be at least 1, not {arguments.images}: without "
                            f"calibration images activations have no range")
    if arguments.batch_size < 1 or arguments.threads < 1:
        raise LockstepError("Options --batch-size and --threads must be at least 1")
    if not 0 <= arguments.seed < 2**31:
        raise LockstepError(f"Option --seed must be in 0..2147483647, not {arguments.seed}")
    return PtqConfig(
        weight_bits=arguments.weight_bits, activation_bits=arguments.activation_bits,
        sum_bits=arguments.sum_bits, ends_bits=8 if arguments.ends_8_bit else None,
        weight_range=arguments.weight_calibration,
        activation_range=arguments.calibration or CLIPS[arguments.clipping or "no"],
        percentile=arguments.percentile, logits_range=arguments.logits_calibration,
        per_channel_weights=arguments.per_channel_weights,
        per_channel_activations=arguments.per_channel_activations,
        allocate_weights=arguments.bit_allocation,
        allocate_activations=arguments.bit_allocation_activations,
        bias_correction=arguments.bias_correction, equalise=arguments.equalize,
        adaround=AdaRoundConfig(iterations=arguments.adaround_iterations)
        if arguments.adaround else None,
        distillation=DistillationConfig(steps=arguments.distill_steps)
        if arguments.distill else None,
        layer_bits=dict(arguments.layer_bits), seed=arguments.seed)


def check_outputs(arguments: argparse.Namespace) -> None:
    """LockstepError for a program or report that cannot be written, or not beside each other."""
    if arguments.output:
        storage.check_target(arguments.output)
    if not arguments.report:
        return
    cli.check_file(arguments.report)
    report = Path(arguments.report)
    if not report.parent.is_dir():
        raise LockstepError(f"Cannot write {report}: there is no such folder")
    if arguments.output:
        paths = report.resolve(), Path(arguments.output).resolve()
        if any(path.is_relative_to(other) for path, other in (paths, paths[::-1])):
            raise LockstepError(f"Report {report} and program {arguments.output} must lie beside "
                                f"each other, not one in the other")


def is_onnx(path: str) -> bool:
    """Is it an ONNX model, by its name?"""
    return str(path).lower().endswith(".onnx")


def load(arguments: argparse.Namespace) -> "tuple[nn.Module, Dataset | None]":
    """(model, data set) of the checkpoint or ONNX model; None in place of a data set where
    --inputs are given."""
    from cli.training.rehearsal import check_evaluable
    from models import MODELS, build_model
    from sw.data import load_dataset
    from sw.train.checkpoint import load_checkpoint

    paths = {path for path in (arguments.source, arguments.checkpoint) if path}
    if len(paths) != 1:
        raise LockstepError("Name one checkpoint to quantize: flows/quantize.py CHECKPOINT, or "
                            "--checkpoint CHECKPOINT")
    if arguments.arch and ".py:" not in arguments.arch and arguments.arch not in MODELS:
        build_model(arguments.arch)  # says which models are known
    path = paths.pop()
    if is_onnx(path):
        return load_onnx(arguments, path)
    if arguments.inputs:
        raise LockstepError("Option --inputs is for ONNX models; a checkpoint has its data set")
    checkpoint = load_checkpoint(path, model=arguments.arch)
    model = build_model(checkpoint.model, checkpoint.model_config)
    checkpoint.restore(model)
    data = load_dataset(arguments.dataset or checkpoint.dataset, arguments.datasets_dir)
    check_evaluable(model, data)
    return model.eval(), data


def load_onnx(arguments: argparse.Namespace, path: str) -> "tuple[nn.Module, Dataset | None]":
    """(network, data set or None) of an ONNX model."""
    from cli.training.rehearsal import check_evaluable
    from sw.data import load_dataset
    from sw.formats.onnx.importer import import_network

    if bool(arguments.inputs) == bool(arguments.dataset):
        raise LockstepError("An ONNX model has no data set of its own: name one with --dataset, or "
                            "calibration images with --inputs X.npy")
    if arguments.arch:
        raise LockstepError("Option --arch is for checkpoints")
    model = import_network(path)
    if arguments.inputs:
        return model, None
    data = load_dataset(arguments.dataset, arguments.datasets_dir)
    check_evaluable(model, data)
    return model, data


def given_images(path: str, model) -> "Tensor":
    """Calibration images of a .npy file, (N, *input_shape) float32."""
    import numpy as np
    import torch

    x = cli.read_array(path)
    if x.dtype.kind != "f" or x.shape[1:] != model.input_shape or not len(x):
        wanted = ", ".join(str(size) for size in ("N", *model.input_shape))
        raise LockstepError(f"Inputs {path} must be floats of shape ({wanted}), not {x.dtype} "
                            f"{x.shape}")
    with np.errstate(over="ignore"):
        x = np.ascontiguousarray(x, np.float32)
    if not np.isfinite(x).all():
        raise LockstepError(f"Inputs {path} must be finite as float32")
    return torch.from_numpy(x)


def agreement(model, program, images) -> float:
    """Share of images to which the program gives the float network's answer."""
    from golden.program.interpreter import run
    from sw.train.evaluate import logits_of

    expected = logits_of(model, images, 16).flatten(1).argmax(1).numpy()
    return float((run(program, images.numpy())[program.outputs[0]].reshape(
        len(images), -1).argmax(1) == expected).mean())


def quantized(arguments: argparse.Namespace) -> tuple:
    """Quantize and evaluate. (report, program), the program None where there is only a simulation.
    """
    from cli.training.outputs import measured
    from sw.lower.network import lower
    from sw.ptq.quantize import quantize
    from sw.train.engine import TrainConfig
    from sw.train.evaluate import evaluate

    config = configuration(arguments)
    check_outputs(arguments)
    model, data = load(arguments)
    images = given_images(arguments.inputs, model) if data is None else data.train_sample(
        arguments.images, arguments.seed if arguments.shuffle else None)[0]
    result, layers = quantize(model, images, config)
    settings = TrainConfig(batch_size=arguments.batch_size)
    report = {"checkpoint": arguments.source or arguments.checkpoint,
              "dataset": data.name if data else None, "calibration_images": len(images),
              "config": asdict(config)}
    for name, network in (("float", model), ("simulated", result)) if data else ():
        loss, accuracy = evaluate(network, data, settings)
        report[name] = {"loss": loss, "accuracy": None if math.isnan(accuracy) else accuracy}
        words = f"test loss {loss:.4f}" if math.isnan(accuracy) \
            else f"test accuracy {100 * accuracy:.2f} %"
        print(f"{name}: {words}")
    report["layers"] = [asdict(layer) for layer in layers]
    if config.simulation_only:
        print(f"simulation only, no program: {config.simulation_only}")
        return report, None
    source = report["checkpoint"]
    program = lower(result, name=Path(source).stem if is_onnx(source) else None)
    program = replace(program, metadata=program.metadata | {"ptq": asdict(config)})
    if data is None:
        report["agreement"] = agreement(model, program, images)
        print(f"integer program: the float network's answer to "
              f"{100 * report['agreement']:.2f} % of the {len(images)} calibration images")
    else:
        program = measured(program, model, data, report["simulated"]["accuracy"])
    if "accuracy" in program.metadata:
        report["integer"] = program.metadata["accuracy"]
        print(f"integer program: test accuracy {100 * report['integer']['integer']:.2f} % "
              f"({report['integer']['integer_images']} images)")
    report["program_sha256"] = program.sha256
    return report, program


def write(arguments: argparse.Namespace, report: dict, program) -> None:
    """Write the program and the report, both or none."""
    with contextlib.ExitStack() as stack:
        if arguments.report:
            path = Path(arguments.report)
            folder = stack.enter_context(cli.replacing(path.parent))
            (folder / path.name).write_text(json.dumps(report, indent=2) + "\n")
        if arguments.output and program:
            program.save(arguments.output)
            print(f"wrote {arguments.output}/ (program of {program.name})")
    if arguments.report:
        print(f"wrote {path}")


def main(argv: list[str] | None = None) -> int:
    """Quantize a checkpoint or ONNX model; prints the accuracies and what was written."""
    import torch

    arguments = parse(argv)
    torch.set_num_threads(max(1, arguments.threads))
    write(arguments, *quantized(arguments))
    return 0


if __name__ == "__main__":
    cli.run(main)

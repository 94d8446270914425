"""The command line of flows/train.py and what it means for model and run."""

import argparse
import ast
from dataclasses import fields

from cli import command as cli
from golden.errors import LockstepError

__all__ = ["fill_in", "model_options", "parse", "train_options"]

LONGEST_TIMEOUT = 1e8  # seconds; three years
BIT_OPTIONS = {"weight_bits": ("weight.bits",), "activation_bits": ("activation.bits",),
               "gradient_bits": ("error.bits", "gradient.bits"), "conv_bits": ("conv.bits",),
               "linear_bits": ("linear.bits",)}


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Command line; options left out are None and come from the checkpoint on --resume."""
    parser = cli.Parser(
        prog="flows/train.py", description="Train a network in 8 bits and lower it to integers. "
        "Start it under torchrun to train on many devices (docs/training.md).")
    parser.add_argument("--model", help="registered name, or path/to/file.py:function")
    parser.add_argument("--model-config", metavar="DICT",
                        help="Python dict of the model's options, e.g. \"{'quantize': True}\"")
    parser.add_argument("--dataset", help="data set name (default digits)")
    parser.add_argument("--datasets-dir", default="data", help="where data sets are kept")
    parser.add_argument("--save", metavar="RUN", help="name of the run (default the model's)")
    parser.add_argument("--runs-dir", default="runs", help="folder of the runs")
    parser.add_argument("--resume", action="store_true", help="continue the run named by --save")
    parser.add_argument("--evaluate", nargs="?", const="", metavar="CHECKPOINT",
                        help="only evaluate a checkpoint (default that of --save); writes nothing")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    parser.add_argument("--norm-lowering", default="fold", choices=("fold", "exact"),
                        help="how the norms become integers in program/")

    group = parser.add_argument_group("training")
    group.add_argument("--arithmetic", choices=("float", "integer"),
                       help="of the step: float32 that simulates few bits (default), or integers "
                       "alone (docs/integer-training.md)")
    group.add_argument("--initial", metavar="CHECKPOINT",
                       help="begin from the weights of this run of the same network")
    group.add_argument("-b", "--batch-size", type=int,
                       help="images per step, of each process (default 64)")
    group.add_argument("--epochs", type=int, help="passes over the data (default 20)")
    group.add_argument("--lr", type=float, help="initial learning rate (default the model's)")
    group.add_argument("--seed", type=int, help="of weights, order and rounding (default 0)")
    group.add_argument("--schedule", choices=("regime", "cosine", "step"),
                       help="learning rate over time (default regime, the model's)")
    group.add_argument("--milestones", type=_epochs, metavar="E,E",
                       help="epochs of --schedule step (default 1/2 and 3/4 of the run)")
    group.add_argument("--warmup-epochs", type=float, metavar="N",
                       help="linear warm-up, per step (default the model's)")
    group.add_argument("--label-smoothing", type=float, metavar="S", help="in [0, 1)")
    group.add_argument("--clip-gradient", type=float, metavar="NORM",
                       help="largest 2-norm of the whole gradient")
    group.add_argument("--average-weights", type=float, metavar="DECAY",
                       help="evaluate and lower a moving average of the weights, e.g. 0.999")
    group.add_argument("--teacher", metavar="CHECKPOINT", help="distil this network's outputs")
    group.add_argument("--distillation-weight", type=float, metavar="A",
                       help="share of the teacher in the loss (default 0.5)")
    group.add_argument("--temperature", type=float, metavar="T", help="softens both (default 4)")

    group = parser.add_argument_group("quantization (docs/recipes.md)")
    group.add_argument("--recipe", metavar="NAME", help="named recipe (default banner)")
    for kind in ("weight", "activation", "gradient", "conv", "linear"):
        group.add_argument(f"--{kind}-bits", type=int, metavar="N",
                           help=f"weights and activations of {kind} layers"
                           if kind in ("conv", "linear") else f"of {kind}s")
    group.add_argument("--set", action="append", default=[], metavar="FIELD=VALUE",
                       help="any field of the recipe, e.g. weight.granularity=tensor; repeatable")

    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    group.add_argument("--threads", type=_threads, default=1, help="CPU threads (default 1)")
    group.add_argument("--workers", type=int, help="processes that decode images (default 0)")
    for name, text in (("amp", "bfloat16 autocast; float networks only"),
                       ("compile", "torch.compile the step"),
                       ("channels-last", "memory layout of images and weights")):
        group.add_argument(f"--{name}", action=argparse.BooleanOptionalAction, help=text)
    group.add_argument("--sync-norm", action="store_true",
                       help="norm statistics over the batches of all processes")
    group.add_argument("--timeout", type=_seconds, default=600, metavar="SECONDS",
                       help="that a process waits for the others (default 600)")
    return parser.parse_args(argv)


def _epochs(text: str) -> tuple[float, ...]:
    try:
        return tuple(float(entry) for entry in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"must be epochs with commas between them, such as 10,15, not {text!r}") from None


def _threads(text: str) -> int:
    if not text.isdecimal() or not 1 <= int(text) <= 4096:
        raise argparse.ArgumentTypeError(f"must be a whole number in 1..4096, not {text!r}")
    return int(text)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds <= LONGEST_TIMEOUT:
        raise argparse.ArgumentTypeError(
            f"must be a positive number of seconds up to {LONGEST_TIMEOUT:.0e}, not {text!r}")
    return seconds


def recipe_options(arguments: argparse.Namespace) -> dict:
    """What the command line adds to the model's options: recipe and overrides, where given.

    A later --set of a field wins over the bit options.
    """
    overrides = {}
    for option, names in BIT_OPTIONS.items():
        if getattr(arguments, option) is not None:
            overrides |= dict.fromkeys(names, getattr(arguments, option))
    for entry in arguments.set:
        name, equals, value = entry.partition("=")
        if not equals or not name.strip():
            raise LockstepError(f"--set takes FIELD=VALUE, not {entry!r}")
        try:
            overrides[name.strip()] = ast.literal_eval(value.strip())
        except (ValueError, SyntaxError):
            overrides[name.strip()] = value.strip()
    if arguments.sync_norm:
        overrides["norm.synchronise"] = True
    options = {} if arguments.recipe is None else {"recipe": arguments.recipe}
    return options | ({"overrides": overrides} if overrides else {})


def model_options(arguments: argparse.Namespace, given: dict | None = None) -> dict | None:
    """The model's options: --model-config (or ``given``) with recipe and overrides merged in;
    None if the command line names none of them and nothing is given. LockstepError for two
    recipes, and for bits of a network that is not quantized."""
    added = recipe_options(arguments)
    if arguments.model_config is not None:
        given = cli.literal_dict(arguments.model_config, "--model-config")
        if "recipe" in given and added.get("recipe", given["recipe"]) != given["recipe"]:
            raise LockstepError(f"--model-config names recipe {given['recipe']!r}, --recipe "
                                f"{added['recipe']!r}; give one of them")
    elif given is None and not added:
        return None
    merged = dict(given or {}) | added
    bits = [f"--{name.replace('_', '-')}" for name in BIT_OPTIONS
            if getattr(arguments, name) is not None]
    if bits and merged.get("quantize") is False:
        raise LockstepError(f"{bits[0]} has no effect on a network with quantize False")
    if "overrides" in added and isinstance((given or {}).get("overrides"), dict):
        merged["overrides"] = given["overrides"] | added["overrides"]
    return merged


def fill_in(name: str, model_config: dict, data) -> dict:
    """The options of a registered network with the data set that it is to fit."""
    import inspect

    from models import MODELS

    accepted = inspect.signature(MODELS[name]).parameters if name in MODELS else ()
    filled = {"dataset": data.name} if "dataset" in accepted else {}
    if filled and data.name == "folder":
        filled["classes"] = data.n_classes
    return filled | model_config


def train_options(arguments: argparse.Namespace) -> dict:
    """The fields of TrainConfig that the command line names."""
    from sw.train.config import TrainConfig

    asked = {field.name: getattr(arguments, field.name) for field in fields(TrainConfig)}
    return {name: value for name, value in asked.items() if value is not None}

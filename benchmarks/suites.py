"""The suites of flows/bench.py: what each measures, and the options that mean something to it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import import_module
from types import ModuleType

__all__ = ["SUITES", "Suite", "add_suite", "command_of"]


def _count(option: str, least: int = 1):
    """A parser of whole numbers from ``least`` on; the error names ``option``."""
    def parse(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise argparse.ArgumentTypeError(f"invalid int value: {text!r}") from None
        if value < least:
            raise argparse.ArgumentTypeError(
                f"{option.replace('-', ' ').capitalize()} must be at least {least}, not {value}")
        return value
    return parse


_COUNTS = ("seeds", "epochs", "threads", "batch-size", "images", "test-images", "repetitions")
#: Options that change what is measured, in the order in which a row's command names them.
_MEASURED = ("seeds", "first-seed", "epochs", "networks", "variants", "threads", "batch-size",
             "images", "test-images", "repetitions", "target", "checkpoint")
_DATASETS = {"default": "data", "metavar": "DIR", "help": "where CIFAR-10 and the models are "
             "(default %(default)s, then LOCKSTEP_DATA)"}
_DEVICE = {"default": "auto", "choices": ("auto", "cpu", "cuda"),
           "help": "where torch computes (default %(default)s)"}
_THREADS = {"default": 2, "help": "CPU threads (default %(default)s)"}


@dataclass(frozen=True, kw_only=True)
class Suite:
    """One suite.

    about: one line for the help. module: of `benchmarks`; its ``measure(arguments, command)`` gives
    the rows, and its ``page(suite, rows)``, where it has one, the results page. options: keywords
    of `argparse` by the option's name; counts are whole numbers from 1 on.
    """

    about: str
    module: str
    options: Mapping[str, Mapping]

    def load(self) -> ModuleType:
        """The suite's module; imported late, as most need torch."""
        return import_module(f"benchmarks.{self.module}")


SUITES = {
    "digits": Suite(
        about="the demo's network in float, in 8 bits and as integers, several seeds",
        module="digits", options={
            "seeds": {"default": 5, "help": "number of seeds (default %(default)s)"},
            "epochs": {"default": 20, "help": "epochs per training (default %(default)s)"}}),
    "accuracy": Suite(
        about="what 8 bits cost ResNet-8 and ResNet-20 on CIFAR-10, paired trainings",
        module="accuracy", options={
            "seeds": {"help": "number of seeds (default 3 and 1)"},
            "first-seed": {"type": _count("first-seed", 0), "default": 0,
                           "help": "the first of them (default %(default)s)"},
            "epochs": {"help": "epochs per training (default 6)"},
            "networks": {"help": "which, comma-separated"},
            "variants": {"help": "which kinds of training, comma-separated (default all)"},
            "recorded": {"metavar": "ROWS.json",
                         "help": "an earlier report, whose trainings count and are not repeated"},
            "datasets-dir": _DATASETS, "device": _DEVICE, "threads": _THREADS,
            "report-only": {"action": "store_true",
                            "help": "rows of the trainings that are already there"}}),
    "train-speed": Suite(
        about="a training step beside float32 and Brevitas, as ratios in one run",
        module="train_speed", options={
            "repetitions": {"default": 15, "help": "of each step (default %(default)s)"},
            "batch-size": {"help": "images per step (default 128, CUDA 256)"},
            "device": _DEVICE, "threads": _THREADS}),
    "accelerator": Suite(
        about="cycles of whole networks on the RTL, beside floors, routed clock and published ones",
        module="accelerator", options={
            "networks": {"help": "which, comma-separated; training: the products of training"},
            "target": {"help": "hardware target (default ecp5-85k and ecp5-85k-packed)"},
            "synthesis": {"metavar": "REPORT.json", "help": "what flows/synth.py wrote of the same "
                          "hardware, comma-separated (default report.json of build/synth, "
                          "build/synth-packed, build/synth-zynq)"}}),
    "tflite": Suite(
        about="imported models against LiteRT's reference kernels, code by code",
        module="tflite", options={"datasets-dir": _DATASETS}),
    "onnx": Suite(
        about="which networks of the onnx package can be quantized; imports against ONNX Runtime",
        module="onnx", options={
            "networks": {"help": "which, comma-separated; quantized, exported: those parts"}}),
    "ptq": Suite(
        about="CIFAR-10 networks quantized to 8 and 4 bits without retraining, method by method",
        module="ptq", options={
            "seeds": {"help": "draws of calibration images (default 1)"},
            "epochs": {"help": "epochs per float training (default 20)"},
            "networks": {"help": "which, comma-separated"},
            "variants": {"help": "widths such as w4a4, comma-separated (default all)"},
            "datasets-dir": _DATASETS, "device": _DEVICE, "threads": _THREADS,
            "batch-size": {"help": "images per step of the float training"},
            "images": {"help": "images to calibrate on (default 512)"},
            "test-images": {"metavar": "N", "help": "only the first N of the test set"},
            "checkpoint": {"action": "append", "default": [], "metavar": "NETWORK=FILE",
                           "help": "a trained float network; repeatable"}}),
}


def add_suite(parser: argparse.ArgumentParser, suite: Suite) -> None:
    """Give a suite's own options to its parser."""
    for name, keywords in suite.options.items():
        if name in _COUNTS:
            keywords = {"type": _count(name), **keywords}
        parser.add_argument(f"--{name}", **keywords)


def command_of(name: str, arguments: argparse.Namespace) -> str:
    """The command that measures the same again: options at their defaults are left out."""
    words = ["python flows/bench.py", name]
    for option in _MEASURED:
        if option not in SUITES[name].options:
            continue
        value = getattr(arguments, option.replace("-", "_"))
        if value == SUITES[name].options[option].get("default"):
            continue
        if isinstance(value, bool):
            words += [f"--{option}"] if value else []
        elif value is not None:
            values = value if isinstance(value, list) else [value]
            words += [f"--{option} {one}" for one in values]
    return " ".join(words)

"""accuracy: what 8 bits cost on CIFAR-10, by paired trainings of ResNet-8 and ResNet-20.

Every variant has the same seeds, initial weights, epochs, augmentation and schedule (batch 64,
cosine from 0.1, weight decay 1e-4). Each training is a run of flows/train.py in DIR/accuracy-runs,
so an interrupted suite goes on at its last epoch, and several processes may share the folder, each
with variants of its own. `stamp.json` beside a run says with which sources and settings it began; a
run of others is laid aside and repeated.
"""

import argparse
import csv
import hashlib
import json
import os
import re
import subprocess
import sys
from dataclasses import dataclass, field, replace
from pathlib import Path

from benchmarks.rows import row
from golden.errors import LockstepError

__all__ = ["NETWORKS", "NetworkRuns", "Training", "VARIANTS", "Variant", "chosen", "measure",
           "source_hash"]

BATCH = 64
ROOT = Path(__file__).parents[1]
SOURCES_ARE = "; sources "
SOURCES = ("golden", "sw", "models", "cli/training", "flows/train.py")
STAMP, INITIAL, PARTIAL = "stamp.json", "initial.pt", ".partial.pt"
GOAL = 0.3
#: Of one training, with their units; program: the accuracy of what it lowers to.
FIGURES = {"accuracy": "%", "train_loss": "nats", "test_loss": "nats", "program": "%"}


@dataclass(frozen=True, kw_only=True)
class NetworkRuns:
    """depth: of the ResNet; epochs, seeds: unless the command line says otherwise."""

    depth: int
    epochs: int
    seeds: int


NETWORKS = {"resnet8": NetworkRuns(depth=8, epochs=6, seeds=3),
            "resnet20": NetworkRuns(depth=20, epochs=6, seeds=1)}


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train.

    options: of the model; arithmetic: of the step; against: the variants that it is compared with;
    goal: points to float batch norm that it may lie below; continues: the variant whose trained
    network of the same seed it begins from, for so many epochs from rate lr; compiled: by
    torch.compile, without which simulated steps take four times as long
    """

    options: dict = field(default_factory=dict)
    arithmetic: str = "float"
    continues: str | None = None
    epochs: int | None = None
    lr: float = 0.1
    compiled: bool = False
    against: tuple = ("float_bn",)
    goal: float | None = None


def _range(gradient, **options):
    return {**options, "overrides": {"norm.range_gradient": gradient}}


VARIANTS = {
    "float_bn": Variant(options={"recipe": "float"}, against=()),
    "float_extremes": Variant(options=_range("extremes", quantize=False)),
    "float_deviation": Variant(options=_range("deviation", quantize=False),
                               against=("float_bn", "float_extremes"), goal=GOAL),
    "banner_extremes": Variant(options=_range("extremes"), compiled=True),
    "banner_deviation": Variant(options=_range("deviation"), goal=GOAL, compiled=True,
                                against=("float_bn", "float_deviation", "banner_extremes")),
    "integer_extremes": Variant(options=_range("extremes"), arithmetic="integer",
                                against=("float_bn", "float_extremes")),
    "integer_deviation": Variant(options=_range("deviation"), arithmetic="integer", goal=GOAL,
                                 against=("float_bn", "float_extremes", "float_deviation",
                                          "integer_extremes")),
    "float_continued": Variant(options={"recipe": "float"}, continues="float_bn", epochs=1,
                               lr=0.0005),
    "integer_continued": Variant(options=_range("deviation"), arithmetic="integer", goal=0,
                                 continues="float_bn", epochs=1, lr=0.0005,
                                 against=("float_bn", "float_continued")),
    "jacob": Variant(options={"recipe": "jacob"}),
    "banner_no_bifurcation": Variant(options={"overrides": {"bifurcated": False}}, compiled=True),
    "banner_nearest": Variant(options={"overrides": {"error.rounding": "half_up"}}, compiled=True),
}


def source_hash() -> str:
    """Hash of every source that a training's result depends on."""
    digest = hashlib.sha256()
    for path in sorted(path for name in SOURCES for path in (
            [ROOT / name] if (ROOT / name).is_file() else
            [found for kind in ("*.py", "*.cpp") for found in (ROOT / name).rglob(kind)])):
        digest.update(path.relative_to(ROOT).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


@dataclass(frozen=True, kw_only=True)
class Training:
    """One run of flows/train.py. folder: of the runs; epochs: of trainings that begin anew; images,
    test_images: of the data set; steps: of an epoch."""

    folder: Path
    network: str
    variant: str
    seed: int
    epochs: int
    images: int
    test_images: int
    steps: int

    @property
    def name(self) -> str:
        """Of the run."""
        return f"{self.network}-{self.variant}-{self.seed}"

    @property
    def directory(self) -> Path:
        """Of the run."""
        return self.folder / self.name

    @property
    def parent(self) -> "Training | None":
        """The training that this one continues."""
        continued = VARIANTS[self.variant].continues
        return replace(self, variant=continued) if continued else None

    @property
    def settings(self) -> dict:
        """What config.json must say."""
        variant = VARIANTS[self.variant]
        options = {"dataset": "cifar10", "depth": NETWORKS[self.network].depth, **variant.options}
        if self.variant == "jacob":     # delay and freeze scale with the run
            options["overrides"] = {"activation.delay": self.steps,
                                    "norm.freeze_after": self.steps * self.epochs * 2 // 3}
        return {"model": "resnet", "model_config": options,
                "epochs": variant.epochs or self.epochs, "batch_size": BATCH, "seed": self.seed,
                "lr": variant.lr, "schedule": "cosine", "arithmetic": variant.arithmetic,
                "compile": variant.compiled, "channels_last": variant.compiled}

    @property
    def stamp(self) -> dict:
        """What decides the result; the file `STAMP` of a run says with which it began."""
        return {"sources": source_hash(), "images": self.images, "settings": self.settings,
                "parent": self.parent and self.parent.stamp}

    @property
    def began_with(self) -> dict | None:
        """The stamp of what lies in the directory."""
        path = self.directory / STAMP
        return json.loads(path.read_text()) if path.is_file() else None

    def result(self) -> dict | None:
        """Accuracies in percent and losses of the finished run, of whatever sources, or None.

        A program that was judged by other test images than the network has no figure.
        """
        began = self.began_with
        if began is None or began | {"sources": "", "parent": None} != self.stamp | {
                "sources": "", "parent": None}:
            return None
        config, table = self.directory / "config.json", self.directory / "results.csv"
        if (self.directory / PARTIAL).is_file() or not (config.is_file() and table.is_file()):
            return None
        config = json.loads(config.read_text())
        if any(config.get(name) != value for name, value in self.settings.items()):
            return None
        with table.open(newline="") as file:
            history = list(csv.DictReader(file))
        result = {"accuracy": 100 * config["test_accuracy"],
                  "train_loss": float(history[-1]["train_loss"]),
                  "test_loss": float(history[-1]["test_loss"])}
        if config["arithmetic"] == "float" and config.get(
                "integer_images") == self.test_images:
            result["program"] = 100 * config["integer_accuracy"]
        return result

    @property
    def is_done(self) -> bool:
        """Whether the result is that of today's sources."""
        return self.began_with == self.stamp and self.result() is not None

    def _make_room(self):
        """Lays aside what began otherwise, and takes back what began like this."""
        if self.began_with == self.stamp:
            return
        if self.directory.is_dir():
            aside = self._aside(self.began_with)
            number = 0
            while aside.exists():       # only what has no stamp
                number += 1
                aside = aside.with_name(f"{self.name}-aside-{number}")
            self.directory.rename(aside)
        if self._aside(self.stamp).is_dir():
            self._aside(self.stamp).rename(self.directory)
        self.directory.mkdir(parents=True, exist_ok=True)
        (self.directory / STAMP).write_text(json.dumps(self.stamp, indent=1) + "\n")

    def _aside(self, stamp):
        digest = hashlib.sha256(json.dumps(stamp, sort_keys=True).encode()).hexdigest()
        return self.folder / f"{self.name}-aside-{digest[:12] if stamp else 0}"

    def _initial(self):
        """A checkpoint: of the parent's end, or of what float trainings of the seed begin from."""
        if self.parent:
            return self.parent.directory / "checkpoint.pt"
        import torch

        from models import build_model
        from sw.train.checkpoint import Checkpoint

        torch.manual_seed(self.seed)
        options = self.settings["model_config"] | {"quantize": False}
        model = build_model("resnet", options)
        path = self.directory / INITIAL
        Checkpoint(model="resnet", model_config=options, dataset="cifar10", train_config={},
                   epochs_done=0, history=[], state=model.state_dict()).save(path)
        return path

    def run(self, datasets_dir: str, device: str, threads: int) -> None:
        """Train, or go on, its parent first; LockstepError where that fails."""
        if self.parent and not self.parent.is_done:
            self.parent.run(datasets_dir, device, threads)
        self._make_room()
        if self.is_done:
            return
        settings = self.settings
        options = {"--save": self.name, "--runs-dir": self.folder, "--model": settings["model"],
                   "--model-config": settings["model_config"], "--dataset": "cifar10",
                   "--datasets-dir": datasets_dir, "-b": BATCH, "--epochs": settings["epochs"],
                   "--schedule": settings["schedule"], "--lr": settings["lr"], "--seed": self.seed,
                   "--arithmetic": settings["arithmetic"], "--device": device,
                   "--threads": threads}
        command = [sys.executable, str(ROOT / "flows/train.py"),
                   *(str(word) for option in options.items() for word in option), "--quiet"]
        if settings["compile"]:
            command += ["--compile", "--channels-last"]
        if (self.directory / PARTIAL).is_file():
            command += ["--resume"]
        elif settings["arithmetic"] == "integer" or self.parent:
            command += ["--initial", str(self._initial())]
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        done = subprocess.run(command, env=os.environ | {"PYTHONPATH": path}, text=True,
                              capture_output=True)
        if done.returncode or not self.is_done:
            reason = (done.stderr.strip() or f"it ended with {done.returncode}").splitlines()[-1]
            raise LockstepError(f"Training {self.name} failed: {reason}")


def _rows_of(network: str, results: dict[str, dict[int, dict]], context: str, command: str
             ) -> list[dict]:
    """Rows of one network; results: per variant and seed, what ``Training.result`` gave."""
    import numpy as np

    rows = []

    def add(name, value, unit, **goal):
        rows.append(row(f"accuracy.{network}.{name}", float(value), unit, command,
                        context=context, **goal))

    def mean(name, values, unit):
        add(name, np.mean(values), unit)
        if len(values) > 1:
            add(f"{name}.standard_error", np.std(values, ddof=1) / len(values)**0.5, unit)

    for variant, runs in results.items():
        for seed, run in runs.items():
            for what, unit in FIGURES.items():
                if what in run:
                    add(f"{variant}.seed{seed}.{what}", run[what], unit)
        mean(variant, [run["accuracy"] for run in runs.values()], "%")
        for loss in ("train_loss", "test_loss"):
            mean(f"{variant}.{loss}", [run[loss] for run in runs.values()], "nats")
        programs = [run["program"] - run["accuracy"] for run in runs.values() if "program" in run]
        if programs:
            mean(f"{variant}.program_minus_simulated", programs, "points")
    for variant, runs in results.items():
        for other in VARIANTS[variant].against:
            pairs = [(runs[seed], results[other][seed]) for seed in runs
                     if seed in results.get(other, ())]
            if not pairs:
                continue
            differences = [a["accuracy"] - b["accuracy"] for a, b in pairs]
            goal = VARIANTS[variant].goal if other == "float_bn" else None
            limits = {} if goal is None else {"goal": f">= {-goal or 0:g}",
                                              "met": bool(np.mean(differences) >= -goal)}
            name = f"{variant}_minus_{other}"
            add(name, np.mean(differences), "points", **limits)
            if len(pairs) > 1:
                add(f"{name}.standard_error",
                    np.std(differences, ddof=1) / len(differences)**0.5, "points")
            for loss in ("train_loss", "test_loss"):
                mean(f"{name}.{loss}", [a[loss] - b[loss] for a, b in pairs], "nats")
    return rows


def _recorded(path: str | None, network: str, conditions: str):
    """(variant, seed, result, sources) of the trainings that an earlier report has, as of
    `Training.result`; those of other conditions, or otherwise continued, do not count."""
    if path is None:
        return
    try:
        rows = json.loads(Path(path).read_text())
        found: dict[tuple, dict] = {}
        for entry in rows:
            name = re.fullmatch(rf"accuracy\.{network}\.(\w+)\.seed(\d+)\.(\w+)", entry["name"])
            if name and entry["context"].startswith(f"{conditions},") and (
                    f" {_words(name[1])} " in entry["context"]):
                key = name[1], int(name[2]), entry["context"].rpartition(SOURCES_ARE)[2]
                found.setdefault(key, {})[name[3]] = entry["value"]
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise LockstepError(f"Rows {path} cannot be read: {error}") from error
    for (variant, seed, sources), result in found.items():
        if not {"accuracy", "train_loss", "test_loss"} <= {*result}:
            raise LockstepError(f"Rows {path} lack figures of {variant}, seed {seed}")
        yield variant, seed, result, {*sources.split(", ")}


def _words(variant):
    """The name, and how it is trained where that is not as the others."""
    options = VARIANTS.get(variant)
    return variant if not (options and options.continues) else \
        f"{variant} ({options.epochs} epoch from {options.lr:g} behind {options.continues})"


def chosen(text: str | None, known, what: str) -> list[str]:
    """Names of a comma-separated option, all where it is None; LockstepError for an unknown one."""
    names = list(known) if text is None else text.split(",")
    for name in names:
        if name not in known:
            raise LockstepError(f"Unknown {what} {name!r}; known: {', '.join(known)}")
    return names


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """Train what is not yet there, and give the rows. Seed by seed, so that a run that is stopped
    early has every variant of the first seeds. With report_only nothing is trained, and trainings
    of other sources count too, as do those of the report `recorded` in any case: the context names
    the hashes of all."""
    from cli.training.setup import choose_device
    from sw.data import load_dataset

    networks = chosen(arguments.networks, NETWORKS, "network")
    variants = chosen(arguments.variants, VARIANTS, "variant")
    device = choose_device(arguments.device)
    data = load_dataset("cifar10", arguments.datasets_dir)
    folder = Path(arguments.output) / "accuracy-runs"
    folder.mkdir(parents=True, exist_ok=True)
    rows = []
    for network in networks:
        epochs = arguments.epochs or NETWORKS[network].epochs
        conditions = (f"{network}, CIFAR-10 of {data.n_train} images, {epochs} epochs, cosine from "
                      f"0.1, batch {BATCH}")
        results: dict[str, dict[int, dict]] = {variant: {} for variant in variants}
        sources = set()
        for variant, seed, result, of_sources in _recorded(arguments.recorded, network, conditions):
            if variant in results:
                results[variant][seed] = result
                sources |= of_sources
        for seed in range(arguments.first_seed, arguments.first_seed
                          + (arguments.seeds or NETWORKS[network].seeds)):
            for variant in variants:
                training = Training(folder=folder, network=network, variant=variant, seed=seed,
                                    epochs=epochs, images=data.n_train, test_images=data.n_test,
                                    steps=data.steps(BATCH))
                if not arguments.report_only and seed not in results[variant] \
                        and not training.is_done:
                    print(f"{training.name}: training", file=sys.stderr, flush=True)
                    training.run(arguments.datasets_dir, device, arguments.threads)
                    print(f"{training.name}: {training.result()['accuracy']:.2f} %",
                          file=sys.stderr, flush=True)
                if result := training.result():
                    results[variant][seed] = result
                    sources.add(training.began_with["sources"])
        done = {variant: dict(sorted(runs.items())) for variant, runs in results.items() if runs}
        seeds = "; ".join(f"{_words(name)} {', '.join(map(str, runs))}"
                          for name, runs in done.items())
        context = f"{conditions}, {device}; seeds: {seeds}{SOURCES_ARE}{', '.join(sorted(sources))}"
        rows += _rows_of(network, done, context, command)
    if not rows:
        raise LockstepError(f"There are no finished trainings in {folder}")
    return rows

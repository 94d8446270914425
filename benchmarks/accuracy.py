"""accuracy: what 8 bits cost on CIFAR-10, by paired trainings of ResNet-8 and ResNet-20.

Every variant has the same seeds, epochs, augmentation and schedule (cosine from 0.1, one epoch of
warm-up, weight decay 1e-4, batch 128). Each training's result is kept in DIR/accuracy-runs under a
name of its settings and of the sources it ran on, so an interrupted suite goes on where it stopped.
"""

import argparse
import hashlib
import json
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.rows import row
from cli import command as cli
from golden.errors import LockstepError

__all__ = ["VARIANTS", "Variant", "chosen", "measure", "source_hash"]

BATCH = 128
NETWORKS = {"resnet8": (8, 16, 3), "resnet20": (20, 8, 1)}  # depth, epochs, seeds
SOURCES = ("golden", "sw", "models")


@dataclass(frozen=True, kw_only=True)
class Variant:
    """One way to train; integer: the trained network is also run as an integer program."""

    recipe: str = "banner"
    quantize: bool = True
    overrides: dict
    words: str

    @property
    def integer(self) -> bool:
        """Is the trained network run as an integer program, too?"""
        return self.quantize and self.recipe != "float"


VARIANTS = {
    "float_bn": Variant(recipe="float", overrides={}, words="float32, batch norm"),
    "float_range_bn": Variant(quantize=False, overrides={}, words="float32, RangeBN"),
    "banner": Variant(overrides={}, words="8-bit banner"),
    "jacob": Variant(recipe="jacob", overrides={}, words="8-bit jacob"),
    "banner_no_bifurcation": Variant(overrides={"bifurcated": False},
                                     words="banner, the 8-bit gradient for both products"),
    "banner_nearest": Variant(overrides={"error.rounding": "half_up"},
                              words="banner, gradients rounded to nearest"),
}


def _overrides(variant: Variant, steps: int, epochs: int) -> dict:
    """jacob's delay and freeze scale with the run: one epoch, and two thirds of it."""
    if variant.recipe != "jacob":
        return variant.overrides
    return variant.overrides | {"activation.delay": steps,
                                "norm.freeze_after": steps * epochs * 2 // 3}


def source_hash() -> str:
    """Hash of every source that a training's result depends on."""
    root = Path(__file__).parents[2]
    digest = hashlib.sha256()
    for folder in SOURCES:
        for path in sorted((root / folder).rglob("*.py")):
            digest.update(path.relative_to(root).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()[:12]


def _train_one(settings: dict, data, device: str) -> dict:
    """Accuracies in percent of one training, and its seconds."""
    import torch

    from models import build_model
    from sw.executor import run
    from sw.lower.network import lower
    from sw.train.engine import TrainConfig, logits_of, train
    from sw.train.evaluate import accuracy

    variant = VARIANTS[settings["variant"]]
    epochs = settings["epochs"]
    torch.manual_seed(settings["seed"])
    model = build_model("resnet", {
        "depth": settings["depth"], "quantize": variant.quantize, "recipe": variant.recipe,
        "overrides": _overrides(variant, data.steps(BATCH), epochs)})
    config = TrainConfig(epochs=epochs, batch_size=BATCH, seed=settings["seed"], device=device,
                         lr=0.1, schedule="cosine", warmup_epochs=1, channels_last=True,
                         compile=settings["compile"])
    start = time.perf_counter()
    history = train(model, data, config)
    result = {"seconds": time.perf_counter() - start,
              "history": [asdict(entry) for entry in history]}
    images, labels = data.test_sample(data.n_test)
    model = model.cpu()
    result["simulated"] = 100 * accuracy(logits_of(model, images), labels)
    if variant.integer:
        program = lower(model)
        right = 0
        for part, truth in zip(images.split(500), labels.split(500)):
            codes = run(program, part.numpy())[program.outputs[0]]
            right += int((torch.as_tensor(codes).argmax(1) == truth).sum())
        result["integer"] = 100 * right / len(labels)
    return result


def _rows_of(network: str, results: dict[str, dict[int, dict]], context: str, command: str
             ) -> list[dict]:
    """Rows of one network; results: per variant and seed, what ``_train_one`` gave."""
    import numpy as np

    rows = []

    def add(name, value, unit, **goal):
        rows.append(row(f"accuracy.{network}.{name}", float(value), unit, command,
                        context=context, **goal))

    def spread(name, by_seed):
        for seed, value in by_seed.items():
            add(f"{name}.seed{seed}", value, "%")
        values = list(by_seed.values())
        add(name, np.mean(values), "%")
        if len(values) > 1:
            add(f"{name}.standard_deviation", np.std(values, ddof=1), "points")

    def difference(name, values, goal=None):
        limits = {} if goal is None else {"goal": f"within {goal}",
                                          "met": bool(abs(np.mean(values)) <= goal)}
        add(name, np.mean(values), "points", **limits)
        if len(values) > 1:
            add(f"{name}.standard_error", np.std(values, ddof=1) / len(values)**0.5, "points")

    for variant, runs in results.items():
        spread(variant, {seed: run["simulated"] for seed, run in runs.items()})
        if VARIANTS[variant].integer:
            spread(f"{variant}_integer", {seed: run["integer"] for seed, run in runs.items()})
            difference(f"{variant}_integer_minus_simulated",
                       [run["integer"] - run["simulated"] for run in runs.values()],
                       0.3 if variant == "banner" else None)
    for variant, against, goal in (
            ("float_range_bn", "float_bn", None), ("banner", "float_bn", 0.5),
            ("jacob", "float_bn", None), ("banner_no_bifurcation", "banner", None),
            ("banner_nearest", "banner", None)):
        ours, theirs = results.get(variant, {}), results.get(against, {})
        paired = [ours[seed]["simulated"] - theirs[seed]["simulated"]
                  for seed in ours if seed in theirs]
        if paired:
            difference(f"{variant}_minus_{against}", paired, goal)
    return rows


def chosen(text: str | None, known, what: str) -> list[str]:
    """Names of a comma-separated option, all where it is None; LockstepError for an unknown one."""
    names = list(known) if text is None else text.split(",")
    for name in names:
        if name not in known:
            raise LockstepError(f"Unknown {what} {name!r}; known: {', '.join(known)}")
    return names


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """Train what is not yet there, and give the rows. Seed by seed, so that a run that is stopped
    early has every variant of the first seeds."""
    import torch

    from cli.training.setup import choose_device
    from sw.data import load_dataset

    networks = chosen(arguments.networks, NETWORKS, "network")
    variants = chosen(arguments.variants, VARIANTS, "variant")
    torch.set_num_threads(arguments.threads)
    device = choose_device(arguments.device)
    data = load_dataset("cifar10", arguments.datasets_dir)
    folder = Path(arguments.output) / "accuracy-runs"
    folder.mkdir(parents=True, exist_ok=True)
    sources, rows = source_hash(), []
    for network in networks:
        depth, epochs, n_seeds = NETWORKS[network]
        epochs, n_seeds = arguments.epochs or epochs, arguments.seeds or n_seeds
        results: dict[str, dict[int, dict]] = {variant: {} for variant in variants}
        for seed in range(n_seeds):
            for variant in variants:
                settings = {"network": network, "depth": depth, "variant": variant, "seed": seed,
                            "epochs": epochs, "compile": arguments.compile,
                            "device": device, "sources": sources}
                path = folder / f"{network}-{variant}-{seed}-{epochs}-{sources}.json"
                kept = json.loads(path.read_text()) if path.is_file() else None
                if kept is None or kept["settings"] != settings:
                    if arguments.report_only:
                        continue
                    print(f"{network} {variant} seed {seed}: training", file=sys.stderr,
                          flush=True)
                    kept = {"settings": settings, **_train_one(settings, data, device)}
                    with cli.replacing(folder) as temporary:
                        (temporary / path.name).write_text(json.dumps(kept, indent=1) + "\n")
                    print(f"{network} {variant} seed {seed}: {kept['simulated']:.2f} % simulated, "
                          f"{kept.get('integer', float('nan')):.2f} % integer, "
                          f"{kept['seconds']:.0f} s", file=sys.stderr, flush=True)
                results[variant][seed] = kept
        done = {variant: runs for variant, runs in results.items() if runs}
        context = (f"{network}, CIFAR-10 of {data.n_train} images, {epochs} epochs, cosine from "
                   f"0.1, batch {BATCH}, {device}, "
                   + ", ".join(f"{len(runs)} seeds of {name}" for name, runs in done.items()))
        rows += _rows_of(network, done, context, command)
    if not rows:
        raise LockstepError(f"There are no finished trainings of these sources in {folder}")
    return rows

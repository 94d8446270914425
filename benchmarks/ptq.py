"""ptq: what post-training quantization to 8 and 4 bits costs on CIFAR-10, method by method.

Float networks trained here, quantized on the same training images by Lockstep, by ONNX Runtime and
by Brevitas, and tested on the same test images. Each result is kept in DIR/ptq-runs under a name of
its settings and of the sources it ran on, so an interrupted suite goes on where it stopped.
"""

import argparse
import hashlib
import json
import sys
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path

from benchmarks.accuracy import chosen, source_hash
from benchmarks.ptq_table import page
from cli import command as cli
from golden.errors import LockstepError

__all__ = ["measure", "page"]

IMAGES = 512        # of the training set, to calibrate on
PART = 64           # images at a time that a network or program runs on: they stay in the cache
NO_BREVITAS = "Brevitas is not installed, its rows are left out: pip install 'lockstep[bench]'"


@dataclass(frozen=True, kw_only=True)
class Bench:
    """A float network, the images it is tested on and the folder of finished results."""

    name: str
    model: object
    data: object
    test: tuple
    n_images: int
    seeds: int
    threads: int
    folder: Path
    identity: dict  # what tells this network and these images from others

    def calibration(self, seed: int):
        """(n_images, C, H, W) float32 of the training set, drawn by the seed."""
        return self.data.train_sample(self.n_images, seed)[0]

    def kept(self, what: str, settings: dict, compute: Callable[[], dict]) -> dict:
        """A result of this folder, computed unless it is there."""
        settings = self.identity | settings
        digest = hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]
        path = self.folder / f"{self.name}-{what}-{digest}.json"
        if not path.is_file():
            result = {"settings": settings, "result": compute()}
            with cli.replacing(self.folder) as temporary:
                (temporary / path.name).write_text(json.dumps(result, indent=1) + "\n")
        result = json.loads(path.read_text())["result"]
        words = ", ".join(f"{key} {value:.2f} %" for key, value in result.items())
        print(f"{self.name} {what}: {words}", file=sys.stderr, flush=True)
        return result


def _simulated(bench: Bench, network) -> float:
    from sw.train.evaluate import accuracy, logits_of

    return 100 * accuracy(logits_of(network, bench.test[0], PART), bench.test[1])


def _integer(bench: Bench, program) -> float:
    import torch

    from sw.executor import run

    right, (images, labels) = 0, bench.test
    for part, truth in zip(images.split(PART), labels.split(PART)):
        codes = torch.as_tensor(run(program, part.numpy())[program.outputs[0]])
        right += int((codes.flatten(1).argmax(1) == truth).sum())
    return 100 * right / len(labels)


def _quantized(bench: Bench, scheme, seed: int) -> dict:
    """Accuracies in percent of one row: simulated, and of the integer program where it counts."""
    from dataclasses import replace

    from sw.lower.network import lower
    from sw.ptq.quantize import quantize

    network, _ = quantize(bench.model, bench.calibration(seed), replace(scheme.config, seed=seed))
    result = {"simulated": _simulated(bench, network)}
    if scheme.program:
        result["integer"] = _integer(bench, lower(network))
    return result


def _peers(bench: Bench, block: str, seed: int) -> dict[str, dict]:
    """Results of ONNX Runtime and Brevitas at the widths of a block, by name."""
    import onnxruntime

    from benchmarks import ptq_brevitas, ptq_runtime
    from benchmarks.ptq_methods import BLOCKS
    from sw.ptq.config import PtqConfig

    weight_bits, activation_bits = BLOCKS[block]
    config = PtqConfig(weight_bits=weight_bits, activation_bits=activation_bits)
    images, found = bench.calibration(seed), {}

    def settings(module, version: str) -> dict:
        return {"seed": seed, "config": asdict(config), "version": version,
                "code": hashlib.sha256(Path(module.__file__).read_bytes()).hexdigest()}
    if block == "w8a8":
        found["onnxruntime"] = bench.kept(
            f"{block}.onnxruntime.{seed}", settings(ptq_runtime, onnxruntime.__version__),
            lambda: {"simulated": ptq_runtime.accuracy(bench.model, images, bench.test,
                                                       bench.threads)})
    for name, strong in (("brevitas", False), ("brevitas_all", True)):
        if ptq_brevitas.installed() and (not strong or block != "w8a8"):
            found[name] = bench.kept(
                f"{block}.{name}.{seed}", settings(ptq_brevitas, ptq_brevitas.version()),
                lambda strong=strong: {"simulated": ptq_brevitas.accuracy(
                    bench.model, images, bench.test, config, strong=strong)})
    return found


def results(bench: Bench, blocks: list[str]) -> dict[str, list[dict]]:
    """Results of every row of the blocks, one per seed: "float", "w4a4.naive", ..."""
    from benchmarks.ptq_methods import schemes

    found = {"float": [bench.kept("float", {}, lambda: {
        "simulated": _simulated(bench, bench.model)})]}
    for block in blocks:
        for seed in range(bench.seeds):
            for name, scheme in schemes(block).items():
                result = bench.kept(
                    f"{block}.{name}.{seed}", {"seed": seed, "config": asdict(scheme.config)},
                    lambda scheme=scheme, seed=seed: _quantized(bench, scheme, seed))
                found.setdefault(f"{block}.{name}", []).append(result)
            for name, result in _peers(bench, block, seed).items():
                found.setdefault(f"{block}.{name}", []).append(result)
    return found


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """Train what is not there, quantize it every way, and give the rows, network by network."""
    import torch

    from benchmarks import ptq_brevitas, ptq_networks, ptq_table
    from benchmarks.ptq_methods import BLOCKS
    from cli.training.setup import choose_device
    from sw.data import load_dataset

    names = chosen(arguments.networks, ptq_networks.NETWORKS, "network")
    blocks = chosen(arguments.variants, BLOCKS, "variant")
    n_images, seeds = arguments.images or IMAGES, arguments.seeds or 1
    choose_device(arguments.device)
    paths = ptq_networks.given_checkpoints(arguments.checkpoint, names)
    data = load_dataset(ptq_networks.DATASET, arguments.datasets_dir)
    for option, wanted, there in (("--images", n_images, data.n_train),
                                  ("--test-images", arguments.test_images or 1, data.n_test)):
        if wanted > there:
            raise LockstepError(f"Option {option} must be at most {there}, the images of "
                                f"{data.name}, not {wanted}")
    for name, path in paths.items():
        ptq_networks.load(name, path, data)  # before a long training
    if not ptq_brevitas.installed():
        print(NO_BREVITAS, file=sys.stderr)
    test = data.test_sample(arguments.test_images or data.n_test)
    folder, sources, rows = Path(arguments.output) / "ptq-runs", source_hash(), []
    for name in names:
        path = paths.get(name) or ptq_networks.trained(name, arguments)
        torch.set_num_threads(arguments.threads)
        model, epochs = ptq_networks.load(name, path, data)
        bench = Bench(
            name=name, model=model.to(memory_format=torch.channels_last), data=data, test=test,
            n_images=n_images, seeds=seeds, threads=arguments.threads, folder=folder, identity={
                "checkpoint": hashlib.sha256(path.read_bytes()).hexdigest(), "images": n_images,
                "test_images": len(test[1]), "sources": sources})
        context = (f"{ptq_networks.NETWORKS[name].words}, "
                   f"{'brought' if name in paths else 'trained'} in float for {epochs} epochs of "
                   f"{data.name}'s {data.n_train} images; calibrated on {n_images} of these, "
                   f"{seeds} {'draw' if seeds == 1 else 'draws'}; tested on {len(test[1])} images")
        rows += ptq_table.rows_of(name, results(bench, blocks), context, command)
    return rows

"""The float networks of the ptq suite: trained here on CIFAR-10 by flows/train.py, or brought.

A training is kept in DIR/ptq-networks under a name of its options: one that is there is used, one
that was interrupted goes on.
"""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from golden.errors import LockstepError

if TYPE_CHECKING:
    from torch import nn

__all__ = ["DATASET", "NETWORKS", "Network", "given_checkpoints", "load", "trained"]

DATASET = "cifar10"
BATCH = 128


@dataclass(frozen=True, kw_only=True)
class Network:
    """model, options: as flows/train.py takes them. lr: the first rate of a cosine."""

    words: str
    model: str
    options: dict
    epochs: int = 20
    lr: float = 0.1


NETWORKS = {
    "resnet20": Network(words="ResNet-20", model="resnet", options={"depth": 20}),
    "vgg11": Network(words="VGG-11 (width 16)", model="vgg", options={"depth": 11, "width": 16},
                     lr=0.05),
    "mobilenet": Network(words="MobileNet v1 0.5", model="mobilenet_v1",
                         options={"width_multiplier": 0.5}),
}


def given_checkpoints(entries: list[str], chosen: list[str]) -> dict[str, Path]:
    """NETWORK=FILE of --checkpoint as a dict; LockstepError for a network that is not chosen."""
    found = {}
    for entry in entries:
        name, equals, path = entry.partition("=")
        if not equals or not path:
            raise LockstepError(f"--checkpoint takes NETWORK=FILE, not {entry!r}")
        if name not in chosen:
            raise LockstepError(f"--checkpoint {entry}: there is no network {name!r} among "
                                f"{', '.join(chosen)}")
        found[name] = Path(path)
    return found


def load(name: str, path: Path, data) -> "tuple[nn.Module, int]":
    """(float network in evaluation mode, epochs it was trained for) of a checkpoint.

    Raises LockstepError for a file that is no checkpoint, one of another model or data set, and one
    that was trained with quantization.
    """
    from cli.training.rehearsal import check_evaluable, is_quantized
    from models import build_model
    from sw.train.checkpoint import load_checkpoint

    checkpoint = load_checkpoint(path, model=NETWORKS[name].model)
    if checkpoint.dataset != data.name:
        raise LockstepError(f"Checkpoint {path} was trained on {checkpoint.dataset}, not on "
                            f"{data.name}")
    model = build_model(checkpoint.model, checkpoint.model_config)
    checkpoint.restore(model)
    if is_quantized(model):
        raise LockstepError(f"Checkpoint {path} was trained with quantization; post-training "
                            f"quantization starts from a float network")
    check_evaluable(model, data)
    return model.eval(), checkpoint.epochs_done


def trained(name: str, arguments) -> Path:
    """The checkpoint of a network, trained now unless it is there."""
    from cli.training.outputs import PARTIAL
    from cli.training.run import main as train

    network, folder = NETWORKS[name], Path(arguments.output) / "ptq-networks"
    config = network.options | {"quantize": False, "recipe": "float"}
    epochs = arguments.epochs or network.epochs
    options = ["--model", network.model, "--model-config", repr(config), "--dataset", DATASET,
               "--epochs", str(epochs), "--batch-size", str(arguments.batch_size or BATCH),
               "--lr", str(network.lr), "--schedule", "cosine", "--warmup-epochs", "1",
               "--seed", "0", "--channels-last"]
    run = f"{name}-{hashlib.sha256(json.dumps(options).encode()).hexdigest()[:12]}"
    path = folder / run / "checkpoint.pt"
    if not path.is_file():
        partial = (folder / run / PARTIAL).is_file()
        train([*options, "--save", run, "--runs-dir", str(folder), "--device",
                    arguments.device, "--threads", str(arguments.threads), "--datasets-dir",
                    arguments.datasets_dir, *(["--resume"] if partial else [])])
    return path

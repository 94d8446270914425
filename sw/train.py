"""The training engine: a flat loop over epochs, following the model's regime.

Weights, momentum and the update are float32; what is quantized is decided by the model's layers.
Every epoch seeds torch's generator from (seed, epoch), so a resumed run gives the numbers of an
uninterrupted one.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.errors import LockstepError
from sw.data import Dataset

OPTIMIZERS = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}
DEFAULT_REGIME = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9,
                   "weight_decay": 1e-4}]


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run. lr None: the model's regime; a number replaces its learning rates by
    that value, scaled as the regime scales its first one."""

    epochs: int = 20
    batch_size: int = 64
    seed: int = 0
    lr: float | None = None
    device: str = "cpu"

    def __post_init__(self):
        if self.epochs < 1:
            raise LockstepError(f"Epochs must be at least 1, not {self.epochs}")
        if self.batch_size < 1:
            raise LockstepError(f"Batch size must be at least 1, not {self.batch_size}")
        if self.lr is not None and not self.lr > 0:
            raise LockstepError(f"Learning rate must be positive, not {self.lr}")


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Mean training loss and accuracy in [0, 1] of one epoch; test figures are of model.eval()."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float


def regime_at(model: nn.Module, config: TrainConfig, epoch: int) -> dict:
    """The optimizer settings in force at an epoch: the regime's entries up to it, merged."""
    regime = getattr(model, "regime", DEFAULT_REGIME)
    settings: dict = {}
    for entry in regime:
        if entry["epoch"] <= epoch:
            settings |= entry
    if config.lr is not None:
        settings["lr"] = config.lr * settings["lr"] / regime[0]["lr"]
    settings.pop("epoch", None)
    return settings


def make_optimizer(model: nn.Module, settings: dict) -> torch.optim.Optimizer:
    """Optimizer with weight decay on weights only, not on biases and norms."""
    settings = dict(settings)
    kind = settings.pop("optimizer", "SGD")
    if kind not in OPTIMIZERS:
        raise LockstepError(f"Unknown optimizer {kind!r}; known: {', '.join(OPTIMIZERS)}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.dim() > 1]},
              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}]
    return OPTIMIZERS[kind](groups, **settings)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch_size: int = 512) -> Tensor:
    """Evaluation-mode logits, (N, C, H, W) -> (N, classes) on the CPU; the mode stays."""
    device = next(model.parameters()).device
    mode = model.training
    model.eval()
    parts = [model(part.to(device)).cpu() for part in images.split(batch_size)]
    model.train(mode)
    return torch.cat(parts)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers in [0, 1]; the lowest index wins a tie."""
    return (logits.argmax(1) == labels).double().mean().item()


def train_epoch(model: nn.Module, data: Dataset, optimizer: torch.optim.Optimizer,
                config: TrainConfig, epoch: int,
                on_batch: Callable[[int, int], None] | None = None) -> tuple[float, float]:
    """One pass over the training images; returns (mean loss, accuracy).

    on_batch(done, total) is called after every step, for a progress bar.
    """
    if config.batch_size > len(data.train_labels):
        raise LockstepError(f"Batch size {config.batch_size} is larger than the "
                            f"{len(data.train_labels)} training images")
    model.train()
    n_batches = len(data.train_labels) // config.batch_size
    total_loss, n_right = 0.0, 0
    torch.manual_seed(config.seed * 1_000_003 + epoch)
    batches = data.batches(config.batch_size, seed=config.seed, epoch=epoch)
    for step, (images, labels) in enumerate(batches):
        images, labels = images.to(config.device), labels.to(config.device)
        logits = model(images)
        loss = F.cross_entropy(logits, labels)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        n_right += (logits.argmax(1) == labels).sum().item()
        if on_batch:
            on_batch(step + 1, n_batches)
    return total_loss / n_batches, n_right / (n_batches * config.batch_size)


def train(model: nn.Module, data: Dataset, config: TrainConfig, *, start_epoch: int = 0,
          optimizer_state: dict | None = None,
          on_batch: Callable[[int, int], None] | None = None,
          on_epoch: Callable[[EpochResult, torch.optim.Optimizer], None] | None = None
          ) -> list[EpochResult]:
    """Train in place from start_epoch to config.epochs; returns one result per epoch run.

    on_epoch(result, optimizer) is called after each epoch, for saving and reporting. Raises
    LockstepError when the loss is no longer finite.
    """
    model.to(config.device)
    optimizer = make_optimizer(model, regime_at(model, config, start_epoch))
    if optimizer_state is not None:
        optimizer.load_state_dict(optimizer_state)
    results = []
    for epoch in range(start_epoch, config.epochs):
        settings = regime_at(model, config, epoch)
        for group in optimizer.param_groups:
            group["lr"] = settings["lr"]
        loss, train_accuracy = train_epoch(model, data, optimizer, config, epoch, on_batch)
        if not loss < float("inf"):
            raise LockstepError(f"Training diverged: the loss of epoch {epoch} is {loss}")
        logits = logits_of(model, data.test_images)
        result = EpochResult(
            epoch=epoch, lr=settings["lr"], train_loss=loss, train_accuracy=train_accuracy,
            test_loss=F.cross_entropy(logits, data.test_labels).item(),
            test_accuracy=accuracy(logits, data.test_labels))
        results.append(result)
        if on_epoch:
            on_epoch(result, optimizer)
    return results

"""Evaluation: logits, loss and accuracy of a network in its evaluation mode."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from sw.data import Dataset
from sw.train.config import TrainConfig
from sw.train.distributed import ALONE, World

__all__ = ["accuracy", "device_type", "evaluate", "logits_of", "prepared", "reconstructs"]

TEST_BATCH = 512  # images at once, at most


def reconstructs(model: nn.Module) -> bool:
    """True if the network is trained to return its input."""
    return getattr(model, "objective", None) == "reconstruction"


def prepared(model: nn.Module, images: Tensor) -> Tensor:
    """The images as the network takes them: through its ``input_transform``, if it has one."""
    transform = getattr(model, "input_transform", None)
    return images if transform is None else transform(images)


@torch.no_grad()
def logits_of(model: nn.Module, images: Tensor, batch_size: int = TEST_BATCH) -> Tensor:
    """Evaluation-mode logits, (N, C, H, W) -> (N, classes) on the CPU; the mode stays."""
    device = next(model.parameters()).device
    mode = model.training
    model.eval()
    parts = [model(prepared(model, part.to(device))).cpu() for part in images.split(batch_size)]
    model.train(mode)
    return torch.cat(parts)


def accuracy(logits: Tensor, labels: Tensor) -> float:
    """Share of right answers in [0, 1]; the lowest index wins a tie."""
    return (logits.argmax(1) == labels).double().mean().item()


@torch.no_grad()
def evaluate(model: nn.Module, data: Dataset, config: TrainConfig,
             world: World = ALONE) -> tuple[float, float]:
    """(mean loss, accuracy) over the test images, shared out among the processes."""
    model.eval()
    sums = torch.zeros(3, dtype=torch.float64, device=config.device)  # loss, right, images
    for images, labels in data.test_batches(min(TEST_BATCH, max(config.batch_size, 64)),
                                            rank=world.rank, world_size=world.size,
                                            workers=config.workers):
        images, labels = images.to(config.device), labels.to(config.device)
        inputs = prepared(model, images)
        with torch.autocast(device_type(config), torch.bfloat16, enabled=config.amp):
            outputs = model(inputs)
        if reconstructs(model):
            loss = F.mse_loss(outputs.float().flatten(1), inputs.flatten(1))
            right = torch.tensor(float("nan"))
        else:
            loss = F.cross_entropy(outputs.float(), labels)
            right = (outputs.argmax(1) == labels).sum()
        sums += torch.stack([loss.double() * len(labels), right.double().to(loss.device),
                             torch.tensor(len(labels), device=loss.device)])
    loss, right, n = world.sum(sums).tolist()
    return loss / n, right / n


def device_type(config: TrainConfig) -> str:
    """The kind of device that trains, as torch names it: "cpu" or "cuda"."""
    return torch.device(config.device).type

"""The settings of a training run, and the records it hands to progress bars and reports."""

import math
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel

from golden.errors import LockstepError
from sw.train.schedule import SCHEDULES

__all__ = ["ARITHMETICS", "EpochResult", "StepResult", "TrainConfig", "TrainState"]

ARITHMETICS = "float", "integer"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """One training run; all that --resume takes from the checkpoint.

    batch_size: images per step of one process. lr None: the model's regime; a number replaces its
    learning rates by that value, scaled as the regime scales its first one. warmup_epochs: linear
    from 0, per step; None: the regime's. milestones: epochs of the step schedule, () for 1/2 and
    3/4 of the run. clip_gradient: largest 2-norm of the whole gradient. average_weights: decay
    per step of the moving average that is evaluated in place of the last weights. teacher: a
    checkpoint's path; its softened outputs weigh distillation_weight of the loss, at temperature.
    amp: bfloat16 autocast. workers: processes that decode images. arithmetic: "float", in which few
    bits are simulated, or "integer" (``sw.integer.train``).
    """

    epochs: int = 20
    batch_size: int = 64
    seed: int = 0
    lr: float | None = None
    device: str = "cpu"
    schedule: str = "regime"
    milestones: tuple[float, ...] = ()
    warmup_epochs: float | None = None
    label_smoothing: float = 0.0
    clip_gradient: float | None = None
    average_weights: float | None = None
    teacher: str | None = None
    distillation_weight: float = 0.5
    temperature: float = 4.0
    amp: bool = False
    compile: bool = False
    channels_last: bool = False
    workers: int = 0
    arithmetic: str = "float"

    def __post_init__(self):
        def check(name, holds, limit):
            value = getattr(self, name)
            if value is not None and not holds(value):
                words = name.replace("_", " ").capitalize().replace("Lr", "Learning rate")
                raise LockstepError(f"{words} must be {limit}, not {value}")

        check("epochs", lambda value: value >= 1, "at least 1")
        check("batch_size", lambda value: value >= 1, "at least 1")
        check("seed", lambda value: 0 <= value < 2**31, "in 0..2147483647")
        check("lr", lambda value: 0 < value < math.inf, "positive")
        check("schedule", lambda value: value in SCHEDULES, f"one of {', '.join(SCHEDULES)}")
        check("warmup_epochs", lambda value: 0 <= value <= self.epochs,
              f"in 0..{self.epochs}, the number of epochs")
        check("milestones", lambda value: all(0 < epoch < math.inf for epoch in value),
              "positive epochs")
        check("label_smoothing", lambda value: 0 <= value < 1, "in [0, 1)")
        check("clip_gradient", lambda value: 0 < value < math.inf, "positive")
        check("average_weights", lambda value: 0 < value < 1, "in (0, 1)")
        check("distillation_weight", lambda value: 0 <= value <= 1, "in [0, 1]")
        check("temperature", lambda value: 0 < value < math.inf, "positive")
        check("workers", lambda value: value >= 0, "at least 0")
        check("arithmetic", lambda value: value in ARITHMETICS, f"one of {', '.join(ARITHMETICS)}")


@dataclass(frozen=True, kw_only=True)
class EpochResult:
    """Mean training loss and accuracy in [0, 1] of one epoch, over all processes; test figures
    are of the evaluated model. lr: of the epoch's last step. An accuracy is nan where the network
    reconstructs its input. seconds: of training, without evaluation."""

    epoch: int
    lr: float
    train_loss: float
    train_accuracy: float
    test_loss: float
    test_accuracy: float
    seconds: float = 0.0
    images_per_second: float = 0.0


@dataclass(frozen=True, kw_only=True)
class TrainState:
    """What a run holds after ``epochs_done`` epochs."""

    model: nn.Module
    averaged: AveragedModel | None
    optimizer: torch.optim.Optimizer
    epochs_done: int

    @property
    def evaluated(self) -> nn.Module:
        """The network that is tested and lowered."""
        return self.averaged.module if self.averaged else self.model


@dataclass(frozen=True, kw_only=True)
class StepResult:
    """For a progress bar: steps done of the epoch's, mean loss and accuracy so far, images of all
    processes in this step."""

    epoch: int
    done: int
    total: int
    loss: float
    accuracy: float
    images: int

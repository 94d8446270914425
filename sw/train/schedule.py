"""Which optimizer, learning rate, image size and batch size are in force at each step.

A model's ``regime`` is a list of ``{"epoch": 0, "optimizer": "SGD", "lr": 0.1, ...}``: the
entries up to an epoch, merged, hold in it. An entry may carry any argument of the optimizer, and
``warmup_epochs``; one that names another optimizer keeps only lr and weight_decay of those before.
``data_regime`` switches the data in the same way: ``{"epoch": 0, "input_size": 128, "batch_size":
256}``.
"""

import itertools
import math
import warnings
from bisect import bisect_right
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim import lr_scheduler

from golden.errors import LockstepError

__all__ = ["Plan", "SCHEDULES", "data_at", "load_optimizer", "make_optimizer", "make_plan",
           "make_scheduler", "regime_at", "regime_of", "set_options"]

SCHEDULES = ("regime", "cosine", "step")
DEFAULT_REGIME = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9,
                   "weight_decay": 1e-4}]
STEP_FACTOR = 0.1  # of the step schedule at each milestone
_NOT_OPTIMIZER_KEYS = ("epoch", "optimizer", "lr", "warmup_epochs")
_ANY_OPTIMIZER = ("lr", "weight_decay", "warmup_epochs")
_NEEDS_A_CLOSURE = ("LBFGS",)


def _merged(regime: list[dict], epoch: int) -> dict:
    settings: dict = {}
    for entry in regime:
        if entry["epoch"] <= epoch:
            kind = settings.get("optimizer", "SGD")
            if entry.get("optimizer", kind) != kind:
                settings = {key: value for key, value in settings.items() if key in _ANY_OPTIMIZER}
            settings |= entry
    settings.pop("epoch", None)
    return settings


def _by_epoch(regime: list[dict], name: str) -> list[dict]:
    if not isinstance(regime, list | tuple) or not all(
            isinstance(entry, dict) and isinstance(entry.get("epoch"), int) for entry in regime):
        raise LockstepError(f"Every entry of a model's {name} must be a dict with an integer epoch")
    return sorted(regime, key=lambda entry: entry["epoch"])


def regime_of(model: nn.Module) -> list[dict]:
    """The model's regime, sorted by epoch; LockstepError if it is not one."""
    regime = _by_epoch(getattr(model, "regime", None) or DEFAULT_REGIME, "regime")
    if regime[0]["epoch"] != 0 or "lr" not in regime[0]:
        raise LockstepError("A model's regime must begin at epoch 0 with an lr")
    for entry in regime:
        for name in {"lr", "warmup_epochs"} & set(entry):
            if not isinstance(entry[name], int | float) or not 0 <= entry[name] < math.inf:
                raise LockstepError(f"{name} of a model's regime must be a number of at least 0, "
                                    f"not {entry[name]!r}")
    return regime


def regime_at(model: nn.Module, config, epoch: int) -> dict:
    """The optimizer settings in force at an epoch: the regime's entries up to it, merged.

    config: a ``sw.train.engine.TrainConfig``, whose lr replaces the regime's first one and scales
    the others alike.
    """
    regime = regime_of(model)
    settings = _merged(regime, epoch)
    if config.lr is not None:
        if regime[0]["lr"] == 0:
            raise LockstepError("A learning rate cannot be given for this model: it scales the "
                                "regime's first lr, which is 0")
        settings["lr"] = config.lr * settings["lr"] / regime[0]["lr"]
    return settings


def data_at(model: nn.Module, config, epoch: int) -> tuple[int, int | None]:
    """(images per step of one process, image size or None for the data set's own) at an epoch."""
    settings = _merged(_by_epoch(getattr(model, "data_regime", None) or [], "data_regime"), epoch)
    batch_size, input_size = settings.get("batch_size", config.batch_size), \
        settings.get("input_size")
    for name, value in (("batch_size", batch_size), ("input_size", input_size)):
        if value is not None and not (isinstance(value, int) and value >= 1):
            raise LockstepError(f"{name} of a model's data_regime must be a positive integer, not "
                                f"{value!r}")
    return batch_size, input_size


def make_optimizer(model: nn.Module, settings: dict) -> torch.optim.Optimizer:
    """Optimizer with weight decay on weights only, not on biases and norms.

    settings: optimizer (the name of a class of torch.optim), lr, and arguments of that class.
    """
    kind = settings.get("optimizer", "SGD")
    known = sorted(name for name, value in vars(torch.optim).items()
                   if isinstance(value, type) and issubclass(value, torch.optim.Optimizer)
                   and value is not torch.optim.Optimizer and name not in _NEEDS_A_CLOSURE)
    if kind not in known:
        raise LockstepError(f"Unknown optimizer {kind!r}; known: {', '.join(known)}")
    parameters = [p for p in model.parameters() if p.requires_grad]
    groups = [{"params": [p for p in parameters if p.dim() > 1]},
              {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0}]
    options = {key: value for key, value in settings.items() if key not in _NOT_OPTIMIZER_KEYS}
    try:
        return getattr(torch.optim, kind)([group for group in groups if group["params"]],
                                          lr=settings["lr"], **options)
    except (TypeError, ValueError) as error:
        raise LockstepError(f"Optimizer {kind} does not take the regime's settings {settings}: "
                            f"{error}") from None


def set_options(optimizer: torch.optim.Optimizer, settings: dict) -> None:
    """Put an epoch's optimizer settings in force, the learning rate excepted."""
    options = {key: value for key, value in settings.items() if key not in _NOT_OPTIMIZER_KEYS}
    for group in optimizer.param_groups:
        group.update(options)
        if "weight_decay" in group and all(p.dim() <= 1 for p in group["params"]):
            group["weight_decay"] = 0.0


def load_optimizer(optimizer: torch.optim.Optimizer, state: dict) -> None:
    """Restore momentum and the like, but not the learning rates, which are the scheduler's."""
    rates = [group["lr"] for group in optimizer.param_groups]
    try:
        optimizer.load_state_dict(state)
    except ValueError as error:
        raise LockstepError(f"The optimizer's state does not fit the model: {error}") from None
    for group, rate in zip(optimizer.param_groups, rates):
        group["lr"] = rate


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a whole run: steps[epoch], and starts[epoch], the first step of each epoch
    (starts[epochs] is their number)."""

    steps: tuple[int, ...]
    starts: tuple[int, ...]

    def epoch_at(self, step: int) -> int:
        """The epoch that a step belongs to."""
        return min(bisect_right(self.starts, step) - 1, len(self.steps) - 1)

    def step_at(self, epoch: float) -> int:
        """The step at which a whole or broken number of epochs has passed."""
        whole = min(int(epoch), len(self.steps) - 1)
        return self.starts[whole] + round((epoch - whole) * self.steps[whole])


def make_plan(model: nn.Module, data, config, world_size: int = 1) -> Plan:
    """Count the steps of every epoch.

    LockstepError, before training begins, where a batch is larger than the data and where an
    optimizer does not take what the regime gives it later.
    """
    for entry in regime_of(model):
        if entry["epoch"] < config.epochs:
            make_optimizer(model, regime_at(model, config, entry["epoch"]))
    steps = [data.steps(data_at(model, config, epoch)[0], world_size)
             for epoch in range(config.epochs)]
    return Plan(steps=tuple(steps), starts=(0, *itertools.accumulate(steps)))


def make_scheduler(optimizer: torch.optim.Optimizer, model: nn.Module, config, plan: Plan,
                   step: int = 0) -> lr_scheduler.LRScheduler:
    """The learning rate per step, with linear warm-up, positioned at ``step``.

    regime: the regime's rates. cosine: from the first one to 0 at the end of the run. step: a
    tenth of it from each milestone on. The position is reached by stepping, so that a resumed run
    has the rates of an uninterrupted one to the bit.
    """
    warmup_epochs = config.warmup_epochs
    if warmup_epochs is None:
        warmup_epochs = regime_at(model, config, 0).get("warmup_epochs", 0)
    warm, total = plan.step_at(warmup_epochs), plan.starts[-1]

    def rate(at: int) -> float:
        scale = min(1.0, (at + 1) / warm) if warm else 1.0
        return scale * regime_at(model, config, plan.epoch_at(at))["lr"]

    for group in optimizer.param_groups:
        group["lr"] = 1.0 if config.schedule == "regime" else regime_at(model, config, 0)["lr"]
    if config.schedule == "regime":
        scheduler = lr_scheduler.LambdaLR(optimizer, rate)
    else:
        if config.schedule == "cosine":
            after = lr_scheduler.CosineAnnealingLR(optimizer, max(total - warm, 1))
        else:
            epochs = config.milestones or (config.epochs / 2, config.epochs * 3 / 4)
            after = lr_scheduler.MultiStepLR(
                optimizer, [max(plan.step_at(epoch) - warm, 1) for epoch in epochs], STEP_FACTOR)
        scheduler = after
        if warm:
            warm_up = lr_scheduler.LinearLR(optimizer, 1 / warm, total_iters=max(warm - 1, 1))
            scheduler = lr_scheduler.SequentialLR(optimizer, [warm_up, after], [warm])
    with warnings.catch_warnings():  # that no optimizer step came between these
        warnings.simplefilter("ignore", UserWarning)
        for _ in range(step):
            scheduler.step()
    return scheduler

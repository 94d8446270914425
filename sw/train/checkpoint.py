"""Checkpoints: all that rebuilds or resumes a trained model, loadable without pickled code.

The file is what ``torch.save`` writes for a dict of tensors, strings and numbers, so that
``torch.load(path, weights_only=True)`` reads it. The learning rate's position follows from
epochs_done, and so does the state of the random generators: every epoch seeds them.
"""

import os
import platform
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy
import torch
from torch import nn

from golden.errors import LockstepError
from sw.train.config import TrainState

__all__ = ["Checkpoint", "FORMAT", "load_checkpoint", "make_checkpoint", "versions"]

FORMAT = "lockstep-checkpoint-2"
_OLD_FORMAT = "lockstep-checkpoint-1"
_NEW_FIELDS = {"averaged", "world_size", "versions"}  # absent in the old format


def versions() -> dict:
    """Of what decides the numbers of a run."""
    return {"python": platform.python_version(), "torch": str(torch.__version__),
            "numpy": numpy.__version__}


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's name, options and state after ``epochs_done`` epochs; history has one dict each.

    state: of the network in training. averaged: of its ``AveragedModel``, where weights are
    averaged; that one is evaluated and lowered. optimizer: momentum and the like.
    """

    model: str
    model_config: dict
    dataset: str
    train_config: dict
    epochs_done: int
    history: list
    state: dict
    averaged: dict | None = None
    optimizer: dict | None = None
    world_size: int = 1
    versions: dict = field(default_factory=versions)
    format: str = FORMAT

    def save(self, path: str | Path) -> None:
        """Write to a temporary name, then rename."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.writing")
        try:
            torch.save({field: getattr(self, field) for field in self.__dataclass_fields__},
                       temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def restore(self, model: nn.Module) -> None:
        """Load the evaluated weights into a model; LockstepError if it is another network."""
        prefix = "module."
        self._load(model, self.state if self.averaged is None else {
            name.removeprefix(prefix): value for name, value in self.averaged.items()
            if name.startswith(prefix)})

    def restore_training(self, model: nn.Module) -> None:
        """Load the weights that training continues from; LockstepError as for restore."""
        self._load(model, self.state)

    def _load(self, model: nn.Module, state: dict) -> None:
        try:
            model.load_state_dict(state)
        except RuntimeError as error:
            detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise LockstepError(f"The checkpoint's weights do not fit model {self.model} with "
                                f"options {self.model_config}: {detail}") from None


def load_checkpoint(path: str | Path, *, model: str | None = None) -> Checkpoint:
    """Read a checkpoint; with ``model``, refuse one of another model.

    Files of the previous format load too. Raises LockstepError for a missing, damaged or foreign
    file.
    """
    path = Path(path)
    if not path.is_file():
        raise LockstepError(f"There is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise LockstepError(f"Checkpoint {path} is damaged or not a checkpoint "
                            f"({type(error).__name__})") from None
    fields = set(Checkpoint.__dataclass_fields__)
    if isinstance(content, dict) and content.get("format") == _OLD_FORMAT:
        content = content | {"format": FORMAT}
        fields -= _NEW_FIELDS
    if not isinstance(content, dict) or content.get("format") != FORMAT \
            or set(content) != fields:
        raise LockstepError(f"{path} is not a Lockstep checkpoint of format {FORMAT}")
    if model is not None and content["model"] != model:
        raise LockstepError(f"Checkpoint {path} is of model {content['model']}, not {model}")
    return Checkpoint(**content)


def make_checkpoint(state: TrainState, *, name: str, model_config: dict, dataset: str,
                    train_config, history: list, world_size: int = 1) -> Checkpoint:
    """Checkpoint of a run after an epoch; history is a list of ``EpochResult`` or dicts."""
    return Checkpoint(
        model=name, model_config=dict(model_config), dataset=dataset,
        train_config=asdict(train_config), epochs_done=len(history),
        history=[result if isinstance(result, dict) else asdict(result) for result in history],
        state=state.model.state_dict(),
        averaged=state.averaged.state_dict() if state.averaged else None,
        optimizer=state.optimizer.state_dict(), world_size=world_size)

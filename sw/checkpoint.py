"""Checkpoints: all that rebuilds or resumes a trained model, loadable without pickled code.

The file is what ``torch.save`` writes for a dict of tensors, strings and numbers, so that
``torch.load(path, weights_only=True)`` reads it.
"""

import os
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import nn

from golden.errors import LockstepError

FORMAT = "lockstep-checkpoint-1"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A model's name, options and state after ``epochs_done`` epochs; history has one dict each."""

    model: str
    model_config: dict
    dataset: str
    train_config: dict
    epochs_done: int
    history: list
    state: dict
    optimizer: dict | None = None
    format: str = FORMAT

    def save(self, path: str | Path) -> None:
        """Write to a temporary name, then rename."""
        path = Path(path)
        temporary = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            torch.save({field: getattr(self, field) for field in self.__dataclass_fields__},
                       temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def restore(self, model: nn.Module) -> None:
        """Load the state into a model; LockstepError if it is a different network."""
        try:
            model.load_state_dict(self.state)
        except RuntimeError as error:
            detail = str(error).splitlines()[1].strip() if "\n" in str(error) else str(error)
            raise LockstepError(f"The checkpoint's weights do not fit model {self.model} with "
                                f"options {self.model_config}: {detail}") from None


def load_checkpoint(path: str | Path, *, model: str | None = None) -> Checkpoint:
    """Read a checkpoint; with ``model``, refuse one of another model.

    Raises LockstepError for a missing, damaged or foreign file.
    """
    path = Path(path)
    if not path.is_file():
        raise LockstepError(f"There is no checkpoint {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for a damaged archive
        raise LockstepError(f"Checkpoint {path} is damaged or not a checkpoint "
                            f"({type(error).__name__})") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT \
            or set(content) != set(Checkpoint.__dataclass_fields__):
        raise LockstepError(f"{path} is not a Lockstep checkpoint of format {FORMAT}")
    if model is not None and content["model"] != model:
        raise LockstepError(f"Checkpoint {path} is of model {content['model']}, not {model}")
    return Checkpoint(**content)


def make_checkpoint(model: nn.Module, optimizer: torch.optim.Optimizer | None, *, name: str,
                    model_config: dict, dataset: str, train_config, history: list) -> Checkpoint:
    """Checkpoint of a model in training; history is a list of ``EpochResult``."""
    return Checkpoint(
        model=name, model_config=dict(model_config), dataset=dataset,
        train_config=asdict(train_config), epochs_done=len(history),
        history=[result if isinstance(result, dict) else asdict(result) for result in history],
        state=model.state_dict(), optimizer=optimizer.state_dict() if optimizer else None)

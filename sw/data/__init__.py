"""Data sets by name: images as float32 batches, deterministic by seed."""

from collections.abc import Callable
from pathlib import Path

from golden.errors import LockstepError
from sw.data.cifar import load_cifar10, load_cifar100
from sw.data.dataset import Dataset
from sw.data.digits import load_digits
from sw.data.folder import load_folder, load_imagenet
from sw.data.mnist import load_mnist

__all__ = ["DATASETS", "Dataset", "load_dataset"]

DATASETS: dict[str, Callable[..., Dataset]] = {
    "digits": load_digits, "mnist": load_mnist, "cifar10": load_cifar10,
    "cifar100": load_cifar100, "imagenet": load_imagenet, "folder": load_folder}


def load_dataset(name: str, directory: str | Path | None = None, *, augment: bool = True,
                 **options) -> Dataset:
    """Load a data set by name; directory is where those that are not shipped are found.

    What directory does not hold is looked for in the folder that the environment variable
    LOCKSTEP_DATA names. options are those of the data set's own function. Raises LockstepError
    for an unknown name, listing the known ones, and for files that are missing or damaged.
    """
    if name not in DATASETS:
        known = ", ".join(DATASETS)
        raise LockstepError(f"Unknown dataset {name!r}; known datasets: {known}")
    return DATASETS[name](None if directory is None else Path(directory), augment, **options)

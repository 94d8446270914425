"""Data sets as tensors in memory, split by a fixed seed.

digits: scikit-learn's 1,797 handwritten digits (8x8, 17 grey levels), part of the library, from
the UCI "Optical Recognition of Handwritten Digits" data. 80/20 split, stratified, fixed seed.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golden.errors import LockstepError

SPLIT_SEED = 0


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """Images (N, C, H, W) float32 and labels (N,) int64, for training and for test."""

    name: str
    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    n_classes: int

    def batches(self, batch_size: int, generator: torch.Generator
                ) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled training batches of exactly batch_size; the incomplete last one is dropped."""
        order = torch.randperm(len(self.train_labels), generator=generator)
        for start in range(0, len(order) - batch_size + 1, batch_size):
            picked = order[start:start + batch_size]
            yield self.train_images[picked], self.train_labels[picked]


def _digits(directory: Path | None) -> Dataset:
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = (digits.images[:, None] / 16.0).astype(np.float32)
    split = train_test_split(images, digits.target.astype(np.int64), test_size=0.2,
                             random_state=SPLIT_SEED, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, split)
    return Dataset(name="digits", train_images=train_images, train_labels=train_labels,
                   test_images=test_images, test_labels=test_labels, n_classes=10)


DATASETS: dict[str, Callable[[Path | None], Dataset]] = {"digits": _digits}


def load_dataset(name: str, directory: str | Path | None = None) -> Dataset:
    """Load a data set by name; directory is where those that are not shipped are found.

    Raises LockstepError for an unknown name, listing the known ones.
    """
    if name not in DATASETS:
        known = ", ".join(sorted(DATASETS))
        raise LockstepError(f"Unknown dataset {name!r}; known datasets: {known}")
    return DATASETS[name](None if directory is None else Path(directory))

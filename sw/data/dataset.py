"""What every data set offers: shuffled, augmented training batches and test batches in order.

The order of an epoch depends on (seed, epoch) alone and the augmentation of an image on (seed,
epoch, index of the image), so neither the number of worker processes nor the layout of ranks nor
the batch size changes what is drawn.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator

import torch
from torch import Tensor

from golden.errors import LockstepError

__all__ = ["Batch", "Dataset", "epoch_order"]

Batch = tuple[Tensor, Tensor]  # images (N, C, H, W) float32, labels (N,) int64


def epoch_order(n: int, seed: int, epoch: int) -> Tensor:
    """A permutation (n,) int64 of the training images, drawn from (seed, epoch) alone."""
    generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
    return torch.randperm(n, generator=generator)


class Dataset(ABC):
    """Images and labels of n_classes classes.

    ``input_shape`` is (C, H, W) of one image as the network sees it by default; ``mean`` and
    ``std`` are the C numbers of the normalisation (pixel / white - mean) / std; ``damaged`` names
    the image files that could not be decoded so far.
    """

    def __init__(self, *, name: str, n_classes: int, input_shape: tuple[int, int, int],
                 n_train: int, n_test: int, mean: tuple[float, ...], std: tuple[float, ...],
                 damaged: list[str] | None = None):
        self.name = name
        self.n_classes = n_classes
        self.input_shape = input_shape
        self.n_train = n_train
        self.n_test = n_test
        self.mean = mean
        self.std = std
        self.damaged = list(damaged or [])

    def steps(self, batch_size: int, world_size: int = 1) -> int:
        """Full global batches per epoch; batch_size is per process, the rest is dropped."""
        if batch_size < 1:
            raise LockstepError(f"Batch size must be at least 1, not {batch_size}")
        n_steps = self.n_train // (batch_size * world_size)
        if n_steps == 0:
            ranks = "" if world_size == 1 else f" times {world_size} processes"
            raise LockstepError(f"Batch size {batch_size}{ranks} is larger than the "
                                f"{self.n_train} training images of {self.name}")
        return n_steps

    def batches(self, batch_size: int, *, seed: int, epoch: int, rank: int = 0,
                world_size: int = 1, workers: int = 0, input_size: int | None = None
                ) -> Iterator[Batch]:
        """Shuffled, augmented training batches of exactly batch_size images of this rank.

        Step k of all ranks together, in the order of the ranks, is step k of one process with
        batch_size * world_size. input_size replaces the height and width of input_shape.
        """
        _check(rank, world_size, workers, input_size)
        n_steps = self.steps(batch_size, world_size)
        order = epoch_order(self.n_train, seed, epoch)[:n_steps * batch_size * world_size]
        mine = order.view(n_steps, world_size, batch_size)[:, rank]
        return self._train_batches(mine, seed, epoch, workers, input_size)

    def test_batches(self, batch_size: int = 512, *, rank: int = 0, world_size: int = 1,
                     workers: int = 0, input_size: int | None = None) -> Iterator[Batch]:
        """The test images of this rank (every world_size-th) in order, none dropped."""
        _check(rank, world_size, workers, input_size)
        if batch_size < 1:
            raise LockstepError(f"Batch size must be at least 1, not {batch_size}")
        mine = torch.arange(rank, self.n_test, world_size)
        return self._plain_batches("test", list(mine.split(batch_size)), workers, input_size)

    def test_sample(self, n: int) -> Batch:
        """The first n test images and labels (fewer where there are fewer)."""
        return self._sample("test", torch.arange(self.n_test), n)

    def train_sample(self, n: int, seed: int | None = None) -> Batch:
        """The first n training images and labels, not augmented; with seed, n drawn by it."""
        order = torch.arange(self.n_train) if seed is None else epoch_order(self.n_train, seed, 0)
        return self._sample("train", order, n)

    def _sample(self, split: str, order: Tensor, n: int) -> Batch:
        if n < 1:
            raise LockstepError(f"A sample has at least 1 image, not {n}")
        parts = list(self._plain_batches(split, list(order[:n].split(512)), 0, None))
        return torch.cat([images for images, _ in parts]), torch.cat([own for _, own in parts])

    @abstractmethod
    def _train_batches(self, indices: Tensor, seed: int, epoch: int, workers: int,
                       input_size: int | None) -> Iterator[Batch]:
        """Augmented batches of the training images indices (steps, batch_size) int64."""

    @abstractmethod
    def _plain_batches(self, split: str, indices: list[Tensor], workers: int,
                       input_size: int | None) -> Iterator[Batch]:
        """Batches of ``train`` or ``test`` images by index, not augmented."""


def _check(rank: int, world_size: int, workers: int, input_size: int | None) -> None:
    if not 0 <= rank < world_size:
        raise LockstepError(f"Rank must be in 0..{world_size - 1}, not {rank}")
    if workers < 0:
        raise LockstepError(f"Worker processes must be at least 0, not {workers}")
    if input_size is not None and input_size < 1:
        raise LockstepError(f"Input size must be at least 1 pixel, not {input_size}")

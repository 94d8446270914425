"""Data sets that fit in memory: uint8 images, augmented and normalised a batch at a time.

A batch takes well under the time of a training step on one core, so worker processes are not
used, whatever number is asked for.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from golden.errors import LockstepError
from sw.data.augment import crop_and_flip, draws
from sw.data.dataset import Batch, Dataset

__all__ = ["MemoryDataset"]


class MemoryDataset(Dataset):
    """Training and test images (N, C, H, W) uint8 with labels (N,) int64.

    white: the level of a white pixel. crop_padding: pixels that a training image is shifted by at
    most, 0 for no augmentation; with it half of the images are mirrored.
    """

    def __init__(self, *, name: str, train: tuple[Tensor, Tensor], test: tuple[Tensor, Tensor],
                 n_classes: int, white: int = 255, mean: tuple[float, ...] = (0.0,),
                 std: tuple[float, ...] = (1.0,), crop_padding: int = 0,
                 damaged: list[str] | None = None):
        for split, (images, labels) in {"training": train, "test": test}.items():
            if len(images) != len(labels) or len(labels) == 0:
                raise LockstepError(f"Data set {name} has {len(images)} {split} images "
                                    f"and {len(labels)} labels")
            wrong = labels[(labels < 0) | (labels >= n_classes)]
            if len(wrong):
                raise LockstepError(f"Data set {name} has the {split} label {wrong[0].item()}; "
                                    f"its labels are 0..{n_classes - 1}")
        if train[1].max() < n_classes - 1:  # the files of another data set
            raise LockstepError(f"Data set {name} has {n_classes} classes, but its training labels "
                                f"end at {train[1].max().item()}")
        super().__init__(name=name, n_classes=n_classes, input_shape=tuple(train[0].shape[1:]),
                         n_train=len(train[1]), n_test=len(test[1]), mean=mean, std=std,
                         damaged=damaged)
        self._splits = {"train": train, "test": test}
        self._crop_padding = crop_padding
        deviation = torch.tensor(std).view(-1, 1, 1)
        self._factor = 1 / (white * deviation)
        self._offset = torch.tensor(mean).view(-1, 1, 1) / deviation

    @property
    def train_images(self) -> Tensor:
        """All training images, normalised, not augmented: (N, C, H, W) float32."""
        return self._normalise(self._splits["train"][0], None)

    @property
    def train_labels(self) -> Tensor:
        """(N,) int64."""
        return self._splits["train"][1]

    @property
    def test_images(self) -> Tensor:
        """All test images, normalised: (N, C, H, W) float32."""
        return self._normalise(self._splits["test"][0], None)

    @property
    def test_pixels(self) -> Tensor:
        """All test images as they are stored: (N, C, H, W) uint8."""
        return self._splits["test"][0]

    @property
    def test_labels(self) -> Tensor:
        """(N,) int64."""
        return self._splits["test"][1]

    def _normalise(self, images: Tensor, input_size: int | None) -> Tensor:
        images = images.float().mul_(self._factor).sub_(self._offset)
        if input_size is None or images.shape[2:] == (input_size, input_size):
            return images
        return F.interpolate(images, (input_size, input_size), mode="bilinear", antialias=True)

    def _train_batches(self, indices: Tensor, seed: int, epoch: int, workers: int,
                       input_size: int | None) -> Iterator[Batch]:
        images, labels = self._splits["train"]
        for picked in indices:
            batch = images[picked]
            if self._crop_padding:
                uniform = draws(seed, epoch, picked.numpy(), 3)
                batch = crop_and_flip(batch, uniform, self._crop_padding)
            yield self._normalise(batch, input_size), labels[picked]

    def _plain_batches(self, split: str, indices: list[Tensor], workers: int,
                       input_size: int | None) -> Iterator[Batch]:
        images, labels = self._splits[split]
        for picked in indices:
            yield self._normalise(images[picked], input_size), labels[picked]

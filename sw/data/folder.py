"""Image folders, ImageNet among them: DIR/train/CLASS/*.jpg and DIR/val/CLASS/*.jpg.

Decoded by Pillow in the worker processes of torch's DataLoader. Training: a random box of 8-100 %
of the area, resized, half of them mirrored. Evaluation: the short side resized to 256/224 of the
crop, the centre cropped.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader

from golden.errors import LockstepError
from sw.data.augment import CROP_DRAWS, draws, resized_crop_box
from sw.data.dataset import Batch, Dataset
from sw.data.files import DAMAGED, decode, not_found, roots

__all__ = ["FolderDataset", "centre_view", "load_folder", "load_imagenet", "random_view"]

IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
IMAGENET_SITE = "https://image-net.org"
SUFFIXES = {".jpg", ".jpeg", ".png", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm"}
TEST_FOLDERS = ("val", "test")
MAX_DAMAGED_RUN = 100  # so many files in a row: the set is broken, not a file
RESIZE = 256 / 224


def random_view(image: Image.Image, size: int, uniform: np.ndarray) -> np.ndarray:
    """A random box of the picture as (size, size, 3) uint8; uniform: (CROP_DRAWS,) in [0, 1)."""
    box = resized_crop_box(*image.size, uniform)
    view = image.resize((size, size), Image.Resampling.BILINEAR, box=box)
    return np.asarray(view)[:, ::-1] if uniform[-1] < 0.5 else np.asarray(view)


def centre_view(image: Image.Image, size: int) -> np.ndarray:
    """The centre of the picture as (size, size, 3) uint8."""
    factor = round(size * RESIZE) / min(image.size)
    width, height = (max(size, round(side * factor)) for side in image.size)
    left, top = (width - size) // 2, (height - size) // 2
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    return np.asarray(image.crop((left, top, left + size, top + size)))


class _Views(torch.utils.data.Dataset):
    """One picture by index, for a DataLoader: (view or None, label, names of damaged files).

    With epoch_key (seed, epoch) the view is random. A damaged file is replaced by the next
    readable one of the following max_tries - 1; where there is none the view is None.
    """

    def __init__(self, files: list[tuple[str, int]], size: int,
                 epoch_key: tuple[int, int] | None, max_tries: int):
        self._files = files
        self._size = size
        self._epoch_key = epoch_key
        self._max_tries = max_tries

    def __getitem__(self, index: int) -> tuple[np.ndarray | None, int, list[str]]:
        damaged = []
        for step in range(self._max_tries):
            used = (index + step) % len(self._files)
            path, label = self._files[used]
            try:
                image = decode(path)
                break
            except DAMAGED:
                damaged.append(path)
        else:
            return None, label, damaged
        if self._epoch_key is None:
            return centre_view(image, self._size), label, damaged
        uniform = draws(*self._epoch_key, np.array([used]), CROP_DRAWS)[0]
        return random_view(image, self._size, uniform), label, damaged


class _Collate:
    """Views to (images (N, 3, H, W) float32, labels (N,) int64, damaged names), in the worker."""

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]):
        deviation = torch.tensor(std).view(3, 1, 1)
        self._factor = 1 / (255 * deviation)
        self._offset = torch.tensor(mean).view(3, 1, 1) / deviation

    def __call__(self, items: list) -> tuple[Tensor, Tensor, list[str]]:
        damaged = [name for _, _, names in items for name in names]
        good = [(view, label) for view, label, _ in items if view is not None]
        if not good:
            return torch.empty(0), torch.empty(0, dtype=torch.int64), damaged
        pixels = torch.from_numpy(np.stack([view for view, _ in good])).permute(0, 3, 1, 2)
        images = pixels.contiguous().float().mul_(self._factor).sub_(self._offset)
        return images, torch.tensor([label for _, label in good]), damaged


class FolderDataset(Dataset):
    """Training and test files as (path, label) pairs, decoded when they are asked for.

    n_train and n_test count the files. One that turns out damaged is named in ``damaged``; in
    training the next readable file takes its place, test_batches leaves it out.
    """

    def __init__(self, *, name: str, train: list[tuple[str, int]], test: list[tuple[str, int]],
                 classes: list[str], size: int = 224, augment: bool = True):
        if size < 1:
            raise LockstepError(f"Image size must be at least 1 pixel, not {size}")
        super().__init__(name=name, n_classes=len(classes), input_shape=(3, size, size),
                         n_train=len(train), n_test=len(test), mean=IMAGENET_MEAN,
                         std=IMAGENET_STD)
        self.classes = classes
        self._splits = {"train": train, "test": test}
        self._augment = augment

    def _batches(self, views: _Views, indices: list[Tensor], workers: int, replaced: bool
                 ) -> Iterator[Batch]:
        # A generator of its own: without one, DataLoader draws from torch's global one.
        loader = DataLoader(views, batch_sampler=[part.tolist() for part in indices],
                            num_workers=workers, collate_fn=_Collate(self.mean, self.std),
                            generator=torch.Generator())
        n_readable = 0
        for part, (images, labels, damaged) in zip(indices, loader):
            self.damaged += [path for path in dict.fromkeys(damaged) if path not in self.damaged]
            if replaced and len(labels) < len(part):
                raise LockstepError(f"{len(damaged)} files of {self.name} in a row cannot be "
                                    f"decoded, the last one {damaged[-1]}")
            n_readable += len(labels)
            if len(labels):
                yield images, labels
        if n_readable == 0 and indices:
            raise LockstepError(f"None of the {sum(map(len, indices))} images of {self.name} "
                                f"can be decoded, the last one {self.damaged[-1]}")

    def _train_batches(self, indices: Tensor, seed: int, epoch: int, workers: int,
                       input_size: int | None) -> Iterator[Batch]:
        files = self._splits["train"]
        # Replaced, so that a batch keeps its size on every rank.
        views = _Views(files, input_size or self.input_shape[1],
                       (seed, epoch) if self._augment else None,
                       max_tries=min(MAX_DAMAGED_RUN, len(files)))
        return self._batches(views, list(indices), workers, replaced=True)

    def _plain_batches(self, split: str, indices: list[Tensor], workers: int,
                       input_size: int | None) -> Iterator[Batch]:
        views = _Views(self._splits[split], input_size or self.input_shape[1], None, max_tries=1)
        return self._batches(views, indices, workers, replaced=False)


def _scan(folder: Path) -> dict[str, list[str]]:
    """Class name -> the paths of its image files, both in order of their names."""
    classes = sorted(path for path in folder.iterdir()
                     if path.is_dir() and not path.name.startswith("."))
    if not classes:
        raise LockstepError(f"{folder} has no class folders; put the images of each class into a "
                            f"folder of its name")
    files = {}
    for path in classes:
        # Strings of scandir: ImageNet's 1.3 million Path objects would take most of a gigabyte.
        files[path.name] = sorted(
            entry.path for entry in os.scandir(path) if not entry.name.startswith(".")
            and os.path.splitext(entry.name)[1].lower() in SUFFIXES)
        if not files[path.name]:
            raise LockstepError(f"Class folder {path} has no image files "
                                f"({', '.join(sorted(SUFFIXES))})")
    return files


def _load(name: str, directory: Path | None, expected: str, augment: bool,
          **options) -> FolderDataset:
    for root in roots(directory, name):
        if (root / "train").is_dir():
            break
    else:
        raise not_found(name, directory, expected)
    test_folder = next((root / own for own in TEST_FOLDERS if (root / own).is_dir()), None)
    if test_folder is None:
        raise LockstepError(f"{root} has train/ but neither val/ nor test/")
    train, test = _scan(root / "train"), _scan(test_folder)
    for more, less, place in ((test, train, root / "train"), (train, test, test_folder)):
        extra = sorted(set(more) - set(less))
        if extra:
            raise LockstepError(f"{place} has {len(less)} classes and lacks {extra[0]}; "
                                f"training and test classes must agree")
    classes = list(train)
    pairs = [[(path, label) for label, own in enumerate(classes) for path in split[own]]
             for split in (train, test)]
    return FolderDataset(name=name, train=pairs[0], test=pairs[1], classes=classes,
                         augment=augment, **options)


def load_folder(directory: Path | None, augment: bool, size: int = 224) -> FolderDataset:
    """Any folder of images by class; size is the side of the crop in pixels."""
    return _load("folder", directory, "train/CLASS/*.jpg and val/CLASS/*.jpg", augment, size=size)


def load_imagenet(directory: Path | None, augment: bool, size: int = 224) -> FolderDataset:
    """ILSVRC 2012: a thousand classes named by their synsets (n01440764 ...)."""
    return _load("imagenet", directory,
                 f"imagenet/train/nXXXXXXXX/*.JPEG of ILSVRC2012_img_train.tar and "
                 f"imagenet/val/nXXXXXXXX/*.JPEG of ILSVRC2012_img_val.tar from {IMAGENET_SITE}",
                 augment, size=size)

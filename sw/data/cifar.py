"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32x32 pictures, 50,000 for training, 10,000 for test.

Read from the published python archive, as it is or unpacked, or from parquet files. Augmentation:
shift by up to 4 pixels over black, mirror half of them.
"""

from pathlib import Path

from sw.data.files import not_found, roots
from sw.data.memory import MemoryDataset
from sw.data.parquet import read_parquet

SHAPE = (3, 32, 32)
CROP_PADDING = 4
SITE = "https://www.cs.toronto.edu/~kriz/cifar.html"
STATISTICS = {  # mean and standard deviation of the training images, per channel
    10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}


def _load(n_classes: int, directory: Path | None, augment: bool) -> MemoryDataset:
    name = f"cifar{n_classes}"
    for root in roots(directory, name):
        if (root / "train.parquet").is_file():
            parts = {split: read_parquet(root / f"{split}.parquet", SHAPE)
                     for split in ("train", "test")}
            damaged = parts["train"][2] + parts["test"][2]
            break
    else:
        raise not_found(name, directory, f"{name}/train.parquet and {name}/test.parquet")
    mean, std = STATISTICS[n_classes]
    return MemoryDataset(name=name, n_classes=n_classes, train=parts["train"][:2],
                         test=parts["test"][:2], mean=mean, std=std,
                         crop_padding=CROP_PADDING if augment else 0, damaged=damaged)


def load_cifar10(directory: Path | None, augment: bool) -> MemoryDataset:
    """Ten classes, images of shape (3, 32, 32)."""
    return _load(10, directory, augment)


def load_cifar100(directory: Path | None, augment: bool) -> MemoryDataset:
    """A hundred (fine) classes, images of shape (3, 32, 32)."""
    return _load(100, directory, augment)

"""MNIST (LeCun, Cortes, Burges): 28x28 grey digits, 60,000 for training, 10,000 for test.

Read from the four published idx files, packed or not: a magic number 0, 0, 8 (unsigned bytes), the
number of dimensions, the dimensions as big-endian int32, the bytes. Not augmented.
"""

import gzip
import zlib
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golden.errors import LockstepError
from sw.data.files import not_found, roots
from sw.data.memory import MemoryDataset

__all__ = ["load_mnist", "read_idx"]

FILES = {"train": ("train-images-idx3-ubyte", "train-labels-idx1-ubyte"),
         "test": ("t10k-images-idx3-ubyte", "t10k-labels-idx1-ubyte")}
SITE = "http://yann.lecun.com/exdb/mnist (or a mirror, ossci-datasets.s3.amazonaws.com/mnist)"
MEAN, STD = (0.1307,), (0.3081,)  # of the training images
BYTES_MAGIC = b"\0\0\x08"


def read_idx(path: Path, n_dimensions: int) -> np.ndarray:
    """The uint8 array of one idx file, with .gz at the end of its name unpacked."""
    try:
        content = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    except (EOFError, zlib.error, OSError) as error:
        raise LockstepError(f"{path} is damaged or cut short: {error}") from error
    head = 4 + 4 * n_dimensions
    if content[:4] != BYTES_MAGIC + bytes([n_dimensions]) or len(content) < head:
        raise LockstepError(f"{path} is not an idx file of bytes in {n_dimensions} dimensions")
    shape = [int(n) for n in np.frombuffer(content, ">i4", n_dimensions, 4)]
    expected = head + int(np.prod(shape))
    if len(content) != expected:
        raise LockstepError(f"{path} has {len(content)} bytes; its header says {expected}")
    return np.frombuffer(content, np.uint8, offset=head).reshape(shape)


def _read_split(root: Path, names: tuple[str, str]) -> tuple[Tensor, Tensor]:
    arrays = []
    for name, n_dimensions in zip(names, (3, 1)):
        path = next((p for p in (root / name, root / f"{name}.gz") if p.is_file()), None)
        if path is None:
            raise LockstepError(f"{root} lacks {name}.gz; get it from {SITE}")
        arrays.append(read_idx(path, n_dimensions))
    images, labels = arrays
    return torch.from_numpy(images[:, None].copy()), torch.from_numpy(labels.astype(np.int64))


def load_mnist(directory: Path | None, augment: bool) -> MemoryDataset:
    """Ten classes, images of shape (1, 28, 28)."""
    first = FILES["train"][0]
    candidates = [path for root in roots(directory, "mnist")
                  for path in (root, root / "MNIST" / "raw")]
    for root in candidates:
        if (root / first).is_file() or (root / f"{first}.gz").is_file():
            train, test = (_read_split(root, FILES[split]) for split in ("train", "test"))
            return MemoryDataset(name="mnist", train=train, test=test, n_classes=10, mean=MEAN,
                                 std=STD)
    names = ", ".join(f"{name}.gz" for split in FILES.values() for name in split)
    raise not_found("mnist", directory, f"mnist/ with {names} from {SITE}")

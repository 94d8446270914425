"""CIFAR-10 and CIFAR-100 (Krizhevsky 2009): 32x32 pictures, 50,000 for training, 10,000 for test.

Read from the published python archive, as it is or unpacked, or from parquet files. Augmentation:
shift by up to 4 pixels over black, mirror half of them.
"""

import gzip
import io
import pickle
import tarfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from golden.errors import LockstepError
from sw.data.files import not_found, roots
from sw.data.memory import MemoryDataset
from sw.data.parquet import read_parquet

__all__ = ["load_cifar10", "load_cifar100"]

SHAPE = (3, 32, 32)
CROP_PADDING = 4
SITE = "https://www.cs.toronto.edu/~kriz/cifar.html"
STATISTICS = {  # mean and standard deviation of the training images, per channel
    10: ((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
    100: ((0.5071, 0.4865, 0.4409), (0.2673, 0.2564, 0.2762)),
}
FOLDERS = {10: "cifar-10-batches-py", 100: "cifar-100-python"}
ARCHIVES = {10: "cifar-10-python.tar.gz", 100: "cifar-100-python.tar.gz"}
TRAIN_FILES = {10: [f"data_batch_{i}" for i in range(1, 6)], 100: ["train"]}
TEST_FILES = {10: ["test_batch"], 100: ["test"]}
LABEL_KEYS = {10: b"labels", 100: b"fine_labels"}

Part = tuple[Tensor, Tensor]


class _ArrayUnpickler(pickle.Unpickler):
    """Rebuilds numpy arrays and Python's own containers and refuses everything else.

    A pickle can name any function of any module to be called; the published files name three.
    """

    KNOWN = {  # what __reduce__ of an array and of a bytes object names, whatever numpy's version
        "_reconstruct": np.ndarray(0).__reduce__()[0],
        "ndarray": np.ndarray,
        "dtype": np.dtype,
        "encode": lambda text, encoding: text.encode("latin1"),
    }
    MODULES = ("numpy", "numpy.core.multiarray", "numpy._core.multiarray", "_codecs")

    def find_class(self, module: str, name: str):
        if module in self.MODULES and name in self.KNOWN:
            return self.KNOWN[name]
        raise pickle.UnpicklingError(f"it names {module}.{name}, which is not an array")


def _read_pickle(content: bytes, place: str, label_key: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 3, 32, 32) uint8 and labels (N,) int64 of one file of the python archive."""
    try:
        part = _ArrayUnpickler(io.BytesIO(content), encoding="bytes").load()
    except Exception as error:  # a damaged pickle raises nearly anything
        raise LockstepError(f"{place} is not a file of CIFAR's python archive: {error}") from error
    images = part.get(b"data") if isinstance(part, dict) else None
    labels = part.get(label_key) if isinstance(part, dict) else None
    if images is None or not isinstance(labels, list | np.ndarray):
        raise LockstepError(f"{place} must hold data and {label_key.decode()}")
    pixels = int(np.prod(SHAPE))
    if not (isinstance(images, np.ndarray) and images.dtype == np.uint8
            and images.shape == (len(labels), pixels)):
        raise LockstepError(f"The images of {place} must be ({len(labels)}, {pixels}) uint8")
    if not all(isinstance(label, int | np.integer) for label in labels):
        raise LockstepError(f"The labels of {place} must be integers")
    return images.reshape(-1, *SHAPE), np.asarray(labels, dtype=np.int64)


def _read_parts(n_classes: int, contents: Callable[[str], bytes], place: Path) -> tuple[Part, Part]:
    def read(names: list[str]) -> Part:
        parts = [_read_pickle(contents(name), f"{place}/{name}", LABEL_KEYS[n_classes])
                 for name in names]
        images, labels = (np.concatenate(arrays) for arrays in zip(*parts))
        return torch.from_numpy(images), torch.from_numpy(labels)

    return read(TRAIN_FILES[n_classes]), read(TEST_FILES[n_classes])


def _read_folder(n_classes: int, folder: Path) -> tuple[Part, Part]:
    def contents(name: str) -> bytes:
        if not (folder / name).is_file():
            raise LockstepError(f"{folder} lacks {name}; unpack {ARCHIVES[n_classes]} "
                                f"from {SITE} again")
        return (folder / name).read_bytes()

    return _read_parts(n_classes, contents, folder)


def _read_archive(n_classes: int, path: Path) -> tuple[Part, Part]:
    wanted = {f"{FOLDERS[n_classes]}/{name}": name
              for name in TRAIN_FILES[n_classes] + TEST_FILES[n_classes]}
    files = {}
    try:
        with gzip.open(path) as stream:
            with tarfile.open(fileobj=stream, mode="r|") as archive:  # nothing goes to disk
                for member in archive:
                    name = wanted.get(member.name.removeprefix("./"))
                    if name and member.isfile():
                        files[name] = archive.extractfile(member).read()
            while stream.read(1 << 20):  # to the end, where the checksum stands
                pass
    except (tarfile.TarError, EOFError, zlib.error, OSError) as error:
        raise LockstepError(f"{path} is damaged or cut short ({error}); download it again "
                            f"from {SITE}") from error
    missing = sorted(set(wanted.values()) - set(files))
    if missing:
        raise LockstepError(f"{path} lacks {FOLDERS[n_classes]}/{missing[0]}; download it again "
                            f"from {SITE}")
    return _read_parts(n_classes, files.__getitem__, path)


def _load(n_classes: int, directory: Path | None, augment: bool) -> MemoryDataset:
    name, damaged = f"cifar{n_classes}", []
    for root in roots(directory, name):
        if (root / FOLDERS[n_classes]).is_dir():
            train, test = _read_folder(n_classes, root / FOLDERS[n_classes])
            break
        if (root / ARCHIVES[n_classes]).is_file():
            train, test = _read_archive(n_classes, root / ARCHIVES[n_classes])
            break
        if (root / "train.parquet").is_file():
            *train, damaged = read_parquet(root / "train.parquet", SHAPE)
            *test, damaged_test = read_parquet(root / "test.parquet", SHAPE)
            damaged += damaged_test
            break
    else:
        raise not_found(name, directory, f"{ARCHIVES[n_classes]} from {SITE} (packed or unpacked) "
                                         f"or {name}/train.parquet and {name}/test.parquet")
    mean, std = STATISTICS[n_classes]
    return MemoryDataset(name=name, n_classes=n_classes, train=tuple(train), test=tuple(test),
                         mean=mean, std=std, crop_padding=CROP_PADDING if augment else 0,
                         damaged=damaged)


def load_cifar10(directory: Path | None, augment: bool) -> MemoryDataset:
    """Ten classes, images of shape (3, 32, 32)."""
    return _load(10, directory, augment)


def load_cifar100(directory: Path | None, augment: bool) -> MemoryDataset:
    """A hundred (fine) classes, images of shape (3, 32, 32)."""
    return _load(100, directory, augment)

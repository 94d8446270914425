"""scikit-learn's 1,797 handwritten digits (8x8, 17 grey levels), part of the library.

From the UCI "Optical Recognition of Handwritten Digits" data. 80/20 split, stratified, fixed seed.
Pixels stay in [0, 1] and are not augmented.
"""

from pathlib import Path

import numpy as np
import torch

from sw.data.memory import MemoryDataset

__all__ = ["load_digits"]

SPLIT_SEED = 0
WHITE = 16


def load_digits(directory: Path | None, augment: bool) -> MemoryDataset:
    """1,437 training and 360 test images of shape (1, 8, 8)."""
    import sklearn.datasets
    from sklearn.model_selection import train_test_split

    digits = sklearn.datasets.load_digits()
    split = train_test_split(digits.images[:, None].astype(np.uint8),
                             digits.target.astype(np.int64), test_size=0.2,
                             random_state=SPLIT_SEED, stratify=digits.target)
    train_images, test_images, train_labels, test_labels = map(torch.from_numpy, split)
    return MemoryDataset(name="digits", train=(train_images, train_labels),
                         test=(test_images, test_labels), n_classes=10, white=WHITE)

"""Random crops and flips, drawn by a counter instead of a generator with a state.

Every draw is a hash of (seed, epoch, image index, draw number), computed for a whole batch at
once: SplitMix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators").
"""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["CROP_DRAWS", "crop_and_flip", "draws", "resized_crop_box"]

GOLDEN_GAMMA = 0x9E3779B97F4A7C15
MASK = (1 << 64) - 1
CROP_TRIES = 10
CROP_DRAWS = 2 * CROP_TRIES + 3  # (area, ratio) per try, the corner, the flip


def _mix(x: np.ndarray) -> np.ndarray:
    """The output function of SplitMix64 on a uint64 array."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


def draws(seed: int, epoch: int, indices: np.ndarray, n_draws: int) -> np.ndarray:
    """Uniform numbers in [0, 1), (N, n_draws) float64, of the images indices (N,) int64."""
    gamma = np.uint64(GOLDEN_GAMMA)
    state = np.array([seed & MASK], dtype=np.uint64)
    state = _mix(_mix(state + gamma) ^ np.array([epoch & MASK], dtype=np.uint64))
    state = _mix(state + indices.astype(np.uint64) * gamma)
    steps = np.arange(1, n_draws + 1, dtype=np.uint64) * gamma
    return (_mix(state[:, None] + steps) >> np.uint64(11)) * 2.0**-53


def crop_and_flip(images: Tensor, uniform: np.ndarray, padding: int) -> Tensor:
    """Shift each image (N, C, H, W) by up to padding pixels over black and mirror half of them.

    uniform: (N, 3) in [0, 1), for the row, the column and the flip.
    """
    n, channels, height, width = images.shape
    padded = images.new_zeros(n, channels, height + 2 * padding, width + 2 * padding)
    padded[:, :, padding:-padding, padding:-padding] = images
    corners = torch.from_numpy((uniform[:, :2] * (2 * padding + 1)).astype(np.int64))
    windows = padded.unfold(2, height, 1).unfold(3, width, 1)
    crops = windows[torch.arange(n), :, corners[:, 0], corners[:, 1]]
    flip = torch.from_numpy(uniform[:, 2] < 0.5)
    return torch.where(flip[:, None, None, None], crops.flip(3), crops)


def resized_crop_box(width: int, height: int, uniform: np.ndarray) -> tuple[int, int, int, int]:
    """Box (left, top, right, bottom) of 8-100 % of the area and an aspect of 3/4..4/3.

    The crop of Szegedy et al. 2014 (arXiv 1409.4842) as everybody trains ImageNet with it; after
    ten tries that do not fit, the largest central box of an allowed aspect. uniform: (23,).
    """
    corner = uniform[2 * CROP_TRIES:2 * CROP_TRIES + 2]
    for attempt in range(CROP_TRIES):
        share, ratio = uniform[2 * attempt:2 * attempt + 2]
        area = width * height * (0.08 + 0.92 * share)
        aspect = math.exp((2 * ratio - 1) * math.log(4 / 3))
        w, h = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < w <= width and 0 < h <= height:
            left, top = int(corner[0] * (width - w + 1)), int(corner[1] * (height - h + 1))
            return left, top, left + w, top + h
    w = max(1, min(width, round(height * 4 / 3)))
    h = max(1, min(height, round(width * 4 / 3)))
    left, top = (width - w) // 2, (height - h) // 2
    return left, top, left + w, top + h

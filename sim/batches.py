"""Images of a Program as runs of its memory image, and their tensors together again."""

from __future__ import annotations

import numpy as np

from hw.compiler import Image

__all__ = ["by_tensor", "groups_of", "joined"]


def groups_of(program, image: Image, codes: dict) -> tuple[list[dict], int]:
    """(the codes of every run, number of images).

    codes: by input and state, (N, *shape), or (1, *shape) of what the images share. Runs take
    ``image.batch`` images; the first image fills up the last one.
    """
    batched = [name for name in codes if program.tensors[name].batched]
    n_images = max((len(codes[name]) for name in batched), default=image.batch)
    groups = []
    for first in range(0, n_images, image.batch):
        index = np.arange(first, first + image.batch)
        index = np.where(index < n_images, index, 0)
        groups.append({name: x[index] if name in batched else x for name, x in codes.items()})
    return groups, n_images


def by_tensor(placed: dict) -> dict[str, np.ndarray]:
    """Arrays (1, *shape) by the names of their placements as arrays by tensor."""
    tensors = {}
    for name, array in placed.items():
        tensors.setdefault(name.partition("#")[0], []).append(array)
    return {name: np.concatenate(arrays) for name, arrays in tensors.items()}


def joined(program, runs: list[dict], n_images: int) -> dict[str, np.ndarray]:
    """The tensors of all runs, by name, of the first ``n_images`` images."""
    tensors = {}
    for name in dict.fromkeys(name for run in runs for name in run):
        arrays = [run[name] for run in runs if name in run]
        tensors[name] = (np.concatenate(arrays)[:n_images] if program.tensors[name].batched
                         else arrays[0])
    return tensors

"""The order of axes: channels first in a Program, first or last in the file that it came from.

A layout is "NCHW" (channels first) or "NHWC" (channels last). Both names stand for any rank: the
channel axis is the first or the last one behind the batch, whatever lies between.
"""

import numpy as np

__all__ = ["LAYOUTS", "from_file", "shape_in_file", "to_file"]

LAYOUTS = CHANNELS_FIRST, CHANNELS_LAST = "NCHW", "NHWC"


def from_file(x: np.ndarray, layout: str) -> np.ndarray:
    """An array in the file's order, batch first, to the Program's: a view where axes move."""
    return np.moveaxis(x, -1, 1) if layout == CHANNELS_LAST and x.ndim > 2 else x


def to_file(x: np.ndarray, layout: str) -> np.ndarray:
    """An array of a Program, (N, C, ...), to the order of the file: a view where axes move."""
    return np.moveaxis(x, 1, -1) if layout == CHANNELS_LAST and x.ndim > 2 else x


def shape_in_file(shape: tuple, layout: str) -> tuple:
    """A shape of a Program, (C, ...) without the batch, in the order of the file."""
    return (*shape[1:], shape[0]) if layout == CHANNELS_LAST and shape else shape

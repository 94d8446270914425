"""Shape and layouts of a convolution whose training products run on the array (training.py)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from golden.errors import LockstepError
from hw.compiler.lowering.cover import dense_cover, usual_cover
from hw.compiler.lowering.task import Window2d
from hw.compiler.memory.placement import Placement

__all__ = ["ENDLESS", "Convolution", "checked", "cover_of", "pixel_words", "port_fields",
           "straight", "weight_words"]

ENDLESS = 0xFFFF


@dataclass(frozen=True, kw_only=True)
class Convolution:
    """Shape of a convolution without groups. padding: top, left, bottom, right."""

    name: str
    in_channels: int
    out_channels: int
    height: int
    width: int
    kernel: tuple[int, int] = (3, 3)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int, int, int] = (0, 0, 0, 0)

    @property
    def output(self) -> tuple[int, int]:
        """Rows and columns of y."""
        size, pad = (self.height, self.width), self.padding
        return tuple((size[k] + pad[k] + pad[k + 2] - self.kernel[k]) // self.stride[k] + 1
                     for k in (0, 1))

    @property
    def macs(self) -> int:
        """Products of one image, those of the padding included."""
        return (self.output[0] * self.output[1] * self.kernel[0] * self.kernel[1]
                * self.in_channels * self.out_channels)

    def window(self) -> Window2d:
        """As the compiler of inference describes it."""
        return Window2d(kernel=self.kernel, stride=self.stride, padding=self.padding,
                        output=self.output)


def cover_of(target, c: Convolution, zero_point):
    """(Cover, Placement): how port a covers the window of x, in the order of the weights' words,
    and how x lies; LockstepError where there is no such cover.
    """
    stored = c.in_channels, c.height, c.width
    place = Placement(bank=0, base=0, shape=stored, stored=stored, word_bytes=target.word_bytes)
    order = np.arange(c.in_channels * c.kernel[0] * c.kernel[1]).reshape(c.in_channels, -1).T
    for cover in (usual_cover(target, place, c.window()),
                  dense_cover(target, stored, c.window(), zero_point, by_rows=True)):
        if cover and np.array_equal(cover.index.ravel(), order.ravel()):
            return cover, Placement(**vars(place) | {"dense": cover.dense})
    raise LockstepError(f"Convolution '{c.name}': {c.in_channels} input channels do not divide "
                        f"evenly into words of {target.word_bytes}")


def checked(codes, shape) -> np.ndarray:
    """codes, which must be int8 (N, *shape) of at least one image."""
    if codes.dtype != np.int8 or codes.shape[1:] != tuple(shape) or not len(codes):
        raise LockstepError(f"Training products need int8 (N, {', '.join(map(str, shape))}), not "
                            f"{codes.dtype} {codes.shape}")
    return codes


def pixel_words(codes, shape, target) -> np.ndarray:
    """int8 (N, C, H, W) as words, pixel by pixel."""
    place = Placement(bank=0, base=0, shape=shape, stored=shape, word_bytes=target.word_bytes)
    return place.pack(checked(codes, shape)).reshape(-1, target.word_bytes)


def weight_words(weights, c: Convolution, columns) -> np.ndarray:
    """int8 (O, I, kh, kw) as words (tap, input channel, chunk of output channels)."""
    shape = c.out_channels, c.in_channels, *c.kernel
    if weights.dtype != np.int8 or weights.shape != shape:
        raise LockstepError(f"Convolution '{c.name}' needs weights int8 {shape}, not "
                            f"{weights.dtype} {weights.shape}")
    chunks = -(-c.out_channels // columns)
    words = np.zeros((*c.kernel, c.in_channels, chunks * columns), np.int8)
    words[..., :c.out_channels] = weights.transpose(2, 3, 1, 0)
    return words.reshape(-1, columns)


def port_fields(port, **fields) -> dict:
    """Fields of the walker of port "a" or "b"; levels that are not named make one step."""
    return {f"{port}_{name}": value for name, value in
            ({"k0_count": 1, "k1_count": 1} | fields).items()}


def straight(step) -> dict:
    """Walker fields of a slot walk of equal steps."""
    return {"x_step": step, "y_step": step, "x_count": ENDLESS}

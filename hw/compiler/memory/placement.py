"""Placement: where a tensor lies in the scratchpad or in external memory, and in which order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from golden import digits
from golden.errors import LockstepError

__all__ = ["Dense", "Placement"]


@dataclass(frozen=True, kw_only=True)
class Dense:
    """Bytes of an image with few channels, one after the other, with their border.

    Byte of channel c of pixel (y, x): (top + y) * y_step + (left + x) * x_step + c. All other
    bytes of the ``n_bytes`` hold ``fill``, the code of the padding. Neighbouring lines share
    their border.
    """

    y_step: int
    x_step: int
    top: int
    left: int
    n_bytes: int
    fill: int


#: Byte planes of a code. int16 lies as two balanced digits (golden.digits), which clamp its largest
#: values, int32 as the four bytes that a wide MATMUL writes; low ones first.
_PLANES = {"int8": 1, "int16": 2, "int32": 4}


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tensor lies: pixel by pixel, ``n_chunks`` words of channels each, or ``dense``.

    ``shape`` is that of the program's tensor, ``stored`` the (C, H, W) in which it is laid out;
    they differ behind a reshape, which moves nothing; ``channels_last``: the reshape took the
    elements in H, W, C order, in which both shapes then hold the same. ``axes``: the order of the
    shape's axes in which its elements are those of ``stored``, where it is not their own. ``base``
    is the first word of ``bank``, or where ``external`` the first byte in external memory.
    ``dtype``: of the codes; wider ones than int8 are byte planes, one behind the other. ``spare``:
    words behind the tensor that are read, whatever they hold. ``symmetric``: no byte may be -128.
    """

    bank: int
    base: int
    shape: tuple[int, ...]
    stored: tuple[int, int, int]
    word_bytes: int
    dense: Dense | None = None
    external: bool = False
    channels_last: bool = False
    axes: tuple[int, ...] | None = None
    dtype: str = "int8"
    spare: int = 0
    symmetric: bool = False

    @property
    def n_chunks(self) -> int:
        """Words of a pixel."""
        return -(-self.stored[0] // self.word_bytes)

    @property
    def n_pixels(self) -> int:
        """Pixels of a channel."""
        return self.stored[1] * self.stored[2]

    @property
    def plane_words(self) -> int:
        """Words of a byte plane."""
        if self.dense:
            return -(-self.dense.n_bytes // self.word_bytes)
        return self.n_pixels * self.n_chunks

    @property
    def n_words(self) -> int:
        """Words of the tensor."""
        return _PLANES[self.dtype] * self.plane_words

    @property
    def keeps_channels(self) -> bool:
        """Are the tensor's channels (axis 0 of ``shape``) the channels that are laid out?"""
        return self.stored[0] == self.shape[0] and (
            not self.channels_last or self.stored == self.shape)

    def is_laid_out_as(self, other: Placement) -> bool:
        """Do equal elements of two tensors of one shape lie at equal places?"""
        return self.stored == other.stored and (
            self.channels_last == other.channels_last or self.stored == self.shape)

    def at(self, bank: int, base: int) -> Placement:
        """The same tensor elsewhere."""
        return replace(self, bank=bank, base=base)

    def _dense_bytes(self) -> np.ndarray:
        """The byte of every code, int (C, H, W)."""
        channels, height, width = self.stored
        d = self.dense
        return ((np.arange(height) + d.top)[:, None] * d.y_step
                + (np.arange(width) + d.left) * d.x_step + np.arange(channels)[:, None, None])

    def pack(self, x: np.ndarray) -> np.ndarray:
        """x: codes (N, *shape). Returns int8 (N, n_words, word_bytes), channels padded with 0.

        Raises LockstepError for a -128 where the layout is symmetric.
        """
        if self.dtype == "int8":
            planes = [np.asarray(x, np.int8)]
        elif self.dtype == "int16":
            planes = digits.split(x)
        else:
            planes = np.moveaxis(np.ascontiguousarray(x, "<i4")[..., None].view(np.int8), -1, 0)
        if self.symmetric and any((plane == -128).any() for plane in planes):
            raise LockstepError(f"Codes of -128 do not run where they meet packed multipliers, in "
                                f"a tensor of shape {self.shape}")
        return np.concatenate([self._pack_plane(plane) for plane in planes], axis=1)

    def unpack(self, words: np.ndarray) -> np.ndarray:
        """The inverse of ``pack``: int8 (N, n_words, word_bytes) to codes (N, *shape)."""
        planes = [self._unpack_plane(plane)
                  for plane in np.split(words, _PLANES[self.dtype], axis=1)]
        if self.dtype == "int8":
            return planes[0]
        if self.dtype == "int16":
            return digits.combine(*planes).astype(np.int16)
        return np.ascontiguousarray(np.stack(planes, axis=-1)).view("<i4")[..., 0]

    def _pack_plane(self, x):
        channels, height, width = self.stored
        if self.axes:
            x = x.transpose(0, *(axis + 1 for axis in self.axes))
        if self.channels_last:
            x = np.moveaxis(x, 1, -1).reshape(len(x), height * width, channels).swapaxes(1, 2)
        x = x.reshape(len(x), channels, height * width)
        if self.dense:
            flat = np.full((len(x), self.plane_words * self.word_bytes), self.dense.fill, np.int8)
            flat[:, self._dense_bytes().ravel()] = x.reshape(len(x), -1)
            return flat.reshape(len(x), self.plane_words, self.word_bytes)
        padded = np.zeros((len(x), height * width, self.n_chunks * self.word_bytes), np.int8)
        padded[:, :, :channels] = x.transpose(0, 2, 1)
        return padded.reshape(len(x), self.plane_words, self.word_bytes)

    def _unpack_plane(self, words):
        if self.dense:
            flat = words.reshape(len(words), -1)[:, self._dense_bytes().ravel()]
            return flat.reshape(len(words), *self.shape)
        channels = self.stored[0]
        pixels = words.reshape(len(words), self.n_pixels, self.n_chunks * self.word_bytes)
        if self.channels_last:
            x = pixels[:, :, :channels].reshape(len(words), *self.shape[1:], self.shape[0])
            return np.ascontiguousarray(np.moveaxis(x, -1, 1))
        x = np.ascontiguousarray(pixels[:, :, :channels].transpose(0, 2, 1))
        if self.axes is None:
            return x.reshape(len(words), *self.shape)
        x = x.reshape(len(words), *(self.shape[axis] for axis in self.axes))
        return np.ascontiguousarray(x.transpose(0, *(np.argsort(self.axes) + 1)))

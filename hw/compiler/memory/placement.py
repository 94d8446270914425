"""Placement: where a tensor lies in the scratchpad or in external memory, and in which order."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

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


@dataclass(frozen=True, kw_only=True)
class Placement:
    """Where a tensor lies: pixel by pixel, ``n_chunks`` words of channels each, or ``dense``.

    ``shape`` is that of the program's tensor, ``stored`` the (C, H, W) in which it is laid out;
    they differ behind a reshape, which moves nothing; ``channels_last``: the reshape took the
    elements in H, W, C order, in which both shapes then hold the same. ``base`` is the first word
    of ``bank``, or where ``external`` the first byte in external memory.
    """

    bank: int
    base: int
    shape: tuple[int, ...]
    stored: tuple[int, int, int]
    word_bytes: int
    dense: Dense | None = None
    external: bool = False
    channels_last: bool = False

    @property
    def n_chunks(self) -> int:
        return -(-self.stored[0] // self.word_bytes)

    @property
    def n_pixels(self) -> int:
        return self.stored[1] * self.stored[2]

    @property
    def n_words(self) -> int:
        if self.dense:
            return -(-self.dense.n_bytes // self.word_bytes)
        return self.n_pixels * self.n_chunks

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
        """x: int8 (N, *shape). Returns int8 (N, n_words, word_bytes), channels padded with 0."""
        channels, height, width = self.stored
        x = np.asarray(x, np.int8)
        if self.channels_last:
            x = np.moveaxis(x, 1, -1).reshape(len(x), height * width, channels).swapaxes(1, 2)
        x = x.reshape(len(x), channels, height * width)
        if self.dense:
            flat = np.full((len(x), self.n_words * self.word_bytes), self.dense.fill, np.int8)
            flat[:, self._dense_bytes().ravel()] = x.reshape(len(x), -1)
            return flat.reshape(len(x), self.n_words, self.word_bytes)
        padded = np.zeros((len(x), height * width, self.n_chunks * self.word_bytes), np.int8)
        padded[:, :, :channels] = x.transpose(0, 2, 1)
        return padded.reshape(len(x), self.n_words, self.word_bytes)

    def unpack(self, words: np.ndarray) -> np.ndarray:
        """The inverse of ``pack``: int8 (N, n_words, word_bytes) to int8 (N, *shape)."""
        if self.dense:
            flat = words.reshape(len(words), -1)[:, self._dense_bytes().ravel()]
            return flat.reshape(len(words), *self.shape)
        channels = self.stored[0]
        pixels = words.reshape(len(words), self.n_pixels, self.n_chunks * self.word_bytes)
        if self.channels_last:
            x = pixels[:, :, :channels].reshape(len(words), *self.shape[1:], self.shape[0])
            return np.ascontiguousarray(np.moveaxis(x, -1, 1))
        return np.ascontiguousarray(pixels[:, :, :channels].transpose(0, 2, 1)).reshape(
            len(words), *self.shape)

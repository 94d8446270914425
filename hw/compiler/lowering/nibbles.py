"""Codes of 4 bits, two in a byte, as LOAD unpacks them."""

from __future__ import annotations

import numpy as np

from hw.isa import MAX_NIBBLE_SHIFT

__all__ = ["pack_nibbles"]


def pack_nibbles(words: np.ndarray) -> tuple[np.ndarray, int] | None:
    """uint8 (ceil(n / 2), word_bytes) and ``nibble_shift`` that LOAD makes ``words`` of.

    words: int8 (n, word_bytes). A word of zeros is added where n is odd. None where the codes are
    no multiples of a power of two, up to 2^MAX_NIBBLE_SHIFT, in -8..7, or are a single word, of
    which nothing would be saved.
    """
    if len(words) < 2:
        return None
    for shift in range(MAX_NIBBLE_SHIFT + 1):
        codes = words >> shift
        if (codes << shift != words).any():
            return None
        if (-8 <= codes.min()) and codes.max() <= 7:
            break
    else:
        return None
    codes = np.concatenate([codes, np.zeros((len(codes) % 2, codes.shape[1]), np.int8)])
    pairs = (codes & 0xF).astype(np.uint8).reshape(-1, 2)
    return (pairs[:, 0] | pairs[:, 1] << 4).reshape(-1, words.shape[1]), shift

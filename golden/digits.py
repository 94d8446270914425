"""Balanced byte digits: 16-bit gradients for multipliers that take int8.

g = 256 * high + low with low in -128..127, the sign-extended low byte, and high = (g - low) >> 8.
That high fits int8 only for g <= 32639, so larger values are clamped there. A sum of products of
int8 codes with g is then two sums of bytes, put together exactly in 64 bits.
"""

from __future__ import annotations

import numpy as np

__all__ = ["GRADIENT_MAX", "GRADIENT_MIN", "MAX_TERMS", "combine", "split"]

GRADIENT_MIN, GRADIENT_MAX = -(1 << 15), 127 * 256 + 127
#: Products of two bytes, each at most 2**14, whose sum surely fits int32.
MAX_TERMS = ((1 << 31) - 1) // (1 << 14)


def split(gradient) -> tuple[np.ndarray, np.ndarray]:
    """(low, high), int8, of integers; beyond GRADIENT_MIN..GRADIENT_MAX they are clamped."""
    gradient = np.clip(np.asarray(gradient, np.int64), GRADIENT_MIN, GRADIENT_MAX)
    low = (gradient + 128 & 0xFF) - 128
    return low.astype(np.int8), (gradient - low >> 8).astype(np.int8)


def combine(low, high) -> np.ndarray:
    """int64 sums of 16-bit gradients from the sums of their digits; needs at most 41 bits."""
    return (np.asarray(high, np.int64) << 8) + np.asarray(low, np.int64)

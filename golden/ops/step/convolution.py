"""Convolution and linear layers of the integer training step, to pre-norm codes.

    q = clamp(lanes(sum w x, 2^30, 30 + s[c]), -128, 127)       s[c] = e_q[c] - e_w - e_x

No bias: the norm follows. Sums hold for at most 131,071 terms. An input (F,) with weights (O, F)
is a linear layer: the image of one pixel. `golden.ops.step.convolution_backward` is the way back.
"""

from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.digits import MAX_TERMS
from golden.ops import windows
from golden.ops.primitives import ExecutorIntegers
from golden.ops.step.base import HALF, Port, StepOperator, by_channel

__all__ = ["NO_PADDING", "PreNormCodes", "StepProduct", "as_given", "as_images", "pixel_factor",
           "sums_of"]

NO_PADDING = (0, 0, 0, 0)


def pixel_factor(pixels) -> tuple[int, int]:
    """(multiplier, shift) of 1 / pixels, a multiplier of 31 bits; (2^30, 30 + p) for 2^p pixels."""
    pixels = validate.integer("Pixels", pixels, 1, 1 << 16)
    log2 = (pixels - 1).bit_length()
    return arith.round_divide(1 << 30 + log2, pixels), 30 + log2


def sums_of(n_terms, first, second) -> tuple[int, int]:
    """(low, high) of every partial sum of so many products of values within two ranges."""
    products = [a * b for a in first for b in second]
    return n_terms * min(*products, 0), n_terms * max(*products, 0)


class StepProduct(StepOperator):
    """stride: (rows, columns); padding: (top, left, bottom, right) of x, with 0; groups."""

    def check_window(self) -> None:
        """Of the fields."""
        _, stride, padding, _ = windows.geometry((1, 1), self.stride, self.padding)
        self._put("stride", stride)
        self._put("padding", padding)
        self._put("groups", validate.integer("Groups", self.groups, 1, 1 << 16))

    def image(self, shape) -> tuple:
        """(C, H, W) of an image or a vector."""
        return (*shape, 1, 1) if len(shape) == 1 else windows.image_shape(self.label, shape)

    def kernel_shape(self, shape) -> tuple:
        """(O, I / groups, kh, kw) of weights of a convolution or a linear layer."""
        shape = (*shape, 1, 1) if len(shape) == 2 else shape
        if len(shape) != 4 or shape[0] % self.groups:
            raise ValueError(f"{self.label} must get weights (O, I, kh, kw) or (O, I) with "
                             f"{self.groups} dividing O, not shape {shape}")
        return shape

    def check_terms(self, n_terms) -> None:
        """ValueError for a sum that may leave int32."""
        if n_terms > MAX_TERMS:
            raise ValueError(f"{self.label}: {n_terms} terms are more than the {MAX_TERMS} of an "
                             f"exact 32-bit sum")

    def output_pixels(self, image, kernel) -> tuple:
        """(OH, OW) for an x of shape (C, H, W)."""
        return windows.output_size(image[1:], kernel, self.stride, self.padding)


@dataclass(frozen=True, kw_only=True, eq=False)
class PreNormCodes(StepProduct):
    """The codes q of a convolution or linear layer before its norm, nearest.

    x: int8 (N, I, H, W) or (N, I); weights: int8 (O, I / groups, kh, kw) or (O, I)
    shift: int32 (O,), s of the module's equation. Returns q, int8 (N, O, OH, OW) or (N, O).
    """

    ports_in = Port("x", "int8", True), Port("weights"), Port("shift", "int32")
    ports_out = (Port("q", "int8", True),)

    stride: tuple = (1, 1)
    padding: tuple = NO_PADDING
    groups: int = 1

    def __post_init__(self):
        self.check_window()

    def shapes(self, x, weights, shift) -> tuple[tuple, tuple]:
        """Checks the terms of a sum too."""
        n_outputs, channels, *kernel = self.kernel_shape(weights)
        image = self.image(x)
        self.check_terms(channels * kernel[0] * kernel[1])
        size = self.output_pixels(image, kernel)
        wanted = (channels * self.groups, *x[1:])
        return (wanted, weights, (n_outputs,)), ((n_outputs, *size)[:len(x)],)

    def macs(self, x, weights, shift) -> int:
        """Multiplications of one image."""
        size = self.output_pixels(self.image(x), self.kernel_shape(weights)[2:])
        return int(np.prod(weights)) * size[0] * size[1]

    def product_sums(self, input_ranges, x, weights, shift) -> tuple:
        """Of a kernel's weights and inputs."""
        return sums_of(int(np.prod(self.kernel_shape(weights)[1:])), *input_ranges[:2])

    def sums(self, p, x, weights) -> ExecutorIntegers:
        """int64 (N, O, OH, OW) of int64 inputs."""
        x, weights = as_images(p, x), as_images(p, weights, 1)
        return p.convolution(p.codes(x), p.codes(weights)[0], None, 0, stride=self.stride,
                             padding=self.padding, dilation=(1, 1), groups=self.groups)

    def results(self, p, x, weights, shift) -> tuple:
        """One visit of the lanes."""
        acc = self.sums(p, x, weights)
        y = arith.lanes(acc, HALF, by_channel(p, shift, acc) + 30)
        return (as_given(p, arith.clamp(y, arith.INT8_MIN, arith.INT8_MAX), x),)


def as_images(p, x, axes=0) -> ExecutorIntegers:
    """(N, C) as (N, C, 1, 1); weights have one axis more."""
    return p.reshape(x, (*x.shape[1:], 1, 1)) if x.ndim == 2 + axes else x


def as_given(p, y, x) -> ExecutorIntegers:
    """(N, C, 1, 1) as (N, C) where x is (N, C)."""
    return p.reshape(y, (y.shape[1],)) if x.ndim == 2 else y

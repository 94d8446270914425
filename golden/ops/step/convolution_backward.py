"""Gradients of the products of the integer training step: of inputs, weights and biases.

    dx = clamp(lanes(sum g8 w, 2^30, 30 + e_gx - (e_ga + 8 - e_x)), +-127 or +-32639), stochastic
    dw = sat32((sum of g16 x + 128) >> 8), exponent e_ga + 8

e_ga is the exponent of the gradient of the layer's int32 sums, so that e_q (and e_w, if wanted) may
differ between channels: no reduction mixes them. dw is summed by the digits of g16, which int32
holds for 131,071 terms, and put together exactly however many such sums there are.
"""

from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops import windows
from golden.ops.primitives import ExecutorIntegers
from golden.ops.range_norm import COUNT_MAX
from golden.ops.step.base import (
    CODE_MAX,
    GRADIENT_MAX,
    RANDOM_PORTS,
    Port,
    StepOperator,
    by_channel,
    digits_of,
    noise,
    saturated,
    tensor_id,
    top_of,
)
from golden.ops.step.convolution import (
    NO_PADDING,
    StepProduct,
    as_given,
    as_images,
    pixel_factor,
    sums_of,
)

__all__ = ["BiasGradient", "CodesGradient", "KernelGradient"]


@dataclass(frozen=True, kw_only=True, eq=False)
class CodesGradient(StepProduct):
    """The gradient of a layer's input as codes, rounded at random.

    g8: int8 (N, O, OH, OW) or (N, O); weights: as of `PreNormCodes`
    shift: int32 (1,), e_gx - (e_ga + 8 - e_x); seed, step: int32 (1,)
    Returns g, (N, I, *size) or (N, I), exponent e_gx, and top int32 (1,).
    size: (H, W) of x, None for a vector
    width: 8 for codes of +-127 (int8), 16 for +-32639 (int16)
    pixels: x is the average of so many, of each of which this is the gradient
    """

    size: tuple | None = None
    stride: tuple = (1, 1)
    padding: tuple = NO_PADDING
    groups: int = 1
    width: int = 16
    pixels: int = 1
    tensor_id: int

    ports_in = Port("g8", "int8", True), Port("weights"), Port("shift", "int32"), *RANDOM_PORTS

    def __post_init__(self):
        self.check_window()
        if self.size is not None:
            self._put("size", validate.integers("Size", self.size, 2, 1, windows.KERNEL_MAX))
        if self.width not in (8, 16):
            raise ValueError(f"Width must be 8 or 16, not {self.width!r}")
        pixel_factor(self.pixels)
        self._put("tensor_id", tensor_id(self.tensor_id))

    @property
    def limit(self) -> int:
        """The largest magnitude of a code."""
        return CODE_MAX if self.width == 8 else GRADIENT_MAX

    @property
    def ports_out(self) -> tuple:
        """Codes of `width` bits and their watch."""
        return Port("g", f"int{self.width}", True), Port("top", "int32")

    @property
    def ranges(self) -> tuple:
        """The clamp bounds."""
        return (-self.limit, self.limit), (0, arith.INT32_MAX)

    def shapes(self, g8, weights, *rest) -> tuple[tuple, tuple]:
        """Checks the terms of a sum too."""
        n_outputs, channels, *kernel = self.kernel_shape(weights)
        self.check_terms(n_outputs // self.groups * kernel[0] * kernel[1])
        channels *= self.groups
        if self.size is None:
            return ((n_outputs,), weights, (1,), (1,), (1,)), ((channels,), (1,))
        size = self.output_pixels((channels, *self.size), kernel)
        return (((n_outputs, *size), weights, (1,), (1,), (1,)), ((channels, *self.size), (1,)))

    def macs(self, g8, weights, *rest) -> int:
        """Multiplications of one image, as of the layer."""
        return int(np.prod(weights)) * int(np.prod(g8[1:]))

    def product_sums(self, input_ranges, g8, weights, *rest) -> tuple:
        """Of the gradients that a pixel of x went into."""
        n_outputs, _, *kernel = self.kernel_shape(weights)
        return sums_of(n_outputs // self.groups * kernel[0] * kernel[1], *input_ranges[:2])

    def sums(self, p, g8, weights) -> ExecutorIntegers:
        """int64 (N, I, H, W): a convolution of the gradient, zeros between its pixels."""
        dy, weights = as_images(p, g8), as_images(p, weights, 1)
        kernel, (top, left, _, _) = weights.shape[3:], self.padding
        size = self.size or (1, 1)
        # Row r of the gradient lies over the padded x from row r * stride on.
        grid = [max(length + k - 1, k + before + length) + pixels * stride
                for length, k, before, pixels, stride in
                zip(size, kernel, (top, left), dy.shape[2:], self.stride)]
        spread = p.place(p.codes(dy), grid, [k - 1 for k in kernel], self.stride)
        spread = spread[:, :, top:top + size[0] + kernel[0] - 1,
                        left:left + size[1] + kernel[1] - 1]
        groups, channels = self.groups, weights.shape[2]
        parts = p.transpose(p.reshape(weights, (groups, -1, channels, *kernel)), (0, 1, 3, 2, 4, 5))
        parts = p.flip(p.reshape(parts, (groups * channels, -1, *kernel)), (3, 4))
        return p.convolution(spread, p.codes(parts)[0], None, 0, stride=(1, 1), padding=NO_PADDING,
                             dilation=(1, 1), groups=groups)

    def results(self, p, g8, weights, shift, seed, step) -> tuple:
        """One visit of the lanes."""
        multiplier, log2 = pixel_factor(self.pixels)
        sums = self.sums(p, g8, weights)
        y = arith.lanes(sums, multiplier, by_channel(p, shift, sums) + log2,
                        noise(p, seed, step, self.tensor_id, sums))
        codes = saturated(y, self.limit)
        return (codes if self.size is not None else as_given(p, codes, g8)), top_of(p, y)


def _check_images(op, p, x):
    """ValueError for another batch than the widths are proven for."""
    n_images = p.batch(x) * p.part()[1]
    if n_images != op.n_images:
        raise ValueError(f"{op.label} must get {op.n_images} images, not {n_images}")


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelGradient(StepProduct):
    """The gradient of a layer's weights.

    x: int8 (N, I, H, W) or (N, I); g16: int16 (N, O, OH, OW) or (N, O), limited to +-32639
    Returns dw, int32 (O, I / groups, kh, kw) or (O, I).
    n_images: N of the whole batch, N OH OW at most 2^24; kernel: (rows, columns)
    """

    ports_in = Port("x", "int8", True), Port("g16", "int16", True)
    ports_out = (Port("gradient", "int32"),)

    n_images: int
    kernel: tuple = (1, 1)
    stride: tuple = (1, 1)
    padding: tuple = NO_PADDING
    groups: int = 1

    def __post_init__(self):
        self.check_window()
        self._put("n_images", validate.integer("Images", self.n_images, 1, COUNT_MAX))
        self._put("kernel", validate.integers("Kernel", self.kernel, 2, 1, windows.KERNEL_MAX))

    def shapes(self, x, g16) -> tuple[tuple, tuple]:
        """Checks the terms of a sum too."""
        image = self.image(x)
        size = self.output_pixels(image, self.kernel)
        terms = self.n_images * size[0] * size[1]
        if terms > COUNT_MAX:
            raise ValueError(f"{self.label}: {terms} terms are more than {COUNT_MAX}")
        if image[0] % self.groups or g16[0] % self.groups:
            raise ValueError(f"{self.label} must get channels that {self.groups} divides, "
                             f"not {image[0]} and {g16[0]}")
        sums = g16[0], image[0] // self.groups, *self.kernel
        sums = sums if len(x) == 3 else sums[:2]
        return (x, (g16[0], *size)[:len(x)]), (sums,)

    def macs(self, x, g16) -> int:
        """Multiplications of one image, of two digits."""
        return 2 * int(np.prod(self.shapes(x, g16)[1][0])) * int(np.prod(g16[1:]))

    def product_sums(self, input_ranges, x, g16) -> tuple:
        """Of both digits put together, over the batch, in any order: at most 48 bits."""
        size = self.output_pixels(self.image(x), self.kernel)
        low, high = (digits_of(saturated(value, GRADIENT_MAX))[1] for value in input_ranges[1])
        g = (low << 8) - 128, (high << 8) + 127
        return sums_of(self.n_images * size[0] * size[1], input_ranges[0], g)

    def results(self, p, x, g16) -> tuple:
        """By digit."""
        _check_images(self, p, x)
        digits = digits_of(as_images(p, saturated(g16, GRADIENT_MAX)))
        low, high = p.kernel_sums(p.codes(as_images(p, x)), [p.codes(digit) for digit in digits],
                                  self.kernel, stride=self.stride, padding=self.padding,
                                  groups=self.groups)
        dw = arith.saturate(arith.round_shift(p.all_sum((high << 8) + low), 8), 32)
        return (p.reshape(dw, dw.shape[1:3]) if x.ndim == 2 else dw,)


@dataclass(frozen=True, kw_only=True, eq=False)
class BiasGradient(StepOperator):
    """db = the sum over the images of g16, int16 (N, C), limited to +-32639: int32 (C,)."""

    ports_in = (Port("g16", "int16", True),)
    ports_out = (Port("sum", "int32"),)

    n_images: int

    def __post_init__(self):
        self._put("n_images", validate.integer("Images", self.n_images, 1,
                                               arith.INT32_MAX // GRADIENT_MAX))

    @property
    def ranges(self) -> tuple:
        """So many gradients."""
        return ((-self.n_images * GRADIENT_MAX, self.n_images * GRADIENT_MAX),)

    def shapes(self, g16) -> tuple[tuple, tuple]:
        """One for each channel."""
        return (g16,), (g16[:1],)

    def results(self, p, g16) -> tuple:
        """Sums."""
        _check_images(self, p, g16)
        return (p.all_sum(p.sum(saturated(g16, GRADIENT_MAX), (0,))),)

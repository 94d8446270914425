"""Gradients of the products of the integer training step: of inputs, weights and biases.

    dx = clamp(lanes(sum g8 w, 2^30, 30 + e_gx - (e_ga + 8 - e_x)), +-127 or +-32639), stochastic
    dw = sum of g16 x as two int32 sums, of the low and of the high digit, exponent e_ga

e_ga is the exponent of the gradient of the layer's int32 sums, so that e_q (and e_w, if wanted) may
differ between channels: no reduction mixes them. All sums hold for at most 131,071 terms.
"""

from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.digits import MAX_TERMS
from golden.ops import windows
from golden.ops.primitives import ExecutorIntegers
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

    def sums(self, p, g8, weights) -> ExecutorIntegers:
        """int64 (N, I, H, W): a convolution of the gradient, zeros between its pixels."""
        dy, weights = as_images(p, g8), as_images(p, weights, 1)
        weights = np.asarray(p.host(weights))[0].astype(np.int8)
        kernel, (top, left, _, _) = weights.shape[2:], self.padding
        size = self.size or (1, 1)
        # Row r of the gradient lies over the padded x from row r * stride on.
        grid = [max(length + k - 1, k + before + length) + pixels * stride
                for length, k, before, pixels, stride in
                zip(size, kernel, (top, left), dy.shape[2:], self.stride)]
        spread = p.place(p.codes(dy), grid, [k - 1 for k in kernel], self.stride)
        spread = spread[:, :, top:top + size[0] + kernel[0] - 1,
                        left:left + size[1] + kernel[1] - 1]
        parts = weights.reshape(self.groups, -1, *weights.shape[1:])[..., ::-1, ::-1]
        flipped = np.ascontiguousarray(parts.transpose(0, 2, 1, 3, 4))
        flipped = flipped.reshape(-1, *flipped.shape[2:])
        return p.convolution(spread, flipped, np.zeros(len(flipped), np.int32), 0, stride=(1, 1),
                             padding=NO_PADDING, dilation=(1, 1), groups=self.groups)

    def results(self, p, g8, weights, shift, seed, step) -> tuple:
        """One visit of the lanes."""
        multiplier, log2 = pixel_factor(self.pixels)
        sums = self.sums(p, g8, weights)
        y = arith.lanes(sums, multiplier, by_channel(p, shift, sums) + log2,
                        noise(p, seed, step, self.tensor_id, sums))
        codes = saturated(y, self.limit)
        return (codes if self.size is not None else as_given(p, codes, g8)), top_of(p, y)


def _check_images(op, n_images):
    """ValueError for another batch than the widths are proven for."""
    if n_images != op.n_images:
        raise ValueError(f"{op.label} must get {op.n_images} images, not {n_images}")


@dataclass(frozen=True, kw_only=True, eq=False)
class KernelGradient(StepProduct):
    """The gradient of a layer's weights as two sums of bytes: low and high digits of g16.

    x: int8 (N, I, H, W) or (N, I); g16: int16 (N, O, OH, OW) or (N, O), limited to +-32639
    Returns low and high, int32 (O, I / groups, kh, kw) or (O, I): 256 high + low = dw.
    n_images: N, which bounds the sums; kernel: (rows, columns)
    """

    ports_in = Port("x", "int8", True), Port("g16", "int16", True)
    ports_out = Port("low", "int32"), Port("high", "int32")

    n_images: int
    kernel: tuple = (1, 1)
    stride: tuple = (1, 1)
    padding: tuple = NO_PADDING
    groups: int = 1

    def __post_init__(self):
        self.check_window()
        self._put("n_images", validate.integer("Images", self.n_images, 1, MAX_TERMS))
        self._put("kernel", validate.integers("Kernel", self.kernel, 2, 1, windows.KERNEL_MAX))

    def shapes(self, x, g16) -> tuple[tuple, tuple]:
        """Checks the terms of a sum too."""
        image = self.image(x)
        size = self.output_pixels(image, self.kernel)
        self.check_terms(self.n_images * size[0] * size[1])
        if image[0] % self.groups or g16[0] % self.groups:
            raise ValueError(f"{self.label} must get channels that {self.groups} divides, "
                             f"not {image[0]} and {g16[0]}")
        sums = g16[0], image[0] // self.groups, *self.kernel
        sums = sums if len(x) == 3 else sums[:2]
        return (x, (g16[0], *size)[:len(x)]), (sums, sums)

    def macs(self, x, g16) -> int:
        """Multiplications of one image, of two digits."""
        return 2 * int(np.prod(self.shapes(x, g16)[1][0])) * int(np.prod(g16[1:]))

    def results(self, p, x, g16) -> tuple:
        """A convolution whose channels are images and whose kernel is the gradient, by digit."""
        _check_images(self, p.batch(x))
        is_vector = x.ndim == 2
        x, g16 = as_images(p, x), as_images(p, g16)
        images = p.reshape(x, (self.groups, -1, *x.shape[2:]))
        images = p.codes(p.reshape(p.transpose(images, (2, 1, 0, 3, 4)), (-1, *x.shape[2:])))
        outputs = []
        for digit in digits_of(saturated(g16, GRADIENT_MAX)):
            filters = np.asarray(p.host(p.transpose(digit, (1, 0, 2, 3)))).astype(np.int8)
            sums = p.convolution(images, filters, np.zeros(len(filters), np.int32), 0,
                                 stride=(1, 1), padding=self.padding, dilation=self.stride,
                                 groups=self.groups)
            sums = p.transpose(sums[:, :, :self.kernel[0], :self.kernel[1]], (1, 0, 2, 3))[None]
            outputs.append(p.reshape(sums, sums.shape[1:3]) if is_vector else sums)
        return tuple(outputs)


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
        _check_images(self, p.batch(g16))
        return (p.sum(saturated(g16, GRADIENT_MAX), (0,)),)

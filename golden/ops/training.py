"""The products of a convolution's training step: forward, gradient to the input, to the weights.

    sums = conv(x, w)       (N, O, OH, OW)
    dx = conv_T(dy, w)      (N, I, H, W)
    dw = x (*) dy           (O, I, kh, kw), summed over images and pixels

Weights are tensors, int8 (O, I, kh, kw) without a batch axis. The zero point of w and dy is 0. Sums
of x are of its codes, and padding supplies x's zero point; ``zero_point`` times the sum of the
other factor is what `x - zero_point` takes off them (`WeightGradient.gradients`).
"""

from dataclasses import dataclass

import numpy as np

from golden import arith, digits, validate
from golden.ops import windows
from golden.ops.operator import INT8, Operator
from golden.ops.primitives import ExecutorIntegers, ExecutorTensor
from golden.ops.rescale import Rescale

__all__ = ["ConvolutionSums", "InputGradient", "WeightGradient"]

INT32 = arith.INT32_MIN, arith.INT32_MAX


def _check_terms(n_terms, what):
    if n_terms > digits.MAX_TERMS:
        raise ValueError(f"{what}: {n_terms} terms are more than the {digits.MAX_TERMS} of an "
                         f"exact 32-bit sum")


class _TrainingProduct(Operator):
    """kernel, stride: (rows, columns); padding: (top, left, bottom, right) of x."""

    dilation = (1, 1)

    def _validate(self, kernel):
        _, stride, padding, _ = windows.geometry(kernel, self.stride, self.padding)
        self._put("stride", stride)
        self._put("padding", padding)

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """Everything."""
        return None

    def window_shape(self, image, kernel) -> tuple[int, int]:
        """(OH, OW) of an x of shape (I, H, W)."""
        _, *size = windows.image_shape(self.label, image)
        return windows.output_size(size, kernel, self.stride, self.padding)

    def _weights_shape(self, shape):
        if len(shape) != 4:
            raise ValueError(f"{self.label} must get weights (O, I, kh, kw), not shape {shape}")
        return shape


@dataclass(frozen=True, kw_only=True, eq=False)
class ConvolutionSums(_TrainingProduct):
    """int32 (N, O, OH, OW): the sums of the codes of x (N, I, H, W) times the weights."""

    n_inputs = 2
    input_dtypes = ("int8", "int8")
    output_dtypes = ("int32",)

    input_zero_point: int
    stride: tuple = (1, 1)
    padding: tuple = (0, 0, 0, 0)

    def __post_init__(self):
        self._validate((1, 1))
        self._put("input_zero_point", validate.integer("Input zero point", self.input_zero_point,
                                                       *INT8))

    @property
    def reads_zero_points(self) -> tuple:
        """Of x its own; of the weights 0."""
        return self.input_zero_point, 0

    writes_zero_point = 0

    def output_batched(self, x, weights) -> bool | tuple:
        """Images and one array of weights."""
        if not x or weights:
            raise ValueError(f"{self.label} must get images and one array of weights")
        return True

    def output_shape(self, x, weights) -> tuple:
        """(I, H, W) and (O, I, kh, kw) to (O, OH, OW)."""
        n_outputs, channels, *kernel = self._weights_shape(weights)
        if x[:1] != (channels,):
            raise ValueError(f"{self.label} must get {channels} input channels, not shape {x}")
        _check_terms(channels * kernel[0] * kernel[1], self.label)
        return (n_outputs, *self.window_shape(x, kernel))

    def output_range(self, input_ranges) -> tuple:
        """That of int32."""
        return INT32

    def macs(self, x, weights) -> int:
        """Multiplications of one image."""
        _, rows, columns = self.output_shape(x, weights)
        return int(np.prod(weights)) * rows * columns

    def compute(self, p, x, weights) -> ExecutorTensor:
        """x: (N, I, H, W), weights: (1, O, I, kh, kw)."""
        weights = np.asarray(p.host(weights))[0]
        sums = p.convolution(x, weights, np.zeros(len(weights), np.int32), self.input_zero_point,
                             stride=self.stride, padding=self.padding, dilation=(1, 1), groups=1)
        offset = self.input_zero_point * weights.astype(np.int64).sum((1, 2, 3))
        return p.codes(sums + p.per_channel(offset, sums), "int32")


@dataclass(frozen=True, kw_only=True, eq=False)
class InputGradient(_TrainingProduct):
    """int8 (N, I, H, W) = rescale(sums), or without rescale the int32 sums.

    size: (H, W) of x; stride, padding: of the convolution
    rescale: one multiplier, or one per input channel; its bounds hold the zero point, which is
        what pixels get that no window reaches
    """

    n_inputs = 2
    input_dtypes = ("int8", "int8")

    size: tuple
    stride: tuple = (1, 1)
    padding: tuple = (0, 0, 0, 0)
    rescale: Rescale | None = None

    def __post_init__(self):
        self._put("size", validate.integers("Size", self.size, 2, 1, windows.KERNEL_MAX))
        self._validate((1, 1))
        if self.rescale is None:
            return
        rescale = validate.instance("Rescale", self.rescale, Rescale)
        if not rescale.low <= rescale.zero_point <= rescale.high:
            raise ValueError("The clamp bounds of an input gradient must hold its zero point")

    @property
    def output_dtypes(self) -> tuple:
        """int8 where it is rescaled."""
        return ("int8",) if self.rescale else ("int32",)

    reads_zero_points = 0, 0

    @property
    def writes_zero_point(self) -> int | None:
        """The rescale's; 0 of sums."""
        return self.rescale.zero_point if self.rescale else 0

    def output_range(self, input_ranges) -> tuple:
        """The rescale's bounds, or those of int32."""
        return (self.rescale.low, self.rescale.high) if self.rescale else INT32

    def output_batched(self, gradient, weights) -> bool | tuple:
        """Gradients of images and one array of weights."""
        if not gradient or weights:
            raise ValueError("InputGradient must get gradients of images and one array of weights")
        return True

    def output_shape(self, gradient, weights) -> tuple:
        """(O, OH, OW) and (O, I, kh, kw) to (I, H, W)."""
        n_outputs, channels, *kernel = self._weights_shape(weights)
        expected = (n_outputs, *self.window_shape((channels, *self.size), kernel))
        if tuple(gradient) != expected:
            raise ValueError(f"InputGradient must get a gradient of shape {expected}, "
                             f"not {tuple(gradient)}")
        _check_terms(n_outputs * kernel[0] * kernel[1], self.label)
        if self.rescale:
            self.rescale.check_channels(channels)
        return (channels, *self.size)

    def macs(self, gradient, weights) -> int:
        """Multiplications of one image, as of the convolution."""
        return int(np.prod(weights)) * gradient[1] * gradient[2]

    def sums(self, p, gradient, weights) -> ExecutorIntegers:
        """int64 (N, I, H, W): a convolution of the gradient, zeros between its pixels."""
        weights, dy = np.asarray(p.host(weights))[0], np.asarray(p.host(gradient))
        kernel, (sy, sx), (top, left, _, _) = weights.shape[2:], self.stride, self.padding
        height, width = (size + k - 1 for size, k in zip(self.size, kernel))
        # Row r of the gradient lies over the padded x from row r * stride on.
        spread = np.zeros((*dy.shape[:2], max(height, kernel[0] + top + self.size[0]) + dy.shape[2]
                           * sy, max(width, kernel[1] + left + self.size[1]) + dy.shape[3] * sx),
                          np.int8)
        spread[:, :, kernel[0] - 1:kernel[0] - 1 + dy.shape[2] * sy:sy,
               kernel[1] - 1:kernel[1] - 1 + dy.shape[3] * sx:sx] = dy
        spread = spread[:, :, top:top + height, left:left + width]
        flipped = np.ascontiguousarray(weights[:, :, ::-1, ::-1].transpose(1, 0, 2, 3))
        return p.convolution(p.codes(p.constant(spread, gradient)), flipped,
                             np.zeros(len(flipped), np.int32), 0, stride=(1, 1),
                             padding=(0, 0, 0, 0), dilation=(1, 1), groups=1)

    def compute(self, p, gradient, weights) -> ExecutorTensor:
        """gradient: (N, O, OH, OW), weights: (1, O, I, kh, kw)."""
        sums = self.sums(p, gradient, weights)
        return self.rescale.compute(p, sums) if self.rescale else p.codes(sums, "int32")


@dataclass(frozen=True, kw_only=True, eq=False)
class WeightGradient(_TrainingProduct):
    """Sums over images and pixels: of the codes of x times dy, (O, I, kh, kw), and of dy, (O,).

    n_digits: 1 for an int8 dy; 2 for an int16 one, which is taken in balanced digits
        (golden.digits, which clamp it): all sums of the low one, then all of the high one. int32.
    taps: (first, end) of the kernel's taps, row by row, of which alone the sums are, then
        (O, I, end - first); those of dy come with the first tap
    """

    n_inputs = 2

    kernel: tuple
    input_zero_point: int
    stride: tuple = (1, 1)
    padding: tuple = (0, 0, 0, 0)
    n_digits: int = 1
    taps: tuple | None = None

    def __post_init__(self):
        self._put("kernel", validate.integers("Kernel", self.kernel, 2, 1, windows.KERNEL_MAX))
        self._validate(self.kernel)
        self._put("input_zero_point", validate.integer("Input zero point", self.input_zero_point,
                                                       *INT8))
        self._put("n_digits", validate.integer("Digits", self.n_digits, 1, 2))
        if self.taps is not None:
            n_taps = self.kernel[0] * self.kernel[1]
            self._put("taps", validate.integers("Taps", self.taps, 2, 0, n_taps))
            validate.integer("End of the taps", self.taps[1], self.taps[0] + 1, n_taps)

    @property
    def sums_gradient(self) -> bool:
        """Are the sums of dy among the outputs?"""
        return self.taps is None or self.taps[0] == 0

    @property
    def n_outputs(self) -> int:
        """One or two for each digit."""
        return (1 + self.sums_gradient) * self.n_digits

    @property
    def input_dtypes(self) -> tuple:
        """Of x and of dy."""
        return "int8", "int8" if self.n_digits == 1 else "int16"

    output_dtypes = ("int32",)

    @property
    def reads_zero_points(self) -> tuple:
        """Of x its own; of dy 0."""
        return self.input_zero_point, 0

    writes_zero_point = 0

    def output_batched(self, x, gradient) -> bool | tuple:
        """Sums over the images."""
        if not (x and gradient):
            raise ValueError("WeightGradient must get images and their gradients")
        return (False,) * self.n_outputs if self.n_outputs > 1 else False

    def output_shape(self, x, gradient) -> tuple:
        """(I, H, W) and (O, OH, OW) to the shapes of the sums."""
        size = self.window_shape(x, self.kernel)
        if len(gradient) != 3 or tuple(gradient[1:]) != size:
            raise ValueError(f"WeightGradient must get a gradient of {size}, not shape "
                             f"{tuple(gradient)}")
        taps = self.kernel if self.taps is None else (self.taps[1] - self.taps[0],)
        shapes = ((gradient[0], x[0], *taps), (gradient[0],))[:1 + self.sums_gradient]
        shapes *= self.n_digits
        return shapes if len(shapes) > 1 else shapes[0]

    def output_range(self, input_ranges) -> tuple:
        """Those of int32."""
        return (INT32,) * self.n_outputs if self.n_outputs > 1 else INT32

    def macs(self, x, gradient) -> int:
        """Multiplications of one image; a 16x8 one counts as two."""
        n_outputs, rows, columns = gradient
        first, end = self.taps or (0, self.kernel[0] * self.kernel[1])
        return self.n_digits * n_outputs * x[0] * rows * columns * (end - first)

    def check_images(self, n_images, gradient) -> None:
        """ValueError where sums over so many images may leave int32. gradient: its shape."""
        _check_terms(n_images * gradient[1] * gradient[2], self.label)

    def compute(self, p, x, gradient) -> ExecutorTensor | tuple[ExecutorTensor, ...]:
        """x: (N, I, H, W), gradient: (N, O, OH, OW); arrays with a leading axis of 1."""
        dy = np.asarray(p.host(gradient))
        self.check_images(len(dy), dy.shape[1:])
        x, outputs = p.transpose(x, [1, 0, 2, 3]), []
        for digit in [dy] if self.n_digits == 1 else digits.split(dy):
            # The images are channels, the strides of the convolution distances of its taps.
            filters = np.ascontiguousarray(digit.transpose(1, 0, 2, 3))
            sums = p.convolution(x, filters, np.zeros(len(filters), np.int32),
                                 self.input_zero_point, stride=(1, 1), padding=self.padding,
                                 dilation=self.stride, groups=1)
            of_dy = filters.astype(np.int64).sum((1, 2, 3))
            sums = sums[:, :, :self.kernel[0], :self.kernel[1]]
            sums = p.transpose(sums + p.per_channel(self.input_zero_point * of_dy, sums),
                               [1, 0, 2, 3])
            if self.taps is not None:
                sums = p.reshape(sums, (sums.shape[1], -1))[:, :, self.taps[0]:self.taps[1]]
            outputs.append(p.codes(sums[None], "int32"))
            if self.sums_gradient:
                outputs.append(p.codes(p.constant(of_dy[None], sums), "int32"))
        return tuple(outputs) if len(outputs) > 1 else outputs[0]

    def gradients(self, dw, db) -> tuple[np.ndarray, np.ndarray]:
        """(dw, db), int64 (O, I, kh, kw) and (O,), exact: of x - zero point, digits put together.

        dw, db: the sums by digit; of dw those of all taps, in any shape
        """
        dw, db = (sums[0].astype(np.int64) if len(sums) == 1 else digits.combine(*sums)
                  for sums in (dw, db))
        db = db.reshape(-1)
        dw = dw.reshape(len(db), -1, *self.kernel)
        return dw - self.input_zero_point * db[:, None, None, None], db

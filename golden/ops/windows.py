"""Sliding windows over NCHW arrays, as strided views: no loop over pixels anywhere."""

import numpy as np

from golden import validate

__all__ = ["KERNEL_MAX", "geometry", "image_shape", "output_size", "pad", "placed",
           "sliding"]

KERNEL_MAX = 1 << 16


def geometry(kernel, stride, padding, dilation=(1, 1)) -> tuple:
    """Validated (kernel, stride, padding, dilation) as tuples of ints.

    kernel, stride, dilation: (height, width), at least 1; padding: (top, left, bottom, right)
    """
    return (validate.integers("Kernel", kernel, 2, 1, KERNEL_MAX),
            validate.integers("Stride", stride, 2, 1, KERNEL_MAX),
            validate.integers("Padding", padding, 4, 0, KERNEL_MAX),
            validate.integers("Dilation", dilation, 2, 1, KERNEL_MAX))


def image_shape(name, shape) -> tuple:
    """Returns (C, H, W); raises ValueError for a shape that is not an image."""
    shape = tuple(shape)
    if len(shape) != 3:
        raise ValueError(f"{name} must get one (C, H, W) input, not shape {shape}")
    return shape


def output_size(size, kernel, stride, padding, dilation=(1, 1)) -> tuple:
    """(H, W) of the output for an input of `size` (H, W); ValueError where no window fits."""
    top, left, bottom, right = padding
    result = []
    for length, k, s, pad, d in zip(size, kernel, stride, (top + bottom, left + right), dilation):
        span = (k - 1) * d + 1
        if length + pad < span:
            raise ValueError(f"Window of {span} must fit the padded input of {length + pad}")
        result.append((length + pad - span) // s + 1)
    return tuple(result)


def pad(x, padding, value) -> np.ndarray:
    """Pads the last two axes of x (N, C, H, W) with a constant."""
    top, left, bottom, right = padding
    if not any(padding):
        return x
    return np.pad(x, ((0, 0), (0, 0), (top, bottom), (left, right)), constant_values=value)


def placed(shape, offset, stride) -> tuple[slice, ...]:
    """The index of an array of `shape` (N, C, H, W) from `offset` on, its pixels `stride` apart."""
    return (slice(None), slice(None), *(slice(first, first + length * step, step)
                                        for first, length, step in zip(offset, shape[2:], stride)))


def sliding(x, kernel, stride, dilation=(1, 1)) -> np.ndarray:
    """View of x (N, C, H, W), already padded, as (N, C, kh, kw, OH, OW)."""
    rows, columns = output_size(x.shape[2:], kernel, stride, (0, 0, 0, 0), dilation)
    n, c, h, w = x.strides
    return np.lib.stride_tricks.as_strided(
        x, shape=(*x.shape[:2], *kernel, rows, columns),
        strides=(n, c, h * dilation[0], w * dilation[1], h * stride[0], w * stride[1]),
        writeable=False)

"""Windows of convolutions and pools: their options, strides and padding, and that of a PAD."""

import numpy as np
import tflite

from sw.formats.tflite.builder import Builder
from sw.formats.tflite.graph import OperatorInfo, TensorInfo

__all__ = ["SAME", "VALID", "WINDOW", "padded_input", "padding_of", "paddings", "same_padding",
           "spatial", "strides"]

WINDOW = ("Padding", "StrideH", "StrideW", "FusedActivationFunction")
VALID, SAME = tflite.Padding.VALID, tflite.Padding.SAME


def same_padding(size: tuple, kernel: tuple, stride: tuple, dilation: tuple = (1, 1)) -> tuple:
    """(top, left, bottom, right) of SAME: the larger half below and on the right.

    size: (H, W) of the input. Source: padding.h, ComputePaddingWithOffset.
    """
    before, after = [], []
    for length, k, s, d in zip(size, kernel, stride, dilation):
        total = max(0, (-(-length // s) - 1) * s + (k - 1) * d + 1 - length)
        before.append(total // 2)
        after.append(total - total // 2)
    return (*before, *after)


def padding_of(operator: OperatorInfo, size: tuple, kernel: tuple, stride: tuple,
               dilation: tuple = (1, 1)) -> tuple:
    """(top, left, bottom, right) as the operator's options say."""
    if operator.options["Padding"] == VALID:
        return (0, 0, 0, 0)
    if operator.options["Padding"] == SAME:
        return same_padding(size, kernel, stride, dilation)
    operator.refuse(f"padding must be SAME or VALID, not number {operator.options['Padding']}")


def strides(operator: OperatorInfo) -> tuple:
    """(rows, columns)"""
    return operator.options["StrideH"], operator.options["StrideW"]


def paddings(operator: OperatorInfo) -> np.ndarray:
    """(before, after) of the batch, height, width and channels: int (4, 2).

    The axes that an input of fewer dimensions lacks are those of `Builder.image_of`.
    """
    rank = len(operator.activation(0).shape)
    values = operator.constant(1, "paddings", ("int32", "int64"), 2)
    if values.shape != (rank, 2) or (values < 0).any() or values[0].any():
        operator.refuse(f"paddings must be {rank} pairs of counts from 0 on, none for the batch")
    if not 2 <= rank <= 4:
        operator.refuse(f"at most 4 dimensions are padded, not {rank}")
    return np.insert(values.astype(np.int64), rank - 1, np.zeros((4 - rank, 2), np.int64), axis=0)


def spatial(values: np.ndarray) -> tuple:
    """(top, left, bottom, right) of `paddings`."""
    (top, bottom), (left, right) = values[1:3].tolist()
    return top, left, bottom, right


def padded_input(builder: Builder, operator: OperatorInfo) -> tuple[TensorInfo, tuple | None]:
    """What a convolution reads, and the padding of a PAD that becomes part of it, if one does."""
    pad = operator.inputs[0] and builder.folded_pads.get(operator.inputs[0].index)
    if not pad:
        return operator.activation(0, rank=4), None
    builder.notes.append(f"PAD (tensor {pad.name!r}) is part of {operator.kind} "
                         f"(tensor {operator.name!r})")
    return pad.activation(0, rank=4), spatial(paddings(pad))

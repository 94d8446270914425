"""Averages of codes: windows at the border have fewer pixels, and so multipliers of their own.

The output is cut into bands of rows and of columns whose windows have as many pixels. An
instruction writes whole lines or one column: what lies between the border's columns is written in
whole lines first, and the columns beside it over them. The counts rise to the border's end, stay,
and fall, so no other band of columns is wider than one.
"""

from __future__ import annotations

import numpy as np

from golden.ops import CodeAveragePool, Rescale
from hw.compiler.lowering.dispatch import lower_operator
from hw.compiler.lowering.task import NodeContext, Task, Window2d
from hw.compiler.lowering.vectors import (
    LARGEST_KERNEL,
    LARGEST_STEP,
    sum_tasks,
    window_fields,
)

__all__ = []


def _bands(counts):
    """[(first, end)] of equal neighbours."""
    edges = [0, *(np.flatnonzero(np.diff(counts)) + 1).tolist(), len(counts)]
    return list(zip(edges, edges[1:]))


def _pieces(rows, columns):
    """((first row, end), (first column, end), column whose count holds) of each instruction."""
    bands = sorted(_bands(columns), key=lambda band: band[0] - band[1])     # the widest first
    for row_band in _bands(rows):
        for first, end in bands:
            whole = end - first > 1
            yield row_band, (0, len(columns)) if whole else (first, end), first


@lower_operator.register(CodeAveragePool)
def _code_average_pool(op, context: NodeContext) -> list[Task]:
    size = context.x.stored[1:]
    multiplier, shift = op.factors(size)

    def rescale(row, column):
        return Rescale(multiplier=[multiplier[row, column]], shift=[shift[row, column]],
                       zero_point=0, low=op.low, high=op.high)

    pieces = list(_pieces(*op.counts(size)))
    window = Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding,
                      output=multiplier.shape)
    if len(pieces) == 1:
        return sum_tasks(context, window, 0, rescale(0, 0), 0)
    if window_fields(context, window) is None:
        context.refuse("average pooling that is padded has strides and padding of at most "
                       f"{LARGEST_STEP} and windows of at most {LARGEST_KERNEL} on the accelerator")
    tasks = []
    for (row, row_end), (column, column_end), counted in pieces:
        task, = sum_tasks(context, window, 0, rescale(row, counted), 0)
        top, y = _start(row, op.stride[0], op.padding[0])
        left, x = _start(column, op.stride[1], op.padding[1])
        width = column_end - column
        task.fields.update({
            "top": top, "left": left, "height": size[0] - y, "width": size[1] - x,
            "x_base": (y * size[1] + x) * context.x.n_chunks,
            "out_height": row_end - row, "out_width": width,
            "out_base": (row * window.output[1] + column) * context.y.n_chunks,
            "out_step": context.y.n_chunks * (window.output[1] if width == 1 else 1)})
        tasks.append(task)
    return tasks


def _start(position, stride, padding):
    """(padding, first line or column) of the window at an output position."""
    first = position * stride - padding
    return max(0, -first), max(0, first)

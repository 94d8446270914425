"""What is computed pixel by pixel, and copies."""

from __future__ import annotations

import numpy as np

from golden import ops
from golden.ops import Rescale
from hw.compiler.lowering.dispatch import lower_operator, runs_by_pixel
from hw.compiler.lowering.products import ArrayProduct, product_tasks
from hw.compiler.lowering.task import NodeContext, Task, Window2d
from hw.compiler.lowering.vectors import (
    add_task,
    cycles_of,
    lookup_task,
    multiply_task,
    sum_tasks,
)

__all__ = []


def _unit_rescale(low=-128, high=127) -> Rescale:
    return Rescale(multiplier=np.array([1 << 30]), shift=np.array([30]), zero_point=0, low=low,
                   high=high)


def _sums_or_lookup(op, context, bias, rescale) -> list[Task]:
    """Sums of one code each, rescaled; or a table of the same codes, where that is as fast."""
    sums = sum_tasks(context, Window2d(output=context.x.stored[1:]), bias, rescale, 0)
    if op.table is None:
        return sums
    return min([lookup_task(context, op.table)], sums,
               key=lambda tasks: cycles_of(tasks, context.target))


@runs_by_pixel.register(ops.Add)
@runs_by_pixel.register(ops.Mul)
@runs_by_pixel.register(ops.Rescaling)
def _runs_by_pixel(op) -> bool:
    return True


@lower_operator.register(ops.Clamp)
def _clamp(op, context: NodeContext) -> list[Task]:
    return _sums_or_lookup(op, context, 0, _unit_rescale(op.low, op.high))


@lower_operator.register(ops.Rescaling)
def _rescaling(op, context: NodeContext) -> list[Task]:
    if op.rescale.n_channels > 1 and not context.x.keeps_channels:
        context.refuse("a per-channel rescaling behind a reshape does not run on the accelerator")
    return _sums_or_lookup(op, context, -op.input_zero_point, op.rescale)


@lower_operator.register(ops.Add)
def _add(op, context: NodeContext) -> list[Task]:
    first, second = context.inputs
    if not first.is_laid_out_as(second):
        context.refuse("an addition behind a reshape does not run on the accelerator")
    return [add_task(context, op)]


@lower_operator.register(ops.Mul)
def _mul(op, context: NodeContext) -> list[Task]:
    first, second = context.inputs
    broadcast = second.shape != first.shape
    if broadcast and not (first.keeps_channels and second.keeps_channels) or (
            not broadcast and not first.is_laid_out_as(second)):
        context.refuse("a product of tensors behind a reshape does not run on the accelerator")
    return [multiply_task(context, op, broadcast)]


@lower_operator.register(ops.Concat)
def _concat(op, context: NodeContext) -> list[Task]:
    tasks, offset = [], 0
    for index, x in enumerate(context.inputs):
        if op.axis != 1 or not x.keeps_channels:
            context.refuse("the accelerator joins tensors along the channels only, and none "
                           "behind a reshape")
        tasks += _copy(context.of_input(index), offset)
        offset += x.stored[0]
    return tasks


def _copy(context, out_channel) -> list[Task]:
    """A tensor into channels of another."""
    n_channels, window = context.x.stored[0], Window2d(output=context.x.stored[1:])
    columns = context.target.columns
    if out_channel % columns == 0:
        return sum_tasks(context, window, 0, _unit_rescale(), 0, out_channel // columns)
    return product_tasks(context, ArrayProduct(
        weights=np.ones((n_channels, 1, 1, 1), np.int8), window=window,
        bias=np.zeros(n_channels, np.int64), rescale=_unit_rescale(), pad=0, groups=n_channels,
        out_channel=out_channel))

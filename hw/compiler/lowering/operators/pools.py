"""Maxima and averages over windows."""

from __future__ import annotations

from golden import ops
from hw.compiler.lowering.dispatch import lower_operator
from hw.compiler.lowering.task import NodeContext, Task, Window2d
from hw.compiler.lowering.vectors import max_pool_task, sum_tasks

__all__ = []


@lower_operator.register(ops.MaxPool)
def _max_pool(op, context: NodeContext) -> list[Task]:
    window = Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding,
                      output=context.y.stored[1:])
    return [max_pool_task(context, window)]


@lower_operator.register(ops.AveragePool)
def _average_pool(op, context: NodeContext) -> list[Task]:
    window = Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding,
                      output=context.y.stored[1:])
    return _averages(op, context, window)


@lower_operator.register(ops.GlobalAveragePool)
def _global_average_pool(op, context: NodeContext) -> list[Task]:
    return _averages(op, context, Window2d(kernel=op.window, output=(1, 1)))


def _averages(op, context, window) -> list[Task]:
    return sum_tasks(context, window, -window.n_taps * op.input_zero_point, op.rescale,
                     op.input_zero_point)

"""Which function lowers an operator: registered beside it, in a file of `operators`.

    @lower_operator.register(ops.MaxPool)
    def _max_pool(op, context):
        return [Task(...)]

An operator without one that is a function of one code is looked up; any other is refused by name.
"""

from __future__ import annotations

from functools import singledispatch

from hw.compiler.lowering.task import NodeContext, Task
from hw.compiler.lowering.vectors import lookup_task
from hw.compiler.memory.placement import Dense, Placement

__all__ = ["input_layout", "lower_operator", "runs_by_pixel", "runs_whole", "tensor_layouts"]


@singledispatch
def lower_operator(op, context: NodeContext) -> list[Task]:
    """The tasks of an operator; CannotRun where the accelerator does not have it."""
    if op.table is not None:
        return [lookup_task(context, op.table)]
    context.refuse(f"operator {op.label} does not run on the accelerator")


@singledispatch
def input_layout(op, target, place: Placement, by_rows: bool) -> Dense | None:
    """How the program's input, of which the operator is the only reader, is better laid out.

    by_rows: rows must follow each other in memory. None: pixel by pixel as any tensor.
    """
    return None


@singledispatch
def runs_whole(op) -> bool:
    """Do the tasks of an operator, in a program with a batch of its own, compute all images?"""
    return False


@singledispatch
def runs_by_pixel(op) -> bool:
    """Does an operator compute a tensor of single pixels as well where these are images in a row?
    """
    return op.in_place or op.table is not None


@singledispatch
def tensor_layouts(op, target, inputs: tuple[Placement, ...], outputs: tuple[Placement, ...]
                   ) -> tuple[tuple[Placement, ...], tuple[Placement, ...]]:
    """(inputs, outputs) as the operator's tasks read and write them; by default as they are.

    Raises CannotRun, without the node's name, for tensors that they cannot read.
    """
    return inputs, outputs

"""MATMUL tasks: convolutions of every kind, and copies that shift channels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.compiler.lowering.reduction import ReductionLayout, tap_reduction
from hw.compiler.lowering.task import NodeContext, Task, Window2d, parameter_block, rescale_fields
from hw.isa import Feed, Opcode

__all__ = ["INSTRUCTION_CYCLES", "ArrayProduct", "product_tasks", "tile_cycles"]

INSTRUCTION_CYCLES = 80  # about what one instruction more costs
_ENDLESS = 0xFFFF


@dataclass(frozen=True, kw_only=True, eq=False)
class ArrayProduct:
    """Sums of weights times codes over a window.

    weights: int8 (O, I, kh, kw); output o sees the I input channels of group o // (O / groups).
    bias: int64 (O,), with the zero point's share. pad: code of the padding. out_channel: where in
    the output tensor the first output goes. reduction: of a dense input.
    """

    weights: np.ndarray
    window: Window2d
    bias: np.ndarray
    rescale: object
    pad: int
    groups: int = 1
    out_channel: int = 0
    reduction: ReductionLayout | None = None


def tile_cycles(target, steps, n_channels) -> int:
    """Cycles of one tile of pixels and all its channel tiles: reduction, or its readout."""
    total = 0
    for first in range(0, n_channels, target.columns):
        groups = -(-min(target.columns, n_channels - first) // target.lanes)
        total += max(steps, target.rows * max(2, groups))
    return total


def product_tasks(context: NodeContext, product: ArrayProduct) -> list[Task]:
    """One instruction, or where groups make that cheaper one per range of input channels.

    Of the outputs only those of ``context.channels``; the parameters are those of all.
    """
    choices = [_dense_run(product)]
    if product.groups > 1 and product.reduction is None:
        choices.append(_group_runs(context, product))
    runs = min(choices, key=lambda runs: sum(_cost(context, product, run) for run in runs))
    target, first = context.target, product.out_channel % context.target.columns
    parameters = parameter_block(product.bias, product.rescale, len(product.weights),
                                 target.columns, first)
    low, high = context.channels or (0, len(product.weights))
    return [_task(context, product, (max(low, run[0]), min(high, run[1]), *run[2:]), parameters)
            for run in runs if run[0] < high and run[1] > low]


def _dense_run(product):
    """[(first output, end, first input channel, end)] of all in one."""
    per_group = product.weights.shape[1]
    return [(0, len(product.weights), 0, per_group * product.groups)]


def _group_runs(context, product):
    """The same by words of outputs; neighbours with the same inputs go together."""
    n_outputs, per_group = product.weights.shape[:2]
    per = n_outputs // product.groups
    columns = context.target.columns
    ends = np.arange(n_outputs + product.out_channel)
    ends = [end for end in ends[ends % columns == 0] - product.out_channel if end > 0]
    runs = []
    for first, end in zip([0, *ends], [*ends, n_outputs]):
        inputs = first // per * per_group, ((end - 1) // per + 1) * per_group
        if runs and runs[-1][2:] == inputs:
            runs[-1] = (runs[-1][0], end, *inputs)
        else:
            runs.append((int(first), int(end), *map(int, inputs)))
    return runs


def _cost(context, product, run):
    first, end, low, high = run
    reduction = product.reduction or tap_reduction(
        context.target, context.x, product.window, (low, high))
    target = context.target
    shift = (product.out_channel + first) % target.columns
    tiles = -(-product.window.n_pixels // target.rows)
    return tiles * tile_cycles(target, reduction.steps, shift + end - first) + INSTRUCTION_CYCLES


def _task(context, product, run, parameters):
    target = context.target
    first, end, low, high = run
    columns = target.columns
    reduction = product.reduction or tap_reduction(target, context.x, product.window, (low, high))
    word, shift = divmod(product.out_channel + first, columns)
    first_word = product.out_channel // columns
    n_words = -(-(shift + end - first) // columns)
    key = "weights", product.out_channel, run, reduction.index.shape, reduction.index.tobytes()
    weights = context.once(
        key, lambda: _weight_words(product, run, reduction, shift, n_words, columns))
    if target.packed and (weights == -128).any():
        context.refuse(f"weights of -128 do not run on target {target.name}")
    window = product.window
    fields = {
        "slots": reduction.slots, "inner_count": n_words,
        "outer_count": -(-window.n_pixels // target.rows), "period_count": reduction.period_count,
        "n_pixels": window.n_pixels, "first_channel": shift, "n_channels": shift + end - first,
        "out_base": word, "out_step": context.y.n_chunks, "out_x_count": _ENDLESS,
        "out_line_step": context.y.n_chunks,
        "parameter_base": (word - first_word) * (columns // target.lanes),
        **rescale_fields(product.rescale),
        **{f"a_{name}": value for name, value in reduction.walker.items()},
        "a_feed": Feed.TRANSPOSING, "a_pad": product.pad,
        "b_feed": Feed.DIRECT, "b_x_step": 1, "b_y_step": 1, "b_x_count": _ENDLESS,
        "b_group": reduction.period_count, "b_k0_count": 1, "b_k1_count": 1,
    }
    return context.task(Opcode.MATMUL, fields, weights, parameters)


def _weight_words(product, run, reduction, shift, n_words, columns):
    """int8 (tiles * steps, columns): a word per tile of channels and step of the reduction."""
    first, end, low, high = run
    per_group = product.weights.shape[1]
    per = len(product.weights) // product.groups
    dense = np.zeros((n_words * columns, high - low, *product.window.kernel), np.int8)
    for output in range(first, end):
        start = output // per * per_group - low
        dense[shift + output - first, start:start + per_group] = product.weights[output]
    flat = np.concatenate([dense.reshape(len(dense), -1), np.zeros((len(dense), 1), np.int8)],
                          axis=1)
    words = flat[:, reduction.index.ravel()]  # -1 is the column of zeros
    return np.ascontiguousarray(
        words.reshape(n_words, columns, -1).transpose(0, 2, 1)).reshape(-1, columns)

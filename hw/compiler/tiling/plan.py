"""How a program is cut: which tensors stay on the chip, stripes of rows, groups of channels."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hw.compiler.lowering.lower import lower
from hw.compiler.lowering.products import INSTRUCTION_CYCLES
from hw.compiler.lowering.task import Task
from hw.compiler.memory.placement import Placement
from hw.isa import Opcode

__all__ = ["Budget", "Stripe", "channel_groups", "row_stripes", "stripe_of", "stripe_tasks"]


@dataclass(frozen=True, kw_only=True)
class Budget:
    """Words: of a stripe of input or output, of a group of weights, of a tensor that stays."""

    stripe: int
    weights: int
    resident: int

    @classmethod
    def of(cls, target, level) -> Budget:
        """Budgets that get smaller with the level."""
        total = sum(target.bank_words)
        return cls(stripe=total // (12 + 6 * level), resident=min(target.bank_words) * 25
                   // (32 << level), weights=max(target.bank_words) // (2 + level))


@dataclass(frozen=True, kw_only=True)
class Stripe:
    """Rows first to end of an output, and of each input; (0, 0) where only padding is read."""

    rows: tuple[int, int]
    inputs: tuple[tuple[int, int], ...]


def _shapes(node, layouts):
    return [layouts[name].stored for name in node.inputs]


def stripe_of(node, layouts, first, end) -> Stripe:
    """What rows ``first`` to ``end`` of a node's output need."""
    shapes = _shapes(node, layouts)
    rows = node.op.input_rows(first, end, *shapes)
    return Stripe(rows=(first, end), inputs=rows or tuple((0, shape[1]) for shape in shapes))


def _rows_of(place: Placement, first, end) -> Placement:
    channels, _, width = place.stored
    stored = channels, end - first, width
    shape = stored if place.shape == place.stored else place.shape
    return replace(place, shape=shape, stored=stored)


def stripe_tasks(node, target, layouts, stripe, channels, memo=None) -> list[Task]:
    """The tasks of a stripe; Placements inside are of the stripe alone. memo: of the node."""
    places = {name: _rows_of(layouts[name], *rows)
              for name, rows in zip(node.inputs, stripe.inputs)}
    output = node.outputs[0]
    places[output] = _rows_of(layouts[output], *stripe.rows)
    op, shapes = node.op, _shapes(node, layouts)
    if op.input_rows(*stripe.rows, *shapes) is not None:
        op = op.for_rows(*stripe.rows, *shapes)
    return lower(replace(node, op=op), target, places, channels=channels,
                 tiled=True, memo={} if memo is None else memo)


def row_stripes(node, target, layouts, budget, stays) -> list[tuple[int, int]]:
    """Rows of the stripes of a node. stays(name): that tensor needs no room of its own."""
    y = layouts[node.outputs[0]]
    height, width = y.stored[1:]
    if node.op.input_rows(0, height, *_shapes(node, layouts)) is None:
        return [(0, height)]

    def fits(rows):
        needs = [] if stays(node.outputs[0]) else [rows * width * y.n_chunks]
        middle = max(0, min(height - rows, height // 2))
        stripe = stripe_of(node, layouts, middle, middle + rows)
        for name, (low, high) in zip(node.inputs, stripe.inputs):
            if not stays(name):
                x = layouts[name]
                line = (x.dense.y_step / x.word_bytes if x.dense else x.stored[2] * x.n_chunks)
                needs.append((high - low) * line)
        return max(needs, default=0) <= budget.stripe

    best = None
    for rows in range(1, height + 1):
        if rows > 1 and not fits(rows):
            break
        stripes = [(first, min(height, first + rows)) for first in range(0, height, rows)]
        tiles = sum(-(-(end - first) * width // target.rows) for first, end in stripes)
        cost = tiles + len(stripes) * INSTRUCTION_CYCLES / 100
        if best is None or cost <= best[0]:
            best = cost, stripes
    return best[1]


def channel_groups(tasks, columns, budget, n_stripes) -> list[tuple[int, int] | None]:
    """Output channels of the groups in which a node's weights are brought, from its whole tasks.

    None: all at once.
    """
    products = [task for task in tasks if task.opcode == Opcode.MATMUL]
    if len(tasks) != 1 or len(products) != 1:
        return [None]
    task = products[0]
    n_words, n_chunks = len(task.weights), task.fields["inner_count"]
    if n_words <= budget.weights and n_stripes > 1 or n_chunks == 1:
        return [None]
    per_group = max(1, budget.weights // (n_words // n_chunks))
    if n_stripes == 1:  # so that the next one comes while the first is used
        per_group = min(per_group, -(-n_chunks // 4))
    n_groups = -(-n_chunks // per_group)
    per_group = -(-n_chunks // n_groups)
    first, end = task.fields["first_channel"], task.fields["n_channels"]
    return [(max(0, low * columns - first), min(end, (low + per_group) * columns) - first)
            for low in range(0, n_chunks, per_group)]

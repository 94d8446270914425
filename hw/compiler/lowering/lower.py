"""Nodes of a Program to tasks, and how its tensors are laid out."""

from __future__ import annotations

from dataclasses import replace
from math import prod

import hw.compiler.lowering.operators  # noqa: F401  (registers every lowering)
from golden.ops.elementwise import orders_agree
from golden.ops.operator import Elementwise
from hw.compiler.lowering.dispatch import input_layout, lower_operator, tensor_layouts
from hw.compiler.lowering.task import NodeContext, Task
from hw.compiler.memory.placement import Placement
from hw.compiler.refusals import CannotRun

__all__ = ["layouts", "lower"]


def _stored_shape(shape) -> tuple[int, int, int]:
    shape = tuple(shape)
    return (*shape, 1, 1)[:3] if len(shape) < 3 else (prod(shape[:-2]), *shape[-2:])


def layouts(program, target, by_rows=False) -> dict[str, Placement]:
    """How every tensor is laid out; where is still open (bank and base are 0).

    by_rows: rows must follow each other in memory.
    """
    places = {}

    def usual(name):
        tensor = program.tensors[name]
        return Placement(bank=0, base=0, shape=tensor.shape, stored=_stored_shape(tensor.shape),
                         word_bytes=target.word_bytes, dtype=tensor.quantization.dtype)

    for name in program.sources:
        places[name] = usual(name)
        readers = [node for node in program.nodes if name in node.inputs]
        if len(readers) == 1 and name not in program.outputs:
            dense = input_layout(readers[0].op, target, places[name], by_rows)
            places[name] = replace(places[name], dense=dense)
    for node in program.nodes:
        for name in node.outputs:
            first = places[node.inputs[0]]
            if node.op.in_place:
                places[name] = _where_it_lies(node, first)
            elif isinstance(node.op, Elementwise):  # in the order of its input's elements
                places[name] = replace(first, dense=None)
            else:
                places[name] = usual(name)
    return _as_read_and_written(program, target, places)


def _as_read_and_written(program, target, places) -> dict[str, Placement]:
    """The layouts that operators ask for, of which there must be one for each tensor."""
    asked = {}
    for node in program.nodes:
        names = node.inputs, node.outputs
        parts = (tuple(places[name] for name in part) for part in names)
        try:
            layouts_ = tensor_layouts(node.op, target, *parts)
        except CannotRun as refusal:
            raise CannotRun(f"Node '{node.name}': {refusal}") from None
        for name, place in zip(sum(names, ()), sum(layouts_, ()), strict=True):
            asked.setdefault(name, []).append((node, place))
    for name, entries in asked.items():
        node, first = entries[0]
        kept = replace(first, spare=max(place.spare for _, place in entries),
                       symmetric=any(place.symmetric for _, place in entries))
        for other, place in entries:
            if replace(place, spare=kept.spare, symmetric=kept.symmetric) != kept:
                raise CannotRun(f"Node '{other.name}': tensor {name} lies in another order for "
                                f"node '{node.name}'")
        if kept.symmetric and name not in program.sources:
            raise CannotRun(f"Node '{entries[-1][0].name}': tensor {name} may hold -128, which "
                            f"does not run on target {target.name}")
        places[name] = kept
    return places


def _where_it_lies(node, place) -> Placement:
    """The layout behind an operator in place: the same words, in one order of their elements."""
    op, last = node.op, place.channels_last
    shape = op.output_shape(place.shape)
    if place.keeps_channels and not place.dense and len(shape) < 4 and shape[0] == place.shape[0]:
        # The same pixels in the same order, so the new shape may be an image as any other.
        return replace(place, shape=shape, stored=_stored_shape(shape), channels_last=False)
    if not (orders_agree(place.shape) and orders_agree(shape)):
        moved = not (orders_agree(place.shape) and orders_agree(place.stored))
        if place.shape != place.stored and moved and last != op.channels_last:
            raise CannotRun(f"Node '{node.name}': reshapes in two orders of the elements, one "
                            f"behind the other, do not run on the accelerator")
        last = op.channels_last
    return replace(place, shape=shape, channels_last=last)


def lower(node, target, places, *, n_images=1, by_pixel=False, **parts) -> list[Task]:
    """The tasks of a node. places: layouts by tensor; the others: fields of NodeContext.

    Raises CannotRun naming the node for what the accelerator does not have.
    """
    op = node.op
    if op.in_place:
        return []

    def placed(names):
        found = (places[name] for name in names)
        return tuple(replace(place, stored=(place.stored[0], 1, n_images)) if by_pixel else place
                     for place in found)

    context = NodeContext(
        target=target, node=node.name, input_names=tuple(node.inputs),
        output_names=tuple(node.outputs), inputs=placed(node.inputs),
        results=placed(node.outputs), n_images=n_images, by_pixel=by_pixel, **parts)
    if op.needs_image and context.x.stored != context.x.shape:
        context.refuse(f"{op.label} behind a reshape does not run on the accelerator")
    return lower_operator(op, context)

"""Nodes of a Program to tasks."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from golden import ops
from golden.ops import Rescale
from golden.ops.elementwise import orders_agree
from hw.compiler.lowering.averages import average_tasks
from hw.compiler.lowering.cover import dense_cover, usual_cover
from hw.compiler.lowering.products import Product, product_tasks
from hw.compiler.lowering.task import Job, Task, Window2d
from hw.compiler.lowering.vectors import (
    add_task,
    depthwise_tasks,
    linear_tasks,
    max_pool_task,
    sum_tasks,
)
from hw.compiler.memory.placement import Placement
from hw.compiler.refusals import CannotRun

__all__ = ["layouts", "lower"]

_NEEDS_IMAGE = (ops.Conv2d, ops.MaxPool, ops.AveragePool, ops.CodeAveragePool,
                ops.GlobalAveragePool)


def _stored_shape(shape):
    shape = tuple(shape)
    return (*shape, 1, 1)[:3] if len(shape) < 3 else (int(np.prod(shape[:-2])), *shape[-2:])


def _conv_window(op, shape):
    return Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding, dilation=op.dilation,
                    output=op.output_shape(shape)[1:])


def layouts(program, target, by_rows=False) -> dict[str, Placement]:
    """How every tensor is laid out; where is still open (bank and base are 0).

    by_rows: rows must follow each other in memory.
    """
    places = {}

    def usual(name):
        shape = tuple(program.tensors[name].shape)
        return Placement(bank=0, base=0, shape=shape, stored=_stored_shape(shape),
                         word_bytes=target.word_bytes)

    for name in program.inputs:
        places[name] = usual(name)
        cover = _input_cover(program, target, name, places[name], by_rows)
        if cover:
            places[name] = Placement(**{**vars(places[name]), "dense": cover.dense})
    for node in program.nodes:
        for name in node.outputs:
            places[name] = usual(name)
            if isinstance(node.op, ops.Reshape):
                places[name] = _reshaped(node, places[node.inputs[0]])
    return places


def _reshaped(node, place):
    """The layout behind a reshape: the same words, read in one order of their elements."""
    op, last = node.op, place.channels_last
    if not (orders_agree(place.shape) and orders_agree(op.shape)):
        if place.shape != place.stored and not orders_agree(place.stored) and (
                last != op.channels_last):
            raise CannotRun(f"Node '{node.name}': reshapes in two orders of the elements, one "
                            f"behind the other, do not run on the accelerator")
        last = op.channels_last
    return replace(place, shape=op.shape, channels_last=last)


def _input_cover(program, target, name, place, by_rows):
    """The cover of a network input that is better read densely, else None."""
    readers = [node for node in program.nodes if name in node.inputs]
    if (len(readers) != 1 or not isinstance(readers[0].op, ops.Conv2d) or name in program.outputs
            or len(place.shape) != 3):
        return None
    op = readers[0].op
    if op.groups > 1 and op.groups == place.shape[0] == op.weights.shape[0]:
        return None
    window = _conv_window(op, place.shape)
    dense = dense_cover(target, place.stored, window, op.input_zero_point, by_rows)
    return dense if dense and dense.steps < usual_cover(target, place, window).steps else None


def _convolution(job, op):
    window = _conv_window(op, job.x.stored)
    product = Product(weights=op.weights, window=window, bias=op.folded_bias(),
                      rescale=op.rescale, pad=op.input_zero_point, groups=op.groups)
    if job.x.dense:
        by_rows = job.alone or job.x.dense.x_step < job.x.dense.y_step
        cover = dense_cover(job.target, job.x.stored, window, op.input_zero_point, by_rows)
        return product_tasks(job, Product(**{**vars(product), "cover": cover}))
    if op.groups > 1 and op.groups == job.x.stored[0] == len(op.weights):
        return depthwise_tasks(job, product)
    return _single_pixel_or_products(job, product)


def _single_pixel_or_products(job, product):
    """A window as large as the image is a fully connected layer."""
    whole = (product.window.kernel == job.x.stored[1:] and product.groups == 1
             and not any(product.window.padding) and product.window.output == (1, 1))
    if whole and not job.alone:
        return linear_tasks(job, product)
    return product_tasks(job, product)


def _linear(job, op):
    channels, height, width = job.x.stored
    weights = op.weights.reshape(-1, channels, height, width)
    if job.x.channels_last:
        weights = op.weights.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return _single_pixel_or_products(job, Product(
        weights=weights,
        window=Window2d(kernel=(height, width), output=(1, 1)), bias=op.folded_bias(),
        rescale=op.rescale, pad=op.input_zero_point))


def _average_pool(job, op):
    if isinstance(op, ops.GlobalAveragePool):
        window = Window2d(kernel=op.window, output=(1, 1))
    else:
        window = Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding,
                          output=job.y.stored[1:])
    return sum_tasks(job, window, -window.n_taps * op.input_zero_point, op.rescale,
                     op.input_zero_point)


def _max_pool(job, op):
    return [max_pool_task(job, Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding,
                                        output=job.y.stored[1:]))]


def _unit_rescale(low=-128, high=127):
    return Rescale(multiplier=np.array([1 << 30]), shift=np.array([30]), zero_point=0, low=low,
                   high=high)


def _clamp(job, op):
    return sum_tasks(job, Window2d(output=job.x.stored[1:]), 0, _unit_rescale(op.low, op.high), 0)


def _rescaling(job, op):
    if op.rescale.n_channels > 1 and job.x.stored[0] != job.x.shape[0]:
        job.refuse("a per-channel rescaling behind a reshape does not run on the accelerator")
    return sum_tasks(job, Window2d(output=job.x.stored[1:]), -op.input_zero_point, op.rescale, 0)


def _add(job, op, second):
    if not job.x.stored == second.stored == job.y.stored:
        job.refuse("an addition behind a reshape does not run on the accelerator")
    return [add_task(job, op)]


def _concat(target, node, inputs, y):
    tasks, offset = [], 0
    for name, x in zip(node.inputs, inputs):
        job = Job(target=target, node=node.name, inputs=(name,), output=node.outputs[0], x=x, y=y)
        if node.op.axis != 1 or x.stored[0] != x.shape[0]:
            job.refuse("the accelerator joins tensors along the channels only, and none behind a "
                       "reshape")
        tasks += _copy(job, offset)
        offset += x.stored[0]
    return tasks


def _copy(job, out_channel):
    """A tensor into channels of another."""
    n_channels, window = job.x.stored[0], Window2d(output=job.x.stored[1:])
    if out_channel % job.target.columns == 0:
        return sum_tasks(job, window, 0, _unit_rescale(), 0, out_channel // job.target.columns)
    return product_tasks(job, Product(
        weights=np.ones((n_channels, 1, 1, 1), np.int8), window=window,
        bias=np.zeros(n_channels, np.int64), rescale=_unit_rescale(), pad=0, groups=n_channels,
        out_channel=out_channel))


_LOWER = {
    ops.Conv2d: _convolution, ops.Linear: _linear, ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool, ops.GlobalAveragePool: _average_pool, ops.Clamp: _clamp,
    ops.CodeAveragePool: average_tasks, ops.Rescaling: _rescaling,
}


def lower(node, target, places, outputs=None, alone=False) -> list[Task]:
    """The tasks of a node. places: layouts by tensor; outputs, alone: as of Job.

    Raises CannotRun naming the node for what the accelerator does not have.
    """
    op = node.op
    if isinstance(op, ops.Reshape):
        return []
    inputs = [places[name] for name in node.inputs]
    y = places[node.outputs[0]]
    job = Job(target=target, node=node.name, inputs=tuple(node.inputs), output=node.outputs[0],
              x=inputs[0], y=y, outputs=outputs, alone=alone)
    if isinstance(op, _NEEDS_IMAGE) and job.x.stored != job.x.shape:
        job.refuse(f"{type(op).__name__} behind a reshape does not run on the accelerator")
    if isinstance(op, ops.Add):
        return _add(job, op, inputs[1])
    if isinstance(op, ops.Concat):
        return _concat(target, node, inputs, y)
    if type(op) not in _LOWER:
        job.refuse(f"operator {type(op).__name__} does not run on the accelerator")
    return _LOWER[type(op)](job, op)

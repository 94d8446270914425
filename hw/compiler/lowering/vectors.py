"""Tasks of the vector engine: windows, pools, additions, fully connected layers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from golden.arith import INT8_MIN
from hw.compiler.lowering.products import (
    INSTRUCTION_CYCLES,
    ArrayProduct,
    product_tasks,
    tile_cycles,
)
from hw.compiler.lowering.reduction import tap_reduction
from hw.compiler.lowering.task import NodeContext, Task, Window2d, parameter_block, rescale_fields
from hw.compiler.scheduling.estimate import estimate_fields
from hw.isa import DEPTHWISE_KERNEL, Format, Opcode, decode, encode, field_of

__all__ = ["LARGEST_KERNEL", "LARGEST_STEP", "add_task", "cycles_of", "depthwise_tasks",
           "linear_tasks", "lookup_task", "max_pool_task", "multiply_task", "sum_tasks",
           "window_fields"]

LARGEST_STEP = field_of(Format.VECTOR, "stride_x").high  #: and padding and dilation
LARGEST_KERNEL = field_of(Format.VECTOR, "kernel_width").high


def window_fields(context: NodeContext, window: Window2d) -> dict | None:
    """Fields of an operation with a window; None where its numbers are too large for them."""
    small = (*window.stride, *window.padding[:2], *window.dilation)
    if max(small) > LARGEST_STEP or max(window.kernel) > LARGEST_KERNEL:
        return None
    _, height, width = context.x.stored
    return {
        "n_chunks": context.x.n_chunks, "width": width, "height": height,
        "out_height": window.output[0], "out_width": window.output[1],
        "kernel_height": window.kernel[0], "kernel_width": window.kernel[1],
        "stride_y": window.stride[0], "stride_x": window.stride[1],
        "top": window.padding[0], "left": window.padding[1],
        "dilation_y": window.dilation[0], "dilation_x": window.dilation[1],
        "line_step": width * context.x.n_chunks, "out_step": context.y.n_chunks,
        "n_channels": context.x.stored[0],
    }


def _by_words(values, columns):
    """int8 (C, n) to (words of channels * n, columns), n words for each word of channels."""
    n_words = -(-len(values) // columns)
    padded = np.zeros((n_words * columns, values.shape[1]), np.int8)
    padded[:len(values)] = values
    return np.ascontiguousarray(padded.reshape(n_words, columns, -1).transpose(0, 2, 1)).reshape(
        -1, columns)


def depthwise_tasks(context: NodeContext, product: ArrayProduct) -> list[Task]:
    """Every output channel sees the input channel of its own number."""
    window, columns = product.window, context.target.columns
    fields = window_fields(context, window)
    if fields is None:
        return product_tasks(context, product)
    span = (window.output[1] - 1) * window.stride[1] + DEPTHWISE_KERNEL
    fits = window.kernel == (DEPTHWISE_KERNEL,) * 2 and window.dilation == (1, 1)
    faster = DEPTHWISE_KERNEL * span <= window.n_taps * window.output[1]
    fields |= {"pad": product.pad, **rescale_fields(product.rescale)}
    taps = product.weights.reshape(len(product.weights), -1)
    return [context.task(
        Opcode.DEPTHWISE if fits and faster else Opcode.WINDOW, fields, _by_words(taps, columns),
        parameter_block(product.bias, product.rescale, len(taps), columns))]


def sum_tasks(context: NodeContext, window: Window2d, bias, rescale, pad, out_word=0) -> list[Task]:
    """Sums over the window, channel by channel; ``out_word``: where the first channels go."""
    n_channels, columns = context.x.stored[0], context.target.columns
    fields = window_fields(context, window)
    if fields is None:
        ones = np.ones((n_channels, 1, *window.kernel), np.int8)
        return product_tasks(context, ArrayProduct(
            weights=ones, window=window, bias=np.broadcast_to(bias, (n_channels,)),
            rescale=rescale, pad=pad, groups=n_channels, out_channel=out_word * columns))
    fields |= {"pad": pad, "same_weights": 1, "out_base": out_word, **rescale_fields(rescale)}
    return [context.task(Opcode.WINDOW, fields, np.ones((1, columns), np.int8),
                         parameter_block(bias, rescale, n_channels, columns))]


def max_pool_task(context: NodeContext, window: Window2d) -> Task:
    """The largest codes; padding never wins."""
    fields = window_fields(context, window)
    if fields is None:
        context.refuse(f"maximum pooling has strides and padding of at most {LARGEST_STEP} and "
                       f"windows of at most {LARGEST_KERNEL} on the accelerator")
    return context.task(Opcode.MAXPOOL, fields | {"pad": INT8_MIN})


def _pixel_fields(context: NodeContext) -> dict:
    """Fields of an operation pixel by pixel; inputs and output are laid out alike."""
    x = context.x
    return {"n_chunks": x.n_chunks, "out_width": x.n_pixels, "out_step": context.y.n_chunks,
            "n_channels": x.stored[0]}


def _pair_fields(op) -> dict:
    """Fields of an operation on two tensors."""
    return {"zero_point_0": op.input_zero_points[0], "zero_point_1": op.input_zero_points[1],
            "multiplier_2": int(op.rescale.multiplier[0]), "shift_2": int(op.rescale.shift[0]),
            **rescale_fields(op.rescale)}


def add_task(context: NodeContext, op) -> Task:
    """The sum of two tensors."""
    (m0, s0), (m1, s1) = op.input_rescales
    fields = {"multiplier_0": m0, "multiplier_1": m1, "shift_0": s0, "shift_1": s1,
              "left_shift": op.left_shift}
    return context.task(Opcode.ADD, _pixel_fields(context) | _pair_fields(op) | fields)


def multiply_task(context: NodeContext, op, broadcast: bool) -> Task:
    """The product of two tensors; broadcast: the second one has a single pixel, for all."""
    return context.task(Opcode.MUL, _pixel_fields(context) | _pair_fields(op) | {
        "broadcast": int(broadcast)})


def lookup_task(context: NodeContext, table: np.ndarray) -> Task:
    """The entry of every code; table: int8 (256,), at index code + 128."""
    words = np.ascontiguousarray(table).reshape(-1, context.target.columns)
    return context.task(Opcode.LOOKUP, _pixel_fields(context), words)


def cycles_of(tasks: list[Task], target) -> int:
    """What tasks take that run alone."""
    return sum(estimate_fields([{**decode(encode(task.opcode, **task.fields))},
                                decode(encode(Opcode.HALT))], target).cycles for task in tasks)


def linear_tasks(context: NodeContext, product: ArrayProduct) -> list[Task]:
    """A window of one position: the first outputs on the vector engine, the rest on the array.

    The two run side by side, so that the words of weights of both are used per cycle.
    """
    target, columns = context.target, context.target.columns
    n_outputs = len(product.weights)
    n_words = -(-n_outputs // columns)
    channels, height, width = context.x.stored
    pixel = context.x.n_chunks * columns
    n_inputs = (height * width - 1) * pixel + channels
    n_inputs += n_inputs % 2
    steps = tap_reduction(target, context.x, product.window).steps
    readout = 2 * target.rows  # of the last tile, which nothing hides

    def cycles(vector_words):
        rest = n_outputs - vector_words * columns
        on_array = (tile_cycles(target, steps, rest) + readout + INSTRUCTION_CYCLES
                    if rest > 0 else 0)
        on_vector = vector_words * n_inputs // 2 + INSTRUCTION_CYCLES if vector_words else 0
        return max(on_array, on_vector), bool(on_array) + bool(on_vector)

    packs = target.packed and (product.weights == -128).any()
    vector_words = n_words if packs else min(range(n_words + 1), key=cycles)
    tasks = []
    if vector_words:
        first = _outputs(product, 0, min(n_outputs, vector_words * columns))
        tasks.append(_linear_task(context, first, n_inputs, pixel))
    if vector_words < n_words:
        tasks += product_tasks(context, _outputs(product, vector_words * columns, n_outputs))
    return tasks


def _outputs(product, first, end):
    """The same product with the outputs from first to end alone."""
    rescale = product.rescale
    if rescale.n_channels > 1:
        rescale = replace(rescale, multiplier=rescale.multiplier[first:end],
                          shift=rescale.shift[first:end])
    return replace(product, weights=product.weights[first:end], bias=product.bias[first:end],
                   rescale=rescale, out_channel=product.out_channel + first)


def _linear_task(context, product, n_inputs, pixel):
    columns = context.target.columns
    n_outputs, channels = product.weights.shape[:2]
    by_pixel = np.zeros((n_outputs, product.window.n_taps, pixel), np.int8)
    by_pixel[:, :, :channels] = product.weights.reshape(n_outputs, channels, -1).transpose(0, 2, 1)
    flat = np.zeros((n_outputs, n_inputs), np.int8)
    flat[:] = by_pixel.reshape(n_outputs, -1)[:, :n_inputs]
    fields = {
        "n_chunks": -(-n_outputs // columns), "n_inputs": n_inputs, "out_step": 1,
        "n_channels": n_outputs, **rescale_fields(product.rescale)}
    return context.task(Opcode.LINEAR, fields, _by_words(flat, columns),
                        parameter_block(product.bias, product.rescale, n_outputs, columns))

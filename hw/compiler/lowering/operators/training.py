"""The three products of a convolution's training step, as instructions for the array.

    sums = conv(x, w)       rows: output pixels          columns: output channels
    dx = conv_T(dy, w)      rows: input pixels           columns: input channels
    dw = x (*) dy           rows: input channels of one tap   columns: output channels

Weights lie once, for sums and dx alike: word (tap, input channel, chunk of output channels), a byte
per output channel. Port b takes them direct for sums, a word per step of the reduction, and
transposing for dx, a word per lane. dw comes out in the same order. An x of few channels lies dense
(hw.compiler.memory.placement). All images lie one behind the other.
"""

from __future__ import annotations

from dataclasses import replace
from math import prod

import numpy as np

from golden import ops
from hw.compiler.lowering.dispatch import lower_operator, runs_whole, tensor_layouts
from hw.compiler.lowering.reduction import ReductionLayout, dense_reduction, tap_reduction
from hw.compiler.lowering.task import (
    NodeContext,
    Task,
    Window2d,
    parameter_block,
    rescale_fields,
)
from hw.compiler.memory.placement import Placement
from hw.compiler.refusals import CannotRun
from hw.isa import Feed, Opcode

__all__ = []

_ENDLESS = 0xFFFF
_SLOTS_MAX = 255


@runs_whole.register(ops.ConvolutionSums)
@runs_whole.register(ops.InputGradient)
@runs_whole.register(ops.WeightGradient)
def _runs_whole(op) -> bool:
    return True


def _port(port, **fields) -> dict:
    """Fields of the walker of port "a" or "b"; levels that are not named make one step."""
    return {f"{port}_{name}": value
            for name, value in ({"k0_count": 1, "k1_count": 1} | fields).items()}


def _straight(step) -> dict:
    """Walker fields of a slot walk of equal steps."""
    return {"x_step": step, "y_step": step, "x_count": _ENDLESS}


# Layouts


def _of_weights(place: Placement) -> Placement:
    """Word (tap, input channel, chunk of output channels) of a tensor (O, I, taps)."""
    n_outputs, n_inputs, *taps = place.shape
    axes = (0, *range(2, len(place.shape)), 1)
    return replace(place, axes=axes, stored=(n_outputs, prod(taps), n_inputs))


def _for_port_b(place: Placement, target, spare=0) -> Placement:
    return replace(place, spare=max(spare, place.spare), symmetric=target.packed)


def _read_by_windows(target, place, window, zero_point) -> tuple[ReductionLayout, Placement]:
    """How port a covers x, in the order of the weights' words, and how x then lies."""
    channels, n_taps = place.shape[0], window.n_taps
    order = np.arange(channels * n_taps).reshape(channels, -1).T
    for reduction in (tap_reduction(target, replace(place, dense=None), window),
                  dense_reduction(target, place.shape, window, zero_point, by_rows=True)):
        if reduction and np.array_equal(reduction.index.ravel(), order.ravel()):
            return reduction, replace(place, dense=reduction.dense)
    raise CannotRun(f"training products need input channels that divide evenly into words of "
                    f"{target.word_bytes}, not {channels}")


def _window(op, kernel, x_shape) -> Window2d:
    return Window2d(kernel=tuple(kernel), stride=op.stride, padding=op.padding,
                    output=op.window_shape(x_shape, kernel))


@tensor_layouts.register(ops.ConvolutionSums)
def _sums_layouts(op, target, inputs, outputs):
    x, weights = inputs
    window = _window(op, weights.shape[2:], x.shape)
    _, x = _read_by_windows(target, x, window, op.input_zero_point)
    return (replace(x, spare=1), _for_port_b(_of_weights(weights), target)), outputs


@tensor_layouts.register(ops.InputGradient)
def _input_gradient_layouts(op, target, inputs, outputs):
    dy, weights = inputs
    return (dy, _for_port_b(_of_weights(weights), target, target.columns * dy.n_chunks)), outputs


@tensor_layouts.register(ops.WeightGradient)
def _weight_gradient_layouts(op, target, inputs, outputs):
    x, dy = inputs
    _, x = _read_by_windows(target, x, _window(op, op.kernel, x.shape), op.input_zero_point)
    outputs = tuple(_of_weights(y) if len(y.shape) > 1 else y for y in outputs)
    return (replace(x, spare=2), _for_port_b(dy, target)), outputs


# Tasks


@lower_operator.register(ops.ConvolutionSums)
def _convolution_sums(op, context: NodeContext) -> list[Task]:
    (x, weights), y, target = context.inputs, context.y, context.target
    window = _window(op, weights.shape[2:], x.shape)
    reduction, _ = _read_by_windows(target, x, window, op.input_zero_point)
    chunks = y.n_chunks
    return [context.task(Opcode.MATMUL, {
        "slots": reduction.slots, "period_count": reduction.period_count, "wide": 1,
        "outer_count": -(-window.n_pixels // target.rows), "inner_count": chunks,
        "n_pixels": window.n_pixels, "n_channels": y.stored[0], "out_base": image * y.n_words,
        "out_step": chunks, "out_line_step": chunks, "out_x_count": _ENDLESS,
        "plane_step": y.plane_words,
        **_port("a", **reduction.walker | {
            "base": reduction.walker["base"] + image * x.n_words * x.word_bytes},
            pad=op.input_zero_point, feed=Feed.TRANSPOSING),
        **_port("b", **_straight(chunks), base=0, feed=Feed.DIRECT, group=reduction.period_count,
                fixed=1, tile_step=1)}) for image in range(context.n_images)]


@lower_operator.register(ops.InputGradient)
def _input_gradient(op, context: NodeContext) -> list[Task]:
    """A stride of s is s * s products, each of the input pixels whose coordinates leave the same
    remainders: these see the same taps, every s-th one. No zero is inserted into dy. Pixels that no
    tap reaches get the code of 0, from the vector engine and at the same time.
    """
    target, dx = context.target, context.y
    common = {"slots": target.columns, "inner_count": dx.n_chunks, "n_channels": dx.stored[0],
              "wide": int(op.rescale is None)}
    parameters, zero = None, 0
    if op.rescale is None:
        common["plane_step"] = dx.plane_words
    else:
        common |= rescale_fields(op.rescale)
        zero = op.rescale.zero_point
        parameters = parameter_block(np.zeros(dx.stored[0], np.int64), op.rescale, dx.stored[0],
                                     target.columns)
    tasks = _fill_untouched(op, context, zero)
    for image in range(context.n_images):
        for phase in np.ndindex(*op.stride):
            fields = _phase(op, context, phase)
            if fields is None:
                continue
            fields["a_base"] += image * context.x.n_words * target.columns
            fields["out_base"] += image * dx.n_words
            tasks.append(context.task(Opcode.MATMUL, common | fields, parameters=parameters))
    return tasks


def _taps(op, kernel, phase, axis) -> tuple[int, int, int]:
    """(first tap, number of taps, output coordinate of the first tap) of a phase."""
    stride = op.stride[axis]
    first = (phase[axis] + op.padding[axis]) % stride
    n_taps = len(range(first, kernel[axis], stride))
    return first, n_taps, (phase[axis] + op.padding[axis] - first) // stride


def _phase(op, context, phase) -> dict | None:
    """Fields of the input pixels of one phase, addresses from the operands' beginnings; None
    where it has no tap or no pixel.
    """
    dy, weights = context.inputs
    kernel, target, (height, width) = weights.shape[2:], context.target, op.size
    chunks, tiles = dy.n_chunks, context.y.n_chunks
    (ky, n_ky, oy), (kx, n_kx, ox) = (_taps(op, kernel, phase, axis) for axis in (0, 1))
    (sy, sx), (py, px) = op.stride, phase
    n_lines, n_x = len(range(py, height, sy)), len(range(px, width, sx))
    if not (n_ky and n_kx and n_lines and n_x):
        return None
    out_height, out_width = dy.stored[1:]
    pixel = chunks * target.columns  # bytes of dy
    line = out_width * pixel
    back = (chunks - 1) * target.columns
    tap = weights.stored[2] * chunks  # words of the weights
    levels = {"k0_count": chunks, "k1_count": n_kx}
    return {
        "period_count": n_ky * n_kx * chunks, "outer_count": -(-n_lines * n_x // target.rows),
        "n_pixels": n_lines * n_x, "out_base": (py * width + px) * tiles, "out_step": sx * tiles,
        "out_x_count": n_x, "out_line_step": (sy * width - (n_x - 1) * sx) * tiles,
        **_port("a", base=oy * line + ox * pixel, bounded=1, width=out_width, height=out_height,
                ix=ox, iy=oy, ix_step=1, iy_step=1, x_step=pixel, x_count=n_x,
                y_step=line - (n_x - 1) * pixel, group=1, feed=Feed.TRANSPOSING, **levels,
                k0_step=target.columns, k1_step=-pixel - back, k1_dx=-1,
                k2_step=-line + (n_kx - 1) * pixel - back, k2_dx=n_kx - 1, k2_dy=-1),
        **_port("b", **_straight(chunks), base=(ky * kernel[1] + kx) * tap, group=1,
                feed=Feed.TRANSPOSING, fixed=1, tile_step=target.columns * chunks, **levels,
                k0_step=1, k1_step=sx * tap - chunks + 1,
                k2_step=(sy * kernel[1] - (n_kx - 1) * sx) * tap - chunks + 1),
    }


def _fill_untouched(op, context, zero) -> list[Task]:
    """Whole rows and columns of dx without a tap, written as maxima of padding."""
    kernel, dx = context.inputs[1].shape[2:], context.y
    rows, columns = ([p for p in range(op.stride[axis]) if not _taps(op, kernel, (p, p), axis)[1]]
                     for axis in (0, 1))
    if not (rows or columns):
        return []
    (sy, sx), (height, width), tiles = op.stride, op.size, dx.n_chunks
    if height % sy or width % sx:
        context.refuse(f"a stride of {op.stride} with pixels that no tap reaches must divide the "
                       f"input's {height}x{width}")
    lines = [(p * width, sy * width, width, height // sy) for p in rows]
    lines += [(p, sx, 1, height * width // sx) for p in columns]
    n_planes = dx.n_words // dx.plane_words
    # Planes of all images lie behind each other, and lines in them at equal steps.
    return [context.task(Opcode.MAXPOOL, {
        "out_base": first * tiles, "out_step": step * tiles, "n_chunks": n_pixels * tiles,
        "out_width": context.n_images * n_planes * count, "out_height": 1, "kernel_width": 1,
        "kernel_height": 1, "stride_x": 1, "stride_y": 1, "dilation_x": 1, "dilation_y": 1,
        "n_channels": n_pixels * tiles * context.target.columns, "pad": zero})
        for first, step, n_pixels, count in lines]


@lower_operator.register(ops.WeightGradient)
def _weight_gradient(op, context: NodeContext) -> list[Task]:
    """Per digit of dy one product for each line of results, and one with ones on port a, for db."""
    (x, dy), target, n_images = context.inputs, context.target, context.n_images
    try:
        op.check_images(n_images, dy.shape)
    except ValueError as error:
        context.refuse(f"{error}; take fewer images")
    window = _window(op, op.kernel, x.shape)
    reduction, _ = _read_by_windows(target, x, window, op.input_zero_point)
    n_pixels, chunks = window.n_pixels, dy.n_chunks
    slots = max((d for d in range(2, _SLOTS_MAX + 1) if n_pixels % d == 0), default=0)
    if not slots:
        context.refuse(f"{n_pixels} pixels have no divisor in 2..{_SLOTS_MAX}")
    group = n_pixels // slots
    lines = _dense_lines(op, window, x) if reduction.dense else _tap_lines(op, window, x)
    if op.taps is not None:
        if reduction.dense:
            context.refuse("sums of a part of the taps need an input that is not dense")
        lines = lines[slice(*op.taps)]
    n_outputs = op.n_outputs // op.n_digits
    tasks = []
    for digit in range(op.n_digits):
        b = _port("b", **_straight(chunks), base=digit * dy.plane_words, feed=Feed.DIRECT,
                  group=group, fixed=1, tile_step=1)
        b |= {"b_k0_count": n_images, "b_k0_step": dy.n_words}

        def add(n_results, first, a, output, b=b):
            y = context.results[output]
            tasks.append(context.task(Opcode.MATMUL, {
                "wide": 1, "slots": slots, "period_count": group * n_images,
                "outer_count": -(-n_results // target.rows), "inner_count": chunks,
                "n_pixels": n_results, "n_channels": y.stored[0], "out_base": first * chunks,
                "out_step": chunks, "out_line_step": chunks, "out_x_count": _ENDLESS,
                "plane_step": y.plane_words, **b,
                **_port("a", **{
                    "base": 0, "feed": Feed.DIRECT, "pad": op.input_zero_point, "group": group,
                    "x_count": window.output[1], "fixed": 1, "tile_step": target.rows,
                    "k0_count": n_images, "k0_step": x.n_words * x.word_bytes} | a)},
                output=output))

        first = 0
        for n_results, a in lines:
            add(n_results, first, a, n_outputs * digit)
            first += n_results
        if op.sums_gradient:  # width 0: everything is padding
            add(1, 0, {"bounded": 1, "pad": 1}, n_outputs * digit + 1)
    return tasks


def _tap_lines(op, window, x) -> list[tuple[int, dict]]:
    """(results, fields of port a) of each tap: its input channels."""
    (sy, sx), (top, left), (channels, height, width) = op.stride, op.padding[:2], x.stored
    pixel = x.n_chunks * x.word_bytes
    line = width * pixel
    return [(channels, {
        "base": (ky - top) * line + (kx - left) * pixel, "bounded": 1, "ix": kx - left,
        "iy": ky - top, "ix_step": sx, "iy_step": sy, "width": width, "height": height,
        "x_step": sx * pixel, "y_step": sy * line - (window.output[1] - 1) * sx * pixel,
    }) for ky in range(op.kernel[0]) for kx in range(op.kernel[1])]


def _dense_lines(op, window, x) -> list[tuple[int, dict]]:
    """The same of each line of the kernel: what lies side by side, its border included."""
    dense, (sy, sx) = x.dense, op.stride
    return [(op.kernel[1] * x.stored[0], {
        "base": ky * dense.y_step, "x_step": sx * dense.x_step,
        "y_step": sy * dense.y_step - (window.output[1] - 1) * sx * dense.x_step,
    }) for ky in range(op.kernel[0])]

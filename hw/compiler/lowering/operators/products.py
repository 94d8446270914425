"""Convolutions and fully connected layers."""

from __future__ import annotations

from dataclasses import replace

from golden import ops
from hw.compiler.lowering.dispatch import input_layout, lower_operator, runs_by_pixel
from hw.compiler.lowering.products import ArrayProduct, product_tasks
from hw.compiler.lowering.reduction import dense_reduction, tap_reduction
from hw.compiler.lowering.task import NodeContext, Task, Window2d
from hw.compiler.lowering.vectors import depthwise_tasks, linear_tasks

__all__ = []


def _window(op, shape) -> Window2d:
    return Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding, dilation=op.dilation,
                    output=op.output_shape(shape)[1:])


def _is_depthwise(op, channels) -> bool:
    """Does every output channel see the input channel of its own number?"""
    return op.groups > 1 and op.groups == channels == len(op.weights)


@input_layout.register(ops.Conv2d)
def _input_layout(op, target, place, by_rows):
    """Few channels are read across taps, where that needs fewer steps."""
    if len(place.shape) != 3 or _is_depthwise(op, place.shape[0]):
        return None
    window = _window(op, place.shape)
    dense = dense_reduction(target, place.stored, window, op.input_zero_point, by_rows)
    is_better = dense and dense.steps < tap_reduction(target, place, window).steps
    return dense.dense if is_better else None


@lower_operator.register(ops.Conv2d)
def _convolution(op, context: NodeContext) -> list[Task]:
    x = context.x
    window = _window(op, x.stored)
    product = ArrayProduct(weights=op.weights, window=window, bias=op.folded_bias(),
                      rescale=op.rescale, pad=op.input_zero_point, groups=op.groups)
    if x.dense:
        by_rows = context.tiled or x.dense.x_step < x.dense.y_step
        reduction = dense_reduction(context.target, x.stored, window, op.input_zero_point, by_rows)
        return product_tasks(context, replace(product, reduction=reduction))
    if _is_depthwise(op, x.stored[0]):
        return depthwise_tasks(context, product)
    return _single_pixel_or_products(context, product)


@runs_by_pixel.register(ops.Linear)
def _runs_by_pixel(op) -> bool:
    return True


@lower_operator.register(ops.Linear)
def _linear(op, context: NodeContext) -> list[Task]:
    channels, height, width = (context.x.stored[0], 1, 1) if context.by_pixel else context.x.stored
    weights = op.weights.reshape(-1, channels, height, width)
    if context.x.channels_last:
        weights = op.weights.reshape(-1, height, width, channels).transpose(0, 3, 1, 2)
    return _single_pixel_or_products(context, ArrayProduct(
        weights=weights,
        window=Window2d(kernel=(height, width),
                        output=(1, context.n_images if context.by_pixel else 1)),
        bias=op.folded_bias(), rescale=op.rescale, pad=op.input_zero_point))


def _single_pixel_or_products(context, product) -> list[Task]:
    """A window as large as the image is a fully connected layer."""
    whole = (product.window.kernel == context.x.stored[1:] and product.groups == 1
             and not any(product.window.padding) and product.window.output == (1, 1))
    if whole and not context.tiled:
        return linear_tasks(context, product)
    return product_tasks(context, product)

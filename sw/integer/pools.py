"""Layers without weights in the integer training step: pools, dropout, flatten."""

import math
from dataclasses import replace

from torch import nn

from golden import ops as golden
from golden.ops import step as ops
from sw.integer.layers import RULE, Writer, layer, refuse
from sw.integer.tape import CODE_BITS, GRADIENT_BITS, RANDOM, ActivationCodes, Gradient
from sw.layers.graph import LayerCall
from sw.layers.graph_layers import PaddedMaxPool2d, QPaddedAvgPool2d
from sw.layers.weighted import QAvgPool2d, QGlobalAvgPool2d, QLinear, four_sides, pair

__all__ = []

POOL, DROP, DROP_GRADIENT = 3, 4, 5     # roles of a layer's random bits


def _window(module):
    return {"kernel": pair(module.kernel_size), "stride": pair(module.stride or module.kernel_size),
            "padding": four_sides(pair(getattr(module, "padding", 0)))}


def _low(x):
    return 0 if x.low >= 0 else -128


def _made(writer, step, x, op, *rest) -> ActivationCodes:
    """An activation that is rescaled from x alone."""
    y, e = writer.tape.rescaled(step.name, op, x.name, x.exponent, *rest, bits=CODE_BITS,
                                outputs=(step.name, f"{step.name}.top"))
    return ActivationCodes(name=y, exponent=e, shape=writer.tape.tensors[y].shape, low=_low(x),
                           learns=x.learns)


def _rescaled_gradient(writer, step, x, y, op, *extra):
    """op(g, shift, seed, step, *extra) of the gradient of y is that of x."""
    def backward(g: Gradient) -> None:
        g = writer.tape.one_mask(g)
        found, e = writer.tape.rescaled(f"{step.name}.input.gradient", op, g.name, g.exponent,
                                        *RANDOM, *extra, bits=GRADIENT_BITS)
        writer.tape.contribute(x, Gradient(name=found, exponent=e))

    writer.tape.on_gradient(y, backward)
    return y


def _average(writer, step, x, window):
    y = _made(writer, step, x, ops.AverageCodes(**window, low=_low(x)))
    op = ops.AverageGradient(size=x.shape[1:], **window, tensor_id=writer.tape.tensor_id(POOL))
    return _rescaled_gradient(writer, step, x, y, op)


@layer.register
def _(module: QAvgPool2d, writer: Writer, step: LayerCall, x: ActivationCodes) -> ActivationCodes:
    if isinstance(module, QPaddedAvgPool2d) and not module.count_include_pad:
        refuse(step, f"must count its padding as a layer {RULE}")
    return _average(writer, step, x, _window(module))


@layer.register
def _(module: QGlobalAvgPool2d, writer: Writer, step: LayerCall, x: ActivationCodes
      ) -> ActivationCodes:
    size = tuple(x.shape[1:])
    if not _is_read_by_linear(writer, step.name):
        return _average(writer, step, x, {"kernel": size})
    y = _made(writer, step, x, ops.GlobalAverageCodes(low=_low(x)))
    y = replace(y, pixels=math.prod(size))

    def backward(g: Gradient) -> None:
        g = writer.tape.one_mask(g)
        found = writer.tape.operator(f"{step.name}.input.gradient", ops.SpreadGradient(size=size),
                                     g.name)
        writer.tape.contribute(x, Gradient(name=found, exponent=g.exponent))

    writer.tape.on_gradient(y, backward)
    return y


def _is_read_by_linear(writer, name):
    """Whether one linear layer behind a flatten, and nothing else, reads the tensor."""
    readers = writer.readers.get(name, [])
    if len(readers) != 1 or not isinstance(readers[0].module, nn.Flatten | None):
        return False
    readers = writer.readers.get(readers[0].name, [])
    return len(readers) == 1 and isinstance(readers[0].module, QLinear)


@layer.register(nn.MaxPool2d)
@layer.register(PaddedMaxPool2d)
def _(module, writer: Writer, step: LayerCall, x: ActivationCodes) -> ActivationCodes:
    if isinstance(module, nn.MaxPool2d) and (module.dilation not in (1, (1, 1))
                                             or module.ceil_mode):
        refuse(step, "is supported without dilation and ceil_mode only")
    tape, window = writer.tape, _window(module)
    y = tape.operator(step.name, ops.MaximumCodes(**window), x.name)
    y = ActivationCodes(name=y, exponent=x.exponent, shape=tape.tensors[y].shape, low=x.low,
                        learns=x.learns)
    op = ops.MaximumGradient(size=x.shape[1:], **window, tensor_id=tape.tensor_id(POOL))
    return _rescaled_gradient(writer, step, x, y, op, x.name)


@layer.register
def _(module: nn.Dropout, writer: Writer, step: LayerCall, x: ActivationCodes) -> ActivationCodes:
    drop = round(256 * module.p)
    if drop == 0:
        return x
    if drop > 255:
        refuse(step, f"must keep a part of its input, not drop {module.p}")
    which = writer.tape.tensor_id(DROP)
    y = _made(writer, step, x, ops.Dropout(drop=drop, tensor_id=which), *RANDOM)
    op = ops.DropoutGradient(drop=drop, tensor_id=which,
                             rounding_id=writer.tape.tensor_id(DROP_GRADIENT))
    return _rescaled_gradient(writer, step, x, y, op)


@layer.register(nn.Flatten)
@layer.register(type(None))
def _(module, writer: Writer, step: LayerCall, x: ActivationCodes) -> ActivationCodes:
    if module is not None and (module.start_dim, module.end_dim) != (1, -1):
        refuse(step, "must keep the batch alone")
    if len(x.shape) == 1:
        return x
    tape, shape = writer.tape, (math.prod(x.shape),)
    y = tape.node(step.name, golden.Reshape(shape=shape), (x.name,))
    y = ActivationCodes(name=y, exponent=x.exponent, shape=shape, low=x.low, learns=x.learns)

    def backward(g: Gradient) -> None:
        g = tape.one_mask(g)
        found = tape.operator(f"{step.name}.input.gradient", ops.ReshapedGradient(shape=x.shape),
                              g.name)
        tape.contribute(x, Gradient(name=found, exponent=g.exponent))

    tape.on_gradient(y, backward)
    return y

"""The compiler: a Program and a target become instructions, a memory image and placements."""

from __future__ import annotations

import numpy as np

from golden import ops
from golden.errors import LockstepError
from golden.ops import Rescale
from golden.verify import verify
from hw.compiler.allocate import place_tensors
from hw.compiler.emit import Emitter, Window2d
from hw.compiler.image import Image, Placement, Step
from hw.targets import Target

__all__ = ["Image", "Placement", "Step", "compile"]

IDENTITY_MULTIPLIER, IDENTITY_SHIFT = 1 << 30, 30


def _channels(values, n_channels):
    """int64 (1,) or (C,) to (C,)."""
    return np.broadcast_to(np.asarray(values, np.int64), (n_channels,))


def _parameters(bias, rescale, n_channels):
    return (_channels(bias, n_channels), _channels(rescale.multiplier, n_channels),
            _channels(rescale.shift, n_channels))


def _convolution(emitter, node, op, x, y):
    window = Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding, dilation=op.dilation,
                      output=y.stored[1:])
    n_outputs, per_group = op.weights.shape[:2]
    parameters = _parameters(op.folded_bias(), op.rescale, n_outputs)
    common = {"x": x, "window": window, "input_zero_point": op.input_zero_point,
              "rescale": op.rescale, "y": y}
    if op.groups == 1:
        emitter.product(weights=op.weights, parameters=parameters, **common)
    elif per_group == 1 and n_outputs == op.groups:
        _by_chunks(emitter, op.weights[:, 0], parameters, common)
    else:
        dense = np.zeros((n_outputs, per_group * op.groups, *op.kernel), np.int8)
        for output in range(n_outputs):
            first = output // (n_outputs // op.groups) * per_group
            dense[output, first:first + per_group] = op.weights[output]
        emitter.product(weights=dense, parameters=parameters, **common)


def _by_chunks(emitter, taps, parameters, common, **fields):
    """Products in which output channel c sees input channel c alone, a word of channels a time.

    taps: int8 (C, kh, kw).
    """
    word_bytes = emitter.target.word_bytes
    for first in range(0, len(taps), word_bytes):
        part = taps[first:first + word_bytes]
        weights = np.zeros((len(part), len(part), *part.shape[1:]), np.int8)
        weights[np.arange(len(part)), np.arange(len(part))] = part
        emitter.product(
            weights=weights, first_chunk=first // word_bytes, out_channel=first,
            parameters=tuple(p[first:first + word_bytes] for p in parameters), **common, **fields)


def _linear(emitter, node, op, x, y):
    channels, height, width = x.stored
    weights = op.weights.reshape(len(op.weights), channels, height, width)
    emitter.product(
        x=x, window=Window2d(kernel=(height, width), output=(1, 1)), weights=weights,
        input_zero_point=op.input_zero_point, rescale=op.rescale, y=y,
        parameters=_parameters(op.folded_bias(), op.rescale, len(weights)))


def _identity(emitter, x, y, rescale, bias, *, window=None, zero_point=0):
    """Products with weights of 1: sums over the window's taps, channel by channel."""
    window = window or Window2d(output=x.stored[1:])
    n_channels = x.stored[0]
    common = {"x": x, "window": window, "input_zero_point": zero_point, "rescale": rescale, "y": y}
    _by_chunks(emitter, np.ones((n_channels, 1, 1), np.int8),
               _parameters(bias, rescale, n_channels), common, same_for_all_taps=True)


def _average_pool(emitter, node, op, x, y):
    if isinstance(op, ops.GlobalAveragePool):
        window = Window2d(kernel=op.window, output=(1, 1))
    else:
        window = Window2d(kernel=op.kernel, stride=op.stride, padding=op.padding,
                          output=y.stored[1:])
    _identity(emitter, x, y, op.rescale, -window.n_taps * op.input_zero_point, window=window,
              zero_point=op.input_zero_point)


def _max_pool(emitter, node, op, x, y):
    emitter.max_pool(x=x, y=y, window=Window2d(kernel=op.kernel, stride=op.stride,
                                               padding=op.padding, output=y.stored[1:]))


def _unit_rescale(low=-128, high=127):
    return Rescale(multiplier=np.array([IDENTITY_MULTIPLIER]), shift=np.array([IDENTITY_SHIFT]),
                   zero_point=0, low=low, high=high)


def _clamp(emitter, node, op, x, y):
    _identity(emitter, x, y, _unit_rescale(op.low, op.high), 0)


def _rescaling(emitter, node, op, x, y):
    if op.rescale.n_channels > 1 and x.stored[0] != x.shape[0]:
        raise LockstepError(f"Node '{node.name}': a per-channel rescaling behind a reshape does "
                            "not run on the accelerator")
    _identity(emitter, x, y, op.rescale, -op.input_zero_point)


def _add(emitter, node, op, first, second, y):
    if not first.stored == second.stored == y.stored:
        raise LockstepError(f"Node '{node.name}': an addition behind a reshape does not run on "
                            "the accelerator")
    emitter.add(op=op, inputs=(first, second), y=y)


def _concat(emitter, node, op, *places):
    *inputs, y = places
    if op.axis != 1 or any(x.stored[0] != x.shape[0] for x in inputs):
        raise LockstepError(f"Node '{node.name}': the accelerator joins tensors along the "
                            "channels only, and none behind a reshape")
    offset = 0
    for x in inputs:
        word_bytes = emitter.target.word_bytes
        rescale = _unit_rescale()
        for first in range(0, x.stored[0], word_bytes):
            n = min(word_bytes, x.stored[0] - first)
            _split_identity(emitter, x, y, rescale, first, n, offset + first)
        offset += x.stored[0]


def _split_identity(emitter, x, y, rescale, first, n, out_channel):
    """Copy ``n`` channels of one input word to ``out_channel`` onwards."""
    weights = np.eye(n, dtype=np.int8)[:, :, None, None]
    emitter.product(x=x, window=Window2d(output=x.stored[1:]), weights=weights,
                    input_zero_point=0, rescale=rescale, y=y,
                    parameters=_parameters(0, rescale, n),
                    first_chunk=first // emitter.target.word_bytes, out_channel=out_channel)


_EMIT = {
    ops.Conv2d: _convolution, ops.Linear: _linear, ops.Add: _add, ops.MaxPool: _max_pool,
    ops.AveragePool: _average_pool, ops.GlobalAveragePool: _average_pool, ops.Clamp: _clamp,
    ops.Rescaling: _rescaling, ops.Concat: _concat,
}
_NEEDS_IMAGE = (ops.Conv2d, ops.MaxPool, ops.AveragePool, ops.GlobalAveragePool)


def compile(program, target: Target) -> Image:
    """Compile ``program`` for ``target``.

    Raises LockstepError for an operator that the accelerator does not have (naming the node) and
    for a program that does not fit (saying how much is needed and how much there is).
    """
    verify(program)
    placements = place_tensors(program, target)
    emitter = Emitter(target=target, program=program.name)
    steps = []
    for node in program.nodes:
        if not isinstance(node.op, (ops.Reshape, *_EMIT)):
            raise LockstepError(f"Node '{node.name}': operator {type(node.op).__name__} does not "
                                f"run on the accelerator")
        inputs = [placements[name] for name in node.inputs]
        if isinstance(node.op, _NEEDS_IMAGE) and inputs[0].stored != inputs[0].shape:
            raise LockstepError(f"Node '{node.name}': {type(node.op).__name__} behind a reshape "
                                "does not run on the accelerator")
        first = len(emitter.instructions)
        if not isinstance(node.op, ops.Reshape):
            _EMIT[type(node.op)](emitter, node, node.op, *inputs, placements[node.outputs[0]])
        shapes = [program.tensors[name].shape for name in node.inputs]
        steps.append(Step(
            node=node.name, op=type(node.op).__name__, first_instruction=first,
            n_instructions=len(emitter.instructions) - first, output=node.outputs[0],
            macs=int(node.op.macs(*shapes)) if hasattr(node.op, "macs") else 0))
    emitter.halt()
    emitter.check_capacity()
    return Image(
        program=program.name, program_sha256=program.sha256, target=target,
        instructions=np.array(emitter.instructions, "<u4").ravel(),
        parameters=(np.array(emitter.parameters or [[0, 0, 0]], np.int64)
                    & 0xFFFFFFFF).astype("<u4"),
        weights=(np.concatenate(emitter.weights) if emitter.weights
                 else np.zeros((1, target.word_bytes), np.int8)),
        placements=placements, steps=tuple(steps), input=program.inputs[0],
        output=program.outputs[0])

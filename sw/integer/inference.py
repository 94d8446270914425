"""The inference Program of the state that integer training leaves, by integers alone.

The running statistics become each convolution's bias, multiplier and shift: with the q of
`golden.ops.step.norm_forward` as acc 2^-s, s = e_q - e_w - e_x,

    y = clamp(lanes(sign acc + bias 2^(s - 10), M, shift + e_y + s - 10), low, high)

so no int8 tensor lies between product and norm; weights that have room are multiplied by a power of
two, and with them s. Scales are powers of two, zero points 0. Evaluation
during training runs this Program, so what is deployed is what was measured.
"""

from functools import singledispatchmethod

import numpy as np
import torch
from torch import nn

from golden import arith, ops
from golden.errors import LockstepError
from golden.ops.step import NormParameters, NormStatistics
from golden.ops.step.activation import six
from golden.ops.step.base import HALF
from golden.ops.step.head import BIAS_FRACTION
from golden.ops.step.norm_forward import FRACTION
from golden.program import Program, Quantization
from golden.program.builder import ProgramBuilder
from sw.integer.layers import LOGITS
from sw.integer.step import INPUT_EXPONENT
from sw.layers.graph import LayerCall, trace
from sw.layers.graph_layers import PaddedMaxPool2d
from sw.layers.weighted import (
    QAdd,
    QAvgPool2d,
    QConv2d,
    QGlobalAvgPool2d,
    QInput,
    QLinear,
    four_sides,
    pair,
)
from sw.lower.integer_form import add_op

__all__ = ["inference_program"]

MARGIN = 1 << 30                # biases below it leave the sums room in int32


def _codes(master):
    """int8 weights of masters (1, ...)."""
    return arith.round_shift(np.asarray(master, np.int64)[0], 8)


def _power(rescale_shift):
    """(multiplier, shift) of 2^-shift as the lanes take it."""
    return np.array([HALF], np.int64), np.array([arith.clamp(rescale_shift + 30, 0, 62)], np.int64)


class _Folding(ProgramBuilder):
    """Walks the layers of a trained model; state: numpy arrays by the names of the step."""

    def __init__(self, state, counts):
        super().__init__()
        self.codes, self.counts, self.exponents = state, counts, {}

    def scalar(self, name) -> int:
        """The only value of a state."""
        return int(self.codes[name].reshape(-1)[0])

    def write(self, step, op, exponent):
        """A node whose output has an exponent."""
        self.exponents[step.name] = exponent
        self.node(step.name, op, step.inputs, Quantization(scale=2.0**exponent, zero_point=0))

    def bounds(self, activation, exponent):
        """Clamp bounds of an activation."""
        low = arith.INT8_MIN if activation is None else 0
        high = min(arith.INT8_MAX, six(exponent)) if activation == "relu6" else arith.INT8_MAX
        return {"low": low, "high": high}

    def average(self, step, number):
        """The Rescale of a sum of so many codes, and the exponent of their mean."""
        e_x, e_y = self.exponents[step.inputs[0]], self.scalar(f"{step.name}.exponent")
        return ops.Rescale.from_factors(2.0 ** (e_x - e_y) / number, zero_point=0), e_y

    @singledispatchmethod
    def layer(self, module, step: LayerCall) -> None:
        """One layer."""
        raise LockstepError(f"Layer {step.name} ({type(module).__name__}) has no integer form")

    def _normed(self, module, step, make):
        name = step.name
        e_y, e_x = self.scalar(f"{name}.exponent"), self.exponents[step.inputs[0]]
        weights = _codes(self.codes[f"{name}.weight"])
        values = (self.codes[f"{name}.{part}"] for part in ("gamma", "beta", "running.mean",
                                                            "running.spread"))
        op = NormParameters(count=self.counts[name], running=True)
        sign, bias, multiplier, shift = (value[0].astype(np.int64) for value in op(*values))
        e_q = self.codes[f"{name}.q.exponent"][0].astype(np.int64)
        # Weights times a power of two: the bias is rounded to a finer step.
        largest = abs(weights).reshape(len(weights), -1).max(axis=1).clip(1)
        room = arith.bit_length(arith.INT8_MAX // largest) - 1
        weights = weights << room.reshape(-1, *[1] * (weights.ndim - 1))
        finer = e_q - self.scalar(f"{name}.weight.exponent") + room - e_x - FRACTION
        moved = np.where(finer >= 0, bias << finer.clip(0, 30), arith.round_shift(
            bias, (-finer).clip(0, 62)))
        # A channel whose bias leaves no room is its constant, as one without slope.
        slope = (sign != 0) & (abs(moved) < MARGIN) & (finer <= 30)
        sign, bias = np.where(slope, sign, 0), np.where(slope, moved, bias)
        shift = shift + e_y + np.where(slope, finer, 0)
        multiplier = np.where(shift > arith.SHIFT_MAX, 0, multiplier)
        rescale = ops.Rescale(multiplier=multiplier, shift=shift.clip(0, arith.SHIFT_MAX),
                              zero_point=0, **self.bounds(module.activation, e_y))
        weights = weights * sign.reshape(-1, *[1] * (weights.ndim - 1))
        self.write(step, make(weights=weights.astype(np.int8), bias=bias.astype(np.int32),
                              input_zero_point=0, rescale=rescale), e_y)

    @layer.register
    def _(self, module: QConv2d, step: LayerCall) -> None:
        geometry = {"stride": module.stride, "padding": four_sides(module.padding),
                    "groups": module.groups}
        self._normed(module, step, lambda **fields: ops.Conv2d(**fields, **geometry))

    @layer.register
    def _(self, module: QLinear, step: LayerCall) -> None:
        if module.norm is not None:
            return self._normed(module, step, ops.Linear)
        name, e_x = step.name, self.exponents[step.inputs[0]]
        e_acc, e_y = self.scalar(f"{name}.weight.exponent") + e_x, self.scalar(LOGITS)
        bias = arith.lanes(self.codes[f"{name}.bias"][0].astype(np.int64), HALF,
                           30 + BIAS_FRACTION + e_acc)
        multiplier, shift = _power(e_y - e_acc)
        self.write(step, ops.Linear(
            weights=_codes(self.codes[f"{name}.weight"]).astype(np.int8),
            bias=bias.astype(np.int32), input_zero_point=0,
            rescale=ops.Rescale(multiplier=multiplier, shift=shift, zero_point=0)), e_y)

    @layer.register
    def _(self, module: QAdd, step: LayerCall) -> None:
        e_y = self.scalar(f"{step.name}.exponent")
        target = Quantization(scale=2.0**e_y, zero_point=0)
        first, second = (self.quantization(name) for name in (step.inputs[0], step.inputs[-1]))
        bounds = self.bounds(module.activation, e_y)
        op = add_op(first, second, target, lambda factor: ops.Rescale.from_factors(
            factor, zero_point=0, **bounds))
        self.exponents[step.name] = e_y
        self.node(step.name, op, (step.inputs[0], step.inputs[-1]), target)

    @layer.register
    def _(self, module: QAvgPool2d, step: LayerCall) -> None:
        rescale, e_y = self.average(step, module.kernel_size[0] * module.kernel_size[1])
        self.write(step, ops.AveragePool(
            kernel=module.kernel_size, stride=module.stride,
            padding=four_sides(pair(getattr(module, "padding", 0))), input_zero_point=0,
            rescale=rescale), e_y)

    @layer.register
    def _(self, module: QGlobalAvgPool2d, step: LayerCall) -> None:
        window = tuple(self.tensors[step.inputs[0]].shape[1:])
        rescale, e_y = self.average(step, window[0] * window[1])
        self.write(step, ops.GlobalAveragePool(input_zero_point=0, window=window,
                                               rescale=rescale), e_y)

    @layer.register(nn.MaxPool2d)
    @layer.register(PaddedMaxPool2d)
    def _(self, module, step: LayerCall) -> None:
        op = ops.MaxPool(kernel=pair(module.kernel_size),
                         stride=pair(module.stride or module.kernel_size),
                         padding=four_sides(pair(module.padding)))
        self.write(step, op, self.exponents[step.inputs[0]])

    @layer.register(nn.Flatten)
    @layer.register(type(None))
    def _(self, module, step: LayerCall) -> None:
        size = int(np.prod(self.tensors[step.inputs[0]].shape))
        self.write(step, ops.Reshape(shape=(size,)), self.exponents[step.inputs[0]])


def inference_program(model: nn.Module, step_program: Program, state: dict,
                      name: str | None = None) -> Program:
    """The verified Program of a state, int8 images to int8 logits.

    model: whose layers the step was built from; step_program: of `sw.integer.step.integer_step`,
    whose batch fixed the constant of the ranges; state: codes (1, ...) by name, arrays or tensors
    """
    state = {key: value.cpu().numpy() if torch.is_tensor(value) else np.asarray(value)
             for key, value in state.items()}
    mode = model.training
    with torch.no_grad():
        _, steps, output = trace(model.eval())
    model.train(mode)
    counts = {node.name.removesuffix(".statistics"): node.op.count
              for node in step_program.nodes if isinstance(node.op, NormStatistics)}
    folding = _Folding(state, counts)
    for step in steps:
        if isinstance(step.module, QInput):
            exponent = folding.exponents[step.name] = folding.scalar(INPUT_EXPONENT)
            folding.input(step.name, model.input_shape,
                          Quantization(scale=2.0**exponent, zero_point=0))
        else:
            try:
                folding.layer(step.module, step)
            except LockstepError:
                raise
            except ValueError as error:
                raise LockstepError(f"Layer {step.name}: {error}") from error
    return folding.build(name or type(model).__name__.lower(), output,
                         metadata={"arithmetic": "integer"})

"""Lowering: a trained model becomes an integer ``Program``.

``fold`` (inference): RangeBN's running statistics become multiplier and bias. Per output channel,
with ``f = gamma / (scale + eps)``, input scale S1, weight scale S2, output scale S3::

    acc = sum w * (q - Z1) + round((beta - mean * f) / (S1 * S2 * |f|))
    y   = clamp(requantize(acc, S1 * S2 * |f| / S3) + Z3)        w negated where gamma < 0

A channel whose codes are small has them multiplied by the largest power of two that keeps them
int8 and S2 divided by it: the same real weights, a finer step for the bias (``refined_codes``). A
channel whose factor is 0, or whose bias does not fit int32, becomes weight 0 and the code of its
constant. ReLU and ReLU6 become clamp bounds.

``exact``: the int8 tensor between convolution and norm stays, as in the training graph.

Source: Jacob et al., arXiv 1712.05877, sections 2.2-2.4.
"""

from functools import singledispatchmethod

import numpy as np
import torch
from torch import nn

from golden import arith, ops
from golden.errors import LockstepError
from golden.program import Program, Quantization
from golden.program.builder import ProgramBuilder
from sw.layers.graph import LayerCall, evaluating, trace
from sw.layers.graph_layers import PaddedMaxPool2d, QActivation, QConcat, QPaddedAvgPool2d
from sw.layers.range_norm import RangeBatchNorm
from sw.layers.weighted import (
    QAdd,
    QAvgPool2d,
    QConv2d,
    QGlobalAvgPool2d,
    QInput,
    QLayer,
    QLinear,
    WeightedLayer,
    four_sides,
    pair,
)
from sw.lower.integer_form import CODE_SPAN, add_op, product_fields, shift_op
from sw.lower.lowerable import check_activation, check_weight_codes, check_widths
from sw.lower.norm_lowering import range_norm_op
from sw.quantize.quantizers import ActivationQuantizer, weight_codes
from sw.quantize.recipe import TensorRecipe

__all__ = ["fold", "lower", "refined_codes"]

NORM_LOWERINGS = ("fold", "exact")


def _quantization(quantizer: ActivationQuantizer) -> Quantization:
    check_activation(quantizer)
    scale, zero_point = quantizer.parameters_for_evaluation()
    return Quantization(scale=scale, zero_point=zero_point)


def _bounds(activation: str | None, quantization: Quantization, recipe: TensorRecipe) -> dict:
    """Clamp bounds of an activation function, as keyword arguments of Rescale."""
    low, high = recipe.code_bounds
    if activation in ("relu", "relu6"):
        low = max(low, quantization.zero_point)
    if activation == "relu6":
        high = min(high, int(arith.quantize(6.0, quantization.scale, quantization.zero_point)))
    return {"low": low, "high": high}


def _rescale(factors, quantization: Quantization, quantizer: ActivationQuantizer,
             activation: str | None = None) -> ops.Rescale:
    rounding = arith.Rounding.GEMMLOWP if quantizer.recipe.rounding == "gemmlowp" \
        else arith.Rounding.HALF_UP
    return ops.Rescale.from_factors(factors, zero_point=quantization.zero_point, rounding=rounding,
                                    **_bounds(activation, quantization, quantizer.recipe))


def refined_codes(layer: WeightedLayer, factor: np.ndarray, offset: np.ndarray,
                  input_scale: float) -> tuple[np.ndarray, np.ndarray]:
    """Weight codes int64 (O, ...) and the accumulator's step S1 * S2 * |f|, float64 (O,).

    The bias is rounded to that step, which is coarse where weights have few codes: codes times k,
    step over k is the same product and rounds the bias k times finer. k is the largest power of
    two with k * max|code| <= 127 and sums that surely fit int32 (a power of two, so that scales
    which are powers of two stay so and their ties round alike); 1 for a layer with an accumulator
    width of its own, whose sums it would enlarge.
    """
    codes, scales = weight_codes(layer.stored_weight(), layer.config.weight, layer.owner)
    codes = codes.cpu().numpy().astype(np.int64)
    unit = input_scale * scales.cpu().numpy().astype(np.float64) * np.abs(factor)
    if layer.config.accumulator.bits is not None:
        return codes, unit
    magnitudes = np.abs(codes).reshape(len(codes), -1)
    largest, total = magnitudes.max(axis=1), magnitudes.sum(axis=1) * CODE_SPAN
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        bias = np.minimum(np.abs(np.nan_to_num(offset / unit)) + 1, arith.INT32_MAX)
    factors = np.minimum(127 // np.maximum(largest, 1), arith.INT32_MAX // (total + bias))
    factors = np.where(largest > 0, np.maximum(factors, 1), 1)
    factors = np.int64(1) << (np.frexp(factors)[1] - 1).astype(np.int64)
    return codes * factors.reshape((-1,) + (1,) * (codes.ndim - 1)), unit / factors


def fold(layer: WeightedLayer, factor: np.ndarray, offset: np.ndarray, source: Quantization,
         quantizer: ActivationQuantizer, activation: str | None = None) -> dict:
    """Integer weights, bias and Rescale of ``y = factor * product(x, weight) + offset``.

    factor, offset: float64 (O,), offset in real units. quantizer: of the output. Returns the
    fields weights (int8), bias (int32), input_zero_point, rescale of Conv2d and Linear.
    """
    target = _quantization(quantizer)
    check_weight_codes(layer)
    codes, unit = refined_codes(layer, factor, offset, source.scale)
    fields, factors = product_fields(codes, unit, factor, offset, source, target)
    return fields | {"rescale": _rescale(factors, target, quantizer, activation)}


class _Lowering(ProgramBuilder):
    """Walks the steps; a node for each, or two."""

    def __init__(self, norm_lowering: str):
        super().__init__()
        self.norm_lowering = norm_lowering

    def source(self, step: LayerCall, index: int = 0) -> Quantization:
        return self.quantization(step.inputs[index])

    def _linear_like(self, step: LayerCall, layer, make) -> None:
        """Convolution or linear layer; make(**fields of fold) builds the op."""
        source, target = self.source(step), _quantization(layer.output)
        if isinstance(layer.norm, RangeBatchNorm) and self.norm_lowering == "exact":
            if layer.config.statistics.enabled:
                raise LockstepError(f"Layer {step.name}: exact lowering keeps statistics "
                                    f"in their own widths; statistics.bits must be None")
            between = _quantization(layer.norm.input)
            ones = np.ones(len(layer.weight))
            fields = fold(layer, ones, 0 * ones, source, layer.norm.input)
            name = f"{step.name}.conv"
            self.node(name, make(**fields), step.inputs, between)
            norm = range_norm_op(layer.norm, between, target,
                                 **_bounds(layer.activation, target, layer.output.recipe))
            self.node(step.name, norm, (name,), target)
            return
        factor, offset = (value.cpu().numpy() for value in layer.affine())
        fields = fold(layer, factor, offset, source, layer.output, layer.activation)
        self.node(step.name, make(**fields), step.inputs, target)

    @singledispatchmethod
    def layer(self, module, step: LayerCall) -> None:
        raise LockstepError(f"Layer {step.node.target} ({type(module).__name__}) is not supported; "
                            f"use the layers of sw/layers/weighted.py")

    @layer.register
    def _(self, module: QConv2d, step: LayerCall) -> None:
        geometry = {"stride": module.stride, "dilation": module.dilation, "groups": module.groups,
                    "padding": four_sides(module.padding)}
        self._linear_like(step, module, lambda **fields: ops.Conv2d(**fields, **geometry))

    @layer.register
    def _(self, module: QLinear, step: LayerCall) -> None:
        self._linear_like(step, module, ops.Linear)

    @layer.register
    def _(self, module: QAdd, step: LayerCall) -> None:
        first, second = self.source(step, 0), self.source(step, -1)
        target = _quantization(module.output)
        op = add_op(first, second, target, lambda factor: _rescale(
            factor, target, module.output, module.activation))
        self.node(step.name, op, (step.inputs[0], step.inputs[-1]), target)

    @layer.register
    def _(self, module: QAvgPool2d, step: LayerCall) -> None:
        source, target = self.source(step), _quantization(module.output)
        count = module.kernel_size[0] * module.kernel_size[1]
        op = ops.AveragePool(kernel=module.kernel_size, stride=module.stride,
                             input_zero_point=source.zero_point,
                             rescale=_rescale(source.scale / (count * target.scale), target,
                                              module.output))
        self.node(step.name, op, step.inputs, target)

    @layer.register
    def _(self, module: QGlobalAvgPool2d, step: LayerCall) -> None:
        source, target = self.source(step), _quantization(module.output)
        window = self.tensors[step.inputs[0]].shape[1:]
        factor = source.scale / (window[0] * window[1] * target.scale)
        op = ops.GlobalAveragePool(input_zero_point=source.zero_point, window=tuple(window),
                                   rescale=_rescale(factor, target, module.output))
        self.node(step.name, op, step.inputs, target)

    @layer.register
    def _(self, module: nn.MaxPool2d, step: LayerCall) -> None:
        if module.dilation not in (1, (1, 1)) or module.ceil_mode:
            raise LockstepError(f"Layer {step.node.target} (MaxPool2d) is supported without "
                                f"dilation and ceil_mode only")

        op = ops.MaxPool(kernel=pair(module.kernel_size), stride=pair(module.stride),
                         padding=four_sides(pair(module.padding)))
        self.node(step.name, op, step.inputs, self.source(step))

    @layer.register
    def _(self, module: PaddedMaxPool2d, step: LayerCall) -> None:
        op = ops.MaxPool(kernel=module.kernel_size, stride=module.stride, padding=module.padding)
        self.node(step.name, op, step.inputs, self.source(step))

    @layer.register
    def _(self, module: QPaddedAvgPool2d, step: LayerCall) -> None:
        source, target = self.source(step), _quantization(module.output)
        window = {"kernel": module.kernel_size, "stride": module.stride, "padding": module.padding}
        if module.count_include_pad:
            count = module.kernel_size[0] * module.kernel_size[1]
            op = ops.AveragePool(**window, input_zero_point=source.zero_point, rescale=_rescale(
                source.scale / (count * target.scale), target, module.output))
            return self.node(step.name, op, step.inputs, target)
        name = f"{step.name}.mean"
        self.node(name, ops.CodeAveragePool(**window), step.inputs, source)
        self.node(step.name, shift_op(source, target), (name,), target)

    @layer.register
    def _(self, module: QActivation, step: LayerCall) -> None:
        source, target = self.source(step), _quantization(module.output)
        op = ops.Rescaling(input_zero_point=source.zero_point, rescale=_rescale(
            source.scale / target.scale, target, module.output, module.activation))
        self.node(step.name, op, step.inputs, target)

    @layer.register
    def _(self, module: QConcat, step: LayerCall) -> None:
        target, names = _quantization(module.output), []
        for index, name in enumerate(step.inputs):
            source = self.tensors[name].quantization
            if source != target:
                name = f"{step.name}.{index}"
                self.node(name, shift_op(source, target), (step.inputs[index],), target)
            names.append(name)
        self.node(step.name, ops.Concat(axis=1), tuple(names), target)

    @layer.register(nn.Flatten)
    @layer.register(type(None))
    def _(self, module, step: LayerCall) -> None:
        if module is not None and (module.start_dim, module.end_dim) != (1, -1):
            raise LockstepError(f"Layer {step.node.target} (Flatten) must keep the batch alone")
        size = int(np.prod(self.tensors[step.inputs[0]].shape))
        self.node(step.name, ops.Reshape(shape=(size,)), step.inputs, self.source(step))


def lower(model: nn.Module, norm_lowering: str = "fold", *, name: str | None = None,
          input_shape: tuple[int, ...] | None = None) -> Program:
    """Lower a trained model to a verified integer Program, NCHW float32 or int8 input.

    norm_lowering: "fold" or "exact". name: of the Program, default the class's. input_shape: one
    image (C, H, W); default model.input_shape. Tensors carry the module path of their producer;
    the input tensor that of the QInput layer.

    Raises LockstepError for a model trained in float or not at all, for a layer that cannot be
    lowered (named with its path), and for a Program that verify() rejects.
    """
    if norm_lowering not in NORM_LOWERINGS:
        raise LockstepError(f"Norm lowering must be one of {', '.join(NORM_LOWERINGS)}, "
                            f"not {norm_lowering!r}")
    shape = input_shape or getattr(model, "input_shape", None)
    if shape is None:
        raise LockstepError(f"Model {type(model).__name__} has no input_shape; name it to lower()")
    lowering = _Lowering(norm_lowering)
    with evaluating(model), torch.no_grad():
        _, steps, output = trace(model)
        for step in steps:
            if isinstance(step.module, QLayer) and not step.module.config.quantize:
                raise LockstepError(f"Layer {step.name} was trained in float (quantize: False) and "
                                    f"has no integer form")
            if isinstance(step.module, QInput):
                if step.inputs != ("",):
                    raise LockstepError(f"Layer {step.name} (QInput) must be applied to the input")
                lowering.input(step.name, shape, _quantization(step.module.output))
                continue
            if "" in step.inputs:
                raise LockstepError(f"Layer {step.name} reads the float input; put a QInput first")
            try:
                lowering.layer(step.module, step)
            except LockstepError:
                raise
            except ValueError as error:
                raise LockstepError(f"Layer {step.name}: {error}") from None
    if not lowering.inputs or output not in lowering.tensors:
        raise LockstepError(f"Model {type(model).__name__} has no QInput or computes nothing")
    program = lowering.build(name or type(model).__name__.lower(), output,
                             metadata={"norm_lowering": norm_lowering})
    check_widths(lowering.report, steps)
    return program

"""The `banner` training step with its passes merged: what the layers use where a recipe allows.

Each function equals a chain of modules of ``sw/layers/weighted.py`` (convolution, RangeBN with its
input quantizer, activation, output quantizer) as one ``autograd.Function`` with the passes of
``sw/layers/fused_kernels.py``. Run as they are, their results are the modules' to the bit, except
for the random bits of gradients, which come from a counter hash. With ``compiles`` the same kernels
go through torch.compile, sums are taken in another order, and a code may move by one. A kernel is
compiled once per shape, at its first use: seconds each, less from Inductor's cache.

Statistics come back to the caller: running averages stay in the modules.
"""

import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor

from golden.errors import LockstepError
from sw.layers import fused_kernels as kernels
from sw.layers.range_norm import check_chunks, range_to_sigma
from sw.quantize.gradients import split_rounding
from sw.quantize.quantizers import EIGHT_BIT
from sw.quantize.recipe import Recipe

__all__ = ["ConvFunction", "ConvNormFunction", "FusedNorm", "NormFunction", "Normalized",
           "QuantizeFunction", "Quantized", "activation_quantize", "add_activation_quantize",
           "bifurcated_conv2d", "conv_norm_activation_quantize", "norm_activation_quantize",
           "supports"]

_compiled: dict[tuple, Callable] = {}  # by kernel and shapes


def _run(compiles: bool, kernel: Callable, *arguments):
    """The kernel's result; compiled, from a copy of it that only ever sees these shapes."""
    if not compiles or torch.compiler.is_compiling():
        return kernel(*arguments)
    key = kernel, *(_signature(a) for a in arguments)
    function = _compiled.get(key)
    if function is None:  # own code object: own guards, and no limit on the number of shapes
        code = kernel.__code__.replace(co_name=f"{kernel.__name__}_{len(_compiled)}")
        copy = types.FunctionType(code, kernel.__globals__, code.co_name)
        function = _compiled[key] = torch.compile(copy, dynamic=False)
    return function(*arguments)


def _signature(value):
    if isinstance(value, Tensor):
        return value.shape, value.stride(), value.dtype, value.device
    return tuple(_signature(v) for v in value) if isinstance(value, tuple) else value


@dataclass(frozen=True, kw_only=True)
class FusedNorm:
    """What RangeBN between its two quantizers does; the fields are those of the recipe.

    chunks, constant, range_gradient, quantize_gradient, synchronise: as
    ``sw.quantize.recipe.NormRecipe``.
    average: activation ranges are the means of the images' extremes (batch_mean), else min_max.
    mask: the gradient of clipped activations is zero. activation: None, "relu" or "relu6".
    stochastic: rounding of the 8-bit gradients, else half up. bifurcated: the gradient to the
    weight has its 16-bit copy, else the 8-bit one. compiles: run the kernels through torch.compile.
    owner: the layer, for messages.
    """

    activation: str | None = None
    chunks: int = 16
    constant: str = "code"
    range_gradient: str = "deviation"
    mask: bool = False
    average: bool = False
    quantize_gradient: bool = True
    stochastic: bool = True
    bifurcated: bool = True
    synchronise: bool = False
    compiles: bool = False
    owner: str = "RangeBN"

    def __post_init__(self):
        if self.activation not in (None, "relu", "relu6"):
            raise LockstepError(f"Activation must be relu, relu6 or None, not {self.activation!r}")

    @classmethod
    def of(cls, recipe: Recipe, activation: str | None, owner: str = "RangeBN",
           compiles: bool = False) -> "FusedNorm":
        """That of a recipe, with the activation behind the norm."""
        norm = recipe.norm
        return cls(activation=activation, chunks=norm.chunks, constant=norm.constant,
                   range_gradient=norm.range_gradient,
                   mask=recipe.activation.clipped == "mask",
                   average=recipe.activation.range == "batch_mean", synchronise=norm.synchronise,
                   quantize_gradient=norm.quantize_gradient, compiles=compiles, owner=owner,
                   stochastic=split_rounding(recipe) == "stochastic", bifurcated=recipe.bifurcated)


def supports(recipe: Recipe) -> bool:
    """True if the recipe's numbers are those of this file: `banner`, its norm's options free.

    Weights do not matter: their quantizer runs before.
    """
    norm, activation = recipe.norm, replace(recipe.activation, clipped="pass")
    return (recipe.quantize and norm.kind == "range" and norm.quantize_input
            and split_rounding(recipe) is not None and recipe.initialise == "kaiming"
            and activation.range in ("min_max", "batch_mean")
            and activation == replace(EIGHT_BIT.activation, momentum=activation.momentum,
                                      range=activation.range)
            and not recipe.statistics.enabled and recipe.accumulator.bits is None)


class Normalized(NamedTuple):
    """output: float32 on the int8 grid, the input's shape. mean, scale: RangeBN's statistics (C,)
    of the quantized input, scale as a deviation. low, high: the batch's range in front of the norm;
    output_low, output_high: behind the activation. Scalars. Only output carries a gradient."""

    output: Tensor
    mean: Tensor
    scale: Tensor
    low: Tensor
    high: Tensor
    output_low: Tensor
    output_high: Tensor


class Quantized(NamedTuple):
    """output: float32 on the int8 grid; low, high: the batch's range, scalars."""

    output: Tensor
    low: Tensor
    high: Tensor


def _rows(x: Tensor) -> Tensor:
    """(N, C, ...) as (N, S, C), a view where memory allows."""
    x = x.movedim(1, -1)
    return x.unsqueeze(1) if x.dim() == 2 else x.flatten(1, -2)


def _maps(rows: Tensor, shape: torch.Size) -> Tensor:
    """(N, S, C) as ``shape``, the inverse of ``_rows``."""
    return rows.reshape(shape[0], *shape[2:], shape[1]).movedim(-1, 1)


def _draw_seeds(like: Tensor) -> Tensor:
    return torch.randint(-2**31, 2**31 - 1, (2,), dtype=torch.int32, device=like.device)


def _is_synchronised(norm: FusedNorm) -> bool:
    return norm.synchronise and dist.is_available() and dist.is_initialized() \
        and dist.get_world_size() > 1


def _average(*vectors: Tensor) -> Tensor:
    """Means over the processes of equally long vectors."""
    values = torch.stack(vectors)
    dist.all_reduce(values)
    return values / dist.get_world_size()


def _merges_passes(norm: FusedNorm) -> bool:
    return norm.compiles or torch.compiler.is_compiling()


def _forward(ctx, x: Tensor, gamma: Tensor, beta: Tensor, norm: FusedNorm):
    """RangeBN's part of a forward pass; returns (tensors to save, Normalized)."""
    rows = _rows(x)
    count = rows.shape[0] * rows.shape[1]
    check_chunks(count, norm.chunks, norm.owner)
    length = -(-count // norm.chunks)
    number = -(-count // length)
    images = None
    if _merges_passes(norm) and length % rows.shape[1] == 0:
        images = length // rows.shape[1]
        images = images if rows.shape[0] % images == 0 else None
    constant = range_to_sigma(length, norm.constant)
    if _is_synchronised(norm):
        found = _run(norm.compiles, kernels.norm_statistics, rows, norm.chunks, images,
                     norm.average)
        found = *found[:-2], *_average(*found[-2:])
        lowest, highest, _, _, _, _, *rest = found
        made = _run(norm.compiles, kernels.norm_output, rows, lowest, highest, *rest, gamma, beta,
                    constant, norm.activation, norm.average)
    else:
        results = _run(norm.compiles, kernels.norm_forward, rows, gamma, beta, norm.chunks, images,
                       constant, norm.activation, norm.average)
        found, made = results[:11], results[11:]
    _, _, at_low, at_high, low, high, scale, first, last, mean, _ = found
    y, sigma, factor, output_low, output_high, *out_grid = made
    result = Normalized(_maps(y, x.shape), mean, sigma, low, high, output_low, output_high)
    ctx.norm, ctx.shape = norm, x.shape
    ctx.chunking = kernels.Chunking(constant=constant, number=number, images=images)
    ctx.mark_non_differentiable(*result[1:])
    return (rows, beta, scale, first, last, mean, sigma, factor, at_low, at_high, *out_grid), result


def _backward(ctx, saved, gradient: Tensor, copies: str | None):
    """(gradient or g16, None or g8, gradient to gamma, gradient to beta)."""
    rows, beta, scale, first, last, mean, sigma, factor, at_low, at_high, *out_grid = saved
    norm, chunking = ctx.norm, ctx.chunking
    state = kernels.NormState(
        grid=(scale, first, last), mean=mean, sigma=sigma, factor=factor, beta=beta, at_low=at_low,
        at_high=at_high, out_grid=tuple(out_grid))
    passes = kernels.Passes(activation=norm.activation, mask=norm.mask,
                            quantize=norm.quantize_gradient,
                            deviation=norm.range_gradient == "deviation")
    gradient = _rows(gradient)
    seeds = _draw_seeds(gradient) if norm.stochastic else (None, None)
    if _is_synchronised(norm):
        codes, step, *sums = _run(norm.compiles, kernels.norm_sums, gradient, rows, state, seeds[0],
                                  passes)
        result = _run(norm.compiles, kernels.norm_gradient, codes, step, tuple(_average(*sums)),
                      rows, state, chunking, passes)[0]
        g16, g8 = result, None
        if copies is not None:
            g16, g8 = _run(norm.compiles, kernels.split, result, seeds[1], copies == "16+8")[:2]
    else:
        g16, g8, *sums = _run(norm.compiles, kernels.norm_backward, gradient, rows, state,
                              seeds, chunking, passes, copies)[:4 + passes.deviation]
    total, moment, *_ = sums
    grad_gamma = torch.where(sigma > 0, moment / (sigma + kernels.EPSILON), 0.0)
    g16, g8 = (g if g is None else _maps(g, ctx.shape) for g in (g16, g8))
    return g16, g8, grad_gamma, total


class NormFunction(torch.autograd.Function):
    """forward(x (N, C, ...), gamma, beta (C,), norm) -> the fields of Normalized."""

    @staticmethod
    def forward(ctx, x, gamma, beta, norm) -> tuple[Tensor, ...]:
        saved, result = _forward(ctx, x, gamma, beta, norm)
        ctx.save_for_backward(*saved)
        return tuple(result)

    @staticmethod
    def backward(ctx, gradient, *_) -> tuple[Tensor | None, ...]:
        result, _, grad_gamma, grad_beta = _backward(ctx, ctx.saved_tensors, gradient, None)
        return result, grad_gamma, grad_beta, None


def _convolution_gradients(g16, g8, x, weight, geometry, want_weight, bias_size=None):
    stride, padding, dilation, groups = geometry

    def products(g, mask):
        return torch.ops.aten.convolution_backward(g, x, weight, bias_size, stride, padding,
                                                   dilation, False, [0, 0], groups, mask)

    grad_x = None if g8 is None else products(g8, [True, False, False])[0]
    return grad_x, *products(g16, [False, want_weight, bias_size is not None])[1:]


class ConvNormFunction(torch.autograd.Function):
    """Convolution (bifurcated gradient), then ``NormFunction``: the copies g16 and g8 are made in
    the pass that makes the convolution's incoming gradient.

    forward(x (N, I, H, W), weight (O, I/groups, kh, kw), gamma, beta (O,), geometry, norm).
    """

    @staticmethod
    def forward(ctx, x, weight, gamma, beta, geometry, norm) -> tuple[Tensor, ...]:
        saved, result = _forward(ctx, F.conv2d(x, weight, None, *geometry), gamma, beta, norm)
        ctx.save_for_backward(x, weight, *saved)
        ctx.geometry = geometry
        return tuple(result)

    @staticmethod
    def backward(ctx, gradient, *_) -> tuple[Tensor | None, ...]:
        x, weight, *saved = ctx.saved_tensors
        want_x, want_weight = ctx.needs_input_grad[:2]
        both = want_x or not ctx.norm.bifurcated
        g16, g8, grad_gamma, grad_beta = _backward(ctx, saved, gradient, "16+8" if both else "16")
        if not ctx.norm.bifurcated:
            g16, g8 = g8, g8 if want_x else None
        grad_x, grad_weight, _ = _convolution_gradients(g16, g8, x, weight, ctx.geometry,
                                                        want_weight)
        return grad_x, grad_weight, grad_gamma, grad_beta, None, None


class ConvFunction(torch.autograd.Function):
    """Convolution with bias and bifurcated gradient, no norm: arguments as F.conv2d's, grouped."""

    @staticmethod
    def forward(ctx, x, weight, bias, geometry, compiles) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.compiles = compiles
        ctx.geometry, ctx.bias_size = geometry, None if bias is None else [len(bias)]
        return F.conv2d(x, weight, bias, *geometry)

    @staticmethod
    def backward(ctx, gradient) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        want_x, want_weight = ctx.needs_input_grad[:2]
        g16, g8 = (g if g is None else _maps(g, gradient.shape) for g in _run(
            ctx.compiles, kernels.split, _rows(gradient), _draw_seeds(gradient)[0], want_x)[:2])
        return *_convolution_gradients(g16, g8, x, weight, ctx.geometry, want_weight,
                                       ctx.bias_size), None, None


class QuantizeFunction(torch.autograd.Function):
    """forward(x, other or None, activation, mask, average, compiles) -> the fields of Quantized."""

    @staticmethod
    def forward(ctx, x, other, activation, mask, average, compiles
                ) -> tuple[Tensor, Tensor, Tensor]:
        ctx.activation, ctx.mask, ctx.has_other = activation, mask, other is not None
        ctx.compiles = compiles
        rows = _rows(x), None if other is None else _rows(other)
        y, low, high, *out_grid = _run(compiles, kernels.quantize_forward, *rows, activation,
                                        average)
        if activation is not None or mask:
            ctx.save_for_backward(x, *([] if other is None else [other]), *out_grid)
        ctx.mark_non_differentiable(low, high)
        return _maps(y, x.shape), low, high

    @staticmethod
    def backward(ctx, gradient, *_) -> tuple[Tensor | None, ...]:
        if ctx.saved_tensors:
            x, *other, scale, first, last = ctx.saved_tensors
            rows = _run(ctx.compiles, kernels.quantize_backward, _rows(gradient), _rows(x),
                        _rows(other[0]) if other else None, (scale, first, last), ctx.activation,
                        ctx.mask)
            gradient = _maps(rows, gradient.shape)
        return gradient, gradient if ctx.has_other else None, None, None, None, None


def norm_activation_quantize(x: Tensor, gamma: Tensor, beta: Tensor, norm: FusedNorm
                             ) -> Normalized:
    """ActivationQuantizer -> RangeBatchNorm -> activation -> ActivationQuantizer, in training.

    x: (N, C, ...) float32, any layout. gamma, beta: (C,).
    """
    return Normalized(*NormFunction.apply(x, gamma, beta, norm))


def conv_norm_activation_quantize(x: Tensor, weight: Tensor, gamma: Tensor, beta: Tensor,
                                  geometry: tuple, norm: FusedNorm) -> Normalized:
    """A whole QConv2d in training. x: (N, I, H, W); weight: quantized (O, I/groups, kh, kw);
    geometry: (stride, padding, dilation, groups) as F.conv2d takes them, pairs."""
    return Normalized(*ConvNormFunction.apply(x, weight, gamma, beta, geometry, norm))


def bifurcated_conv2d(x: Tensor, weight: Tensor, bias: Tensor | None, geometry: tuple,
                      compiles: bool = False) -> Tensor:
    """Convolution without norm; the gradient to x from the 8-bit copy, the others from 16 bits."""
    return ConvFunction.apply(x, weight, bias, geometry, compiles)


def add_activation_quantize(x: Tensor, other: Tensor, activation: str | None = None,
                            mask: bool = False, average: bool = False,
                            compiles: bool = False) -> Quantized:
    """A QAdd in training: sum of two tensors of one shape, activation, output quantizer.

    average: the range is the mean of the images' extremes, as in FusedNorm. compiles: likewise.
    """
    return Quantized(*QuantizeFunction.apply(x, other, activation, mask, average, compiles))


def activation_quantize(x: Tensor, activation: str | None = None, mask: bool = False,
                        average: bool = False, compiles: bool = False) -> Quantized:
    """Activation and output quantizer of a training step: QInput, or behind a pooling layer."""
    return Quantized(*QuantizeFunction.apply(x, None, activation, mask, average, compiles))

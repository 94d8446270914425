"""Quantized gradients: the error that flows to the input and the copy that gives the weights'.

Source: Banner et al., arXiv 1805.11046, section 4 (gradient bifurcation); DoReFa's gradient with
its maximum per sample, arXiv 1606.06160, equation 12; WAGE's shift-based scale,
arXiv 1802.04680, equations 9-12.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from sw.quantize.quantizers import to_float8
from sw.quantize.ranges import SMALLEST_SCALE, constrain_scale, extremes, spread, symmetric_scale
from sw.quantize.recipe import Recipe, TensorRecipe
from sw.quantize.rounding import round_to_integer
from sw.train import probe

__all__ = ["BifurcatedConv2dFunction", "BifurcatedLinearFunction", "GRADIENT16_HIGH",
           "GradientQuantizeFunction", "finish_weight_gradient", "gradient_copies",
           "quantize_error", "quantize_gradient", "split_gradient", "split_rounding"]

GRADIENT16_HIGH = 127 * 256  # so that the 8-bit copy, g16 >> 8 rounded up, never exceeds 127


def split_gradient(gradient: Tensor, random_bits: Tensor | int | None = None, *,
                   want8: bool = True, want16: bool = True) -> tuple[Tensor | None, Tensor | None]:
    """Both copies of the bifurcated gradient, dequantized to float32: ``(g16, g8)``.

    One 16-bit integer tensor gives both: ``g16 = floor(g / s + 0.5)`` with
    ``s = max|g| / (127 * 256)``, then ``g8 = (g16 + r) >> 8`` with r uniform in [0, 256), whose
    expected value is g16 / 256. Scales are per tensor.

    random_bits: integers in [0, 256) of gradient's shape; drawn from torch's generator if None;
        128 rounds half up.
    """
    scale = gradient.abs().amax().div(GRADIENT16_HIGH).clamp_min(1e-38)
    codes16 = torch.div(gradient, scale).add_(0.5).floor_()
    codes16.clamp_(-GRADIENT16_HIGH, GRADIENT16_HIGH)
    g8 = None
    if want8:
        if random_bits is None:
            random_bits = torch.randint(0, 256, gradient.shape, dtype=torch.uint8,
                                        device=gradient.device)
        g8 = torch.add(codes16, random_bits).mul_(1 / 256).floor_().mul_(scale * 256)
    return (codes16.mul_(scale) if want16 else None), g8


def quantize_gradient(gradient: Tensor, recipe: TensorRecipe, owner: str = "gradient",
                      axis: int = 1) -> Tensor:
    """One gradient tensor on its recipe's grid, float32.

    axis: of the channels, 1 of (N, C, ...), 0 of the gradient to a weight (O, ...).
    """
    if not recipe.enabled:
        return gradient
    if recipe.format != "integer":
        return to_float8(gradient, recipe, axis, owner)
    low, high = extremes(gradient, recipe, axis, owner)
    if recipe.grid == "dorefa":  # 2m (q(g / 2m + 1/2 + noise) - 1/2): 2^bits levels, no zero
        steps = 2**recipe.bits - 1
        double = spread(2 * torch.maximum(low.abs(), high.abs()), gradient, recipe, axis)
        double = double.clamp_min(SMALLEST_SCALE)
        codes = round_to_integer((gradient / double + 0.5) * steps, recipe.rounding)
        return (codes.clamp_(0, steps) / steps - 0.5) * double
    if recipe.scale == "shift":  # WAGE: the power of two nearest max|g| becomes 1, then clip
        unit = constrain_scale(torch.maximum(low.abs(), high.abs()).clamp_min(1e-38), recipe)
        scale = unit * 2.0 ** (1 - recipe.bits)
    else:
        unit = None
        scale = symmetric_scale(low, high, recipe) if recipe.range == "clamp" \
            else constrain_scale((torch.maximum(low.abs(), high.abs()) / recipe.code_bounds[1])
                                 .clamp_min(1e-38), recipe)
    codes = round_to_integer(gradient / spread(scale, gradient, recipe, axis), recipe.rounding)
    if recipe.normalise:  # WAGE does not clip here, and no other scale has anything to clip
        scale = scale / unit if unit is not None else torch.ones_like(scale)
    else:
        codes = codes.clamp_(*recipe.code_bounds)
    return codes * spread(scale, gradient, recipe, axis)


def split_rounding(recipe: Recipe) -> str | None:
    """How the 8-bit error is made from 16 bits of one integer tensor, which one pass gives:
    ``stochastic`` (published) or ``half_up``; None for recipes that quantize each copy itself."""
    if recipe.gradient_of != "input" or recipe.gradient != TensorRecipe(bits=16):
        return None
    return next((rounding for rounding in ("stochastic", "half_up")
                 if recipe.error == TensorRecipe(rounding=rounding)), None)


def _random_bits(recipe: Recipe) -> int | None:
    return 128 if split_rounding(recipe) == "half_up" else None


def gradient_copies(gradient: Tensor, recipe: Recipe, owner: str, *, want_error: bool = True
                    ) -> tuple[Tensor, Tensor | None]:
    """(copy for the gradient to the weight, copy for the gradient to the input) of (N, C, ...)."""
    if split_rounding(recipe):
        for_weight, error = split_gradient(gradient, _random_bits(recipe),
                                           want8=want_error or not recipe.bifurcated)
        for_weight = for_weight if recipe.bifurcated else error
    else:
        shared = not recipe.bifurcated
        error = quantize_gradient(gradient, recipe.error, owner) if want_error or shared else None
        if shared:
            for_weight = error
        elif recipe.gradient_of == "product":
            for_weight = error if error is not None \
                else quantize_gradient(gradient, recipe.error, owner)
        else:
            for_weight = quantize_gradient(gradient, recipe.gradient, owner)
    if error is not None:
        probe.observe(owner, "E", gradient, error)
    if recipe.gradient_of == "input":
        probe.observe(owner, "G", gradient, for_weight)
    return for_weight, error


def finish_weight_gradient(gradient: Tensor | None, weight: Tensor, recipe: Recipe, owner: str
                           ) -> Tensor | None:
    """The gradient to the weight as the optimizer gets it, (O, ...). weight: quantized, (O, ...).

    Normalised without ``shift``, an integer number of the weight's grid steps.
    """
    if gradient is None or recipe.gradient_of != "product" or not recipe.gradient.enabled:
        return gradient
    quantized = quantize_gradient(gradient, recipe.gradient, owner, axis=0)
    if recipe.gradient.normalise and recipe.gradient.scale != "shift":
        step = symmetric_scale(*extremes(weight, recipe.weight, 0, owner), recipe.weight)
        quantized = quantized * spread(step, weight, recipe.weight, 0)
    probe.observe(owner, "G", gradient, quantized)
    return quantized


class BifurcatedConv2dFunction(torch.autograd.Function):
    """Convolution with one forward pass and two differently rounded gradients.

    forward(x (N, I, H, W), weight (O, I/groups, kh, kw), bias (O,) or None, stride, padding,
    dilation, groups, recipe, owner) -> (N, O, H', W').
    """

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups, recipe, owner) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation, groups
        ctx.bias_size = None if bias is None else [len(bias)]
        ctx.recipe, ctx.owner = recipe, owner
        return torch.nn.functional.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, gradient) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
        for_weight, error = gradient_copies(gradient, ctx.recipe, ctx.owner, want_error=want_x)

        def products(g, mask):
            return torch.ops.aten.convolution_backward(
                g, x, weight, ctx.bias_size, stride, padding, dilation, False, [0, 0], groups,
                mask)

        if for_weight is error:
            grad_x, grad_weight, grad_bias = products(error, [want_x, want_weight, want_bias])
        else:
            grad_x = products(error, [True, False, False])[0] if want_x else None
            _, grad_weight, grad_bias = products(for_weight, [False, want_weight, want_bias])
        grad_weight = finish_weight_gradient(grad_weight, weight, ctx.recipe, ctx.owner)
        return grad_x, grad_weight, grad_bias, None, None, None, None, None, None


class BifurcatedLinearFunction(torch.autograd.Function):
    """Linear layer with two differently rounded gradients: x (N, I), weight (O, I) -> (N, O)."""

    @staticmethod
    def forward(ctx, x, weight, bias, recipe, owner) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.recipe, ctx.owner = recipe, owner
        return torch.nn.functional.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
        for_weight, error = gradient_copies(gradient, ctx.recipe, ctx.owner, want_error=want_x)
        grad_weight = for_weight.t() @ x if want_weight else None
        return (error @ weight if want_x else None,
                finish_weight_gradient(grad_weight, weight, ctx.recipe, ctx.owner),
                for_weight.sum(0) if want_bias else None, None, None)


class GradientQuantizeFunction(torch.autograd.Function):
    """Identity forward; the gradient is rounded as an error on the way back."""

    @staticmethod
    def forward(ctx, x: Tensor, quantize: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.quantize = quantize
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.quantize(gradient), None


def quantize_error(x: Tensor, recipe: Recipe, owner: str) -> Tensor:
    """x forward; backward the gradient rounded as ``recipe.error`` (the published 8-bit copy)."""
    def quantize(gradient: Tensor) -> Tensor:
        if split_rounding(recipe):
            return split_gradient(gradient, _random_bits(recipe), want16=False)[1]
        return quantize_gradient(gradient, recipe.error, owner)
    return GradientQuantizeFunction.apply(x, quantize)

"""Ranges and scales: from the values of a tensor to the step of its integer grid.

ACIQ: Banner, Nahshan, Soudry, arXiv 1810.05723. The clip a that minimises the mean squared error of
M-bit quantization of a Laplace(b) or Gauss(s) distribution solves d/da = 0 of

    Laplace  2 b^2 e^(-a/b) + a^2 / (3 * 4^M)
    Gauss    (s^2 + a^2) erfc(a / (s sqrt 2)) - sqrt(2/pi) a s e^(-a^2 / 2 s^2)
             + a^2 / (3 * 4^M)

and after a ReLU (half range) M bits clip as M + 1 bits of the full range do. b and s are those of
the values before the ReLU, which the published code measures there; of what passed it they are
b = E[x | x > 0] and s^2 = E[x^2 | x > 0].

``aciq_mix`` takes the clip of whichever distribution errs less on the values themselves; ``mse``
searches the range of least error among fractions of [low, high].
"""

import functools
import math

import torch
from torch import Tensor

from golden.errors import LockstepError
from sw.quantize.recipe import TensorRecipe
from sw.quantize.rounding import round_to_integer

__all__ = ["SMALLEST_SCALE", "affine_parameters", "affine_scale", "constrain_scale", "extremes",
           "grouped", "optimal_clip", "quantization_error", "spread", "symmetric_scale"]

SMALLEST_SCALE = 1e-12
ZERO_RANGE_SCALE = 2.0**-7  # of a tensor that is 0 everywhere: any scale is exact
_FRACTIONS = tuple(step / 100 for step in range(100, 19, -1))  # of [low, high], tried by ``mse``
_SEARCHED = 2**15  # values per group at most on which clips are compared
_ASYMMETRIC = TensorRecipe(symmetric=False)


def _laplace_slope(a: float, bits: int) -> float:
    return -2 * math.exp(-a) + 2 * a / (3 * 4**bits)


def _gauss_slope(a: float, bits: int) -> float:
    return (2 * a * math.erfc(a / math.sqrt(2)) - 2 * math.sqrt(2 / math.pi)
            * math.exp(-a * a / 2) + 2 * a / (3 * 4**bits))


@functools.lru_cache
def optimal_clip(bits: int, distribution: str) -> float:
    """The clip of least error, in units of b (``laplace``) or sigma (``gauss``)."""
    slope = {"laplace": _laplace_slope, "gauss": _gauss_slope}[distribution]
    low, high = 1e-3, 64.0
    for _ in range(80):  # the slope rises through its only zero
        middle = (low + high) / 2
        low, high = (middle, high) if slope(middle, bits) < 0 else (low, middle)
    return (low + high) / 2


def grouped(x: Tensor, recipe: TensorRecipe, axis: int, owner: str = "tensor") -> Tensor:
    """x as (groups, values): one row per scale. axis: that of the channels (0 or 1).

    Raises LockstepError when the group size does not divide the channels.
    """
    if recipe.granularity == "tensor":
        return x.reshape(1, -1)
    if recipe.granularity == "sample":
        return x.reshape(x.shape[0], -1)
    size = recipe.group_size if recipe.granularity == "group" else 1
    channels = x.shape[axis]
    if channels % size:
        raise LockstepError(f"Group size {size} does not divide the {channels} channels of {owner}")
    return x.transpose(0, axis).reshape(channels // size, -1)


def spread(values: Tensor, x: Tensor, recipe: TensorRecipe, axis: int) -> Tensor:
    """Values of one per group, shaped so that they broadcast against x."""
    if recipe.granularity == "tensor":
        return values.reshape(())
    if recipe.granularity == "sample":
        axis = 0
    elif recipe.granularity == "group":
        values = values.repeat_interleave(recipe.group_size)
    shape = [1] * x.dim()
    shape[axis] = -1
    return values.reshape(shape)


def extremes(x: Tensor, recipe: TensorRecipe, axis: int, owner: str = "tensor"
             ) -> tuple[Tensor, Tensor]:
    """[low, high] of each group by the recipe's range rule, (groups,) each, for this batch."""
    if recipe.range in ("clamp", "pact"):
        groups = grouped(x, recipe, axis, owner).shape[0]
        high = x.new_full((groups,), recipe.clamp)
        return -high if recipe.symmetric else torch.zeros_like(high), high
    if recipe.range in _CLIPS:
        return _CLIPS[recipe.range](grouped(x, recipe, axis, owner), recipe)
    if recipe.range == "batch_mean":
        if recipe.granularity == "tensor":
            low, high = torch.aminmax(x.flatten(1), dim=1)
            return low.mean().reshape(1), high.mean().reshape(1)
        low, high = torch.aminmax(x.reshape(*x.shape[:2], -1), dim=2)  # (N, C)
        if recipe.granularity == "group":
            grouped(x, recipe, axis, owner)  # for its check
            shape = (len(x), -1, recipe.group_size)
            low, high = low.reshape(shape).amin(2), high.reshape(shape).amax(2)
        return low.mean(0), high.mean(0)
    return torch.aminmax(grouped(x, recipe, axis, owner), dim=1)


def _aciq(values: Tensor, recipe: TensorRecipe, distribution: str) -> tuple[Tensor, Tensor]:
    mean = values.mean(1)
    low, high = torch.aminmax(values, dim=1)
    half = low >= 0  # after a ReLU
    passed = (values > 0).sum(1).clamp_min(1)
    if distribution == "laplace":
        full_width = (values - mean[:, None]).abs().mean(1)
        half_width = values.abs().sum(1) / passed
    else:
        full_width = values.std(1, correction=0)
        half_width = (values.square().sum(1) / passed).sqrt()
    full_clip = full_width * optimal_clip(recipe.bits, distribution)
    half_clip = half_width * optimal_clip(recipe.bits + 1, distribution)
    top = torch.where(half, half_clip, mean + full_clip)
    bottom = torch.where(half, torch.zeros_like(low), mean - full_clip)
    return torch.maximum(low, bottom), torch.minimum(high, top)


def _searched(values: Tensor) -> Tensor:
    """Evenly spaced columns of (groups, values), few enough to compare clips on."""
    return values[:, ::-(-values.shape[1] // _SEARCHED)]


def _better(values: Tensor, recipe: TensorRecipe, clips) -> tuple[Tensor, Tensor]:
    """Of several ranges, (low, high) each (groups,), the one of least error for every group."""
    values = _searched(values)
    best = None
    for low, high in clips:
        error = quantization_error(values, low, high, recipe)
        if best is None:
            best = error, low, high
            continue
        less = error < best[0]
        best = tuple(torch.where(less, new, old) for new, old in zip((error, low, high), best))
    return best[1], best[2]


def _aciq_mix(values: Tensor, recipe: TensorRecipe) -> tuple[Tensor, Tensor]:
    return _better(values, recipe,
                   (_aciq(values, recipe, name) for name in ("laplace", "gauss")))


def _least_error(values: Tensor, recipe: TensorRecipe) -> tuple[Tensor, Tensor]:
    low, high = torch.aminmax(values, dim=1)
    return _better(values, recipe, ((low * part, high * part) for part in _FRACTIONS))


def _percentile(values: Tensor, recipe: TensorRecipe) -> tuple[Tensor, Tensor]:
    ordered = values.sort(1).values
    last = values.shape[1] - 1
    outside = math.floor(last * (1 - recipe.percentile / 100) + 0.5)
    return ordered[:, outside], ordered[:, last - outside]


_CLIPS = {"aciq_laplace": functools.partial(_aciq, distribution="laplace"),
          "aciq_gauss": functools.partial(_aciq, distribution="gauss"),
          "aciq_mix": _aciq_mix, "mse": _least_error, "percentile": _percentile}


def constrain_scale(scale: Tensor, recipe: TensorRecipe) -> Tensor:
    """The nearest scale that the recipe's form of scale can express; power_of_two rounds up."""
    if recipe.scale == "power_of_two":
        return torch.exp2(torch.ceil(torch.log2(scale)))
    if recipe.scale == "shift":
        return torch.exp2(torch.floor(torch.log2(scale) + 0.5))
    if recipe.scale == "multiplier":
        mantissa, exponent = torch.frexp(scale.double())
        steps = 2.0**recipe.multiplier_bits
        return torch.ldexp(torch.floor(mantissa * steps + 0.5) / steps, exponent).to(scale.dtype)
    return scale


def symmetric_scale(low: Tensor, high: Tensor, recipe: TensorRecipe) -> Tensor:
    """Step of the symmetric grid that covers [low, high] with codes +-(2^(bits-1) - 1)."""
    largest = torch.maximum(low.abs(), high.abs())
    scale = (largest / recipe.code_bounds[1]).clamp_min(SMALLEST_SCALE)
    return constrain_scale(scale, recipe)


def affine_scale(low: Tensor, high: Tensor, recipe: TensorRecipe) -> tuple[Tensor, Tensor]:
    """Step and integer zero point of the grid that covers [low, high] and holds 0 exactly.

    A range of nothing but 0 gives a step of 1/128.
    """
    lowest, highest = recipe.code_bounds
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / (highest - lowest)
    scale = torch.where(scale > SMALLEST_SCALE, scale, ZERO_RANGE_SCALE)
    scale = constrain_scale(scale, recipe)
    zero_point = torch.floor(lowest - low / scale + 0.5).clamp_(lowest, highest)
    return scale, zero_point


def affine_parameters(low: Tensor, high: Tensor, recipe: TensorRecipe = _ASYMMETRIC
                      ) -> tuple[Tensor, Tensor]:
    """(scale, zero_point) of the grid that covers [low, high]; symmetric grids have 0."""
    if recipe.symmetric:
        scale = symmetric_scale(low, high, recipe)
        return scale, torch.zeros_like(scale)
    return affine_scale(low, high, recipe)


def quantization_error(values: Tensor, low: Tensor, high: Tensor, recipe: TensorRecipe) -> Tensor:
    """Mean squared error, (groups,), of values (groups, n) on the recipe's grid over [low, high].

    low, high: (groups,).
    """
    scale, zero_point = (value[:, None] for value in affine_parameters(low, high, recipe))
    codes = round_to_integer(values / scale, "half_up") + zero_point
    codes = codes.clamp_(*recipe.code_bounds)
    return ((codes - zero_point) * scale - values).square_().mean(1)

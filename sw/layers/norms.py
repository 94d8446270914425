"""Normalizations that a recipe may name: ordinary, L1 and frozen batch normalization.

In the units of x, per channel, over the N*H*W values::

    batch   sigma = sqrt(E (x - mu)^2 + 1e-5)          Ioffe, Szegedy, arXiv 1502.03167
    l1      sigma = sqrt(pi / 2) * E|x - mu| + 1e-5    Wu et al., arXiv 1802.09769
    y = (x - mu) / sigma * gamma + beta

``frozen`` uses the running statistics in training too. RangeBN is in ``sw/layers/range_norm.py``.
"""

import math

import torch
import torch.distributed as dist
from torch import Tensor, nn

from sw.quantize.quantizers import EIGHT_BIT, StraightThroughFunction
from sw.quantize.ranges import extremes, spread, symmetric_scale
from sw.quantize.recipe import Recipe, TensorRecipe
from sw.quantize.rounding import evaluation_rounding, round_to_integer

__all__ = ["BatchNorm", "EPSILON", "L1BatchNorm", "Norm", "SMALLEST_VARIANCE",
           "SumOverProcessesFunction", "average_over_processes", "make_norm", "processes"]

EPSILON = 1e-5
SMALLEST_VARIANCE = EPSILON**2      # whose deviation RangeBN's gradient may be that of


class SumOverProcessesFunction(torch.autograd.Function):
    """Sum over the processes forward, and of their gradients backward: each one's values are part
    of every process's result. (torch.distributed.nn.functional is deprecated.)"""

    @staticmethod
    def forward(ctx, values: Tensor) -> Tensor:
        total = values.clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:
        return SumOverProcessesFunction.apply(gradient)


def processes() -> int:
    """How many processes share a step: 1 without a process group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def average_over_processes(values: Tensor) -> Tensor:
    """Mean over the processes of a group of equal shares, differentiable; itself without one."""
    if processes() == 1:
        return values
    return SumOverProcessesFunction.apply(values) / processes()


class Norm(nn.Module):
    """What every normalization shares: gamma and beta, the running mean, the stored statistics.

    Parameters: weight (gamma), bias (beta), (C,). Buffers: running_mean (C,), batches.
    """

    def __init__(self, channels: int, config: Recipe = EIGHT_BIT, zero_init: bool = False):
        super().__init__()
        self.config = config
        self.options = config.norm
        self.owner = type(self).__name__
        self.weight = nn.Parameter(torch.zeros(channels) if zero_init else torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def stored(self, deviation: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(gamma, beta, deviation), (C,) each, as a machine stores them by ``recipe.statistics``.

        A stored deviation is at least one step: it divides.
        """
        recipe = self.config.tensor("statistics")
        if not recipe.enabled:
            return self.weight, self.bias, deviation
        lowest = recipe.code_bounds[0]
        return (self._stored(self.weight, recipe, lowest), self._stored(self.bias, recipe, lowest),
                self._stored(deviation, recipe, 1))

    def _stored(self, value: Tensor, recipe: TensorRecipe, lowest: int) -> Tensor:
        with torch.no_grad():
            scale = symmetric_scale(*extremes(value, recipe, 0, self.owner), recipe)
            scale = spread(scale, value, recipe, 0)
            rounding = recipe.rounding if self.training else evaluation_rounding(recipe.rounding)
            codes = round_to_integer(value / scale, rounding)
            codes = codes.clamp_(lowest, recipe.code_bounds[1])
        return StraightThroughFunction.apply(value, codes * scale)

    def apply_factor(self, x: Tensor, mean: Tensor, factor: Tensor, beta: Tensor) -> Tensor:
        """(x - mean) * factor + beta, per channel of axis 1."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x - mean.view(shape)) * factor.view(shape) + beta.view(shape)

    @torch.no_grad()
    def follow(self, **statistics: Tensor) -> None:
        """Let running_mean, running_NAME follow one batch."""
        momentum = torch.where(self.batches == 0, 1.0, self.options.momentum)
        for name, value in statistics.items():
            getattr(self, f"running_{name}").lerp_(value.detach(), momentum)
        self.batches.add_(1)

    def running_factor(self) -> tuple[Tensor, Tensor]:
        """``y = factor * x + offset`` of evaluation, float64 (C,) each, in real units."""
        raise NotImplementedError


class BatchNorm(Norm):
    """Ordinary batch normalization; with kind ``frozen``, by its running statistics always.

    Buffer running_variance (C,), unbiased, starting at 1, as torch's own.
    """

    def __init__(self, channels: int, config: Recipe = EIGHT_BIT, zero_init: bool = False):
        super().__init__(channels, config, zero_init)
        self.register_buffer("running_variance", torch.ones(channels))

    def batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and biased variance of a batch (N, C, ...), (C,) each; the running ones follow."""
        axes = [0, *range(2, x.dim())]
        count = x.numel() // x.shape[1]
        if self.options.synchronise:
            mean = average_over_processes(x.mean(axes))
            # not E[x^2] - mean^2, which cancels where the mean is large
            centred = x - mean.view((1, -1) + (1,) * (x.dim() - 2))
            variance = average_over_processes(centred.square().mean(axes))
            count *= processes()
        else:
            variance, mean = torch.var_mean(x, axes, correction=0)
        with torch.no_grad():
            self.running_mean.lerp_(mean, self.options.momentum)
            self.running_variance.lerp_(variance * (count / max(count - 1, 1)),
                                        self.options.momentum)
            self.batches.add_(1)
        return mean, variance

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, ...) -> normalized tensor of the same shape, not yet quantized."""
        batch = self.training and self.options.kind != "frozen"
        if not self.config.tensor("statistics").enabled and not self.options.synchronise:
            if batch:
                self.batches.add_(1)
            return nn.functional.batch_norm(x, self.running_mean, self.running_variance,
                                            self.weight, self.bias, batch, self.options.momentum,
                                            EPSILON)
        mean, variance = self.batch_statistics(x) if batch \
            else (self.running_mean, self.running_variance)
        gamma, beta, sigma = self.stored(torch.sqrt(variance + EPSILON))
        return self.apply_factor(x, mean, gamma / sigma, beta)

    def running_factor(self) -> tuple[Tensor, Tensor]:
        sigma = torch.sqrt(self.running_variance.double() + EPSILON)
        gamma, beta, sigma = self.stored(sigma)
        factor = gamma.double() / sigma
        return factor, beta.double() - self.running_mean.double() * factor


class L1BatchNorm(Norm):
    """Batch normalization by the mean absolute deviation. Buffer running_scale (C,), a sigma."""

    def __init__(self, channels: int, config: Recipe = EIGHT_BIT, zero_init: bool = False):
        super().__init__(channels, config, zero_init)
        self.register_buffer("running_scale", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, ...) -> normalized tensor of the same shape, not yet quantized."""
        mean, scale = self.running_mean, self.running_scale
        if self.training:
            axes = [0, *range(2, x.dim())]
            mean = x.mean(axes)
            if self.options.synchronise:
                mean = average_over_processes(mean)
            shape = (1, -1) + (1,) * (x.dim() - 2)
            scale = (x - mean.view(shape)).abs().mean(axes) * math.sqrt(math.pi / 2)
            if self.options.synchronise:
                scale = average_over_processes(scale)
            self.follow(mean=mean, scale=scale)
        gamma, beta, scale = self.stored(scale)
        return self.apply_factor(x, mean, gamma / (scale + EPSILON), beta)

    def running_factor(self) -> tuple[Tensor, Tensor]:
        gamma, beta, scale = self.stored(self.running_scale)
        factor = gamma.double() / (scale.double() + EPSILON)
        return factor, beta.double() - self.running_mean.double() * factor


def make_norm(channels: int, config: Recipe, zero_init: bool = False) -> Norm | None:
    """The normalization that a recipe names; None for ``none``."""
    from sw.layers.range_norm import RangeBatchNorm

    kinds = {"range": RangeBatchNorm, "batch": BatchNorm, "frozen": BatchNorm, "l1": L1BatchNorm}
    if config.norm.kind == "none":
        return None
    return kinds[config.norm.kind](channels, config, zero_init)

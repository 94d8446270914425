"""RangeBN: batch normalization whose scale is the range of the values, not their deviation.

Training, per channel over the N*H*W values in (N, H, W) order, in ``chunks`` contiguous chunks::

    scale = C(n) * mean over the chunks of (max - min)         n = values per chunk
    y = (x - mean) / (scale + 1e-5) * gamma + beta

after x has been quantized (and so clipped) to 8 bits. Evaluation uses the running mean and scale
and skips that quantizer: it is the folded float simulation of the integer program.

Source: Banner, Hubara, Hoffer, Soudry, arXiv 1805.11046, and its published code
(eladhoffer/convNet.pytorch, models/modules/quantize.py). Differences, on purpose: torch's momentum
convention; a count that does not divide into the chunks is allowed (``chunk_ranges``); a constant
channel gives beta and finite gradients.

``norm.range_gradient`` deviation leaves the scale as it is, but gives it the gradient of a constant
times the standard deviation sigma, that is, with xhat = (x - mean) / scale,

    dx = factor * (g - mean(g) - xhat * mean(g * xhat) * (scale / sigma)^2)

which spreads over all values what the published gradient puts on the extremes of the chunks.
"""

import functools
import math

import numpy as np
import torch
from torch import Tensor

from golden.errors import LockstepError
from golden.ops.range_norm import range_constant
from sw.layers.norms import EPSILON, SMALLEST_VARIANCE, Norm, average_over_processes
from sw.quantize.gradients import quantize_error
from sw.quantize.quantizers import EIGHT_BIT, ActivationQuantizer
from sw.quantize.recipe import Recipe

__all__ = ["RangeBatchNorm", "check_chunks", "chunk_ranges", "expected_range", "range_to_sigma"]


@functools.lru_cache
def expected_range(n: int) -> float:
    """E[max - min] of n independent standard normal values (numerical integration, 1e-6)."""
    x = np.linspace(-9.0, 9.0, 9001)
    below = np.array([0.5 * math.erfc(-value / math.sqrt(2)) for value in x])
    above = below[::-1]
    integrand = -np.expm1(n * np.log1p(-above.clip(max=1 - 1e-16))) - below**n
    return float(integrand.sum() * (x[1] - x[0]))


@functools.lru_cache
def range_to_sigma(n: int, constant: str) -> float:
    """C(n): the factor that turns the range of n values into a deviation.

    constant: ``paper`` 1 / sqrt(2 ln n), 1.6-1.8 times too large; ``code`` 0.5402084 times that,
    as published; ``exact`` 1 / E[range of n normal values].
    """
    if n < 2:
        raise LockstepError(f"RangeBN needs at least 2 values per chunk, not {n}")
    if constant == "exact":
        return 1 / expected_range(n)
    return range_constant(n, constant)


def chunk_ranges(x: Tensor, chunks: int) -> tuple[Tensor, int]:
    """Mean over the chunks of (max - min) per channel, and the chunk length n.

    x: (C, count). The chunks of golden/ops/range_norm.py: n = ceil(count / chunks) values each, the
    last one may be shorter. The gradient goes to the first extreme in (N, H, W) order.
    """
    count = x.shape[1]
    length = -(-count // chunks)
    number = -(-count // length)
    if number * length > count:
        x = torch.cat([x, x[:, -1:].expand(-1, number * length - count)], dim=1)
    x = x.reshape(x.shape[0], number, length)
    high, low = x.max(dim=2).values, x.min(dim=2).values
    return (high - low).mean(dim=1), length


def check_chunks(count: int, chunks: int, owner: str) -> None:
    """Raise LockstepError, naming the layer, where a chunk would hold one value only."""
    length = -(-count // chunks)
    if length < 2:
        raise LockstepError(f"RangeBN of layer {owner} needs at least 2 values per chunk, not "
                            f"{length}: {count} values per channel in {chunks} chunks; use larger "
                            f"batches or fewer norm.chunks")


class RangeBatchNorm(Norm):
    """RangeBN over (N, C, H, W) or (N, C) float32 tensors.

    Parameters: weight (gamma), bias (beta), both (C,). Buffers: running_mean, running_scale (C,),
    in the units of x; running_scale is a deviation, without epsilon.

    exact_evaluation: quantize the input in evaluation too, which is the graph that lowering in
    ``exact`` mode describes.
    """

    def __init__(self, channels: int, config: Recipe = EIGHT_BIT, zero_init: bool = False):
        super().__init__(channels, config, zero_init)
        self.exact_evaluation = False
        self.input = ActivationQuantizer(config, bounded=False)
        self.register_buffer("running_scale", torch.ones(channels))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, ...) -> normalized tensor of the same shape, not yet quantized."""
        if self.training:
            if self.options.quantize_input:
                x = self.input(x)
            mean, scale = self._batch_statistics(x)
        else:
            if self.exact_evaluation:
                x = self.input(x)
            mean, scale = self.running_mean, self.running_scale
        gamma, beta, stored = self.stored(scale)
        factor = gamma / (stored + EPSILON)
        if self.training:  # a channel without range gives beta, as in golden/ops/range_norm.py
            factor = torch.where(scale > 0, factor, 0.0)
        y = self.apply_factor(x, mean, factor, beta)
        if self.training and self.options.quantize_gradient \
                and self.config.tensor("error").enabled:
            y = quantize_error(y, self.config, self.owner)
        return y

    def _batch_statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        values = x.transpose(0, 1).flatten(1)
        mean = values.mean(dim=1)
        check_chunks(values.shape[1], self.options.chunks, self.owner)
        ranges, length = chunk_ranges(values, self.options.chunks)
        if self.options.synchronise:
            mean, ranges = average_over_processes(torch.stack([mean, ranges]))
        scale = ranges * range_to_sigma(length, self.options.constant)
        if self.options.range_gradient == "deviation":
            scale = self._as_deviation(scale.detach(), values - mean.detach()[:, None])
        self.follow(mean=mean, scale=scale)
        return mean, scale

    def _as_deviation(self, scale: Tensor, centred: Tensor) -> Tensor:
        """scale, with the gradient of a constant times the deviation of centred (C, count)."""
        variance = centred.square().mean(dim=1)
        if self.options.synchronise:
            variance = average_over_processes(variance)
        steady = variance.detach()
        return scale * (1 + (variance - steady) / (2 * steady.clamp_min(SMALLEST_VARIANCE)))

    def running_factor(self) -> tuple[Tensor, Tensor]:
        gamma, beta, scale = self.stored(self.running_scale)
        factor = gamma.double() / (scale.double() + EPSILON)
        return factor, beta.double() - self.running_mean.double() * factor

    def extra_repr(self) -> str:
        return f"{len(self.weight)}, constant={self.options.constant}"

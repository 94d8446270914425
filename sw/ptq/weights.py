"""Weights onto their grid, and the correction of what the grid does to them.

Bias correction, arXiv 1810.05723, section 5, as its published code computes it: every channel's
quantized weights get the mean and the standard deviation of its float weights, ::

    xi_c = ||W_c - E W_c|| / ||Q_c - E Q_c||         W'_c = xi_c Q_c + m_c
    m_c = E W_c - xi_c E Q_c

(the paper's xi (Q + mu) with mu = m / xi). W' is not on the grid, so xi_c multiplies the channel's
step, and m_c, which multiplies the sum of the inputs under the kernel, meets that sum's mean over
the calibration images and becomes a bias.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from golden.errors import LockstepError
from sw.layers.weighted import WeightedLayer
from sw.ptq.allocation import allocate_bits
from sw.ptq.config import PtqConfig
from sw.quantize.quantizers import weight_codes

__all__ = ["WeightGrid", "correct_weights", "make_grid", "mean_input_sum", "mean_per_channel",
           "per_output"]


@dataclass(frozen=True, eq=False)
class WeightGrid:
    """Grid of a layer's weights. step: float64 (O,); bits: int64 (O,); codes: float64 (O, ...),
    integers in +-(2^(bits-1) - 1), rounded to nearest."""

    codes: Tensor
    step: Tensor
    bits: Tensor

    @property
    def limit(self) -> Tensor:
        """Largest code of every channel, float64 (O,)."""
        return torch.exp2(self.bits.double() - 1) - 1


def per_output(values: Tensor, weight: Tensor) -> Tensor:
    """Values (O,) shaped so that they broadcast against a weight (O, ...)."""
    return values.reshape(-1, *[1] * (weight.dim() - 1))


def make_grid(layer: WeightedLayer, bits: int, config: PtqConfig) -> WeightGrid:
    """Nearest codes of a folded layer's weights, by the configuration's range rule.

    Raises LockstepError, naming the layer, where all weights are 0 or one is not finite.
    """
    weight = layer.weight.detach()
    if not torch.isfinite(weight).all():
        raise LockstepError(f"Layer {layer.owner} has weights that are not finite")
    if not weight.any():
        raise LockstepError(f"Layer {layer.owner} has a zero range: all its weights are 0")
    widths = torch.full((len(weight),), bits, dtype=torch.int64, device=weight.device)
    if config.allocate_weights and bits == config.weight_bits:
        deviation = weight.flatten(1).std(1, correction=0)
        widths = allocate_bits(deviation, bits).to(weight.device)
    codes, step = torch.empty_like(weight), torch.empty(len(weight), device=weight.device)
    for width in widths.unique().tolist():
        mine = widths == width
        found, step[mine] = weight_codes(weight[mine], config.weight_recipe(width), layer.owner)
        codes[mine] = found.to(codes.dtype)
    return WeightGrid(codes.double(), step.double(), widths)


def correct_weights(weight: Tensor, quantized: Tensor) -> tuple[Tensor, Tensor]:
    """(xi, m), float64 (O,) each, with which xi * quantized + m has the mean and the standard
    deviation of weight in every channel. A channel that is constant on the grid has xi 1."""
    weight, quantized = weight.double().flatten(1), quantized.double().flatten(1)
    deviation, rounded = weight.std(1, correction=0), quantized.std(1, correction=0)
    xi = torch.where((rounded > 0) & (deviation > 0), deviation / rounded, 1.0)
    return xi, weight.mean(1) - xi * quantized.mean(1)


def mean_per_channel(x: Tensor) -> Tensor:
    """Mean over all axes but that of the channels, float64 (C,)."""
    return x.double().transpose(0, 1).flatten(1).mean(1)


def mean_input_sum(layer: WeightedLayer, x: Tensor) -> Tensor:
    """Mean, over images and positions, of the sum of the inputs under the kernel; float64 (O,)."""
    groups = getattr(layer, "groups", 1)
    ones = torch.ones_like(layer.weight[:groups], dtype=torch.float64)  # one output per group
    sums = mean_per_channel(layer.product(x.double(), ones, None))
    return sums.repeat_interleave(len(layer.weight) // groups)

"""Initial weights that are the same on every machine.

torch draws normal numbers by vector instructions that differ between CPUs in the last place; the
integer training step would carry that into its masters. Here they are sums of integers drawn by a
hash of (seed, number of the layer, element), with the deviations that the layers' own
initialisation has: He et al. 2015, arXiv 1502.01852, by the outputs for convolutions, and uniform
within +-1 / sqrt(inputs) for linear layers.
"""

import math

import numpy as np
import torch
from torch import nn

from golden.random import counter_bits, counter_seed
from sw.layers.weighted import QConv2d, WeightedLayer

__all__ = ["draw_weights"]

N_DRAWS = 12                    # uniform numbers in a normal one (Irwin-Hall): variance 12 / 12
LEVELS = 1 << 16


def _uniform(seed, layer, shape, draw):
    """Multiples of 2^-16 in [0, 1), float64."""
    index = np.arange(math.prod(shape), dtype=np.int32)
    high, low = (counter_bits(counter_seed(np.array([seed]), np.array([layer]), 2 * draw + byte)
                              .astype(np.int32), index.copy()) for byte in range(2))
    return ((high.astype(np.int64) << 8) + low).reshape(shape) / LEVELS


@torch.no_grad()
def draw_weights(model: nn.Module, seed: int) -> None:
    """Gives every convolution and linear layer new weights, in place; biases and norms stay."""
    layers = [layer for layer in model.modules() if isinstance(layer, WeightedLayer)]
    for number, layer in enumerate(layers, 1):
        shape = tuple(layer.weight.shape)
        if isinstance(layer, QConv2d):
            total = sum(_uniform(seed, number, shape, draw) for draw in range(N_DRAWS))
            deviation = math.sqrt(2 / (shape[0] * math.prod(shape[2:])))
            values = (total - N_DRAWS / 2) * deviation
        else:
            values = (2 * _uniform(seed, number, shape, 0) - 1) / math.sqrt(shape[1])
        layer.weight.copy_(torch.from_numpy(values))

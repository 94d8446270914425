"""AdaRound: Nagel, Amjad, van Baalen, Louizos, Blankevoort 2020, arXiv 2004.10568.

Rounding to nearest is not what a layer's output loses least by. Each weight becomes
``s * clamp(floor(w / s) + h(V), -limit, limit)`` with the rectified sigmoid (equation 23)

    h(V) = clamp(sigmoid(V) (zeta - gamma) + gamma, 0, 1)      zeta = 1.1, gamma = -0.1

and V minimises ``||f(W x) - f(W~ x')||^2 + lambda sum (1 - |2 h(V) - 1|^beta)`` (equations 24, 25),
x the float network's input of the layer, x' that of the network quantized so far, f the activation
function. A falling beta drives every h to 0 or 1.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from sw.layers.weighted import QConv2d, WeightedLayer
from sw.ptq.config import AdaRoundConfig
from sw.ptq.weights import WeightGrid, per_output

__all__ = ["adaround", "input_patches", "output_patches", "sample_positions"]

ZETA, GAMMA = 1.1, -0.1
_IMAGES_AT_ONCE = 32


def sample_positions(layer: WeightedLayer, output: Tensor, patches: int,
                     generator: torch.Generator) -> Tensor:
    """Positions (N, p) int64 of the layer's output map (N, O, ...), p of every image, drawn so
    that there are about ``patches`` of them."""
    n, positions = len(output), output[0, 0].numel() if isinstance(layer, QConv2d) else 1
    each = min(positions, max(1, patches // n))
    return torch.rand(n, positions, generator=generator).argsort(1)[:, :each].to(output.device)


def input_patches(layer: WeightedLayer, x: Tensor, positions: Tensor) -> Tensor:
    """What the kernel sees at the positions: (groups, N * p, inputs of a group * kernel)."""
    if not isinstance(layer, QConv2d):
        return x.unsqueeze(0)
    parts = []
    x, padding = layer.padded(x)
    for images, picked in zip(x.split(_IMAGES_AT_ONCE), positions.split(_IMAGES_AT_ONCE)):
        columns = F.unfold(images, layer.weight.shape[2:], layer.dilation, padding,
                           layer.stride)
        columns = columns.gather(2, picked[:, None].expand(-1, columns.shape[1], -1))
        columns = columns.reshape(len(images), layer.groups, -1, picked.shape[1])
        parts.append(columns.permute(1, 0, 3, 2).flatten(1, 2))
    return torch.cat(parts, 1)


def output_patches(layer: WeightedLayer, y: Tensor, positions: Tensor) -> Tensor:
    """The layer's outputs (N, O, ...) at the positions: (groups, N * p, outputs of a group)."""
    if not isinstance(layer, QConv2d):
        return y.unsqueeze(0)
    picked = y.flatten(2).gather(2, positions[:, None].expand(-1, y.shape[1], -1))
    picked = picked.reshape(len(y), layer.groups, -1, positions.shape[1])
    return picked.permute(1, 0, 3, 2).flatten(1, 2)


def _activate(layer: WeightedLayer, y: Tensor) -> Tensor:
    functions = {None: lambda y: y, "relu": F.relu, "relu6": F.relu6}
    return functions[layer.activation](y)


def _relaxed(v: Tensor) -> Tensor:
    return (torch.sigmoid(v) * (ZETA - GAMMA) + GAMMA).clamp(0, 1)


def adaround(layer: WeightedLayer, grid: WeightGrid, inputs: Tensor, targets: Tensor,
             config: AdaRoundConfig, generator: torch.Generator) -> Tensor:
    """Codes, float64 of the weight's shape, whose layer output is nearest the targets.

    layer: folded, float. inputs: (groups, P, K) patches of the quantized network; targets:
    (groups, P, O / groups) the float layer's outputs there, after its activation function. A code
    is at most one step from its weight, clipped to the grid.
    """
    groups, n_patches, _ = inputs.shape
    step, limit = (per_output(values.float(), layer.weight) for values in (grid.step, grid.limit))
    scaled = (layer.weight / step).clamp(-limit, limit)
    floor = scaled.floor()
    fraction = (scaled - floor).clamp(0, 1)
    v = -torch.log((ZETA - GAMMA) / (fraction - GAMMA) - 1)  # h(v) = fraction
    v.requires_grad_()
    optimizer = torch.optim.Adam([v], lr=config.learning_rate)
    bias = layer.bias.detach().reshape(groups, 1, -1)
    warm_up = config.warm_up * config.iterations
    first, last = config.beta
    for iteration in range(config.iterations):
        picked = torch.randint(n_patches, (config.batch,), generator=generator).to(inputs.device)
        h = _relaxed(v)
        weight = ((floor + h).clamp(-limit, limit) * step).reshape(groups, -1, inputs.shape[2])
        found = _activate(layer, inputs[:, picked] @ weight.transpose(1, 2) + bias)
        loss = (found - targets[:, picked]).square().sum((0, 2)).mean()
        if iteration >= warm_up:
            done = (iteration - warm_up) / (config.iterations - warm_up)
            beta = last + (first - last) * 0.5 * (1 + math.cos(math.pi * done))
            loss = loss + config.regularisation * (1 - (2 * h - 1).abs().pow(beta)).sum()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    codes = floor + (_relaxed(v.detach()) >= 0.5)
    return codes.clamp(-limit, limit).double()

"""Cross-layer equalisation: Nagel, van Baalen, Blankevoort, Welling 2019, arXiv 1906.04721.

ReLU commutes with positive factors, so between two layers every channel i may be divided by s_i in
the first and multiplied by it in the second. With r1_i, r2_i the largest magnitudes of the
channel's weights, outgoing and incoming (section 4.1, equation 11)::

    s_i = sqrt(r1_i / r2_i)         W1_i / s_i, b1_i / s_i, W2_i * s_i

makes both sqrt(r1_i r2_i).

Where every output channel has its own weight scale, W1_i / s_i rounds as W1_i does, and what the
channels share is the grid of the activation between the layers. Then r1_i is the largest magnitude
of that activation on calibration images and r2_i that of the weights over their output channel's
largest, as in SmoothQuant (arXiv 2211.10438, equation 4, alpha = 0.5).
"""

import torch
from torch import Tensor, nn

from sw.layers.graph import LayerCall, trace
from sw.layers.graph_layers import PaddedMaxPool2d
from sw.layers.weighted import QAvgPool2d, QConv2d, QGlobalAvgPool2d, WeightedLayer
from sw.ptq.observe import observed

__all__ = ["equalise", "input_ranges", "pairs"]

SWEEPS = 20
_HOMOGENEOUS = (nn.MaxPool2d, PaddedMaxPool2d, QAvgPool2d, QGlobalAvgPool2d, nn.Flatten,
                type(None))


def pairs(model: nn.Module) -> list[tuple[WeightedLayer, WeightedLayer]]:
    """Layers that follow each other directly, or through pools and flatten, and nothing else
    reads what lies between. ReLU6 is not homogeneous: such layers are left out."""
    _, steps, output = trace(model)
    readers: dict[str, list[LayerCall]] = {}
    for step in steps:
        for name in step.inputs:
            readers.setdefault(name, []).append(step)
    calls = [step.module for step in steps]
    found = []
    for step in steps:
        first = step.module
        if not isinstance(first, WeightedLayer) or first.activation == "relu6":
            continue
        name = step.name
        while name != output and len(readers.get(name, [])) == 1:
            reader = readers[name][0]
            if isinstance(reader.module, WeightedLayer):
                if calls.count(first) == calls.count(reader.module) == 1:
                    found.append((first, reader.module))
                break
            if not isinstance(reader.module, _HOMOGENEOUS):
                break
            name = reader.name
    return found


def input_ranges(layer: WeightedLayer, channels: int, *, relative: bool = False) -> Tensor:
    """Largest magnitude of the weights that multiply each input channel, (channels,).

    relative: each over the largest of its output channel's weights.
    """
    groups = layer.groups if isinstance(layer, QConv2d) else 1
    weight = layer.weight.detach().abs()
    weight = weight.reshape(groups, len(weight) // groups, channels // groups, -1)
    if relative:
        weight = weight / weight.amax((2, 3), keepdim=True).clamp_min(torch.finfo(torch.float).tiny)
    return weight.amax((1, 3)).flatten()


def _scale_inputs(layer: WeightedLayer, factors: Tensor) -> None:
    groups = layer.groups if isinstance(layer, QConv2d) else 1
    shape = layer.weight.shape
    weight = layer.weight.reshape(groups, shape[0] // groups, len(factors) // groups, -1)
    layer.weight.copy_((weight * factors.reshape(groups, 1, -1, 1)).reshape(shape))


def _balance(first: WeightedLayer, second: WeightedLayer, outgoing: Tensor, incoming: Tensor
             ) -> Tensor:
    """Give both sides of a pair one range per channel; the factors, (channels,).

    outgoing, incoming: r1 and r2, (channels,). Channels where either is 0 stay.
    """
    factors = torch.sqrt(outgoing / incoming)
    factors = torch.where((outgoing > 0) & (incoming > 0), factors, 1.0)
    per_output = (-1,) + (1,) * (first.weight.dim() - 1)
    first.weight.div_(factors.reshape(per_output))
    first.bias.div_(factors)
    _scale_inputs(second, factors)
    return factors


@torch.no_grad()
def equalise(model: nn.Module, images: Tensor | None = None) -> int:
    """Equalise a folded float network in place until nothing changes; returns the number of pairs.

    images: (N, C, H, W) float32, to equalise the activations' ranges on; None for those of the
    weights. The network's function stays the same up to float rounding.
    """
    found = pairs(model)
    firsts = [first for first, _ in found]
    ranges = None if images is None else observed(
        model, firsts, images, lambda y: y.abs().amax(1))
    for _ in range(SWEEPS):
        largest_change = 0.0
        for index, (first, second) in enumerate(found):
            outgoing = (first.weight.detach().abs().flatten(1).amax(1) if ranges is None
                        else ranges[index])
            incoming = input_ranges(second, len(outgoing), relative=ranges is not None)
            factors = _balance(first, second, outgoing, incoming)
            if ranges is not None:
                ranges[index] = outgoing / factors
            largest_change = max(largest_change, (factors - 1).abs().max().item())
        if largest_change < 1e-4:
            break
    return len(found)

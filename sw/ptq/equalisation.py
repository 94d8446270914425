"""Cross-layer equalisation: Nagel, van Baalen, Blankevoort, Welling 2019, arXiv 1906.04721.

ReLU commutes with positive factors, so between two layers every channel i may be divided by s_i in
the first and multiplied by it in the second. With r1_i, r2_i the largest magnitudes of the
channel's weights, outgoing and incoming (section 4.1, equation 11)::

    s_i = sqrt(r1_i / r2_i)         W1_i / s_i, b1_i / s_i, W2_i * s_i

makes both sqrt(r1_i r2_i).
"""

import torch
from torch import Tensor, nn

from sw.graph import Step, trace
from sw.graph_layers import PaddedMaxPool2d
from sw.layers import QAvgPool2d, QConv2d, QGlobalAvgPool2d, WeightedLayer

SWEEPS = 20
_HOMOGENEOUS = (nn.MaxPool2d, PaddedMaxPool2d, QAvgPool2d, QGlobalAvgPool2d, nn.Flatten,
                type(None))


def pairs(model: nn.Module) -> list[tuple[WeightedLayer, WeightedLayer]]:
    """Layers that follow each other directly, or through pools and flatten, and nothing else
    reads what lies between. ReLU6 is not homogeneous: such layers are left out."""
    _, steps, output = trace(model)
    readers: dict[str, list[Step]] = {}
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


def _by_input(layer: WeightedLayer, channels: int) -> Tensor:
    """The weights as (channels, values): row i is what multiplies input channel i."""
    groups = layer.groups if isinstance(layer, QConv2d) else 1
    weight = layer.weight.detach()
    weight = weight.reshape(groups, len(weight) // groups, channels // groups, -1)
    return weight.transpose(1, 2).reshape(channels, -1)


def _scale_inputs(layer: WeightedLayer, factors: Tensor) -> None:
    groups = layer.groups if isinstance(layer, QConv2d) else 1
    shape = layer.weight.shape
    weight = layer.weight.reshape(groups, shape[0] // groups, len(factors) // groups, -1)
    layer.weight.copy_((weight * factors.reshape(groups, 1, -1, 1)).reshape(shape))


@torch.no_grad()
def equalise(model: nn.Module) -> int:
    """Equalise a folded float network in place until nothing changes; returns the number of pairs.

    Its function stays the same up to float rounding. Channels without weights on either side stay.
    """
    found = pairs(model)
    for _ in range(SWEEPS):
        largest_change = 0.0
        for first, second in found:
            outgoing = first.weight.detach().abs().flatten(1).amax(1)
            incoming = _by_input(second, len(outgoing)).abs().amax(1)
            factors = torch.sqrt(outgoing / incoming)
            factors = torch.where((outgoing > 0) & (incoming > 0), factors, 1.0)
            per_output = (-1,) + (1,) * (first.weight.dim() - 1)
            first.weight.div_(factors.reshape(per_output))
            first.bias.div_(factors)
            _scale_inputs(second, factors)
            largest_change = max(largest_change, (factors - 1).abs().max().item())
        if largest_change < 1e-4:
            break
    return len(found)

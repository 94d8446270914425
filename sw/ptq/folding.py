"""Batch-norm folding: the norm's running statistics become part of weight and bias.

y = factor * product(x, W) + offset = product(x, factor W) + offset; arXiv 1712.05877, equation 14.

A channel that was constant in training (its input is dead, as in many depthwise layers) has a
deviation far below the norm's epsilon, and a factor of hundreds that multiplies nothing. It becomes
weight 0 and its constant, or its huge weights would set the ranges of others.
"""

import copy

import torch
from torch import nn

from golden.errors import LockstepError
from sw.layers.norms import EPSILON, Norm
from sw.layers.weighted import QLayer, WeightedLayer

__all__ = ["constant_channels", "fold_norms"]

_CONSTANT = 2.0**-12  # of gamma: what a constant channel's output deviates at most


def constant_channels(norm: Norm) -> torch.Tensor:
    """Channels (C,) bool whose normalized values all but equalled beta in training."""
    if hasattr(norm, "running_variance"):
        return norm.running_variance < _CONSTANT**2 * EPSILON
    return norm.running_scale < _CONSTANT * EPSILON


@torch.no_grad()
def fold_norms(model: nn.Module) -> nn.Module:
    """A copy of a float network, in evaluation mode, whose layers have a bias and no norm.

    Its function is that of the network in evaluation. Raises LockstepError for a network whose
    layers quantize while they train.
    """
    model = copy.deepcopy(model).eval()
    for layer in model.modules():
        if isinstance(layer, QLayer) and layer.config.quantize:
            raise LockstepError(f"Layer {layer.owner} was trained with quantization; post-training "
                                f"quantization starts from a float network (quantize: False)")
        if isinstance(layer, WeightedLayer):
            factor, offset = layer.affine()
            per_output = (-1,) + (1,) * (layer.weight.dim() - 1)
            if layer.norm is not None:
                constant = constant_channels(layer.norm)
                offset = torch.where(constant, layer.norm.bias.double(), offset)
                factor = torch.where(constant, 0.0, factor)
            weight = layer.weight.double() * factor.reshape(per_output)
            layer.weight = nn.Parameter(weight.to(layer.weight.dtype), requires_grad=False)
            layer.bias = nn.Parameter(offset.to(layer.weight.dtype), requires_grad=False)
            layer.norm, layer.attenuation = None, 1.0
    return model

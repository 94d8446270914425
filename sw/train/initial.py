"""To begin from another network: its weights, and norms that measure deviations another way.

A network that was trained with batch normalization divides by standard deviations, one with RangeBN
by ranges; of values that are not normally distributed they differ, by as much as a tenth. So gammas
are taken over times the ratio of both, measured on a batch, and the network computes the same.
"""

import math

import torch
from torch import Tensor, nn

from golden.errors import LockstepError
from sw.layers.norms import EPSILON, L1BatchNorm, Norm
from sw.layers.range_norm import RangeBatchNorm, chunk_ranges, range_to_sigma
from sw.train.evaluate import prepared

__all__ = ["copy_weights", "match_norms"]


@torch.no_grad()
def copy_weights(source: nn.Module, model: nn.Module, path: str) -> None:
    """The parameters of source into model; LockstepError naming path for another network."""
    parameters = dict(source.named_parameters())
    for name, value in model.named_parameters():
        if name not in parameters or parameters[name].shape != value.shape:
            raise LockstepError(f"Checkpoint {path} has no {name} of shape {tuple(value.shape)}")
        value.copy_(parameters.pop(name))
    if parameters:
        raise LockstepError(f"Checkpoint {path} is of another network: it has "
                            f"{next(iter(parameters))}, which this one has not")


def _deviation(norm: Norm, values: Tensor) -> Tensor:
    """What a norm divides by for a batch of values (C, count), (C,)."""
    if isinstance(norm, RangeBatchNorm):
        ranges, length = chunk_ranges(values, norm.options.chunks)
        return ranges * range_to_sigma(length, norm.options.constant) + EPSILON
    if isinstance(norm, L1BatchNorm):
        centred = values - values.mean(dim=1, keepdim=True)
        return centred.abs().mean(dim=1) * math.sqrt(math.pi / 2) + EPSILON
    return torch.sqrt(values.var(dim=1, correction=0) + EPSILON)


@torch.no_grad()
def match_norms(source: nn.Module, model: nn.Module, images: Tensor) -> None:
    """Scales model's gammas, those of source, where its norms are of another kind.

    On a batch like images (N, C, H, W) its norms then give what those of source, a float network,
    give. The buffers of source move.
    """
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, Norm)}
    hooks = []
    for name, norm in source.named_modules():
        target = norms.get(name)
        if isinstance(norm, Norm) and type(target) is not type(norm):
            def scale(norm, inputs, target=target):
                values = inputs[0].transpose(0, 1).flatten(1)
                target.weight.mul_(_deviation(target, values) / _deviation(norm, values))
            hooks.append(norm.register_forward_pre_hook(scale))
    if hooks:
        mode = source.training
        source.train()(prepared(source, images))
        source.train(mode)
    for hook in hooks:
        hook.remove()

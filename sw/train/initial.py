"""To begin from another network: its weights, and norms that measure deviations another way.

A network that was trained with batch normalization divides by standard deviations, one with RangeBN
by ranges; of values that are not normally distributed they differ, by as much as a tenth. So gammas
are taken over times the ratio of both, measured on some batches, and the network computes the same.
"""

import math
from collections.abc import Iterable

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
def match_norms(source: nn.Module, model: nn.Module, batches: Iterable[Tensor]) -> None:
    """Scales model's gammas, those of source, where its norms are of another kind.

    On batches like these, images (N, C, H, W), its norms then give in the mean what those of
    source, a float network, give. From one batch to the next the ratio of a range to a standard
    deviation moves by 2 to 6 percent. The buffers of source move.
    """
    norms = {name: norm for name, norm in model.named_modules() if isinstance(norm, Norm)}
    ratios: dict[nn.Module, list[Tensor]] = {}
    hooks = []
    for name, norm in source.named_modules():
        target = norms.get(name)
        if isinstance(norm, Norm) and type(target) is not type(norm):
            def measure(norm, inputs, target=target):
                values = inputs[0].transpose(0, 1).flatten(1)
                ratios.setdefault(target, []).append(
                    _deviation(target, values) / _deviation(norm, values))
            hooks.append(norm.register_forward_pre_hook(measure))
    if hooks:
        mode = source.training
        source.train()
        for images in batches:
            source(prepared(source, images))
        source.train(mode)
    for hook in hooks:
        hook.remove()
    for target, found in ratios.items():
        target.weight.mul_(torch.stack(found).mean(0))

"""What layers give on calibration images, channel by channel."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from sw.train.evaluate import prepared

__all__ = ["observed"]


@torch.no_grad()
def observed(network: nn.Module, modules: list[nn.Module], images: Tensor,
             statistic: Callable[[Tensor], Tensor]) -> list[Tensor]:
    """The statistic of each module's output while the network runs on images (N, C, H, W).

    statistic: takes an output as (channels, values). The modules are part of the network.
    """
    found = {}

    def keep(module, _, y: Tensor) -> None:
        found[module] = statistic(y.transpose(0, 1).flatten(1))
    hooks = [module.register_forward_hook(keep) for module in modules]
    network(prepared(network, images))
    for hook in hooks:
        hook.remove()
    return [found[module] for module in modules]

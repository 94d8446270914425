"""Layers of imported networks beside those of ``sw/layers/weighted.py``: concatenation, an
activation
function on its own, and pools with padding on every side."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.errors import LockstepError
from sw.layers.weighted import QAvgPool2d, QLayer, four_sides, pad_sides, pair
from sw.quantize.recipe import Recipe

__all__ = ["PaddedMaxPool2d", "QActivation", "QConcat", "QPaddedAvgPool2d"]


class QConcat(QLayer):
    """Tensors joined along the channels and put on one grid: (N, C_i, ...) -> (N, sum C_i, ...)."""

    def forward(self, *inputs: Tensor) -> Tensor:
        return self.finish(torch.cat(inputs, 1))


class QActivation(QLayer):
    """ReLU or ReLU6 of a tensor that others read without it."""

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(x)


class QPaddedAvgPool2d(QAvgPool2d):
    """Average over windows of a padded map: (N, C, H, W) -> (N, C, H', W').

    padding: (top, left, bottom, right), or fewer numbers; count_include_pad: its zeros count
    """

    def __init__(self, kernel_size, *, stride=None, padding=0, count_include_pad=False,
                 config: Recipe):
        super().__init__(kernel_size, stride=stride, config=config)
        self.padding, self.count_include_pad = four_sides(pair(padding)), count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        sums = F.avg_pool2d(pad_sides(x, self.padding), self.kernel_size, self.stride)
        if self.count_include_pad:
            return self.finish(sums)
        shares = F.avg_pool2d(pad_sides(torch.ones_like(x[:1, :1]), self.padding),
                              self.kernel_size, self.stride)
        return self.finish(sums / shares)


class PaddedMaxPool2d(nn.Module):
    """Maximum over windows: (N, C, H, W) -> (N, C, H', W'). Padding never wins.

    kernel_size, stride: (rows, columns); padding: (top, left, bottom, right), less than the kernel
    """

    def __init__(self, kernel_size, stride, padding):
        super().__init__()
        self.kernel_size, self.stride = pair(kernel_size), pair(stride)
        self.padding = four_sides(pair(padding))
        if any(side >= self.kernel_size[i % 2] for i, side in enumerate(self.padding)):
            raise LockstepError(f"Padding must be less than the kernel {self.kernel_size}, "
                                f"not {self.padding}")

    def forward(self, x: Tensor) -> Tensor:
        return F.max_pool2d(pad_sides(x, self.padding, float("-inf")), self.kernel_size,
                            self.stride)

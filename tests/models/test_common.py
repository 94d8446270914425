"""The blocks that the networks share."""

import pytest
import torch
from torch import nn

from models.common import BasicBlock, Bottleneck, DepthwiseSeparable, make_config

CONFIG = make_config()


@pytest.mark.parametrize(("block", "in_channels", "width", "stride", "projected"), [
    (BasicBlock, 8, 8, 1, False), (BasicBlock, 8, 8, 2, True), (BasicBlock, 4, 8, 1, True),
    (Bottleneck, 16, 4, 1, False), (Bottleneck, 16, 4, 2, True), (Bottleneck, 8, 4, 1, True)])
def test_shortcut_is_a_convolution_where_the_shape_changes(block, in_channels, width, stride,
                                                           projected):
    module = block(in_channels, width, stride, CONFIG)
    assert isinstance(module.shortcut, nn.Identity) != projected
    y = module(torch.rand(4, in_channels, 8, 8))
    assert y.shape == (4, block.expansion * width, 8 // stride, 8 // stride)


@pytest.mark.parametrize("block", [BasicBlock, Bottleneck])
def test_a_block_starts_as_its_shortcut(block):
    torch.manual_seed(0)
    x = torch.rand(4, 2 * block.expansion, 8, 8)
    step = 1 / 255  # of the output quantizer's grid, at most
    assert (block(x.shape[1], 2, 1, CONFIG)(x) - x).abs().max() <= step
    assert (block(x.shape[1], 2, 1, CONFIG, zero_init=False)(x) - x).abs().max() > 10 * step


def test_depthwise_separable():
    module = DepthwiseSeparable(4, 6, 2, CONFIG, activation="relu6")
    assert module(torch.rand(8, 4, 8, 8)).shape == (8, 6, 4, 4)
    assert module.depthwise.weight.shape == (4, 1, 3, 3)
    assert module.pointwise.weight.shape == (6, 4, 1, 1)
    assert module.depthwise.activation == module.pointwise.activation == "relu6"

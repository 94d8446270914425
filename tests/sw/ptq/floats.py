"""Float networks for the tests of post-training quantization."""

import functools

import torch
import torch.nn.functional as F
from torch import nn

from models import build_model
from sw.layers.connect import connect
from sw.layers.weighted import QConv2d, QGlobalAvgPool2d, QInput, QLinear
from sw.quantize.recipes import make_recipe
from sw.train.engine import TrainConfig, train
from tests.sw.trained import digits, train_once

FLOAT = make_recipe("float")


@functools.cache
def float_digits(epochs: int = 6, width: int = 8, seed: int = 0) -> nn.Module:
    """A resnet_digits trained in float for a few seconds. Do not change it. What a seed gives
    depends on the CPU: float sums of another order become another network."""
    def make():
        torch.manual_seed(seed)
        model = build_model("resnet_digits", {"width": width, "quantize": False,
                                              "recipe": "float"})
        train(model, digits(), TrainConfig(epochs=epochs, lr=0.2, batch_size=32,
                                           schedule="cosine", seed=seed))
        return model.eval()
    return train_once(make, epochs, width, seed)


class Chain(nn.Module):
    """Convolution, depthwise, maximum pool, grouped, pool, linear: one chain, images (N, 3, 8, 8).

    Its norms have random statistics and its channels widely different ranges.
    """

    input_shape = (3, 8, 8)

    def __init__(self, activation: str = "relu", config=FLOAT):
        super().__init__()
        self.input = QInput(config)
        self.first = QConv2d(3, 8, 3, padding=1, activation=activation, config=config)
        self.depthwise = QConv2d(8, 8, 3, padding=1, groups=8, activation=activation,
                                 config=config)
        self.max_pool = nn.MaxPool2d(2)
        self.grouped = QConv2d(8, 12, (1, 3), groups=2, stride=(1, 2), activation=activation,
                               config=config)
        self.pool = QGlobalAvgPool2d(config)
        self.flatten = nn.Flatten()
        self.classifier = QLinear(12, 5, config=config)

    def forward(self, x):
        x = self.max_pool(self.depthwise(self.first(self.input(x))))
        return self.classifier(self.flatten(self.pool(self.grouped(x))))


def chain(activation: str = "relu") -> nn.Module:
    """A Chain of random weights, in evaluation mode."""
    torch.manual_seed(0)
    model = connect(Chain(activation)).eval()
    for layer in (model.first, model.depthwise, model.grouped):
        channels = len(layer.weight)
        layer.norm.weight.data = torch.rand(channels) * 4 + 0.05
        layer.norm.bias.data = torch.randn(channels)
        layer.norm.running_mean = torch.randn(channels)
        layer.norm.running_variance = torch.rand(channels) * 3 + 0.1
    return model


def images(n: int = 32) -> torch.Tensor:
    """Random smooth images for a Chain, (n, 3, 8, 8) float32: neighbours are alike."""
    noise = torch.randn(n, 3, 12, 12, generator=torch.Generator().manual_seed(1))
    return 4 * F.avg_pool2d(noise, 5, stride=1) + 0.5

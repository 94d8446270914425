"""LeNet-5 (LeCun et al. 1998) with ReLU and max pooling in place of its original functions.

5x5 convolution to 6 channels, 2x2 pool, 5x5 convolution to 16 channels, 2x2 pool, linear layers
120 - 84 - classes; every one with bias, none with a norm. The paper pads MNIST to 32x32; so does
the first convolution here. First and last layer are quantized like every other.
"""

from torch import Tensor, nn

from models.common import SMALL_REGIME, check_flag, check_size, make_config, task
from sw.layers.weighted import QConv2d, QInput, QLinear

__all__ = ["LeNet", "lenet"]


class LeNet(nn.Module):
    """images (N, *input_shape) float32 -> logits (N, classes) float32."""

    regime = SMALL_REGIME

    def __init__(self, input_shape: tuple[int, ...], classes: int, norm: bool, config):
        super().__init__()
        self.input_shape = tuple(input_shape)
        padding = 2 if input_shape[1] < 32 else 0
        options = {"norm": norm, "activation": "relu", "config": config}
        self.input = QInput(config)
        self.features = nn.Sequential(
            QConv2d(input_shape[0], 6, 5, padding=padding, **options), nn.MaxPool2d(2),
            QConv2d(6, 16, 5, **options), nn.MaxPool2d(2))
        height, width = (((size + 2 * padding - 4) // 2 - 4) // 2 for size in input_shape[1:])
        self.flatten = nn.Flatten()
        self.classifier = nn.Sequential(
            QLinear(16 * height * width, 120, **options), QLinear(120, 84, **options),
            QLinear(84, classes, config=config))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.features(self.input(x))))


def lenet(classes: int | None = None, dataset: str | None = None, norm: bool = False,
          quantize: bool = True, recipe: str = "banner", overrides: dict | None = None
          ) -> nn.Module:
    """Build LeNet-5, by default for MNIST. norm: a norm in place of each hidden layer's bias."""
    input_shape, classes = task(dataset, classes, "mnist")
    check_size("lenet", input_shape, 12)
    check_flag(norm=norm)
    return LeNet(input_shape, classes, norm, make_config(quantize, recipe, overrides))

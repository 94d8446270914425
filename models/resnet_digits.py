"""A small residual network for 8x8 grey digits: ResNet-8 (MLPerf Tiny) shrunk to two blocks.

Stem 3x3 -> residual block (width) -> strided residual block (2 * width, 1x1 shortcut) -> global
average pool -> linear 10. First and last layer are quantized like every other.
"""

from torch import Tensor, nn

from models.common import BasicBlock, check_positive, make_config
from sw.layers.weighted import QConv2d, QGlobalAvgPool2d, QInput, QLinear

__all__ = ["ResNetDigits", "resnet_digits"]


class ResNetDigits(nn.Module):
    """images (N, 1, 8, 8) float32 in [0, 1] -> logits (N, classes) float32."""

    regime = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
              {"epoch": 10, "lr": 0.02}, {"epoch": 16, "lr": 0.004}]
    input_shape = (1, 8, 8)

    def __init__(self, width: int, classes: int, config):
        super().__init__()
        self.input = QInput(config)
        self.stem = QConv2d(1, width, 3, padding=1, activation="relu", config=config)
        self.block1 = BasicBlock(width, width, 1, config)
        self.block2 = BasicBlock(width, 2 * width, 2, config)
        self.pool = QGlobalAvgPool2d(config)
        self.flatten = nn.Flatten()
        self.classifier = QLinear(2 * width, classes, config=config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.input(x))
        x = self.pool(self.block2(self.block1(x)))
        return self.classifier(self.flatten(x))


def resnet_digits(width: int = 16, classes: int = 10, quantize: bool = True,
                  recipe: str = "banner", overrides: dict | None = None) -> nn.Module:
    """Build the network. quantize: False trains the float RangeBN baseline of the same graph."""
    check_positive(width=width, classes=classes)
    return ResNetDigits(width, classes, make_config(quantize, recipe, overrides))

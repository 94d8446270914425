"""A small residual network for 8x8 grey digits: ResNet-8 (MLPerf Tiny) shrunk to two blocks.

Stem 3x3 -> residual block (width) -> strided residual block (2 * width, 1x1 shortcut) -> global
average pool -> linear 10. First and last layer are quantized like every other.
"""

from torch import Tensor, nn

from golden.errors import LockstepError
from sw.layers import QAdd, QConv2d, QGlobalAvgPool2d, QInput, QLinear
from sw.quantizers import Quantize8Bit


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, I, H, W) -> (N, O, H/stride, W/stride).

    The last gamma starts at 0, so that the block starts as its shortcut.
    """

    def __init__(self, in_channels: int, out_channels: int, stride: int, config: Quantize8Bit):
        super().__init__()
        self.conv1 = QConv2d(in_channels, out_channels, 3, stride=stride, padding=1,
                             activation="relu", config=config)
        self.conv2 = QConv2d(out_channels, out_channels, 3, padding=1, zero_init=True,
                             config=config)
        self.shortcut = nn.Identity()
        if stride != 1 or in_channels != out_channels:
            self.shortcut = QConv2d(in_channels, out_channels, 1, stride=stride, config=config)
        self.add = QAdd(activation="relu", config=config)

    def forward(self, x: Tensor) -> Tensor:
        return self.add(self.conv2(self.conv1(x)), self.shortcut(x))


class ResNetDigits(nn.Module):
    """images (N, 1, 8, 8) float32 in [0, 1] -> logits (N, classes) float32."""

    regime = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-4},
              {"epoch": 10, "lr": 0.02}, {"epoch": 16, "lr": 0.004}]
    input_shape = (1, 8, 8)

    def __init__(self, width: int, classes: int, config: Quantize8Bit):
        super().__init__()
        self.input = QInput(config)
        self.stem = QConv2d(1, width, 3, padding=1, activation="relu", config=config)
        self.block1 = ResidualBlock(width, width, 1, config)
        self.block2 = ResidualBlock(width, 2 * width, 2, config)
        self.pool = QGlobalAvgPool2d(config)
        self.flatten = nn.Flatten()
        self.classifier = QLinear(2 * width, classes, config=config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(self.input(x))
        x = self.pool(self.block2(self.block1(x)))
        return self.classifier(self.flatten(x))


def resnet_digits(width: int = 16, classes: int = 10, quantize: bool = True,
                  range_constant: str = "code", chunks: int = 16, mask_clipped: bool = False,
                  quantize_norm_gradient: bool = True) -> nn.Module:
    """Build the network. quantize: False trains the float RangeBN baseline of the same graph."""
    for name, value in (("width", width), ("classes", classes)):
        if type(value) is not int or value < 1:
            raise LockstepError(f"Option {name} must be a positive integer, not {value!r}")
    config = Quantize8Bit(quantize=quantize, range_constant=range_constant, chunks=chunks,
                          mask_clipped=mask_clipped,
                          quantize_norm_gradient=quantize_norm_gradient)
    return ResNetDigits(width, classes, config)

"""ResNet-8 in Brevitas W8A8 quantization-aware training, for comparison: the same layers, weights
in 8 bits per channel, activations in 8 bits, ordinary batch norm, gradients in float32."""

import brevitas.nn as qnn
from torch import Tensor, nn

__all__ = ["BrevitasResNet8"]


def _conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
    return nn.Sequential(
        qnn.QuantConv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False,
                        weight_bit_width=8),
        nn.BatchNorm2d(outputs))


class _Block(nn.Module):
    def __init__(self, inputs: int, outputs: int, stride: int):
        super().__init__()
        self.conv1, self.relu1 = _conv(inputs, outputs, 3, stride), qnn.QuantReLU(bit_width=8)
        self.conv2 = _conv(outputs, outputs, 3, 1)
        self.shortcut = nn.Identity() if stride == 1 and inputs == outputs \
            else _conv(inputs, outputs, 1, stride)
        self.before_add = qnn.QuantIdentity(bit_width=8)  # both operands on one grid
        self.relu2 = qnn.QuantReLU(bit_width=8)

    def forward(self, x: Tensor) -> Tensor:
        y = self.before_add(self.conv2(self.relu1(self.conv1(x))))
        return self.relu2(y + self.before_add(self.shortcut(x)))


class BrevitasResNet8(nn.Module):
    """images (N, 3, 32, 32) float32 -> logits (N, 10)."""

    def __init__(self):
        super().__init__()
        self.input = qnn.QuantIdentity(bit_width=8)
        self.stem, self.relu = _conv(3, 16, 3, 1), qnn.QuantReLU(bit_width=8)
        self.blocks = nn.Sequential(_Block(16, 16, 1), _Block(16, 32, 2), _Block(32, 64, 2))
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.quantized_pool = qnn.QuantIdentity(bit_width=8)
        self.classifier = qnn.QuantLinear(64, 10, bias=True, weight_bit_width=8)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.relu(self.stem(self.input(x))))
        return self.classifier(self.quantized_pool(self.pool(x)).flatten(1))

"""VGG networks (Simonyan and Zisserman 2014, arXiv 1409.1556) with a norm after each convolution.

Five groups of 3x3 convolutions, each closed by a 2x2 max pool, widths 64, 128, 256, 512, 512;
1 + 1 + 2 + 2 + 2 convolutions for depth 11, up to 2 + 2 + 4 + 4 + 4 for 19. ImageNet sizes end in
4096 - 4096 - classes with dropout, CIFAR sizes in one linear layer, as is usual there. First and
last layer are quantized like every other.
"""

from torch import Tensor, nn

from models.common import CIFAR_REGIME, check_positive, check_size, choose, make_config, task
from sw.layers.weighted import QConv2d, QInput, QLinear

__all__ = ["VGG", "vgg"]

COUNTS = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
# The paper's rate, momentum and weight decay; it divides the rate when the error stalls, here at
# the epochs of the residual networks.
REGIME = [{"epoch": 0, "optimizer": "SGD", "lr": 1e-2, "momentum": 0.9, "weight_decay": 5e-4},
          {"epoch": 30, "lr": 1e-3}, {"epoch": 60, "lr": 1e-4}, {"epoch": 80, "lr": 1e-5}]


class VGG(nn.Module):
    """images (N, *input_shape) float32 -> logits (N, classes) float32.

    counts: convolutions per group. width: channels of the first group. hidden: features of the
    two hidden layers of the classifier, 0 for none.
    """

    def __init__(self, counts: tuple[int, ...], width: int, hidden: int,
                 input_shape: tuple[int, ...], classes: int, config):
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.regime = REGIME if hidden else CIFAR_REGIME
        self.input = QInput(config)
        self.features = nn.Sequential()
        channels = input_shape[0]
        for group, count in enumerate(counts):
            for _ in range(count):
                out_channels = width << min(group, 3)
                self.features.append(QConv2d(channels, out_channels, 3, padding=1,
                                             activation="relu", config=config))
                channels = out_channels
            self.features.append(nn.MaxPool2d(2))
        self.flatten = nn.Flatten()
        features = channels * (input_shape[1] // 32) * (input_shape[2] // 32)
        self.classifier = nn.Sequential()
        for _ in range(2 if hidden else 0):
            self.classifier.append(QLinear(features, hidden, activation="relu", config=config))
            self.classifier.append(nn.Dropout(0.5))
            features = hidden
        self.classifier.append(QLinear(features, classes, config=config))

    def forward(self, x: Tensor) -> Tensor:
        return self.classifier(self.flatten(self.features(self.input(x))))


def vgg(depth: int = 11, classes: int | None = None, dataset: str | None = None, width: int = 64,
        hidden: int | None = None, quantize: bool = True, recipe: str = "banner",
        overrides: dict | None = None) -> nn.Module:
    """Build a VGG network of depth 11, 13, 16 or 19, by default for CIFAR-10.

    dataset: gives input shape and classes. width: channels of the first group. hidden: features
    of the classifier's hidden layers, default 4096 for ImageNet sizes, else 0 (no such layers).
    """
    choose("depth of vgg", depth, COUNTS)
    input_shape, classes = task(dataset, classes, "cifar10")
    check_size("vgg", input_shape, 32)
    if hidden is None:
        hidden = 4096 if input_shape[1] >= 64 else 0
    check_positive(width=width, **({"hidden": hidden} if hidden != 0 else {}))
    return VGG(COUNTS[depth], width, hidden, input_shape, classes,
               make_config(quantize, recipe, overrides))

"""MobileNet v1 (Howard et al. 2017, arXiv 1704.04861) with its width multiplier.

3x3/2 convolution, thirteen depthwise separable blocks, global average pool, linear. At 0.25 and
96x96 it is the visual wake words network of MLPerf Tiny: 7.5 M MACs; at 1.0 and 224x224 the
paper's, 569 M. MLPerf Tiny pads strided layers at the bottom and right only, here padding is
symmetric; the shapes are the same. First and last layer are quantized like every other.

With ``activation.range=batch_mean``, the published range of ``banner``, every activation is clipped
at its images' mean extremes, 27 layers in a row: 16 % after 5 epochs of enlarged digits, against
70 % with the recipe's default and 74 % in float.
"""

from torch import Tensor, nn

from golden.errors import LockstepError
from models.common import (
    CIFAR_REGIME,
    IMAGENET_REGIME,
    DepthwiseSeparable,
    check_positive,
    make_config,
    task,
)
from sw.layers.weighted import QConv2d, QGlobalAvgPool2d, QInput, QLinear

__all__ = ["MobileNetV1", "mobilenet_v1"]

STEM = 32
# Output channels and stride of each block, at a width multiplier of 1.
BLOCKS = ((64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2), *[(512, 1)] * 5, (1024, 2),
          (1024, 1))
# MLPerf Tiny's training of visual wake words: Adam, 20 + 10 + 20 epochs.
TINY_REGIME = [{"epoch": 0, "optimizer": "Adam", "lr": 1e-3, "weight_decay": 1e-4},
               {"epoch": 20, "lr": 5e-4}, {"epoch": 30, "lr": 2.5e-4}]


class MobileNetV1(nn.Module):
    """images (N, *input_shape) float32 -> logits (N, classes) float32.

    Images below 64 pixels a side get a stem of stride 1, or nothing would be left to pool.
    """

    def __init__(self, width_multiplier: float, input_shape: tuple[int, ...], classes: int, config,
                 activation: str):
        super().__init__()
        self.input_shape = tuple(input_shape)
        size = input_shape[1]
        self.regime = (CIFAR_REGIME if size < 64 else
                       TINY_REGIME if size < 128 else IMAGENET_REGIME)
        self.input = QInput(config)
        channels = int(STEM * width_multiplier)
        self.stem = QConv2d(input_shape[0], channels, 3, stride=1 if size < 64 else 2, padding=1,
                            activation=activation, config=config)
        self.blocks = nn.Sequential()
        for out_channels, stride in BLOCKS:
            out_channels = int(out_channels * width_multiplier)
            self.blocks.append(DepthwiseSeparable(channels, out_channels, stride, config,
                                                  activation=activation))
            channels = out_channels
        self.pool = QGlobalAvgPool2d(config)
        self.flatten = nn.Flatten()
        self.classifier = QLinear(channels, classes, config=config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.stem(self.input(x)))
        return self.classifier(self.flatten(self.pool(x)))


def mobilenet_v1(width_multiplier: float = 0.25, input_size: int | None = None,
                 classes: int | None = None, dataset: str | None = None,
                 activation: str = "relu", quantize: bool = True, recipe: str = "banner",
                 overrides: dict | None = None) -> nn.Module:
    """Build MobileNet v1, by default MLPerf Tiny's (96x96x3, 2 classes).

    width_multiplier: of all channel counts, rounded down. input_size: pixels a side, default the
    dataset's. activation: "relu", or "relu6" as in the paper's code.
    """
    input_shape, classes = task(dataset, classes, "visual_wake_words")
    if input_size is not None:
        check_positive(input_size=input_size)
        input_shape = (input_shape[0], input_size, input_size)
    if isinstance(width_multiplier, bool) or not isinstance(width_multiplier, (int, float)) \
            or not 1 / STEM <= width_multiplier <= 32:
        raise LockstepError(f"Option width_multiplier must be from 1/{STEM} to 32, not "
                            f"{width_multiplier!r}")
    return MobileNetV1(width_multiplier, input_shape, classes,
                       make_config(quantize, recipe, overrides), activation)

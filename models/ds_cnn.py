"""DS-CNN for keyword spotting (Zhang et al. 2017, arXiv 1711.07128), in MLPerf Tiny's form.

Input (1, 49, 10): 49 frames of 10 MFCCs. 10x4/2 convolution with 64 channels to (64, 25, 5), four
depthwise separable blocks, average over the map, linear: 2.66 M MACs.

MLPerf Tiny pads the first convolution's rows with 4 above and 5 below ("same"); padding here is
symmetric, 5 above and 5 below, of which the last row below is never read. Shapes and MACs are the
same, the filters see the frames shifted by one. First and last layer are quantized like every
other.

The published range of ``banner`` (``activation.range=batch_mean``) clips every activation at its
images' mean extremes, which costs networks of depthwise layers: after 6 epochs of digits 68 to 87 %
against 96 % in float. The recipe's default range does not clip.
"""

from torch import Tensor, nn

from models.common import DepthwiseSeparable, check_positive, make_config, task
from sw.layers.weighted import QConv2d, QGlobalAvgPool2d, QInput, QLinear

__all__ = ["DsCnn", "ds_cnn"]

N_BLOCKS = 4


class DsCnn(nn.Module):
    """features (N, *input_shape) float32 -> logits (N, classes) float32."""

    # MLPerf Tiny's training of keyword spotting: Adam, 36 epochs.
    regime = [{"epoch": 0, "optimizer": "Adam", "lr": 5e-4, "weight_decay": 1e-4},
              {"epoch": 12, "lr": 1e-4}, {"epoch": 24, "lr": 2e-5}]

    def __init__(self, channels: int, input_shape: tuple[int, ...], classes: int, config):
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.input = QInput(config)
        self.stem = QConv2d(input_shape[0], channels, (10, 4), stride=2, padding=(5, 1),
                            activation="relu", config=config)
        self.dropout = nn.Dropout(0.2)
        self.blocks = nn.Sequential(*[DepthwiseSeparable(channels, channels, 1, config)
                                      for _ in range(N_BLOCKS)])
        self.dropout2 = nn.Dropout(0.4)
        self.pool = QGlobalAvgPool2d(config)
        self.flatten = nn.Flatten()
        self.classifier = QLinear(channels, classes, config=config)

    def forward(self, x: Tensor) -> Tensor:
        x = self.blocks(self.dropout(self.stem(self.input(x))))
        return self.classifier(self.flatten(self.pool(self.dropout2(x))))


def ds_cnn(classes: int | None = None, channels: int = 64, dataset: str | None = None,
           quantize: bool = True, recipe: str = "banner", overrides: dict | None = None
           ) -> nn.Module:
    """Build DS-CNN, by default MLPerf Tiny's (1x49x10, 12 classes). channels: of every layer."""
    input_shape, classes = task(dataset, classes, "speech_commands")
    check_positive(channels=channels)
    return DsCnn(channels, input_shape, classes, make_config(quantize, recipe, overrides))

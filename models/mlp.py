"""Fully connected networks: a classifier, and the autoencoder of MLPerf Tiny.

First and last layer are quantized like every other. RangeBN takes its ranges over the batch alone
here, in 16 chunks: a batch must have at least 32 images.
"""

from collections.abc import Sequence
from math import prod

from torch import Tensor, nn

from golden.errors import LockstepError
from models.common import SMALL_REGIME, check_positive, make_config, task
from sw.layers.weighted import QInput, QLinear

__all__ = ["MLP", "mlp"]


class MLP(nn.Module):
    """(N, *input_shape) float32 -> (N, outputs) float32, hidden layers with norm and ReLU."""

    def __init__(self, input_shape: tuple[int, ...], hidden: Sequence[int], outputs: int, config,
                 regime: list[dict]):
        super().__init__()
        self.input_shape, self.regime = tuple(input_shape), regime
        self.input = QInput(config)
        self.flatten = nn.Flatten() if len(input_shape) > 1 else nn.Identity()
        self.hidden = nn.Sequential()
        features = prod(input_shape)
        for width in hidden:
            self.hidden.append(QLinear(features, width, norm=True, activation="relu",
                                       config=config))
            features = width
        self.last = QLinear(features, outputs, config=config)

    def forward(self, x: Tensor) -> Tensor:
        return self.last(self.hidden(self.flatten(self.input(x))))


def mlp(hidden: Sequence[int] = (256, 128), classes: int | None = None,
        dataset: str | None = None, quantize: bool = True, recipe: str = "banner",
        overrides: dict | None = None) -> nn.Module:
    """Build a classifier, by default for MNIST. hidden: features of each hidden layer."""
    input_shape, classes = task(dataset, classes, "mnist")
    if isinstance(hidden, int):
        hidden = (hidden,)
    if not isinstance(hidden, (tuple, list)):
        raise LockstepError(f"Option hidden must be a list of positive integers, not {hidden!r}")
    for width in hidden:
        check_positive(hidden=width)
    return MLP(input_shape, hidden, classes, make_config(quantize, recipe, overrides),
               SMALL_REGIME)

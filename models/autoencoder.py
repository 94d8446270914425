"""The autoencoder of MLPerf Tiny's anomaly detection (the baseline of DCASE 2020, task 2).

640 - 128 - 128 - 128 - 128 - 8 - 128 - 128 - 128 - 128 - 640, norm and ReLU after every layer but
the last. The 640 inputs are 5 frames of 128 log-mel energies. It is trained to give its own input
(``objective = "reconstruction"``: mean squared error); a sound with a large error is anomalous.
"""

from math import prod

from torch import nn

from models.common import check_positive, make_config, task
from models.mlp import MLP

__all__ = ["Autoencoder", "autoencoder"]

# MLPerf Tiny: Adam, batch 512, 100 epochs.
REGIME = [{"epoch": 0, "optimizer": "Adam", "lr": 1e-3}]


class Autoencoder(MLP):
    """(N, *input_shape) float32 -> (N, features) float32, an estimate of the input, flattened."""

    objective = "reconstruction"


def autoencoder(features: int | None = None, hidden: int = 128, bottleneck: int = 8,
                layers: int = 4, dataset: str | None = None, quantize: bool = True,
                recipe: str = "banner", overrides: dict | None = None) -> nn.Module:
    """Build the autoencoder: (N, features) float32 -> (N, features) float32.

    dataset: takes images (N, C, H, W) instead, and gives (N, C * H * W). layers: hidden layers
    on each side of the bottleneck.
    """
    input_shape = (640 if features is None else features,)
    if dataset is not None and features is None:
        input_shape, _ = task(dataset, 1, dataset)
    check_positive(features=input_shape[0], hidden=hidden, bottleneck=bottleneck, layers=layers)
    side = (hidden,) * layers
    return Autoencoder(input_shape, (*side, bottleneck, *side), prod(input_shape),
                       make_config(quantize, recipe, overrides), REGIME)

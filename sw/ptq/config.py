"""What post-training quantization does, as one record."""

import math
from dataclasses import dataclass, field

from golden.errors import LockstepError
from sw.quantize.recipe import STATIC_RANGES, TensorRecipe

__all__ = ["AdaRoundConfig", "BITS", "DistillationConfig", "LOGITS_RANGES", "PtqConfig",
           "check_bits"]

BITS = (2, 8)
BIAS_CORRECTIONS = ("none", "weight", "output")
EQUALISATIONS = ("none", "weights", "activations")
LOGITS_RANGES = ("min_max", "answers")


def check_bits(what: str, bits) -> None:
    """Raise LockstepError unless bits is an integer from 2 to 8."""
    if type(bits) is not int or not BITS[0] <= bits <= BITS[1]:
        raise LockstepError(f"{what} must be {BITS[0]} to {BITS[1]} bits, not {bits!r}")


def _check_descent(whose: str, config, *counts: str) -> None:
    for name in counts:
        value = getattr(config, name)
        if type(value) is not int or value < 1:
            raise LockstepError(f"{whose} {name} must be a positive integer, not {value!r}")
    if not 0 < config.learning_rate < math.inf:
        raise LockstepError(f"{whose} learning rate must be positive and finite, not "
                            f"{config.learning_rate!r}")


@dataclass(frozen=True, kw_only=True)
class AdaRoundConfig:
    """Hyperparameters of AdaRound, arXiv 2004.10568, section 5 and its published code.

    iterations of Adam with this learning rate, batch patches each, drawn from patches per layer;
    regularisation (lambda) is off for the first warm_up of them, then its exponent falls from
    beta[0] to beta[1].
    """

    iterations: int = 1000
    learning_rate: float = 1e-2
    patches: int = 4096
    batch: int = 256
    regularisation: float = 1e-2
    warm_up: float = 0.2
    beta: tuple[float, float] = (20.0, 2.0)

    def __post_init__(self):
        _check_descent("AdaRound's", self, "iterations", "patches", "batch")


@dataclass(frozen=True, kw_only=True)
class DistillationConfig:
    """steps of Adam, batch images each, its learning rate falling to 0 by a cosine."""

    steps: int = 160
    learning_rate: float = 1e-3
    batch: int = 64

    def __post_init__(self):
        _check_descent("Distillation's", self, "steps", "batch")


@dataclass(frozen=True, kw_only=True)
class PtqConfig:
    """How a float network is quantized.

    weight_bits, activation_bits: 2 to 8; of weights, and of the activations that a convolution or
        linear layer reads. sum_bits: of those that only additions and pools read.
    ends_bits: of the first and last layer's weights and of what the last one reads, at least; None
        gives them weight_bits and activation_bits. The network's input and logits have 8.
    weight_range, activation_range: rule of ``sw.quantize.recipe.STATIC_RANGES``; of the input and
    of
        activations with more than activation_bits it is min_max, as in the published code of
        arXiv 1810.05723. percentile: of that rule.
    logits_range: ``min_max``, as there, or ``answers`` (``sw.ptq.answers``).
    per_channel_weights, per_channel_activations: one scale per channel instead of per tensor.
    allocate_weights, allocate_activations: bits per channel by ``sw.ptq.allocation``, their mean
        over a tensor's channels being weight_bits (activation_bits).
    bias_correction: ``weight`` restores mean and deviation of every channel's weights
        (arXiv 1810.05723), ``output`` the mean of every channel's output (arXiv 1906.04721,
        section 4.2).
    equalise: cross-layer equalisation first, of the ranges of ``weights`` or of ``activations``
        (``sw.ptq.equalisation``). adaround: its settings, None to round to nearest. distillation:
        its settings, None to leave scales and biases as the layers gave them.
    layer_bits: (weight bits, activation bits) of what layers produce, by module path.
    seed: of AdaRound's and distillation's draws.
    """

    weight_bits: int = 8
    activation_bits: int = 8
    sum_bits: int = 8
    ends_bits: int | None = 8
    weight_range: str = "min_max"
    activation_range: str = "min_max"
    percentile: float = 99.99
    logits_range: str = "min_max"
    per_channel_weights: bool = True
    per_channel_activations: bool = False
    allocate_weights: bool = False
    allocate_activations: bool = False
    bias_correction: str = "none"
    equalise: str = "none"
    adaround: AdaRoundConfig | None = None
    distillation: DistillationConfig | None = None
    layer_bits: dict[str, tuple[int, int]] = field(default_factory=dict)
    seed: int = 0

    def __post_init__(self):
        check_bits("Weights", self.weight_bits)
        check_bits("Activations", self.activation_bits)
        check_bits("Activations of sums", self.sum_bits)
        if self.ends_bits is not None:
            check_bits("First and last layer", self.ends_bits)
        for layer, widths in self.layer_bits.items():
            for bits in widths:
                check_bits(f"Layer {layer}", bits)
        for kind in ("weight", "activation"):
            rule = getattr(self, f"{kind}_range")
            if rule not in STATIC_RANGES:
                raise LockstepError(f"Range of {kind}s must be one of {', '.join(STATIC_RANGES)}, "
                                    f"not {rule!r}")
        if self.bias_correction not in BIAS_CORRECTIONS:
            raise LockstepError(f"Bias correction must be one of {', '.join(BIAS_CORRECTIONS)}, "
                                f"not {self.bias_correction!r}")
        if self.equalise not in EQUALISATIONS:
            raise LockstepError(f"Equalisation must be one of {', '.join(EQUALISATIONS)}, not "
                                f"{self.equalise!r}")
        if self.logits_range not in LOGITS_RANGES:
            raise LockstepError(f"Range of logits must be one of {', '.join(LOGITS_RANGES)}, not "
                                f"{self.logits_range!r}")
        for kind in ("weights", "activations"):
            if getattr(self, f"allocate_{kind}") and not getattr(self, f"per_channel_{kind}"):
                raise LockstepError(f"Bit allocation of {kind} needs per-channel {kind}")
        self.weight_recipe(self.weight_bits)  # for the checks of its fields

    def weight_recipe(self, bits: int) -> TensorRecipe:
        """Symmetric grid of a layer's weights."""
        return TensorRecipe(bits=bits, range=self.weight_range, percentile=self.percentile,
                            granularity="channel" if self.per_channel_weights else "tensor")

    def activation_recipe(self, bits: int, *, at_end: bool = False, clipped: bool = True
                          ) -> TensorRecipe:
        """Grid of an activation, with a zero point. at_end: of the network's input or logits,
        which have one scale. clipped: by activation_range, else min_max."""
        channel = self.per_channel_activations and not at_end
        return TensorRecipe(bits=bits, symmetric=False, percentile=self.percentile,
                            range=self.activation_range if clipped else "min_max",
                            granularity="channel" if channel else "tensor")

    @property
    def simulation_only(self) -> str | None:
        """Why no integer MAC array executes the result, or None."""
        if not self.per_channel_activations:
            return None
        return ("activations have a scale per channel, which lies on the reduction axis of the "
                "next layer; an integer MAC array needs one scale per tensor")

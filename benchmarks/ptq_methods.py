"""The rows of the ptq suite: at which widths, by which methods, and what can execute them.

As in the tables of arXiv 1810.05723 there is a block per pair of widths, in it a row without any
method, one with each method alone, and one with all of them together. Methods for a tensor that
has 8 bits in a block are left out of it.
"""

from dataclasses import dataclass, field

from sw.ptq.config import AdaRoundConfig, DistillationConfig, PtqConfig

__all__ = ["BLOCKS", "METHODS", "Method", "Scheme", "schemes"]

BLOCKS = {"w8a8": (8, 8), "w8a4": (8, 4), "w4a8": (4, 8), "w4a4": (4, 4)}  # weights, activations
PERCENTILE = 99.9


@dataclass(frozen=True, kw_only=True)
class Method:
    """words: in the table. weights, activations, both: fields of PtqConfig that it sets in blocks
    where weights, or activations, have fewer than 8 bits, and in every block. everywhere: it is a
    row of the 8-bit block too. program: the integer program's accuracy is measured too."""

    words: str
    weights: dict = field(default_factory=dict)
    activations: dict = field(default_factory=dict)
    both: dict = field(default_factory=dict)
    everywhere: bool = False
    program: bool = False


@dataclass(frozen=True, kw_only=True)
class Scheme:
    """One row of one block."""

    method: Method
    config: PtqConfig

    @property
    def program(self) -> bool:
        """Is the accuracy of an integer program measured?"""
        return self.method.program and not self.config.simulation_only


_CHANNELS = {"per_channel_activations": True}
METHODS = {
    "naive": Method(words="naive: min/max, round to nearest", everywhere=True, program=True),
    "aciq": Method(words="ACIQ clipping of activations (`-c mix`)",
                   activations={"activation_range": "aciq_mix"}),
    "percentile": Method(words=f"clipping of activations at {PERCENTILE} %", activations={
        "activation_range": "percentile", "percentile": PERCENTILE}),
    "mse": Method(words="clipping of activations, least squared error",
                  activations={"activation_range": "mse"}),
    "weight_mse": Method(words="clipping of weights, least squared error",
                         weights={"weight_range": "mse"}),
    "allocation": Method(words="bits per channel of weights (`-baw`)",
                         weights={"allocate_weights": True}),
    "bias_correction": Method(words="bias correction of weights (`-bcw`)",
                              weights={"bias_correction": "weight"}),
    "output_correction": Method(words="correction of the outputs' means",
                                both={"bias_correction": "output"}),
    "equalise": Method(words="cross-layer equalisation", both={"equalise": "weights"}),
    "equalise_activations": Method(words="equalisation of the activations' ranges",
                                   activations={"equalise": "activations"}),
    "adaround": Method(words="AdaRound", weights={"adaround": AdaRoundConfig()}),
    "logits": Method(words="range of the logits by the answers", everywhere=True,
                     both={"logits_range": "answers"}),
    "distillation": Method(words="distillation of scales and biases",
                           both={"distillation": DistillationConfig()}),
    "three": Method(words="ACIQ, `-baw` and `-bcw`",
                    weights={"allocate_weights": True, "bias_correction": "weight"},
                    activations={"activation_range": "aciq_mix"}),
    "all": Method(words="all together", everywhere=True, program=True,
                  weights={"weight_range": "mse", "allocate_weights": True,
                           "adaround": AdaRoundConfig()},
                  activations={"activation_range": "percentile", "percentile": PERCENTILE},
                  both={"bias_correction": "output", "equalise": "activations",
                        "logits_range": "answers", "distillation": DistillationConfig()}),
    "channels": Method(words="a scale per channel of activations (`-pcq_a`)",
                       activations=_CHANNELS),
    "channels_aciq": Method(words="the same, ACIQ clipping",
                            activations=_CHANNELS | {"activation_range": "aciq_mix"}),
    "channels_allocation": Method(words="the same, bits per channel of activations (`-baa`)",
                                  activations=_CHANNELS | {"allocate_activations": True}),
    "published": Method(words="`-pcq_a`, ACIQ, `-baa`, `-baw` and `-bcw`",
                        weights={"allocate_weights": True, "bias_correction": "weight"},
                        activations=_CHANNELS | {"activation_range": "aciq_mix",
                                                 "allocate_activations": True}),
}


def schemes(block: str) -> dict[str, Scheme]:
    """The rows of a block by the method's name: those whose settings no earlier row has."""
    weight_bits, activation_bits = BLOCKS[block]
    found: dict[str, Scheme] = {}
    for name, method in METHODS.items():
        if (weight_bits, activation_bits) == (8, 8) and not method.everywhere:
            continue
        options = dict(method.both)
        options |= method.weights if weight_bits < 8 else {}
        options |= method.activations if activation_bits < 8 else {}
        config = PtqConfig(weight_bits=weight_bits, activation_bits=activation_bits, **options)
        if config not in [scheme.config for scheme in found.values()]:
            found[name] = Scheme(method=method, config=config)
    return found

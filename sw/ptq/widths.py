"""How many bits each layer's weights and output get."""

from dataclasses import dataclass

from golden.errors import LockstepError
from sw.layers.graph import LayerCall
from sw.layers.weighted import QInput, QLayer, WeightedLayer
from sw.ptq.config import PtqConfig

__all__ = ["Widths", "plan_widths"]

END_BITS = 8  # of the network's input and its logits


@dataclass(frozen=True, kw_only=True)
class Widths:
    """weight: bits of the weights; activation: of the output; logits: it is the network's."""

    weight: int
    activation: int
    logits: bool


def _readers(steps: list[LayerCall], name: str) -> list[LayerCall]:
    """The layers that read a tensor, through whatever only moves or selects values."""
    found = []
    for step in steps:
        if name in step.inputs:
            found += [step] if isinstance(step.module, QLayer) else _readers(steps, step.name)
    return found


def plan_widths(steps: list[LayerCall], output: str, config: PtqConfig) -> dict[str, Widths]:
    """Widths of every layer by name. steps, output: of ``sw.layers.graph.trace``.

    Raises LockstepError for bits of a layer that does not exist.
    """
    layers = [step for step in steps if isinstance(step.module, QLayer)]
    weighted = [step for step in layers if isinstance(step.module, WeightedLayer)]
    unknown = set(config.layer_bits) - {step.name for step in layers}
    if unknown:
        raise LockstepError(f"There is no layer {sorted(unknown)[0]}; the layers are "
                            f"{', '.join(step.name for step in layers)}")
    if not weighted:
        raise LockstepError("The network has no convolution or linear layer")
    ends = {weighted[0].name, weighted[-1].name}
    plan = {}
    for step in layers:
        weight = config.weight_bits
        if step.name in ends and config.ends_bits is not None:
            weight = max(weight, config.ends_bits)
        readers = _readers(steps, step.name)
        products = [reader for reader in readers if isinstance(reader.module, WeightedLayer)]
        activation = config.activation_bits if products else config.sum_bits
        if config.ends_bits is not None and weighted[-1] in products:
            activation = max(activation, config.ends_bits)
        if isinstance(step.module, QInput) or not readers:
            activation = END_BITS
        weight, activation = config.layer_bits.get(step.name, (weight, activation))
        plan[step.name] = Widths(weight=weight, activation=activation,
                                 logits=step.name == output or not readers)
    return plan

"""After a model is built: names its layers, and tells each layer what lies around it."""

from dataclasses import replace

import torch
from torch import nn

from golden.errors import LockstepError
from sw.layers.graph import trace
from sw.layers.norms import Norm
from sw.layers.weighted import QLayer, WeightedLayer

__all__ = ["connect"]


def _name(model: nn.Module) -> None:
    for path, module in model.named_modules():
        if hasattr(module, "owner"):
            # a quantizer or norm is known by its layer, the norm's own quantizer by the norm
            parent = path.rpartition(".")[0]
            inside = parent and isinstance(model.get_submodule(parent), (QLayer, Norm))
            module.owner = parent if inside else path or type(model).__name__


def connect(model: nn.Module) -> nn.Module:
    """Name the layers, give the first and last weights their own bits (``recipe.ends``), show
    every layer with a narrow accumulator the quantizer of its input, and give the model the
    recipe's regime if it has one. Returns the model.

    Raises LockstepError for a model that needs bits or accumulators and cannot be traced.
    """
    _name(model)
    weighted = [layer for layer in model.modules() if isinstance(layer, WeightedLayer)]
    rates = {layer.config.learning_rate for layer in weighted if layer.config.quantize} - {None}
    if rates:
        model.regime = [{"epoch": 0, "optimizer": "SGD", "lr": rates.pop(), "momentum": 0.0,
                         "weight_decay": 0.0}]
    if not any(layer.config.quantize and (layer.config.ends.bits is not None
                                          or layer.config.accumulator.bits is not None)
               for layer in weighted):
        return model
    mode = model.training
    with torch.no_grad():
        _, steps, _ = trace(model.eval())
    model.train(mode)
    producers = {}
    order = []
    for step in steps:
        sources = [producers.get(name) for name in step.inputs]
        if isinstance(step.module, QLayer):
            producers[step.name] = step.module.output
        else:
            producers[step.name] = sources[0] if sources else None
        if isinstance(step.module, WeightedLayer):
            order.append(step.module)
            if sources[0] is not None:
                step.module.source = (sources[0],)  # in a tuple: not a submodule of the layer
    if not order:
        raise LockstepError(f"Model {type(model).__name__} has no weighted layer")
    for layer in (order[0], order[-1]):
        bits = layer.config.ends.bits
        if bits is not None and layer.config.weight.enabled:
            weight = replace(layer.config.weight, bits=bits, grid="uniform", range="min_max")
            layer.config = replace(layer.config, weight=weight)
    return model

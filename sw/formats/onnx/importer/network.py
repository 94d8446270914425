"""The network of layers of ``sw/layers/weighted.py`` that a float ONNX graph becomes."""

import re
from keyword import kwlist

import torch
from torch import nn

from sw.formats.parts import check_weights
from sw.layers.connect import connect
from sw.layers.weighted import QInput
from sw.quantize.recipes import make_recipe

__all__ = ["FLOAT", "ImportedNetwork"]

FLOAT = make_recipe("float")
RESERVED = {"", "owner", "result", "source", *kwlist}   # as names of layers


class ImportedNetwork(nn.Module):
    """Layers in the order they run: (N, *input_shape) float32 -> the last one's output.

    Its layers are called after the nodes of the file; lowering names the tensors after the layers.

    Arguments
        input_shape: of one image. input_name: of the graph's input.
    """

    def __init__(self, input_shape, input_name):
        super().__init__()
        self.input_shape = tuple(input_shape)
        self.steps = []     # (layer's name, names of what it reads)
        self._n_weights = 0
        self.source = self._add(input_name, QInput(FLOAT))

    def _add(self, wanted, layer):
        name = base = re.sub(r"\W", "_", f"_{wanted}" if wanted[:1].isdigit() else wanted)
        count = 0
        while hasattr(self, name) or name in RESERVED:
            count += 1
            name = f"{base}_{count}"
        self.add_module(name, layer)
        return name

    def append(self, wanted, layer, inputs) -> str:
        """Add a layer that reads the outputs of the layers of these names; returns its name."""
        self._n_weights += sum(weights.numel() for weights in layer.parameters())
        check_weights(self._n_weights)
        name = self._add(wanted, layer)
        self.steps.append((name, tuple(inputs)))
        return name

    def finished(self, result) -> nn.Module:
        """The network in evaluation mode, its output that of the layer `result`."""
        self.result = result
        return connect(self).eval()

    def forward(self, x) -> torch.Tensor:
        values = {self.source: getattr(self, self.source)(x)}
        last = {name: index for index, (_, inputs) in enumerate(self.steps) for name in inputs}
        for index, (name, inputs) in enumerate(self.steps):
            values[name] = getattr(self, name)(*[values[source] for source in inputs])
            for source in set(inputs):
                if last[source] == index and source != self.result:
                    del values[source]
        return values[self.result]

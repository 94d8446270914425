"""What a quantized layer is made of, so that ``sw/lower/network.py`` lowers it like a trained one.

Its stored weights are the integer codes themselves; ``CodeScale`` in the norm's place holds the
float64 factor and offset of every output channel, where step, correction and bias are folded.
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from sw.layers.norms import Norm
from sw.layers.weighted import QLayer, WeightedLayer
from sw.quantize.quantizers import ActivationQuantizer, FakeQuantizeFunction
from sw.quantize.ranges import affine_parameters
from sw.quantize.recipe import FLOAT, NormRecipe, Recipe, TensorRecipe

__all__ = ["AllocatedQuantizer", "CodeScale", "set_codes", "set_output"]

# Codes are their own grid: the constant clamp of 127 gives 8 bits a step of exactly 1.
_CODES = TensorRecipe(bits=8, granularity="channel", range="clamp", clamp=127.0)


class CodeScale(Norm):
    """y = factor * x + offset per channel. Buffers factor, offset: float64 (C,), real units."""

    def __init__(self, config: Recipe, factor: Tensor, offset: Tensor):
        super().__init__(len(factor), config)
        self.register_buffer("factor", factor.double())
        self.register_buffer("offset", offset.double())

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, ...) float32, sums of codes times activations -> the layer's real output."""
        shape = (1, -1) + (1,) * (x.dim() - 2)
        return (x * self.factor.view(shape) + self.offset.view(shape)).to(x.dtype)

    def running_factor(self) -> tuple[Tensor, Tensor]:
        return self.factor, self.offset


class AllocatedQuantizer(ActivationQuantizer):
    """Quantizer with a scale and a width per channel of axis 1; a simulation.

    bits: int64 (C,). Buffer bits.
    """

    def __init__(self, config: Recipe, bits: Tensor):
        super().__init__(config)
        self.register_buffer("bits", bits)

    def _quantize(self, x: Tensor, low: Tensor, high: Tensor, rounding: str) -> Tensor:
        shape = (1, -1) + (1,) * (x.dim() - 2)
        scale, zero_point, bottom, top = (torch.empty_like(low) for _ in range(4))
        for bits in self.bits.unique().tolist():
            mine = self.bits == bits
            recipe = replace(self.recipe, bits=bits)
            scale[mine], zero_point[mine] = affine_parameters(low[mine], high[mine], recipe)
            bottom[mine], top[mine] = recipe.code_bounds
        self.scale = scale
        bounds = bottom.view(shape), top.view(shape)
        return FakeQuantizeFunction.apply(x, scale.view(shape), zero_point.view(shape), bounds,
                                          rounding, False)


def set_output(layer: QLayer, activation: TensorRecipe, low: Tensor, high: Tensor,
               bits: Tensor | None = None) -> None:
    """Give a layer the recipe of a quantized one and its output a range, (C,) or scalar.

    activation: the output's recipe. bits: (C,) where they differ from channel to channel.
    """
    layer.config = Recipe(name="ptq", weight=_CODES, activation=activation, error=FLOAT,
                          gradient=FLOAT, norm=NormRecipe(kind="none"))
    layer.output = ActivationQuantizer(layer.config) if bits is None \
        else AllocatedQuantizer(layer.config, bits)
    layer.output.owner = layer.owner
    layer.output.eval()  # in training it would take its range from what comes, and follow it
    layer.output.follow(low, high)


def set_codes(layer: WeightedLayer, codes: Tensor, factor: Tensor, offset: Tensor) -> None:
    """Give a layer integer weights; its output is factor * product(x, codes) + offset.

    codes: integers (O, ...). factor, offset: float64 (O,).
    """
    layer.weight = nn.Parameter(codes.to(torch.float32), requires_grad=False)
    layer.bias = None
    layer.norm = CodeScale(layer.config, factor, offset).eval()

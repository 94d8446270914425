"""Real activation tensors of a training step, for testing RangeBN hardware and golden code."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from golden import arith
from golden.ops.range_norm import chunking
from sw.layers.norms import EPSILON
from sw.layers.range_norm import range_to_sigma
from sw.layers.weighted import QConv2d, QLinear
from sw.quantize.quantizers import affine_parameters
from sw.quantize.ranges import extremes
from sw.quantize.recipe import TensorRecipe
from sw.train import probe

__all__ = ["NormBatch", "capture_norms"]


@dataclass(frozen=True, kw_only=True, eq=False)
class NormBatch:
    """One RangeBN of one training step, as golden/ops/range_norm.py needs it.

    codes: int8 (N, C, H, W) or (N, C), the quantized input; input_scale, input_zero_point its
    grid. gamma, beta: float64 (C,). eps: float. output_scale, output_zero_point: grid of the
    layer's output in the same step. low, high: clamp bounds of its activation. constant: which
    C(n).
    """

    name: str
    codes: np.ndarray
    input_scale: float
    input_zero_point: int
    gamma: np.ndarray
    beta: np.ndarray
    eps: float
    output_scale: float
    output_zero_point: int
    low: int
    high: int
    constant: str | float

    def arguments(self) -> dict:
        """Keyword arguments of RangeNormConfig.from_floats, without count, and of the reference."""
        names = ("gamma", "beta", "eps", "input_scale", "output_scale", "output_zero_point",
                 "constant", "low", "high")
        return {name: getattr(self, name) for name in names}


def _grid(x: Tensor, recipe: TensorRecipe) -> tuple[float, int]:
    """Scale and zero point that a training quantizer of that recipe chooses for x."""
    low, high = extremes(x.detach(), recipe, 1)
    scale, zero_point = affine_parameters(low.double(), high.double(), recipe)
    return scale.item(), int(zero_point.item())


def _constant(name: str, codes: np.ndarray) -> str | float:
    """The range constant as golden takes it: by name, or the number of the exact table."""
    if name != "exact":
        return name
    length, _ = chunking(codes.size // codes.shape[1])
    return range_to_sigma(length, name)


def capture_norms(model: nn.Module, images: Tensor) -> list[NormBatch]:
    """Every RangeBN of one training-mode forward pass over images (N, C, H, W) float32.

    The model's running statistics and mode are left as they were.
    """
    layers = [(name, layer) for name, layer in model.named_modules()
              if isinstance(layer, (QConv2d, QLinear)) and layer.norm is not None]
    seen: dict[str, Tensor] = {}

    def keep(name):
        return lambda module, inputs: seen.__setitem__(name, inputs[0].detach())
    hooks = []
    for name, layer in layers:
        hooks.append(layer.norm.input.register_forward_pre_hook(keep(f"{name}.norm")))
        hooks.append(layer.output.register_forward_pre_hook(keep(f"{name}.output")))
    state = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    mode = model.training
    try:
        with torch.no_grad(), probe.recording():  # so that no merged pass skips the hooks
            model.train()(images)
    finally:
        for hook in hooks:
            hook.remove()
        model.load_state_dict(state)
        model.train(mode)
    batches = []
    for name, layer in layers:
        before, after = seen[f"{name}.norm"], seen[f"{name}.output"]
        input_scale, input_zero_point = _grid(before, layer.norm.input.recipe)
        output_scale, output_zero_point = _grid(after, layer.output.recipe)
        low, high = arith.INT8_MIN, arith.INT8_MAX
        if layer.activation:
            low = output_zero_point
        if layer.activation == "relu6":
            high = int(arith.quantize(6.0, output_scale, output_zero_point))
        codes = arith.quantize(before.cpu().numpy(), input_scale, input_zero_point)
        batches.append(NormBatch(
            name=name, codes=codes.astype(np.int8), input_scale=input_scale,
            input_zero_point=input_zero_point, eps=EPSILON,
            gamma=layer.norm.weight.detach().cpu().double().numpy(),
            beta=layer.norm.bias.detach().cpu().double().numpy(), output_scale=output_scale,
            output_zero_point=output_zero_point, low=low, high=high,
            constant=_constant(layer.norm.options.constant, codes)))
    return batches

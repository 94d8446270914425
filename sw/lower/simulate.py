"""The float simulation of an integer program, tensor by tensor.

``simulate`` runs the model in evaluation mode and gives the codes of every int8 tensor under the
Program's names; ``differing_codes`` says how far the integer program is from it. Nearly all of
what differs comes from the integer bias, which is rounded to the accumulator's step and so moves
about M / 4 of the codes of a layer with multiplier M by one; the layers behind it multiply that.
``int32_bias`` gives the simulation the same rounding.
"""

import contextlib
from collections.abc import Iterator

import numpy as np
import torch
import torch.nn.functional as F
from torch import fx, nn

from golden.program import Program
from sw.layers.graph import evaluating, trace
from sw.layers.range_norm import RangeBatchNorm
from sw.layers.weighted import QConv2d, QLinear
from sw.lower.network import lower, refined_codes
from sw.quantize.quantizers import quantize_weight

__all__ = ["differing_codes", "exact_evaluation", "simulate"]


def _with_int32_bias(layer: QConv2d | QLinear, x: torch.Tensor, scale: float) -> torch.Tensor:
    """A folded layer in float64, its bias rounded to the accumulator's step. scale: of x."""
    factor, offset = (value.cpu().numpy() for value in layer.affine())
    stored, recipe = layer.stored_weight(), layer.config.weight
    _, step = refined_codes(layer, factor, offset, scale)
    with np.errstate(divide="ignore", invalid="ignore"):
        rounded = np.floor(offset / step + 0.5) * step
    offset = np.where(np.isfinite(rounded), rounded, offset)
    weight = quantize_weight(stored, recipe, layer.owner).double()
    if isinstance(layer, QConv2d):
        x, padding = layer.padded(x)
        y = F.conv2d(x.double(), weight, None, layer.stride, padding, layer.dilation, layer.groups)
    else:
        y = F.linear(x.double(), weight)
    shape = (1, -1) + (1,) * (y.dim() - 2)
    factor, offset = (torch.from_numpy(v).to(y.device).reshape(shape) for v in (factor, offset))
    return layer.finish(y * factor + offset)


class _Capture(fx.Interpreter):
    """Keeps the value of every node."""

    def __init__(self, module: fx.GraphModule, input_scales: dict[str, float] | None):
        super().__init__(module, garbage_collect_values=False)
        self.values: dict[str, torch.Tensor] = {}
        self.input_scales = input_scales or {}

    def call_module(self, target, args, kwargs):
        if target in self.input_scales:
            layer = self.fetch_attr(target)
            return _with_int32_bias(layer, args[0], self.input_scales[target])
        return super().call_module(target, args, kwargs)

    def run_node(self, node):
        value = super().run_node(node)
        self.values[node.name] = value
        return value


@contextlib.contextmanager
def exact_evaluation(model: nn.Module, enabled: bool = True) -> Iterator[dict[str, torch.Tensor]]:
    """Evaluation with RangeBN's input quantizer, the graph of ``exact`` lowering; then as before.

    Yields a dict that fills with the quantized input of every RangeBatchNorm, by module path.
    """
    seen: dict[str, torch.Tensor] = {}
    norms = [(path, module) for path, module in model.named_modules()
             if isinstance(module, RangeBatchNorm)] if enabled else []

    def keep(path):
        return lambda module, inputs, output: seen.__setitem__(path, output)
    hooks = [norm.input.register_forward_hook(keep(path)) for path, norm in norms]
    try:
        for _, norm in norms:
            norm.exact_evaluation = True
        yield seen
    finally:
        for hook in hooks:
            hook.remove()
        for _, norm in norms:
            norm.exact_evaluation = False


def simulate(model: nn.Module, x, *, norm_lowering: str = "fold",
             program: Program | None = None, int32_bias: bool = False) -> dict[str, np.ndarray]:
    """Codes (int8, batch first) of every tensor of the program, from the float simulation.

    x: float32 (N, C, H, W), numpy or torch. program: the lowered model, if it is at hand.
    int32_bias: round the folded biases as the program does ("fold" lowering only).
    """
    program = program or lower(model, norm_lowering)
    exact = program.metadata.get("norm_lowering") == "exact"
    x = torch.as_tensor(x, dtype=torch.float32)
    x = x.to(next(model.parameters()).device)
    with torch.no_grad(), evaluating(model), exact_evaluation(model, exact) as norm_inputs:
        graph, steps, _ = trace(model)
        scales = {step.node.target: program.tensors[step.inputs[0]].quantization.scale
                  for step in steps if isinstance(step.module, (QConv2d, QLinear))}
        capture = _Capture(graph, scales if int32_bias and not exact else None)
        capture.run(x)
    values = {step.name: capture.values[step.node.name] for step in steps}
    for path, value in norm_inputs.items():
        values[f"{path.removesuffix('.norm')}.conv"] = value
    trace_of_codes = {}
    for name, tensor in program.tensors.items():
        value = values[name].double().cpu().numpy()
        codes = np.floor(value / tensor.quantization.scale + 0.5) + tensor.quantization.zero_point
        trace_of_codes[name] = codes.astype(np.int8).reshape(len(x), *tensor.shape)
    return trace_of_codes


def differing_codes(simulated: dict[str, np.ndarray], integer: dict[str, np.ndarray]
                    ) -> dict[str, tuple[float, int]]:
    """Per tensor: (share of codes that differ in [0, 1], largest difference in codes)."""
    result = {}
    for name, codes in simulated.items():
        difference = np.abs(codes.astype(np.int64) - integer[name].astype(np.int64))
        result[name] = (float((difference != 0).mean()), int(difference.max()))
    return result

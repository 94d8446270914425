"""Post-training quantization of a network built from ``sw/layers/weighted.py``.

The calibration images run once through the float network and the one quantized so far, layer by
layer: a layer's activation range comes from its float output, its weights are rounded and corrected
for the inputs that the quantized network really gives it.
"""

import copy
from collections import Counter
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from golden.errors import LockstepError
from sw.layers.graph import LayerCall, trace
from sw.layers.weighted import QInput, QLayer, WeightedLayer
from sw.ptq.adaround import adaround, input_patches, output_patches, sample_positions
from sw.ptq.allocation import allocate_bits
from sw.ptq.answers import check_classifier, logits_range
from sw.ptq.config import PtqConfig
from sw.ptq.distillation import distil
from sw.ptq.equalisation import equalise
from sw.ptq.folding import fold_norms
from sw.ptq.layers import set_codes, set_output
from sw.ptq.weights import (
    correct_weights,
    make_grid,
    mean_input_sum,
    mean_per_channel,
    per_output,
)
from sw.ptq.widths import Widths, plan_widths
from sw.quantize.ranges import extremes
from sw.train.evaluate import prepared

__all__ = ["LayerResult", "quantize"]


@dataclass(frozen=True, kw_only=True)
class LayerResult:
    """How a layer was quantized: mean bits, and the signal-to-noise ratio of its output against
    the float network's on the calibration images, in dB, before any distillation. weight_bits: None
    without weights."""

    layer: str
    weight_bits: float | None
    activation_bits: float
    sqnr_db: float


def _calibrate(layer: QLayer, y: Tensor, widths: Widths, config: PtqConfig) -> Tensor:
    """Set the output quantizer for float outputs y (N, C, ...); returns its bits per channel."""
    if not torch.isfinite(y).all():
        raise LockstepError(f"Layer {layer.owner} gives values that are not finite")
    if not y.any():
        raise LockstepError(f"Layer {layer.owner} has a zero range: its output is 0 for all "
                            f"{len(y)} calibration images")
    bits, at_end = widths.activation, isinstance(layer, QInput) or widths.logits
    recipe = config.activation_recipe(bits, at_end=at_end,
                                      clipped=not at_end and bits <= config.activation_bits)
    if config.allocate_activations and not at_end and bits == config.activation_bits:
        channels = y.transpose(0, 1).flatten(1)
        allocated = allocate_bits(channels.std(1, correction=0), bits)
        low, high = torch.empty(len(channels)), torch.empty(len(channels))
        for width in allocated.unique().tolist():
            mine = allocated == width
            low[mine], high[mine] = extremes(y[:, mine], config.activation_recipe(width), 1,
                                             layer.owner)
        set_output(layer, recipe, low, high, allocated)
        return allocated
    per_class = y[0].numel() == y.shape[1]  # not a map that a max pool or nobody reads
    if widths.logits and per_class and config.logits_range == "answers":
        low, high = logits_range(y, recipe)
    else:
        low, high = extremes(y, recipe, 1, layer.owner)
    if recipe.granularity == "tensor":
        low, high = low.reshape(()), high.reshape(())
    set_output(layer, recipe, low, high)
    return torch.tensor([bits])


def _quantize_weights(layer: WeightedLayer, reference: WeightedLayer, exact: Tensor, x: Tensor,
                      target: Tensor, bits: int, config: PtqConfig, generator: torch.Generator
                      ) -> Tensor:
    """Give the layer integer weights; returns their bits, (O,).

    reference: the folded float layer. exact, x: the layer's input in the float and in the quantized
    network. target: the float layer's output.
    """
    grid = make_grid(reference, bits, config)
    codes = grid.codes
    if config.adaround is not None:
        positions = sample_positions(reference, target, config.adaround.patches, generator)
        with torch.enable_grad():
            codes = adaround(reference, grid, input_patches(reference, x, positions),
                             output_patches(reference, target, positions), config.adaround,
                             generator)
    factor, offset = grid.step, reference.bias.double()
    if config.bias_correction == "weight" and config.adaround is None:
        xi, shift = correct_weights(reference.weight, codes * per_output(grid.step, codes))
        factor, offset = factor * xi, offset + shift * mean_input_sum(reference, x)
    set_codes(layer, codes, factor, offset)
    if config.bias_correction != "none" and (config.adaround is not None
                                             or config.bias_correction == "output"):
        wanted = reference.product(exact, reference.weight, reference.bias)
        found = layer.norm(layer.product(x, layer.weight, None))
        layer.norm.offset.add_(mean_per_channel(wanted) - mean_per_channel(found))
    return grid.bits


def _decibels(signal: Tensor, noise: Tensor) -> float:
    return 10 * torch.log10(signal.double().square().mean()
                            / noise.double().square().mean().clamp_min(1e-30)).item()


def _apply(step: LayerCall, module: nn.Module | None, values: dict[str, Tensor]) -> Tensor:
    inputs = [values[name] for name in step.inputs]
    if module is None:
        return inputs[0].flatten(1)
    return module(*inputs)


@torch.no_grad()
def quantize(model: nn.Module, images: Tensor, config: PtqConfig | None = None
             ) -> tuple[nn.Module, list[LayerResult]]:
    """Quantize a trained float network; the model is left as it is.

    images: (N, C, H, W) float32, the calibration set, at once. Returns the network, in evaluation
    mode, which ``sw.lower.network.lower`` lowers unless ``config.simulation_only``, and what
    happened to each layer.

    Raises LockstepError for a network that was trained with quantization, that cannot be traced or
    calls a layer twice, for no images, for a layer whose weights or outputs are all 0, and for
    distillation or a logits' range by answers where the network gives no logits.
    """
    config = config or PtqConfig()
    if not len(images):
        raise LockstepError("Post-training quantization needs at least 1 calibration image")
    reference = fold_norms(model)
    if config.distillation is not None:
        check_classifier(reference, images, "Distillation")
    if config.logits_range == "answers":
        check_classifier(reference, images, "The logits' range by answers")
    if config.equalise != "none":
        equalise(reference, images if config.equalise == "activations" else None)
    _, steps, output = trace(reference)
    for module, calls in Counter(step.module for step in steps).items():
        if calls > 1 and isinstance(module, QLayer):
            raise LockstepError(f"Layer {module.owner} is called {calls} times; post-training "
                                f"quantization needs one activation range per layer")
    quantized = copy.deepcopy(reference)
    widths = plan_widths(steps, output, config)
    generator = torch.Generator().manual_seed(config.seed)
    last_use = {name: index for index, step in enumerate(steps) for name in step.inputs}
    exact, rounded = {"": prepared(reference, images)}, {"": prepared(reference, images)}
    results = []
    for index, step in enumerate(steps):
        module = None if step.module is None else quantized.get_submodule(step.node.target)
        target = _apply(step, step.module, exact)
        if isinstance(module, QLayer):
            results.append(_quantize_layer(module, step, target, exact, rounded,
                                           widths[step.name], config, generator))
        exact[step.name], rounded[step.name] = target, _apply(step, module, rounded)
        if isinstance(module, QLayer):
            sqnr = _decibels(target, target - rounded[step.name])
            results[-1] = LayerResult(**results[-1], sqnr_db=sqnr)
        for name in [name for name, last in last_use.items() if last == index]:
            del exact[name], rounded[name]
    if config.distillation is not None:
        distil(quantized, reference, images, config.distillation, generator)
    return quantized, results


def _quantize_layer(layer: QLayer, step: LayerCall, target: Tensor, exact: dict[str, Tensor],
                    rounded: dict[str, Tensor], widths: Widths, config: PtqConfig,
                    generator: torch.Generator) -> dict:
    """Quantize one layer in place; the fields of its LayerResult but the last.

    target: its output in the float network. exact, rounded: what both networks computed so far.
    """
    activation_bits = _calibrate(layer, target, widths, config)
    weight_bits = None
    if isinstance(layer, WeightedLayer):
        source = step.inputs[0]
        weight_bits = _quantize_weights(
            layer, step.module, exact[source], rounded[source], target, widths.weight, config,
            generator).double().mean().item()
    return {"layer": step.name, "weight_bits": weight_bits,
            "activation_bits": activation_bits.double().mean().item()}

"""Why a recipe gives no integer program: one clear line each, naming the layer and the limit."""

from golden.errors import LockstepError
from golden.program.verify import Report
from sw.layers.graph import LayerCall
from sw.layers.weighted import WeightedLayer
from sw.quantize.quantizers import ActivationQuantizer

__all__ = ["check_activation", "check_weight_codes", "check_widths"]

_LARGEST_WEIGHT = 127
_ROUNDINGS = ("half_up", "gemmlowp", "stochastic", "pseudo_stochastic")


def check_activation(quantizer: ActivationQuantizer) -> None:
    """Raises LockstepError unless the activation is an int8 tensor with a rounding that
    requantization has (random roundings evaluate as half_up)."""
    recipe = quantizer.recipe
    if not recipe.enabled:
        raise LockstepError(f"Activations of {quantizer.owner} are not quantized "
                            f"(activation.bits None); an integer program needs 2 to 8 bits")
    if recipe.format != "integer":
        raise LockstepError(f"Activations of {quantizer.owner} are {recipe.format}: floating-point "
                            f"codes have no single scale, so there is no integer program")
    if recipe.bits > 8:
        raise LockstepError(f"Activations of {quantizer.owner} have {recipe.bits} bits; an int8 "
                            f"program holds at most 8")
    if recipe.rounding not in _ROUNDINGS:
        raise LockstepError(f"Activations of {quantizer.owner} round {recipe.rounding}; "
                            f"requantization has half_up and gemmlowp")


def check_weight_codes(layer: WeightedLayer) -> None:
    """Raises LockstepError unless the weights have codes of at most +-127."""
    recipe = layer.config.weight
    if not recipe.enabled:
        raise LockstepError(f"Weights of {layer.owner} are not quantized (weight.bits None); an "
                            f"integer program needs integer weights")
    if recipe.format != "integer":
        raise LockstepError(f"Weights of {layer.owner} are {recipe.format}: floating-point codes "
                            f"have no single scale, so there is no integer program")
    largest = {"ternary": 1, "dorefa": 2**recipe.bits - 1}.get(recipe.grid, recipe.code_bounds[1])
    if largest > _LARGEST_WEIGHT:
        raise LockstepError(f"Weights of {layer.owner} have codes up to {largest} ({recipe.bits} "
                            f"bits, {recipe.grid} grid); an int8 program holds {_LARGEST_WEIGHT}")


def check_widths(report: Report, steps: list[LayerCall]) -> None:
    """Raises LockstepError where a narrow accumulator of training could overflow: the program's
    sums are exact, so it would compute something else."""
    layers = {step.name: step.module for step in steps if isinstance(step.module, WeightedLayer)}
    for entry in report.nodes:
        layer = layers.get(entry.node)
        bits = layer.config.accumulator.bits if layer is not None else None
        if bits is not None and entry.accumulator_width > bits:
            raise LockstepError(
                f"Layer {entry.node} was trained with {bits} accumulator bits but its sums can "
                f"need {entry.accumulator_width}; the integer program does not overflow")

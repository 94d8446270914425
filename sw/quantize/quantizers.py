"""Quantizers of activations and weights, with their straight-through estimators.

A quantized tensor is ``real = scale * (code - zero_point)``. During training the tensors stay
float32 and carry exactly representable values ("fake quantization"); the codes are recovered at
lowering. What is quantized and how is a ``TensorRecipe``; gradients are in
``sw/quantize/gradients.py``.

Sources: Banner, Hubara, Hoffer, Soudry, "Scalable methods for 8-bit training of neural networks",
arXiv 1805.11046 (range averaged over the batch); Jacob et al., arXiv 1712.05877 (true zero, weights
in [-127, 127], running ranges); Choi et al., arXiv 1805.06085 (PACT); Zhou et al.,
arXiv 1606.06160 (DoReFa); Li, Liu, arXiv 1605.04711 (TWN).
"""

from dataclasses import replace

import torch
from torch import Tensor, nn

from golden.errors import LockstepError
from sw.quantize.ranges import (
    SMALLEST_SCALE,
    affine_parameters,
    constrain_scale,
    extremes,
    grouped,
    spread,
    symmetric_scale,
)
from sw.quantize.recipe import Recipe, TensorRecipe
from sw.quantize.rounding import evaluation_rounding, round_to_integer
from sw.train import probe

__all__ = ["ActivationQuantizer", "EIGHT_BIT", "FakeQuantizeFunction", "PactFunction",
           "StraightThroughFunction", "affine_parameters", "quantize_weight", "to_float8",
           "weight_codes", "weight_scales"]

EIGHT_BIT = Recipe()
_TWN_THRESHOLD = 0.7  # of the mean magnitude; arXiv 1605.04711, equation 6
_FLOAT8 = {"fp8_e4m3": torch.float8_e4m3fn, "fp8_e5m2": torch.float8_e5m2}


class FakeQuantizeFunction(torch.autograd.Function):
    """``y = (clamp(round(x / scale) + zero_point, low, high) - zero_point) * scale``.

    The gradient passes straight through; with ``mask`` that of clipped values is zero.
    """

    @staticmethod
    def forward(ctx, x, scale, zero_point, bounds, rounding, mask) -> Tensor:
        codes = torch.div(x, scale)
        codes = codes.add_(0.5).floor_() if rounding == "half_up" \
            else round_to_integer(codes, rounding)
        low, high = bounds[0] - zero_point, bounds[1] - zero_point
        if mask:
            ctx.save_for_backward((codes >= low) & (codes <= high))
        ctx.mask = mask
        return codes.clamp_(low, high).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient) -> tuple[Tensor | None, ...]:
        if ctx.mask:
            gradient = gradient * ctx.saved_tensors[0]
        return gradient, None, None, None, None, None


class PactFunction(torch.autograd.Function):
    """PACT, arXiv 1805.06085: codes of ``clamp(x, 0, bound)``; the bound learns.

    dL/dbound is the sum of the gradient where x >= bound, plus decay * bound.
    """

    @staticmethod
    def forward(ctx, x, bound, bits, rounding, decay) -> Tensor:
        steps = 2**bits - 1
        scale = bound / steps
        ctx.save_for_backward(x, bound)
        ctx.decay = decay
        codes = round_to_integer(torch.div(x, scale), rounding).clamp_(0, steps)
        return codes.mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient) -> tuple[Tensor | None, ...]:
        x, bound = ctx.saved_tensors
        inside = (x >= 0) & (x < bound)
        of_bound = torch.where(x >= bound, gradient, 0.0).sum() + ctx.decay * bound
        return gradient * inside, of_bound.to(bound.dtype), None, None, None


class StraightThroughFunction(torch.autograd.Function):
    """The given value forward, the gradient to x unchanged backward."""

    @staticmethod
    def forward(ctx, x, value) -> Tensor:
        return value

    @staticmethod
    def backward(ctx, gradient) -> tuple[Tensor, None]:
        return gradient, None


def to_float8(x: Tensor, recipe: TensorRecipe, axis: int, owner: str = "tensor") -> Tensor:
    """x through 8-bit floating point, scaled so that the largest value uses the top exponent."""
    kind = _FLOAT8[recipe.format]
    largest = spread(grouped(x.abs(), recipe, axis, owner).amax(1), x, recipe, axis)
    scale = (largest / torch.finfo(kind).max).clamp_min(1e-38)
    scale = constrain_scale(scale, replace(recipe, scale="power_of_two"))
    return (x / scale).to(kind).to(x.dtype) * scale


def _grid(weight: Tensor, recipe: TensorRecipe, owner: str) -> tuple[Tensor, Tensor]:
    """Codes (float, of weight's shape) and scales, broadcastable, of a stored weight."""
    if recipe.grid == "ternary":
        values = grouped(weight.abs(), recipe, 0, owner)
        threshold = _TWN_THRESHOLD * values.mean(1, keepdim=True)
        kept = values > threshold
        scale = (values * kept).sum(1) / kept.sum(1).clamp_min(1)
        scale = constrain_scale(scale.clamp_min(SMALLEST_SCALE), recipe)
        scale = spread(scale, weight, recipe, 0)
        codes = torch.sign(weight) * (weight.abs() > spread(threshold, weight, recipe, 0))
        return codes, scale
    if recipe.grid == "dorefa":
        if recipe.bits == 1:  # sign(w) * E|w|
            scale = spread(grouped(weight.abs(), recipe, 0, owner).mean(1), weight, recipe, 0)
            return torch.where(weight >= 0, 1.0, -1.0), scale.clamp_min(SMALLEST_SCALE)
        steps = 2**recipe.bits - 1
        squashed = torch.tanh(weight)
        largest = spread(grouped(squashed.abs(), recipe, 0, owner).amax(1), weight, recipe, 0)
        unit = squashed / (2 * largest.clamp_min(SMALLEST_SCALE)) + 0.5
        codes = 2 * round_to_integer(unit * steps, recipe.rounding) - steps
        return codes, weight.new_full((), 1 / steps)
    low, high = extremes(weight, recipe, 0, owner)
    scale = spread(symmetric_scale(low, high, recipe), weight, recipe, 0)
    codes = round_to_integer(weight / scale, recipe.rounding)
    return codes.clamp_(*recipe.code_bounds), scale


def quantize_weight(weight: Tensor, recipe: TensorRecipe = EIGHT_BIT.weight,
                    owner: str = "weight") -> Tensor:
    """Fake-quantized weight (O, ...), straight through; ``mask`` stops clipped gradients.

    A dorefa grid passes the gradient of tanh(w) / max|tanh(w)|, its maximum held constant.
    """
    if not recipe.enabled:
        return weight
    if recipe.format != "integer":
        value = to_float8(weight.detach(), recipe, 0, owner)
        probe.observe(owner, "W", weight, value)
        return StraightThroughFunction.apply(weight, value)
    with torch.no_grad():
        codes, scale = _grid(weight, recipe, owner)
        value = codes * scale
    probe.observe(owner, "W", weight, value)
    carrier = weight
    if recipe.grid == "dorefa" and recipe.bits > 1:
        squashed = torch.tanh(weight)
        largest = grouped(squashed.detach().abs(), recipe, 0, owner).amax(1)
        carrier = squashed / spread(largest.clamp_min(SMALLEST_SCALE), weight, recipe, 0)
    elif recipe.clipped == "mask":
        limit = scale * recipe.code_bounds[1]
        carrier = torch.maximum(torch.minimum(weight, limit), -limit)
    return StraightThroughFunction.apply(carrier, value)


def weight_codes(weight: Tensor, recipe: TensorRecipe = EIGHT_BIT.weight, owner: str = "weight"
                 ) -> tuple[Tensor, Tensor]:
    """The integers and scales behind ``quantize_weight``: int16 (O, ...), float32 (O,)."""
    codes, scale = _grid(weight.detach(), recipe, owner)
    scales = scale.expand(len(weight), *[1] * (weight.dim() - 1)).flatten()
    return codes.to(torch.int16), scales


def weight_scales(weight: Tensor, recipe: TensorRecipe = EIGHT_BIT.weight) -> Tensor:
    """Per-output-channel scales, shape (O, 1, ...)."""
    return weight_codes(weight, recipe)[1].reshape(-1, *[1] * (weight.dim() - 1))


class ActivationQuantizer(nn.Module):
    """Quantizer of one activation tensor, placed at its producer.

    Training: the range of the batch by the recipe's rule (``ema``: the running range). Evaluation:
    the running range, torch's momentum. Real 0 is always a code.

    bounded: the values lie behind a ReLU. Only there do the ranges ``clamp`` and ``pact`` apply;
    the network's input, logits and tensors before an addition get at least 8 bits and the range
    of the batch instead.

    Buffers: range_low, range_high (float32, one per group, scalar per tensor), batches (int64,
    0 = not calibrated). Parameter: bound (scalar), for ``pact``.
    """

    def __init__(self, config: Recipe = EIGHT_BIT, bounded: bool = True):
        super().__init__()
        recipe = config.tensor("activation")
        if recipe.enabled and recipe.range in ("clamp", "pact") and not bounded:
            recipe = replace(recipe, bits=max(8, recipe.bits), range="min_max", clipped="pass")
        self.recipe = recipe
        self.owner = type(self).__name__
        self.scale: Tensor | None = None  # of the latest batch, for the accumulator's simulation
        self.register_buffer("range_low", torch.zeros(()))
        self.register_buffer("range_high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))
        self.bound = None
        if recipe.enabled and recipe.range == "pact":
            self.bound = nn.Parameter(torch.tensor(float(recipe.clamp)))

    @property
    def waits(self) -> bool:
        """True while the recipe's delay leaves the activation in float32."""
        return bool(self.recipe.delay) and self.batches.item() <= self.recipe.delay

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, C, ...) float32 -> float32 of the same shape on the grid."""
        recipe = self.recipe
        if not recipe.enabled:
            return x
        if recipe.format != "integer":
            y = StraightThroughFunction.apply(x, to_float8(x.detach(), recipe, 1, self.owner))
            probe.observe(self.owner, "A", x, y)
            return y
        if self.training:
            low, high = self._batch_range(x.detach())
            if recipe.delay:
                y = self._quantize(x, low, high, recipe.rounding)
                y = torch.where(self.batches <= recipe.delay, x, y)
            else:
                y = self._quantize(x, low, high, recipe.rounding)
        else:
            if self.waits:
                return x  # as training did so far
            # float64, so that the codes of the network's input are those of golden.arith
            y = self._quantize(x.double(), self.range_low.double(), self.range_high.double(),
                               evaluation_rounding(recipe.rounding)).to(torch.float32)
        probe.observe(self.owner, "A", x, y)
        return y

    def _quantize(self, x: Tensor, low: Tensor, high: Tensor, rounding: str) -> Tensor:
        recipe = self.recipe
        if self.bound is not None:
            bound = self.bound.clamp_min(SMALLEST_SCALE).to(x.dtype)
            self.scale = bound.detach() / (2**recipe.bits - 1)
            return PactFunction.apply(x, bound, recipe.bits, rounding, recipe.clamp_decay)
        scale, zero_point = affine_parameters(low, high, recipe)
        self.scale = scale.detach()
        if scale.dim():
            scale, zero_point = (spread(v, x, recipe, 1) for v in (scale, zero_point))
        return FakeQuantizeFunction.apply(x, scale, zero_point, recipe.code_bounds, rounding,
                                          recipe.clipped == "mask")

    @torch.no_grad()
    def _batch_range(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low, high = extremes(x, self.recipe, 1, self.owner)
        if self.recipe.granularity == "tensor":
            low, high = low.reshape(()), high.reshape(())
        self.follow(low, high)
        if self.recipe.range == "ema":
            return self.range_low.clone(), self.range_high.clone()
        return low, high

    @torch.no_grad()
    def follow(self, low: Tensor, high: Tensor) -> None:
        """Let the running range follow one batch's."""
        if self.range_low.shape != low.shape:
            self.range_low, self.range_high = torch.zeros_like(low), torch.zeros_like(high)
        momentum = torch.where(self.batches == 0, 1.0, self.recipe.momentum)
        self.range_low.lerp_(low, momentum)
        self.range_high.lerp_(high, momentum)
        self.batches.add_(1)

    def parameters_for_evaluation(self) -> tuple[float, int]:
        """(scale, zero_point) that evaluation and the integer program use.

        Raises LockstepError where the activation is not int8 with one scale per tensor, or the
        quantizer has not yet begun to quantize.
        """
        recipe = self.recipe
        if recipe.granularity != "tensor":
            raise LockstepError(f"Activations of {self.owner} have a scale per {recipe.granularity}"
                                f", which lies on the next layer's reduction axis; an integer "
                                f"program needs activation.granularity tensor")
        if not self.batches.item():
            raise LockstepError("An activation quantizer has seen no batch; train the model first")
        if self.batches.item() <= recipe.delay:
            raise LockstepError(
                f"The activation quantizer of {self.owner} has seen {self.batches.item()} batches "
                f"and starts after {recipe.delay}; train the model first")
        if self.bound is not None:
            scale = self.bound.detach().clamp_min(SMALLEST_SCALE).double() / (2**recipe.bits - 1)
            return scale.item(), recipe.code_bounds[0]
        scale, zero_point = affine_parameters(self.range_low.double(), self.range_high.double(),
                                              recipe)
        return scale.item(), int(zero_point.item())

    def _load_from_state_dict(self, state_dict, prefix, *args):
        for name in ("range_low", "range_high"):  # their shape follows the data
            if prefix + name in state_dict:
                setattr(self, name, torch.empty_like(state_dict[prefix + name]))
        super()._load_from_state_dict(state_dict, prefix, *args)

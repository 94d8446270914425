"""Quantizers for 8-bit training, with their straight-through estimators.

A quantized tensor is ``real = scale * (code - zero_point)``. Rounding is ``floor(x + 0.5)``, the
contract of ``golden/arith.py``, never half to even. During training the tensors stay float32 and
carry exactly representable values ("fake quantization"); the codes are recovered at lowering.

Sources: Banner, Hubara, Hoffer, Soudry, "Scalable methods for 8-bit training of neural networks",
arXiv 1805.11046 (range averaged over the batch, bifurcated gradient); Jacob et al.,
arXiv 1712.05877 (true zero, weights in [-127, 127]).
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from golden.errors import LockstepError

LOW, HIGH = -128, 127
WEIGHT_HIGH = 127
GRADIENT16_HIGH = 127 * 256  # so that the 8-bit copy, g16 >> 8 rounded up, never exceeds 127
_SMALLEST_SCALE = 1e-12
_ZERO_RANGE_SCALE = 2.0**-7  # of an activation that is 0 everywhere: any scale is exact
RANGE_CONSTANTS = ("code", "paper", "exact")


@dataclass(frozen=True, kw_only=True)
class Quantize8Bit:
    """How a model is quantized while it trains; saved with every checkpoint.

    quantize: False gives the float32 baseline of the same graph (RangeBN in float).
    mask_clipped: stop the gradient of clipped activations (the published code does not).
    range_constant: C(n) of RangeBN, one of ``code``, ``paper``, ``exact``.
    chunks: number of chunks whose ranges RangeBN averages.
    momentum: weight of the newest batch in every running statistic (torch's convention; the
        published code uses the inverse one).
    quantize_norm_gradient: round the gradient entering RangeBN to 8 bits, as the published code.
    """

    quantize: bool = True
    mask_clipped: bool = False
    range_constant: str = "code"
    chunks: int = 16
    momentum: float = 0.1
    quantize_norm_gradient: bool = True

    def __post_init__(self):
        for name in ("quantize", "mask_clipped", "quantize_norm_gradient"):
            if not isinstance(getattr(self, name), bool):
                raise LockstepError(f"Option {name} must be True or False, not "
                                    f"{getattr(self, name)!r}")
        if self.range_constant not in RANGE_CONSTANTS:
            known = ", ".join(RANGE_CONSTANTS)
            raise LockstepError(f"Range constant must be one of {known}, not "
                                f"{self.range_constant!r}")
        if not isinstance(self.chunks, int) or self.chunks < 1:
            raise LockstepError(f"Chunk count must be a positive integer, not {self.chunks!r}")
        if not 0 < self.momentum <= 1:
            raise LockstepError(f"Momentum must be in (0, 1], not {self.momentum!r}")


EIGHT_BIT = Quantize8Bit()


class AffineQuantizeFunction(torch.autograd.Function):
    """Fake quantization of activations; the gradient passes straight through.

    ``y = (clamp(floor(x / scale + 0.5) + zero_point, -128, 127) - zero_point) * scale``. With
    ``mask`` the gradient of clipped values is zero, otherwise it passes (the published code).
    """

    @staticmethod
    def forward(ctx, x: Tensor, scale: Tensor, zero_point: Tensor, mask: bool) -> Tensor:
        codes = torch.div(x, scale).add_(0.5).floor_()
        low, high = LOW - zero_point, HIGH - zero_point
        if mask:
            ctx.save_for_backward((codes >= low) & (codes <= high))
        ctx.mask = mask
        return codes.clamp_(low, high).mul_(scale).to(x.dtype)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        if ctx.mask:
            gradient = gradient * ctx.saved_tensors[0]
        return gradient, None, None, None


class SymmetricQuantizeFunction(torch.autograd.Function):
    """Fake quantization of weights, per channel of axis 0, symmetric; straight through."""

    @staticmethod
    def forward(ctx, weight: Tensor, scale: Tensor) -> Tensor:
        codes = torch.floor(weight / scale + 0.5).clamp_(-WEIGHT_HIGH, WEIGHT_HIGH)
        return codes.mul_(scale)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return gradient, None


class GradientQuantizeFunction(torch.autograd.Function):
    """Identity forward; the gradient is rounded to 8 bits stochastically on the way back."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        return x.view_as(x)

    @staticmethod
    def backward(ctx, gradient: Tensor):
        return split_gradient(gradient, want16=False)[1]


def split_gradient(gradient: Tensor, random_bits: Tensor | None = None, *,
                   want8: bool = True, want16: bool = True) -> tuple[Tensor | None, Tensor | None]:
    """Both copies of the bifurcated gradient, dequantized to float32: ``(g16, g8)``.

    One 16-bit integer tensor gives both: ``g16 = floor(g / s + 0.5)`` with
    ``s = max|g| / (127 * 256)``, then ``g8 = (g16 + r) >> 8`` with r uniform in [0, 256), whose
    expected value is g16 / 256. Scales are per tensor.

    random_bits: integers in [0, 256) of gradient's shape; drawn from torch's generator if None.
    """
    scale = gradient.abs().amax().div(GRADIENT16_HIGH).clamp_min(1e-38)
    codes16 = torch.div(gradient, scale).add_(0.5).floor_()
    codes16.clamp_(-GRADIENT16_HIGH, GRADIENT16_HIGH)
    g8 = None
    if want8:
        if random_bits is None:
            random_bits = torch.randint(0, 256, gradient.shape, dtype=torch.uint8,
                                        device=gradient.device)
        g8 = torch.add(codes16, random_bits).mul_(1 / 256).floor_().mul_(scale * 256)
    return (codes16.mul_(scale) if want16 else None), g8


def affine_parameters(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Scale and integer zero point of the int8 grid that covers [low, high] and holds 0 exactly.

    low, high: scalars of any float dtype. Returns (scale, zero_point) of the same dtype. A range
    of nothing but 0 gives a scale of 1/128.
    """
    low, high = low.clamp(max=0), high.clamp(min=0)
    scale = (high - low) / (HIGH - LOW)
    scale = torch.where(scale > _SMALLEST_SCALE, scale, _ZERO_RANGE_SCALE)
    zero_point = torch.floor(LOW - low / scale + 0.5).clamp_(LOW, HIGH)
    return scale, zero_point


def weight_scales(weight: Tensor) -> Tensor:
    """Per-output-channel scales, shape (O, 1, ...), so that max|w| maps to 127."""
    largest = weight.detach().abs().flatten(1).amax(1).clamp_min(_SMALLEST_SCALE * WEIGHT_HIGH)
    return (largest / WEIGHT_HIGH).reshape(-1, *[1] * (weight.dim() - 1))


def quantize_weight(weight: Tensor) -> Tensor:
    """Fake-quantized weight, symmetric in [-127, 127] per output channel (axis 0)."""
    return SymmetricQuantizeFunction.apply(weight, weight_scales(weight))


def weight_codes(weight: Tensor) -> tuple[Tensor, Tensor]:
    """The integers and scales behind ``quantize_weight``: int8 (O, ...), float32 (O,)."""
    scales = weight_scales(weight)
    codes = torch.floor(weight.detach() / scales + 0.5).clamp_(-WEIGHT_HIGH, WEIGHT_HIGH)
    return codes.to(torch.int8), scales.flatten()


class ActivationQuantizer(nn.Module):
    """Per-tensor int8 quantizer of one activation tensor, placed at its producer.

    Training: the range is the per-sample minimum and maximum averaged over the batch. Evaluation:
    the running range (exponential moving average, torch's momentum). Real 0 is always a code.

    Buffers: range_low, range_high (float32 scalars), batches (int64, 0 = not calibrated).
    """

    def __init__(self, config: Quantize8Bit = EIGHT_BIT):
        super().__init__()
        self.config = config
        self.register_buffer("range_low", torch.zeros(()))
        self.register_buffer("range_high", torch.zeros(()))
        self.register_buffer("batches", torch.zeros((), dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """x: (N, ...) float32 -> float32 of the same shape on the int8 grid."""
        if not self.config.quantize:
            return x
        if self.training:
            low, high = torch.aminmax(x.detach().flatten(1), dim=1)
            low, high = low.mean(), high.mean()
            self._update(low, high)
            scale, zero_point = affine_parameters(low, high)
        else:
            # float64, so that the codes of the network's input are those of golden.arith
            scale, zero_point = affine_parameters(self.range_low.double(),
                                                  self.range_high.double())
            x = x.double()
        y = AffineQuantizeFunction.apply(x, scale, zero_point, self.config.mask_clipped)
        return y.to(torch.float32)

    @torch.no_grad()
    def _update(self, low: Tensor, high: Tensor) -> None:
        momentum = torch.where(self.batches == 0, 1.0, self.config.momentum)
        self.range_low.lerp_(low, momentum)
        self.range_high.lerp_(high, momentum)
        self.batches.add_(1)

    def parameters_for_evaluation(self) -> tuple[float, int]:
        """(scale, zero_point) that evaluation and the integer program use."""
        if not self.batches.item():
            raise LockstepError("An activation quantizer has seen no batch; train the model first")
        scale, zero_point = affine_parameters(self.range_low.double(), self.range_high.double())
        return scale.item(), int(zero_point.item())

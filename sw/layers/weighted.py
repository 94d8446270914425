"""Layers trained in few bits. Every layer's output is one tensor, quantized at its producer.

A convolution or linear layer computes, in this order: quantized weights, one convolution, the
recipe's normalization, optional ReLU, output quantizer. Its gradient is bifurcated (Banner et al.,
arXiv 1805.11046, section 4): the gradient to the input uses one rounded copy of the incoming
gradient, the gradient to weight and bias another.
"""

import math
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.errors import LockstepError
from sw.layers import fused
from sw.layers.norms import EPSILON, make_norm
from sw.quantize.accumulator import narrow_sum
from sw.quantize.gradients import BifurcatedConv2dFunction, BifurcatedLinearFunction
from sw.quantize.quantizers import EIGHT_BIT, ActivationQuantizer, quantize_weight
from sw.quantize.recipe import Recipe
from sw.train import probe

__all__ = ["QAdd", "QAvgPool2d", "QConv2d", "QGlobalAvgPool2d", "QInput", "QLayer", "QLinear",
           "WeightedLayer", "four_sides", "pad_sides", "pair", "round_stored_weights"]

ACTIVATIONS = (None, "relu", "relu6")
_WAGE_BETA = 1.5  # arXiv 1802.04680, equation 6: how far the weights start beyond one grid step


def pair(value: int | tuple[int, ...]) -> tuple[int, ...]:
    """One number for both axes, or a tuple as it is."""
    return (value, value) if isinstance(value, int) else tuple(value)


def four_sides(padding: tuple[int, ...]) -> tuple[int, int, int, int]:
    """(vertical, horizontal) or (top, left, bottom, right) as the latter."""
    return padding * 2 if len(padding) == 2 else padding


def pad_sides(x: Tensor, padding: tuple[int, ...], value: float = 0.0) -> Tensor:
    """x (N, C, H, W) padded by (top, left, bottom, right)."""
    top, left, bottom, right = padding
    return F.pad(x, (left, right, top, bottom), value=value) if any(padding) else x


class QLayer(nn.Module):
    """Base of the layers that produce a quantized tensor: activation function, output quantizer.

    activation: None, "relu" or "relu6"; lowering turns it into clamp bounds. owner: the module
    path once ``sw.layers.connect.connect`` has named it, for messages.
    """

    compiles_passes = False  #: merged passes go through torch.compile (sw/train/torch_compile.py)

    def __init__(self, config: Recipe, activation: str | None = None):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise LockstepError(f"Activation must be one of {ACTIVATIONS}, not {activation!r}")
        self.config = config
        self.activation = activation
        self.owner = type(self).__name__
        self.output = ActivationQuantizer(config, bounded=activation is not None)

    @property
    def config(self) -> Recipe:
        """The recipe that the layer follows."""
        return self._config

    @config.setter
    def config(self, recipe: Recipe) -> None:
        self._config, self._has_merged_passes = recipe, fused.supports(recipe)

    @property
    def fuses(self) -> bool:
        """True in a training step that ``sw/layers/fused.py`` computes with merged passes."""
        return self.training and not probe.is_recording() and self._has_merged_passes

    def finish(self, x: Tensor, other: Tensor | None = None) -> Tensor:
        """Sum with ``other``, if given; activation function; output quantizer."""
        if self.fuses:
            options = (self.activation, self.config.activation.clipped == "mask",
                       self.config.activation.range == "batch_mean", self.compiles_passes)
            made = fused.activation_quantize(x, *options) if other is None \
                else fused.add_activation_quantize(x, other, *options)
            self.output.follow(made.low, made.high)
            return made.output
        if other is not None:
            x = x + other
        if self.activation == "relu":
            x = F.relu(x)
        elif self.activation == "relu6":
            x = F.relu6(x)
        return self.output(x)


class QInput(QLayer):
    """The network's input: float32 (N, ...) onto the grid. A host step after lowering.

    It has at least 8 bits, a zero point and rounds half up, as ``Program.quantize_input`` does.
    """

    def __init__(self, config: Recipe = EIGHT_BIT):
        activation = config.activation
        if activation.enabled and activation.format == "integer":
            activation = replace(activation, bits=max(8, activation.bits), symmetric=False,
                                 rounding="half_up")
        super().__init__(replace(config, activation=activation))

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(x)


class WeightedLayer(QLayer):
    """What convolution and linear layer share; ``product(x, weight, bias)`` is theirs.

    Parameters: weight (O, ...), bias (O,) or None. attenuation: the power of two that follows the
    product (1 but for WAGE's initialisation).
    """

    def _build(self, weight: Tensor, norm: bool, zero_init: bool) -> None:
        self.weight = nn.Parameter(weight)
        self.norm = make_norm(len(weight), self.config, zero_init) if norm else None
        # no bias where updates are in units of the weights' grid: those methods have none
        self.bias = None if norm or self.config.gradient.normalise \
            else nn.Parameter(torch.zeros(len(weight)))
        self.attenuation = 1.0
        self.source: tuple[ActivationQuantizer, ...] = ()  # that of the input, set by connect
        if self.config.initialise == "wage":
            self._initialise_wage()

    def _initialise_wage(self) -> None:
        fan_in = self.weight[0].numel()
        step = 2.0 ** (1 - (self.config.weight.bits or 8))
        wanted, least = math.sqrt(6 / fan_in), _WAGE_BETA * step
        nn.init.uniform_(self.weight, -max(wanted, least), max(wanted, least))
        self.attenuation = 1 / max(2.0 ** math.floor(math.log2(least / wanted) + 0.5), 1.0)

    @property
    def folds(self) -> bool:
        """True if the norm's factor is part of the quantized weight."""
        return self.norm is not None and self.config.norm.fold and self.config.quantize

    def stored_weight(self) -> Tensor:
        """The float weight whose codes evaluation uses: with the norm folded in where it folds."""
        return self._folded(self.weight) if self.folds else self.weight

    def _folded(self, weight: Tensor) -> Tensor:
        factor = self.norm.weight / torch.sqrt(self.norm.running_variance + EPSILON)
        return weight * factor.reshape(-1, *[1] * (weight.dim() - 1))

    def affine(self) -> tuple[Tensor, Tensor]:
        """Evaluation is ``factor * product(x, stored weight) + offset``; float64 (O,) each."""
        ones = torch.ones(len(self.weight), dtype=torch.float64, device=self.weight.device)
        if self.norm is None:
            bias = 0 * ones if self.bias is None else self.bias.detach().double()
            return ones * self.attenuation, bias * self.attenuation
        factor, offset = (value.detach() for value in self.norm.running_factor())
        return (ones if self.folds else factor * self.attenuation), offset

    def quantized_product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The product with quantized weights, in the recipe's accumulator."""
        quantized = quantize_weight(weight, self.config.tensor("weight"), self.owner)
        if self.config.quantize and self.config.accumulator.bits is not None:
            return narrow_sum(self, x, weight, quantized, bias)
        return self.product(x, quantized, bias)

    def forward(self, x: Tensor) -> Tensor:
        if self.folds:
            return self.finish(self._folded_forward(x))
        if self.fuses and self.norm is not None:
            return self._fused_forward(x)
        x = self.quantized_product(x, self.weight, self.bias)
        if self.attenuation != 1:
            x = x * self.attenuation
        if self.norm is not None:
            x = self.norm(x)
        return self.finish(x)

    def _fused_forward(self, x: Tensor) -> Tensor:
        weight = quantize_weight(self.weight, self.config.tensor("weight"), self.owner)
        norm = fused.FusedNorm.of(self.config, self.activation, self.owner, self.compiles_passes)
        made = self.fused_product(x, weight, norm)
        self.norm.input.follow(made.low, made.high)
        self.norm.follow(mean=made.mean, scale=made.scale)
        self.output.follow(made.output_low, made.output_high)
        return made.output

    def _folded_forward(self, x: Tensor) -> Tensor:
        """Norm folded into the weights, arXiv 1712.05877 figure C.8, with the correction of
        arXiv 1806.08342 section 3.2.2: the weights are scaled to the running deviation, and until
        the freeze the result by running / batch deviation."""
        norm, options = self.norm, self.config.norm
        frozen = not self.training or (options.freeze_after is not None
                                       and norm.batches.item() >= options.freeze_after)
        shape = (1, -1) + (1,) * (self.weight.dim() - 2)
        if frozen:
            mean, deviation = norm.running_mean, torch.sqrt(norm.running_variance + EPSILON)
            x = self.quantized_product(x, self._folded(self.weight), None)
        else:
            mean, variance = norm.batch_statistics(self.product(x, self.weight, None))
            deviation = torch.sqrt(variance + EPSILON)
            x = self.quantized_product(x, self._folded(self.weight), None)
            running = torch.sqrt(norm.running_variance + EPSILON)
            x = x * (running / deviation).view(shape)
        return x + (norm.bias - norm.weight * mean / deviation).view(shape)


class QConv2d(WeightedLayer):
    """2-D convolution, optionally normalized and with ReLU: (N, I, H, W) -> (N, O, H', W').

    padding: zeros on each side, (vertical, horizontal), one number, or (top, left, bottom, right).
    norm: append the recipe's
    normalization (then no bias). zero_init: initialise gamma to 0, for the last layer of a
    residual branch.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size=3, *, stride=1, padding=0,
                 dilation=1, groups: int = 1, norm: bool = True, activation: str | None = None,
                 zero_init: bool = False, config: Recipe = EIGHT_BIT):
        super().__init__(config.for_layer("conv"), activation)
        self.stride, self.padding, self.dilation = pair(stride), pair(padding), pair(dilation)
        self.groups = groups
        weight = torch.empty(out_channels, in_channels // groups, *pair(kernel_size))
        nn.init.kaiming_normal_(weight, mode="fan_out", nonlinearity="relu")
        self._build(weight, norm, zero_init)

    def padded(self, x: Tensor) -> tuple[Tensor, tuple[int, int]]:
        """x and the padding left to do: (0, 0) where that of single sides is done here."""
        if len(self.padding) == 2:
            return x, self.padding
        return pad_sides(x, self.padding), (0, 0)

    def _with_geometry(self, x: Tensor) -> tuple[Tensor, tuple]:
        """x and the (stride, padding, dilation, groups) to convolve it with.

        A strided 1x1 convolution of few channels takes every stride-th value instead: torch 2.13's
        weight gradient of it on a CPU writes past its buffer for 2 to 6 channels_last channels.
        """
        x, padding = self.padded(x)
        geometry = self.stride, padding, self.dilation, self.groups
        if self.weight.shape[2:].numel() > 1 or self.weight.shape[1] > 7 or max(self.stride) == 1:
            return x, geometry
        down, right = self.stride
        x = pad_sides(x, four_sides(padding))
        return x[..., ::down, ::right], ((1, 1), (0, 0), self.dilation, self.groups)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """The convolution of x, its gradient bifurcated where the recipe quantizes."""
        x, geometry = self._with_geometry(x)
        if not self.config.quantize:
            return F.conv2d(x, weight, bias, *geometry)
        return BifurcatedConv2dFunction.apply(x, weight, bias, *geometry, self.config, self.owner)

    def fused_product(self, x: Tensor, weight: Tensor, norm: fused.FusedNorm) -> fused.Normalized:
        """Convolution, norm, activation and output quantizer with merged passes."""
        x, geometry = self._with_geometry(x)
        return fused.conv_norm_activation_quantize(x, weight, self.norm.weight, self.norm.bias,
                                                   geometry, norm)


class QLinear(WeightedLayer):
    """Fully connected layer, optionally normalized and with ReLU: (N, I) -> (N, O)."""

    def __init__(self, in_features: int, out_features: int, *, norm: bool = False,
                 activation: str | None = None, config: Recipe = EIGHT_BIT):
        super().__init__(config.for_layer("linear"), activation)
        weight = torch.empty(out_features, in_features)
        nn.init.kaiming_uniform_(weight, a=5**0.5)
        self._build(weight, norm, False)

    def product(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """x @ weight.T + bias, its gradient bifurcated where the recipe quantizes."""
        if not self.config.quantize:
            return F.linear(x, weight, bias)
        return BifurcatedLinearFunction.apply(x, weight, bias, self.config, self.owner)

    def fused_product(self, x: Tensor, weight: Tensor, norm: fused.FusedNorm) -> fused.Normalized:
        """The product, then norm, activation and output quantizer with merged passes."""
        return fused.norm_activation_quantize(self.product(x, weight, None), self.norm.weight,
                                              self.norm.bias, norm)


class QAdd(QLayer):
    """Sum of two quantized tensors of one shape, optionally with ReLU."""

    def __init__(self, *, activation: str | None = None, config: Recipe = EIGHT_BIT):
        super().__init__(config, activation)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.finish(a, b)


class QAvgPool2d(QLayer):
    """Average over windows: (N, C, H, W) -> (N, C, H', W'). No padding."""

    def __init__(self, kernel_size, *, stride=None, config: Recipe = EIGHT_BIT):
        super().__init__(config)
        self.kernel_size = pair(kernel_size)
        self.stride = pair(kernel_size if stride is None else stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(F.avg_pool2d(x, self.kernel_size, self.stride))


class QGlobalAvgPool2d(QLayer):
    """Average over the whole map: (N, C, H, W) -> (N, C, 1, 1)."""

    def __init__(self, config: Recipe = EIGHT_BIT):
        super().__init__(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(x.mean((2, 3), keepdim=True))


@torch.no_grad()
def round_stored_weights(model: nn.Module) -> None:
    """U, the update: put every stored weight on the grid of ``recipe.update``, in place.

    To be called after the optimizer's step; nothing happens where ``update.bits`` is None.
    """
    from sw.quantize.ranges import extremes, spread, symmetric_scale
    from sw.quantize.rounding import round_to_integer

    for layer in model.modules():
        if not isinstance(layer, WeightedLayer):
            continue
        recipe = layer.config.tensor("update")
        if recipe.enabled:
            low, high = extremes(layer.weight, recipe, 0, layer.owner)
            scale = spread(symmetric_scale(low, high, recipe), layer.weight, recipe, 0)
            codes = round_to_integer(layer.weight / scale, recipe.rounding)
            layer.weight.copy_(codes.clamp_(*recipe.code_bounds) * scale)

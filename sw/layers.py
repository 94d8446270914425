"""Layers trained in 8 bits. Every layer's output is one int8 tensor, quantized at its producer.

A convolution or linear layer computes, in this order: quantized weights, one convolution,
optional RangeBN, optional ReLU, output quantizer. Its gradient is bifurcated (arXiv 1805.11046,
section 4): the gradient to the input uses the 8-bit, stochastically rounded copy of the incoming
gradient, the gradient to weight and bias the 16-bit copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from golden.errors import LockstepError
from sw.quantizers import (
    EIGHT_BIT,
    ActivationQuantizer,
    Quantize8Bit,
    quantize_weight,
    split_gradient,
)
from sw.range_norm import RangeBatchNorm

ACTIVATIONS = (None, "relu", "relu6")


def _pair(value: int | tuple[int, int]) -> tuple[int, int]:
    return (value, value) if isinstance(value, int) else tuple(value)


class BifurcatedConv2dFunction(torch.autograd.Function):
    """Convolution with one forward pass and two differently rounded gradients.

    forward(x (N, I, H, W), weight (O, I/groups, kh, kw), bias (O,) or None, stride, padding,
    dilation, groups) -> (N, O, H', W').
    """

    @staticmethod
    def forward(ctx, x, weight, bias, stride, padding, dilation, groups):
        ctx.save_for_backward(x, weight)
        ctx.geometry = stride, padding, dilation, groups
        ctx.bias_size = None if bias is None else [len(bias)]
        return F.conv2d(x, weight, bias, stride, padding, dilation, groups)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.geometry
        want_x, want_weight, want_bias = ctx.needs_input_grad[:3]
        g16, g8 = split_gradient(gradient, want8=want_x)

        def products(g, mask):
            return torch.ops.aten.convolution_backward(
                g, x, weight, ctx.bias_size, stride, padding, dilation, False, [0, 0], groups,
                mask)

        grad_x = products(g8, [True, False, False])[0] if want_x else None
        _, grad_weight, grad_bias = products(g16, [False, want_weight, want_bias])
        return grad_x, grad_weight, grad_bias, None, None, None, None


class BifurcatedLinearFunction(torch.autograd.Function):
    """Linear layer with two differently rounded gradients: x (N, I), weight (O, I) -> (N, O)."""

    @staticmethod
    def forward(ctx, x, weight, bias):
        ctx.save_for_backward(x, weight)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx, gradient):
        x, weight = ctx.saved_tensors
        want_x, want_weight, want_bias = ctx.needs_input_grad
        g16, g8 = split_gradient(gradient, want8=want_x)
        return (g8 @ weight if want_x else None,
                g16.t() @ x if want_weight else None,
                g16.sum(0) if want_bias else None)


class QLayer(nn.Module):
    """Base of the layers that produce an int8 tensor: activation function, output quantizer.

    activation: None, "relu" or "relu6"; lowering turns it into clamp bounds.
    """

    def __init__(self, config: Quantize8Bit, activation: str | None = None):
        super().__init__()
        if activation not in ACTIVATIONS:
            raise LockstepError(f"Activation must be one of {ACTIVATIONS}, not {activation!r}")
        self.config = config
        self.activation = activation
        self.output = ActivationQuantizer(config)

    def finish(self, x: Tensor) -> Tensor:
        """Activation function, then the output quantizer."""
        if self.activation == "relu":
            x = F.relu(x)
        elif self.activation == "relu6":
            x = F.relu6(x)
        return self.output(x)


class QInput(QLayer):
    """The network's input: float32 (N, ...) onto the int8 grid. A host step after lowering."""

    def __init__(self, config: Quantize8Bit = EIGHT_BIT):
        super().__init__(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(x)


class QConv2d(QLayer):
    """2-D convolution, optionally with RangeBN and ReLU: (N, I, H, W) -> (N, O, H', W').

    padding: zeros on each side, (vertical, horizontal) or one number. norm: append RangeBN (then
    no bias). zero_init: initialise gamma to 0, for the last layer of a residual branch.
    """

    def __init__(self, in_channels: int, out_channels: int, kernel_size=3, *, stride=1, padding=0,
                 dilation=1, groups: int = 1, norm: bool = True, activation: str | None = None,
                 zero_init: bool = False, config: Quantize8Bit = EIGHT_BIT):
        super().__init__(config, activation)
        self.stride, self.padding, self.dilation = _pair(stride), _pair(padding), _pair(dilation)
        self.groups = groups
        kernel = _pair(kernel_size)
        self.weight = nn.Parameter(torch.empty(out_channels, in_channels // groups, *kernel))
        nn.init.kaiming_normal_(self.weight, mode="fan_out", nonlinearity="relu")
        self.bias = None if norm else nn.Parameter(torch.zeros(out_channels))
        self.norm = RangeBatchNorm(out_channels, config, zero_init) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        geometry = self.stride, self.padding, self.dilation, self.groups
        if self.config.quantize:
            weight = quantize_weight(self.weight)
            x = BifurcatedConv2dFunction.apply(x, weight, self.bias, *geometry)
        else:
            x = F.conv2d(x, self.weight, self.bias, *geometry)
        if self.norm is not None:
            x = self.norm(x)
        return self.finish(x)


class QLinear(QLayer):
    """Fully connected layer, optionally with RangeBN and ReLU: (N, I) -> (N, O)."""

    def __init__(self, in_features: int, out_features: int, *, norm: bool = False,
                 activation: str | None = None, config: Quantize8Bit = EIGHT_BIT):
        super().__init__(config, activation)
        self.weight = nn.Parameter(torch.empty(out_features, in_features))
        nn.init.kaiming_uniform_(self.weight, a=5**0.5)
        self.bias = None if norm else nn.Parameter(torch.zeros(out_features))
        self.norm = RangeBatchNorm(out_features, config) if norm else None

    def forward(self, x: Tensor) -> Tensor:
        if self.config.quantize:
            x = BifurcatedLinearFunction.apply(x, quantize_weight(self.weight), self.bias)
        else:
            x = F.linear(x, self.weight, self.bias)
        if self.norm is not None:
            x = self.norm(x)
        return self.finish(x)


class QAdd(QLayer):
    """Sum of two int8 tensors of one shape, optionally with ReLU."""

    def __init__(self, *, activation: str | None = None, config: Quantize8Bit = EIGHT_BIT):
        super().__init__(config, activation)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.finish(a + b)


class QAvgPool2d(QLayer):
    """Average over windows: (N, C, H, W) -> (N, C, H', W'). No padding."""

    def __init__(self, kernel_size, *, stride=None, config: Quantize8Bit = EIGHT_BIT):
        super().__init__(config)
        self.kernel_size = _pair(kernel_size)
        self.stride = _pair(kernel_size if stride is None else stride)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(F.avg_pool2d(x, self.kernel_size, self.stride))


class QGlobalAvgPool2d(QLayer):
    """Average over the whole map: (N, C, H, W) -> (N, C, 1, 1)."""

    def __init__(self, config: Quantize8Bit = EIGHT_BIT):
        super().__init__(config)

    def forward(self, x: Tensor) -> Tensor:
        return self.finish(x.mean((2, 3), keepdim=True))

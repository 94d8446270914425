"""CONV_2D, DEPTHWISE_CONV_2D and FULLY_CONNECTED.

The convolutions rescale by double(S_in) * double(S_w) / double(S_out) with two roundings
(kernel_util.cc, PopulateConvolutionQuantizationParams; reference/integer_ops/conv.h);
FULLY_CONNECTED rounds the product with that double (reference/integer_ops/fully_connected.h).
"""

import numpy as np
import tflite

from golden import ops
from golden.float_product import float_product
from sw.formats.tflite.builder import Builder, activation_bounds, gemmlowp_rescale
from sw.formats.tflite.graph import OperatorInfo, TensorInfo, check_activation
from sw.formats.tflite.registry import converts, factor
from sw.formats.tflite.windows import WINDOW, padded_input, padding_of, strides

__all__ = ["conv_2d", "depthwise_conv_2d", "fully_connected"]

CONVOLUTION = {"fields": (*WINDOW, "DilationHFactor", "DilationWFactor"),
               "precision": np.float64, "takes_padding": True}

def _weights(operator: OperatorInfo, ndim: int, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """int8 weights and the float64 scale of each output channel or the single one."""
    weights = operator.constant(1, "weights", ("int8",), ndim)
    info = operator.inputs[1]
    if (info.zero_points != 0).any():
        wrong = int(info.zero_points[info.zero_points != 0][0])
        operator.refuse(f"weights must have zero point 0, not {wrong} (tensor {info.name!r})")
    n_scales, n_outputs = len(info.scales), weights.shape[axis]
    if n_scales != 1 and (n_scales != n_outputs or info.axis != axis):
        operator.refuse(f"weights must have 1 scale or one for each of the {n_outputs} outputs, "
                        f"not {n_scales} along axis {info.axis} (tensor {info.name!r})")
    if not (np.isfinite(info.scales) & (info.scales > 0)).all():
        operator.refuse(f"weights must have finite scales above 0 (tensor {info.name!r})")
    return weights, info.scales.astype(np.float64)


def _bias(operator: OperatorInfo, n_outputs: int) -> np.ndarray:
    if len(operator.inputs) < 3 or operator.inputs[2] is None:
        return np.zeros(n_outputs, np.int32)
    bias = operator.constant(2, "bias", ("int32",)).reshape(-1)
    if len(bias) != n_outputs:
        operator.refuse(f"bias must have {n_outputs} entries, not {len(bias)}")
    return bias


def _conv_op(operator: OperatorInfo, x: TensorInfo, weights: np.ndarray, scales: np.ndarray,
             groups: int, padding: tuple | None) -> ops.Conv2d:
    """weights: (O, I / groups, kh, kw); padding: None for that of the options."""
    kernel, dilation = weights.shape[2:], (operator.options["DilationHFactor"],
                                           operator.options["DilationWFactor"])
    check_activation(operator.output)
    factors = factor(operator, x.scale, scales, over=operator.output.scale)
    if padding is None:
        padding = padding_of(operator, x.shape[1:3], kernel, strides(operator), dilation)
    return ops.Conv2d(
        weights=weights, bias=_bias(operator, len(weights)), input_zero_point=x.zero_point,
        stride=strides(operator), dilation=dilation, groups=groups, padding=padding,
        rescale=gemmlowp_rescale(factors, operator.output, activation_bounds(operator)))


@converts("CONV_2D", options="Conv2DOptions", **CONVOLUTION)
def conv_2d(builder: Builder, operator: OperatorInfo) -> None:
    """In groups where the weights have fewer channels than the input."""
    x, padding = padded_input(builder, operator)
    weights, scales = _weights(operator, 4, 0)
    channels, per_group = x.shape[3], weights.shape[3]
    if channels % per_group:
        operator.refuse(f"{channels} input channels must be a multiple of the {per_group} "
                        f"of the weights")
    op = _conv_op(operator, x, weights.transpose(0, 3, 1, 2), scales, channels // per_group,
                  padding)
    builder.emit(operator, op, [builder.name(x)])


@converts("DEPTHWISE_CONV_2D", options="DepthwiseConv2DOptions", **CONVOLUTION)
def depthwise_conv_2d(builder: Builder, operator: OperatorInfo) -> None:
    """Output channel o sees input channel o // (O / I)."""
    x, padding = padded_input(builder, operator)
    weights, scales = _weights(operator, 4, 3)
    channels = x.shape[3]
    if weights.shape[0] != 1 or weights.shape[3] % channels:
        operator.refuse(f"weights must have shape (1, H, W, n * {channels}), "
                        f"not {weights.shape}")
    op = _conv_op(operator, x, weights.transpose(3, 0, 1, 2), scales, channels, padding)
    builder.emit(operator, op, [builder.name(x)])


@converts("FULLY_CONNECTED", options="FullyConnectedOptions", precision=np.float64,
          fields=("FusedActivationFunction", "KeepNumDims", "WeightsFormat"))
def fully_connected(builder: Builder, operator: OperatorInfo) -> None:
    """A Linear on the flattened input; pixel by pixel where the dimensions are kept."""
    x = operator.activation(0)
    if operator.options["WeightsFormat"] != tflite.FullyConnectedOptionsWeightsFormat.DEFAULT:
        operator.refuse("shuffled weights are not supported")
    weights, scales = _weights(operator, 2, 0)
    n_outputs, n_inputs = weights.shape
    check_activation(operator.output)
    by_pixel = x.size != n_inputs
    if by_pixel and x.shape[-1] != n_inputs:
        operator.refuse(f"an input of shape {list(x.shape)} must have {n_inputs} elements in all, "
                        f"or {n_inputs} channels")
    fields = {"bias": _bias(operator, n_outputs), "input_zero_point": x.zero_point}
    zeros = ops.Rescale(multiplier=[0], shift=[31], zero_point=0)
    probe = ops.Linear(weights=weights, rescale=zeros, **fields)
    factors = factor(operator, x.scale, scales, over=operator.output.scale)
    fields["rescale"] = _float_rescale(builder, operator, factors, probe)
    if by_pixel:
        source, _ = builder.image_of(operator, x)
        op = ops.Conv2d(weights=weights.reshape(n_outputs, n_inputs, 1, 1), **fields)
    else:
        source, op = builder.name(x), ops.Linear(weights=weights, **fields)
        if len(x.shape) != 2:
            source = builder.emit_part(operator, "flat", builder.reshape(source, (n_inputs,)),
                                       [source], x)
    builder.emit_shaped(operator, "linear", op, [source])


def _float_rescale(builder: Builder, operator: OperatorInfo, factors: np.ndarray,
                   op: ops.Linear) -> ops.Rescale:
    """The Rescale that rounds as the product with a double does; op bounds the accumulators."""
    low, high = activation_bounds(operator)
    output = operator.output
    smallest, largest = (values.tolist() for values in op.accumulator_bounds())
    if len(factors) == 1:
        smallest, largest = [min(smallest)], [max(largest)]
    results = [float_product(value, low - output.zero_point, high - output.zero_point, *bounds)
               for value, *bounds in zip(factors.tolist(), smallest, largest)]
    multiplier, shift, wrong = zip(*results)
    if any(wrong):
        builder.notes.append(
            f"{operator.kind} (tensor {output.name!r}): {sum(wrong)} steps of the output lie one "
            f"or more accumulator values beside those of the reference kernel")
    return ops.Rescale(multiplier=multiplier, shift=shift, zero_point=output.zero_point, low=low,
                       high=high)

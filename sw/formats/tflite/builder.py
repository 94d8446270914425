"""Collects the nodes and tensors of the Program; every node is named after the tensor it writes."""

from math import prod

import numpy as np
import tflite

from golden import ops
from golden.arith import INT8_MAX, INT8_MIN, SHIFT_MAX, Rounding, multiplier_and_shift
from golden.ops.elementwise import orders_agree
from golden.program import Quantization
from sw.formats.parts import Parts
from sw.formats.tflite.graph import check_activation

__all__ = ["Builder", "activation_bounds", "gemmlowp_rescale", "program_shape", "quantization_of",
           "round_half_away", "tflite_factor"]

ACTIVATIONS = {value: name for name, value in vars(tflite.ActivationFunctionType).items()
               if not name.startswith("_")}
BOUNDS = {"NONE": (None, None), "RELU": (0, None), "RELU6": (0, 6), "RELU_N1_TO_1": (-1, 1)}


def program_shape(shape) -> tuple:
    """A shape of the file, batch and channels last, to the Program's: no batch, channels first."""
    return (shape[-1], *shape[1:-1])


def quantization_of(info) -> Quantization:
    """The Quantization of a tensor of the file."""
    return Quantization(scale=info.scale, zero_point=info.zero_point)


def round_half_away(x) -> int:
    """float to the nearest integer, ties away from zero, as C's round."""
    return int(np.copysign(np.floor(np.abs(x) + 0.5), x))


def activation_bounds(operator, name=None) -> tuple[int, int]:
    """Clamp bounds of a fused activation, or of the one called ``name``, in output codes.

    The quotient is a float32, as in CalculateActivationRangeQuantized of kernel_util.cc.
    """
    name = name or ACTIVATIONS.get(operator.options["FusedActivationFunction"], "unknown")
    if name not in BOUNDS:
        operator.refuse(f"fused activation {name} is not supported; supported are "
                        f"{', '.join(BOUNDS)}")
    output = operator.output

    def code(value, limit):
        if value is None:
            return limit
        with np.errstate(over="ignore"):
            quotient = np.float32(value) / np.float32(output.scale)
        return int(np.clip(output.zero_point + round_half_away(float(quotient)), INT8_MIN,
                           INT8_MAX))

    low, high = BOUNDS[name]
    return code(low, INT8_MIN), code(high, INT8_MAX)


def tflite_factor(factor) -> tuple[int, int]:
    """QuantizeMultiplier of quantization_util.cc: factors below 2**-32 become 0."""
    if 0 < factor < 2.0 ** (30 - SHIFT_MAX):
        return multiplier_and_shift(0)
    return multiplier_and_shift(factor)


def gemmlowp_rescale(factors, output, bounds) -> ops.Rescale:
    """The two roundings of MultiplyByQuantizedMultiplier, common.cc. factors: floats, (C,) or one.

    bounds: (low, high) codes of the output.
    """
    multiplier, shift = zip(*(tflite_factor(factor) for factor in np.atleast_1d(factors)))
    return ops.Rescale(multiplier=np.array(multiplier, np.int64), shift=np.array(shift, np.int64),
                       zero_point=output.zero_point, low=bounds[0], high=bounds[1],
                       rounding=Rounding.GEMMLOWP)


class Builder(Parts):
    """The Program so far, its tensors called as in the file, which may call several alike."""

    def __init__(self, names):
        super().__init__(names)
        self.folded_pads = {}       # PADs that become part of a layer, by their output's number
        self._names, self._owners = {}, {}

    def name(self, info) -> str:
        """The Program's name of a tensor of the file: its own, or an invented one where another
        tensor came first."""
        if info.index not in self._names:
            owner = self._owners.setdefault(info.name, info.index)
            self._names[info.index] = info.name if owner == info.index else self.invent(info.name)
        return self._names[info.index]

    def source(self, info) -> None:
        """The Program's input is a tensor of the file."""
        check_activation(info)
        self.input(self.name(info), program_shape(info.shape), quantization_of(info))

    def emit(self, operator, op, inputs) -> None:
        """The node that writes the operator's output. inputs: names."""
        output = operator.output
        check_activation(output)
        self.node(self.name(output), op, inputs, quantization_of(output),
                  shape=program_shape(output.shape))

    def emit_part(self, operator, part, op, inputs, info) -> str:
        """A node before the last of an operator, its tensor quantized as ``info``; its name."""
        name = self.invent(f"{self.name(operator.output)}/{part}")
        return self.node(name, op, inputs, quantization_of(info))

    def emit_shaped(self, operator, part, op, inputs) -> None:
        """As `emit`, with a Reshape behind the node where the file's shape is another; ``part`` is
        then the node's name."""
        shape = program_shape(operator.output.shape)
        if tuple(self.output_shape(op, inputs)) == shape:
            return self.emit(operator, op, inputs)
        source = self.emit_part(operator, part, op, inputs, operator.output)
        self.emit(operator, self.reshape(source, shape), [source])

    def image_of(self, operator, x) -> tuple[str, tuple]:
        """(name, (height, width)) of an input as an image: itself at rank 4, else one column of
        its pixels, which are all axes between the batch and the channels."""
        source = self.name(x)
        if len(x.shape) == 4:
            return source, x.shape[1:3]
        size = (prod(x.shape[1:-1]), 1)
        op = self.reshape(source, (x.shape[-1], *size))
        return self.emit_part(operator, "image", op, [source], x), size

    def reshape(self, source, shape) -> ops.Reshape:
        """A Reshape of the tensor to ``shape``, elements in the order of the file."""
        given = self.tensors[source].shape
        return ops.Reshape(shape=tuple(shape), channels_last=not (orders_agree(given) and
                                                                  orders_agree(shape)))

    def same_quantization(self, operator, info) -> None:
        """LockstepError unless the output has the scale and zero point of ``info``."""
        output = operator.output
        check_activation(output)
        if (info.scale, info.zero_point) != (output.scale, output.zero_point):
            operator.refuse(f"input and output must share scale and zero point, not "
                            f"({info.scale}, {info.zero_point}) and "
                            f"({output.scale}, {output.zero_point})")

"""Operators on real values as float ONNX nodes: what `compute_real` of an operator is written in.

Values are the dequantized tensors that a node reads; the result is the real value before the
quantizer of the tensor that it writes. Factors of the Program are brought back to real ones by the
scales of these tensors.
"""

import numpy as np

from golden.arith import INT8_MAX, INT8_MIN
from golden.errors import LockstepError
from sw.formats.onnx.exporter.symbolic import Movements, Symbol

__all__ = ["ACTIVATION_STEPS", "Reals", "factors"]

FLOAT32 = np.finfo(np.float32)
ACTIVATION_STEPS = INT8_MAX - INT8_MIN      # between two codes


def factors(graph, values, what, hint, steps=1) -> str:
    """The name of factors whose multiples up to `steps` are float32; 0 is one of them.

    Raises LockstepError naming what they are, `what`, for those beyond float32 or subnormal there.
    """
    values = np.asarray(values, np.float64)
    low, high = float(FLOAT32.tiny), float(FLOAT32.max) / steps
    wrong = values[(values != 0) & ~((np.abs(values) >= low) & (np.abs(values) <= high))]
    if wrong.size:
        raise LockstepError(f"{what} must be in {low:.6g}..{high:.6g}, what float32 holds, "
                            f"not {abs(wrong[0]):.6g}")
    return graph.constant(values, "float32", hint)


def _real_factors(rescale, channels):
    """float64 (channels,): the real factors multiplier * 2**-shift of a `golden.ops.Rescale`."""
    real = np.ldexp(np.asarray(rescale.multiplier, dtype=np.float64),
                    -np.asarray(rescale.shift, dtype=np.int64))
    return np.broadcast_to(real.reshape(-1), (channels,)).copy()


def _dequantized(graph, value, scales, what, dtype):
    """Per-channel (axis 0) parameters with zero points of 0 as real values; what: they are."""
    zeros = graph.constant(np.zeros(len(scales)), dtype, "zero_points")
    scales = factors(graph, scales, f"Scale of the {what}", "scales", -np.iinfo(dtype).min)
    return graph.node("DequantizeLinear", value, scales, zeros, axis=0)


class Reals(Movements):
    """The primitives of one node.

    Arguments
        graph: GraphBuilder.
        sources, target: the `golden.program.Tensor`s that the node reads and writes.
    """

    def __init__(self, graph, sources, target):
        super().__init__(graph)
        self._sources, self._target = sources, target

    def _scales(self):
        """The scale of the products of all inputs, and of the output."""
        return (np.prod([source.quantization.scale for source in self._sources]),
                self._target.quantization.scale)

    def _parameters(self, weights, bias, rescale):
        """Dequantized weights and bias of a convolution or linear layer.

        The scale of each channel's weights follows from M = S_in * S_w / S_out. A channel with
        multiplier 0 is a constant.
        """
        graph, name = self.graph, self._target.name
        source, target = self._scales()
        scales = _real_factors(rescale, len(weights)) * target / source
        alive = scales > 0
        weights = np.where(alive.reshape((-1,) + (1,) * (weights.ndim - 1)), weights, 0)
        bias = np.where(alive, bias, 0)
        scales = np.where(alive, scales, 1.0)
        return (_dequantized(graph, graph.constant(weights, "int8", "weights"), scales,
                             f"weights of tensor {name}", "int8"),
                _dequantized(graph, graph.constant(bias, "int32", "bias"), scales * source,
                             f"bias of tensor {name}", "int32"))

    def convolution(self, x, weights, bias, rescale, *, stride, padding, dilation, groups
                    ) -> Symbol:
        """weights: int8 (O, I / groups, kh, kw), bias: int32 (O,) with the node's rescale."""
        parameters = self._parameters(weights, bias, rescale)
        return self._node("Conv", x, *parameters, kernel_shape=[int(n) for n in weights.shape[2:]],
                          strides=list(stride), pads=list(padding), dilations=list(dilation),
                          group=groups)

    def linear(self, x, weights, bias, rescale) -> Symbol:
        """weights: int8 (O, I), bias: int32 (O,) with the node's rescale."""
        return self._node("Gemm", x, *self._parameters(weights, bias, rescale), transB=1)

    def add(self, first, second) -> Symbol:
        """The sum."""
        return self._node("Add", first, second.name)

    def mul(self, first, second) -> Symbol:
        """The product, broadcast."""
        return self._node("Mul", first, second.name)

    def lookup(self, x, table) -> Symbol:
        """What a table of codes says of the input's codes, as real values."""
        source, target, graph = self._sources[0].quantization, self._target, self.graph
        scale = factors(graph, source.scale, f"Scale of tensor {self._sources[0].name}", "scale",
                        ACTIVATION_STEPS)
        codes = self._node("QuantizeLinear", x, scale,
                           graph.constant(source.zero_point, "int8", "zero_point"))
        index = graph.node("Add", graph.cast(codes.name, "int64"),
                           graph.constant(-INT8_MIN, "int64", "offset"))
        scale = target.quantization.scale
        reals = scale * (table.astype(np.float64) - target.quantization.zero_point)
        reals = factors(graph, reals, f"Table of tensor {target.name}", "table")
        return Symbol(graph.node("Gather", reals, index, axis=0), x.shape)

    def average_pool(self, x, kernel, stride, padding, counts_padding) -> Symbol:
        """The average of each window."""
        return self._node("AveragePool", x, kernel_shape=list(kernel), strides=list(stride),
                          pads=list(padding), count_include_pad=int(counts_padding))

    def global_average(self, x) -> Symbol:
        """The average of each map."""
        return self._node("GlobalAveragePool", x)

    def gained(self, x, rescale, count=1) -> Symbol:
        """x times what the factors say beyond S_in / (S_out * count), if anything."""
        source, target = self._scales()
        gains = _real_factors(rescale, rescale.n_channels) * target * count / source
        gains = gains.reshape(self._channels())
        if np.allclose(gains, 1.0, rtol=1e-6, atol=0.0):
            return x
        return self._node("Mul", x, factors(self.graph, gains, f"Gain of tensor "
                                            f"{self._target.name}", "gain"))

    def affine(self, x, slope, offset) -> Symbol:
        """The real form of slope * code + offset = output code, float64 (C,) each."""
        source, target = self._sources[0].quantization, self._target.quantization
        offset = offset + slope * source.zero_point - target.zero_point
        gain = slope * target.scale / source.scale
        name = self._target.name
        gain = factors(self.graph, gain.reshape(self._channels()), f"Gain of tensor {name}", "gain")
        offset = (offset * target.scale).reshape(self._channels())
        product = self._node("Mul", x, gain)
        return self._node("Add", product, factors(self.graph, offset, f"Offset of tensor {name}",
                                                  "offset"))

    def _channels(self):
        return (1, -1) + (1,) * (len(self._sources[0].shape) - 1)

    def _node(self, op_type, x, *parameters, **attributes):
        """A value of which only the name counts: it becomes the node's output."""
        return Symbol(self.graph.node(op_type, x.name, *parameters, **attributes), x.shape)

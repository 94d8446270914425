"""Small random Programs for the tests of every executor, and inputs for them.

Each function takes a seed and gives a verified-size Program whose tensors use most of the int8
range, so that a wrong bit anywhere is visible at the output.
"""

import numpy as np

from golden import ops
from golden.arith import Rounding, multiplier_and_shift
from golden.ops.range_norm import RangeNormConfig
from golden.program import Quantization
from golden.program.builder import ProgramBuilder

CODE_DEVIATION = 40.0  # codes; the standard deviation aimed at for every tensor


def quantization(scale, zero_point):
    """The Quantization of numbers of any kind."""
    return Quantization(scale=float(scale), zero_point=int(zero_point))


class Maker:
    """Builds a Program node by node; every method takes and returns tensor names."""

    def __init__(self, name, input_shape, seed, rounding=Rounding.HALF_UP):
        self.name, self.rounding = name, rounding
        self.rng = np.random.default_rng(seed)
        self.builder = ProgramBuilder()
        self.nodes, self.tensors = self.builder.nodes, self.builder.tensors
        self.input = self.builder.input("input", input_shape,
                                        quantization(1 / 32, self._zero_point()))

    def _zero_point(self):
        return int(self.rng.integers(-30, 31))

    def _append(self, kind, op, inputs, scale, zero_point):
        name = f"{kind}{len(self.nodes)}"
        return self.builder.node(name, op, inputs, quantization(scale, zero_point),
                                 outputs=[f"{name}_out"])

    def _quantization(self, name):
        quantization = self.builder.quantization(name)
        return quantization.scale, quantization.zero_point

    def _rescale(self, factors, zero_point, relu=False):
        return ops.Rescale.from_factors(factors, zero_point=zero_point,
                                        low=zero_point if relu else -128, rounding=self.rounding)

    def _products(self, x, weights, relu):
        """Rescale, bias and output scale of a layer with these weights."""
        scale, input_zero_point = self._quantization(x)
        n_outputs, depth = weights.shape[0], weights[0].size
        mean_factor = CODE_DEVIATION / (np.sqrt(depth) * 73.0 * CODE_DEVIATION)
        spread = self.rng.uniform(0.5, 1.5, n_outputs)
        weight_scale = 1 / 64
        zero_point = -100 if relu else self._zero_point()
        bias = self.rng.normal(0, 0.2 * CODE_DEVIATION / mean_factor, n_outputs).astype(np.int32)
        fields = dict(weights=weights, bias=bias, input_zero_point=input_zero_point,
                      rescale=self._rescale(mean_factor * spread, zero_point, relu))
        return fields, scale * weight_scale / mean_factor, zero_point

    def _weights(self, shape):
        return self.rng.integers(-127, 128, shape).astype(np.int8)

    def conv(self, x, channels, kernel=(3, 3), padding=(1, 1, 1, 1), groups=1, relu=False,
             **geometry):
        weights = self._weights((channels, self.tensors[x].shape[0] // groups, *kernel))
        fields, scale, zero_point = self._products(x, weights, relu)
        op = ops.Conv2d(padding=padding, groups=groups, **geometry, **fields)
        return self._append("conv", op, [x], scale, zero_point)

    def linear(self, x, outputs, relu=False):
        weights = self._weights((outputs, self.tensors[x].shape[0]))
        fields, scale, zero_point = self._products(x, weights, relu)
        return self._append("linear", ops.Linear(**fields), [x], scale, zero_point)

    def add(self, x, y, relu=False, left_shift=20):
        (s1, z1), (s2, z2) = self._quantization(x), self._quantization(y)
        zero_point, twice = self._zero_point(), 2 * max(s1, s2)
        scale = 1.2 * max(s1, s2)
        op = ops.Add(input_zero_points=(z1, z2), left_shift=left_shift,
                     input_rescales=(multiplier_and_shift(s1 / twice),
                                     multiplier_and_shift(s2 / twice)),
                     rescale=self._rescale(twice / scale / 2 ** left_shift, zero_point, relu))
        return self._append("add", op, [x, y], scale, zero_point)

    def max_pool(self, x, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0)):
        op = ops.MaxPool(kernel=kernel, stride=stride, padding=padding)
        return self._append("max_pool", op, [x], *self._quantization(x))

    def average_pool(self, x, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0)):
        (scale, input_zero_point), zero_point = self._quantization(x), self._zero_point()
        rescale = self._rescale(2 / (kernel[0] * kernel[1]), zero_point)
        op = ops.AveragePool(kernel=kernel, stride=stride, padding=padding,
                             input_zero_point=input_zero_point, rescale=rescale)
        return self._append("average_pool", op, [x], scale / 2, zero_point)

    def code_average_pool(self, x, kernel=(2, 2), stride=(2, 2), padding=(0, 0, 0, 0), **bounds):
        op = ops.CodeAveragePool(kernel=kernel, stride=stride, padding=padding, **bounds)
        return self._append("code_average_pool", op, [x], *self._quantization(x))

    def global_average_pool(self, x):
        (scale, input_zero_point), zero_point = self._quantization(x), self._zero_point()
        window = self.tensors[x].shape[1:]
        rescale = self._rescale(1.5 / (window[0] * window[1]), zero_point)
        op = ops.GlobalAveragePool(input_zero_point=input_zero_point, rescale=rescale,
                                   window=window)
        return self._append("global_average_pool", op, [x], scale / 1.5, zero_point)

    def concat(self, *inputs, axis=1):
        return self._append("concat", ops.Concat(axis=axis), inputs, *self._quantization(inputs[0]))

    def flatten(self, x, channels_last=False):
        op = ops.Reshape(shape=(int(np.prod(self.tensors[x].shape)),), channels_last=channels_last)
        return self._append("flatten", op, [x], *self._quantization(x))

    def clamp(self, x, low, high):
        return self._append("clamp", ops.Clamp(low=low, high=high), [x], *self._quantization(x))

    def rescaling(self, x, factor):
        (scale, input_zero_point), zero_point = self._quantization(x), self._zero_point()
        op = ops.Rescaling(input_zero_point=input_zero_point,
                           rescale=self._rescale(factor, zero_point))
        return self._append("rescaling", op, [x], scale / float(np.mean(factor)), zero_point)

    def mul(self, x, y, relu=False):
        (s1, z1), (s2, z2) = self._quantization(x), self._quantization(y)
        zero_point, factor = self._zero_point(), 1 / 160
        op = ops.Mul(input_zero_points=(z1, z2), rescale=self._rescale(factor, zero_point, relu))
        return self._append("mul", op, [x, y], s1 * s2 / factor, zero_point)

    def lookup(self, x, function, scale, zero_point):
        """A table of a function of real values."""
        codes = np.arange(-128, 128)
        s, z = self._quantization(x)
        table = np.floor(function(s * (codes - z)) / scale + 0.5) + zero_point
        op = ops.Lookup(table=np.clip(table, -128, 127).astype(np.int8))
        return self._append("lookup", op, [x], scale, zero_point)

    def range_norm(self, x, relu=False):
        (scale, zero_point), channels = self._quantization(x), self.tensors[x].shape[0]
        op = ops.RangeNorm.from_running(
            mean=self.rng.normal(0, 10, channels) * scale, eps=1e-5, input_scale=scale,
            sigma=self.rng.uniform(0.5, 2, channels), gamma=self.rng.normal(1, 0.5, channels),
            beta=self.rng.normal(0, 0.5, channels), input_zero_point=zero_point,
            output_scale=1 / 32, output_zero_point=-10, low=-10 if relu else -128)
        return self._append("range_norm", op, [x], 1 / 32, -10)

    def batch_range_norm(self, x, n_images):
        """Batch statistics: the program then takes batches of n_images alone."""
        (scale, _), (channels, *size) = self._quantization(x), self.tensors[x].shape
        batch = RangeNormConfig.from_floats(
            count=n_images * int(np.prod(size)), gamma=self.rng.normal(1, 0.5, channels),
            beta=self.rng.normal(0, 0.5, channels), eps=1e-5, input_scale=scale,
            output_scale=1 / 32, output_zero_point=5)
        return self._append("range_norm", ops.RangeNorm(batch=batch), [x], 1 / 32, 5)

    def program(self, output, layout="NCHW", **metadata):
        return self.builder.build(self.name, output, input_layout=layout, metadata=metadata)


def residual_net(seed=0, rounding=Rounding.HALF_UP):
    """Two residual blocks, the second with a strided shortcut, pooled to ten outputs."""
    make = Maker("residual", (1, 8, 8), seed, rounding)
    x = make.conv(make.input, 8, relu=True)
    y = make.conv(make.conv(x, 8, relu=True), 8)
    x = make.add(x, y, relu=True)
    y = make.conv(make.conv(x, 12, stride=(2, 2), relu=True), 12)
    shortcut = make.conv(x, 12, kernel=(1, 1), padding=(0, 0, 0, 0), stride=(2, 2))
    x = make.flatten(make.global_average_pool(make.add(shortcut, y)))
    return make.program(make.linear(x, 10), accuracy={"integer": 0.5})


def linear_net(seed=0, rounding=Rounding.HALF_UP):
    """Three fully connected layers on a vector."""
    make = Maker("linear", (37,), seed, rounding)
    x = make.linear(make.input, 24, relu=True)
    return make.program(make.linear(make.linear(x, 17, relu=True), 5))


def pool_net(seed=0, rounding=Rounding.HALF_UP):
    """Every pool, with padding, a clamp and rescales with factors above and below one."""
    make = Maker("pools", (3, 11, 9), seed, rounding)
    x = make.max_pool(make.input, (3, 3), (2, 1), (1, 0, 1, 2))
    x = make.average_pool(x, (3, 2), (1, 2), (1, 1, 0, 0))
    x = make.rescaling(make.clamp(x, -90, 100), [1.7, 0.4, 0.9])
    return make.program(make.global_average_pool(x))


def code_average_net(seed=0, rounding=Rounding.HALF_UP):
    """Averages of codes with even and odd counts, and a flattening that keeps channels last."""
    make = Maker("code_averages", (5, 8, 7), seed, rounding)
    x = make.code_average_pool(make.input, (3, 3), (1, 1), (1, 1, 1, 1))
    x = make.code_average_pool(x, (2, 3), (2, 1), (1, 1, 0, 1), low=-90, high=100)
    x = make.code_average_pool(make.conv(x, 6), (2, 2), (2, 3))
    return make.program(make.linear(make.flatten(x, channels_last=True), 7))


def conv_shapes_net(seed=0, rounding=Rounding.HALF_UP):
    """Groups, depthwise, dilation, uneven strides, kernels and padding."""
    make = Maker("conv_shapes", (4, 10, 9), seed, rounding)
    x = make.conv(make.input, 6, kernel=(3, 2), padding=(2, 0, 1, 1), stride=(1, 2), groups=2)
    x = make.conv(x, 6, groups=6)
    x = make.conv(x, 5, dilation=(2, 1), padding=(2, 1, 2, 1), relu=True)
    return make.program(make.conv(x, 3, kernel=(1, 3), padding=(0, 0, 0, 0), stride=(2, 1)))


def concat_net(seed=0, rounding=Rounding.HALF_UP):
    """Two pooled branches joined along the channels, with a wide and a narrow add."""
    make = Maker("concat", (2, 6, 6), seed, rounding)
    x = make.conv(make.input, 4, relu=True)
    joined = make.concat(make.max_pool(x), make.max_pool(x, (3, 3), (2, 2), (1, 1, 0, 0)))
    y = make.add(joined, make.conv(joined, 8), left_shift=3)
    return make.program(make.linear(make.flatten(y), 4))


def norm_net(seed=0, rounding=Rounding.HALF_UP):
    """Convolutions with RangeBN kept apart, running statistics; images arrive as NHWC."""
    make = Maker("norm", (2, 7, 7), seed, rounding)
    x = make.range_norm(make.conv(make.input, 6), relu=True)
    x = make.range_norm(make.conv(x, 5, stride=(2, 2)))
    return make.program(make.linear(make.range_norm(make.flatten(x)), 4), layout="NHWC")


def gate_net(seed=0, rounding=Rounding.HALF_UP):
    """Squeeze-and-excitation between tables: a gate per channel, and one per pixel."""
    make = Maker("gates", (3, 7, 6), seed, rounding)

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))
    x = make.conv(make.input, 6)
    x = make.mul(x, make.lookup(x, sigmoid, 1 / 256, -128))
    gate = make.conv(make.global_average_pool(x), 3, (1, 1), (0, 0, 0, 0), relu=True)
    gate = make.conv(gate, 6, (1, 1), (0, 0, 0, 0))
    x = make.mul(x, make.lookup(gate, lambda v: sigmoid(4 * v), 1 / 256, -128), relu=True)
    return make.program(make.linear(make.flatten(x), 5))


def batch_norm_net(n_images, seed=0):
    """RangeBN with the statistics of a batch of n_images: a training graph."""
    make = Maker("batch_norm", (2, 7, 7), seed)
    return make.program(make.batch_range_norm(make.conv(make.input, 6), n_images))


def sequence_net(length, size, channels=8):
    """Convolutions of a sequence (C, L) that is seen as an image (C, *size) by reshapes."""
    make = Maker("sequence_net", (channels, length), seed=length)

    def seen_as(x, shape):
        return make._append("view", ops.Reshape(shape=shape, channels_last=True), [x],
                            *make._quantization(x))
    x = make.input
    for _ in range(2):
        x = make.conv(seen_as(x, (channels, *size)), channels, kernel=(1, 3), padding=(0, 1, 0, 1))
        x = seen_as(x, (channels, length))
        x = make.add(x, x)
    return make.program(x)


def pixel_net():
    """Everything that fully connected networks have; each tensor is a single pixel."""
    make = Maker("pixels", (21,), 0)
    x = make.linear(make.input, 37)
    y = make.lookup(make.linear(make.clamp(x, -90, 80), 37), np.tanh, 1 / 128, 0)
    z = make.rescaling(make.mul(make.add(x, y), y), 0.9)
    return make.program(make.flatten(make.linear(z, 5)))


def small_programs(seed=0):
    """Dict by name: every program above with half-up rounding, and three with gemmlowp's."""
    programs = {make.__name__: make(seed) for make in
                (residual_net, linear_net, pool_net, code_average_net, conv_shapes_net, concat_net,
                 norm_net, gate_net)}
    for make in (residual_net, pool_net, conv_shapes_net):
        programs[f"{make.__name__}_gemmlowp"] = make(seed, Rounding.GEMMLOWP)
    return programs


def random_codes(program, n_images=4, seed=1):
    """int8 codes (N, ...) for the program's input, the extremes of the range included."""
    shape = program.input_shape
    rng = np.random.default_rng(seed)
    codes = np.clip(rng.normal(0, 50, (n_images, *shape)).round(), -128, 127).astype(np.int8)
    if n_images > 2:
        codes[-1], codes[-2] = -128, 127
    return codes

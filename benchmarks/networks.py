"""MLPerf Tiny's networks and ResNet-18 as Programs with random int8 weights.

Shapes are those of `models`; the rescales keep every tensor spread over the codes, so that a wrong
bit anywhere is visible at the output. Golden only, no torch.
"""

import numpy as np

from golden import ops
from golden.arith import multiplier_and_shift
from golden.program import Program, Quantization
from golden.program.builder import ProgramBuilder

__all__ = ["autoencoder", "ds_cnn", "mobilenet_v1_025", "resnet8", "resnet18"]

_DEVIATION = 40.0  # codes; the standard deviation aimed at for every tensor
_WEIGHT_DEVIATION = 73.0  # of uniform weights in -127..127


def _quantization_of(scale, zero_point):
    """The Quantization of numbers of any kind."""
    return Quantization(scale=float(scale), zero_point=int(zero_point))


class _Maker:
    """Builds a Program layer by layer; every method takes and returns tensor names."""

    def __init__(self, name, input_shape):
        self.name = name
        self.rng = np.random.default_rng(0)
        self.builder = ProgramBuilder()
        self.nodes, self.tensors = self.builder.nodes, self.builder.tensors
        self.input = self.builder.input("input", input_shape, _quantization_of(1 / 32, 3))

    def _append(self, kind, op, inputs, scale, zero_point):
        name = f"{kind}{len(self.nodes)}"
        return self.builder.node(name, op, inputs, _quantization_of(scale, zero_point),
                                 outputs=[f"{name}_out"])

    def _quantization(self, name):
        quantization = self.builder.quantization(name)
        return quantization.scale, quantization.zero_point

    def _zero_point(self, relu):
        return -100 if relu else int(self.rng.integers(-20, 21))

    def _products(self, x, weights, relu):
        """Fields of a layer with these weights, and its output's scale and zero point."""
        scale, input_zero_point = self._quantization(x)
        factor = _DEVIATION / (np.sqrt(weights[0].size) * _WEIGHT_DEVIATION * _DEVIATION)
        n_outputs, zero_point = len(weights), self._zero_point(relu)
        factors = factor * self.rng.uniform(0.5, 1.5, n_outputs)
        bias = self.rng.normal(0, 0.2 * _DEVIATION / factor, n_outputs).astype(np.int32)
        fields = dict(weights=weights, bias=bias, input_zero_point=input_zero_point,
                      rescale=ops.Rescale.from_factors(
                          factors, zero_point=zero_point, low=zero_point if relu else -128))
        return fields, scale / 64 / factor, zero_point

    def _weights(self, *shape):
        return self.rng.integers(-127, 128, shape).astype(np.int8)

    def conv(self, x, channels, kernel, *, stride=1, padding=0, groups=1, relu=True):
        """padding: all sides alike, or (rows, columns)."""
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        top, left = (padding, padding) if isinstance(padding, int) else padding
        weights = self._weights(channels, self.tensors[x].shape[0] // groups, *kernel)
        fields, scale, zero_point = self._products(x, weights, relu)
        op = ops.Conv2d(stride=(stride, stride), padding=(top, left, top, left), groups=groups,
                        **fields)
        return self._append("conv", op, [x], scale, zero_point)

    def depthwise(self, x, *, stride=1):
        """3x3, padded by 1."""
        channels = self.tensors[x].shape[0]
        return self.conv(x, channels, 3, stride=stride, padding=1, groups=channels)

    def linear(self, x, outputs, relu=False):
        weights = self._weights(outputs, self.tensors[x].shape[0])
        fields, scale, zero_point = self._products(x, weights, relu)
        return self._append("linear", ops.Linear(**fields), [x], scale, zero_point)

    def add(self, x, y):
        """Followed by a ReLU."""
        (s0, z0), (s1, z1) = self._quantization(x), self._quantization(y)
        zero_point, twice, scale = self._zero_point(True), 2 * max(s0, s1), 1.2 * max(s0, s1)
        op = ops.Add(
            input_zero_points=(z0, z1), left_shift=20,
            input_rescales=(multiplier_and_shift(s0 / twice), multiplier_and_shift(s1 / twice)),
            rescale=ops.Rescale.from_factors(twice / scale / 2 ** 20, zero_point=zero_point,
                                             low=zero_point))
        return self._append("add", op, [x, y], scale, zero_point)

    def max_pool(self, x, kernel, stride, padding):
        op = ops.MaxPool(kernel=(kernel,) * 2, stride=(stride,) * 2, padding=(padding,) * 4)
        return self._append("max_pool", op, [x], *self._quantization(x))

    def classify(self, x, classes):
        """Global average pool and a linear layer."""
        scale, zero_point = self._quantization(x)
        window = self.tensors[x].shape[1:]
        pool = ops.GlobalAveragePool(
            input_zero_point=zero_point, window=window,
            rescale=ops.Rescale.from_factors(1.5 / (window[0] * window[1]), zero_point=-60))
        x = self._append("global_average_pool", pool, [x], scale / 1.5, -60)
        flatten = ops.Reshape(shape=(self.tensors[x].shape[0],))
        x = self._append("flatten", flatten, [x], *self._quantization(x))
        return self.linear(x, classes)

    def block(self, x, channels, stride):
        """A basic residual block; a 1x1 convolution where the shape changes."""
        y = self.conv(self.conv(x, channels, 3, stride=stride, padding=1), channels, 3, padding=1,
                      relu=False)
        if stride > 1 or self.tensors[x].shape[0] != channels:
            x = self.conv(x, channels, 1, stride=stride, relu=False)
        return self.add(x, y)

    def program(self, output):
        return self.builder.build(self.name, output)


def resnet8() -> Program:
    """ResNet-8 of MLPerf Tiny's image classification: 32x32x3, 12.5 M MACs."""
    make = _Maker("resnet8", (3, 32, 32))
    x = make.conv(make.input, 16, 3, padding=1)
    for channels, stride in ((16, 1), (32, 2), (64, 2)):
        x = make.block(x, channels, stride)
    return make.program(make.classify(x, 10))


def ds_cnn() -> Program:
    """DS-CNN of keyword spotting: 49x10x1, 64 channels, 2.66 M MACs."""
    make = _Maker("ds_cnn", (1, 49, 10))
    x = make.conv(make.input, 64, (10, 4), stride=2, padding=(5, 1))
    for _ in range(4):
        x = make.conv(make.depthwise(x), 64, 1)
    return make.program(make.classify(x, 12))


def mobilenet_v1_025() -> Program:
    """MobileNet v1 0.25 of visual wake words: 96x96x3, 7.5 M MACs."""
    make = _Maker("mobilenet_v1_025", (3, 96, 96))
    x = make.conv(make.input, 8, 3, stride=2, padding=1)
    for channels, stride in ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2),
                             *[(128, 1)] * 5, (256, 2), (256, 1)):
        x = make.conv(make.depthwise(x, stride=stride), channels, 1)
    return make.program(make.classify(x, 2))


def autoencoder() -> Program:
    """The autoencoder of anomaly detection, 0.26 M MACs."""
    make = _Maker("autoencoder", (640,))
    x = make.input
    for width in (128, 128, 128, 128, 8, 128, 128, 128, 128):
        x = make.linear(x, width, relu=True)
    return make.program(make.linear(x, 640))


def resnet18() -> Program:
    """ResNet-18 for 224x224x3, 1.8 G MACs."""
    make = _Maker("resnet18", (3, 224, 224))
    x = make.max_pool(make.conv(make.input, 64, 7, stride=2, padding=3), 3, 2, 1)
    for channels, stride in ((64, 1), (64, 1), (128, 2), (128, 1), (256, 2), (256, 1), (512, 2),
                             (512, 1)):
        x = make.block(x, channels, stride)
    return make.program(make.classify(x, 1000))

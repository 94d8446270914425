"""Random int8 networks as .tflite files, operator by operator, and their comparison with LiteRT."""

import numpy as np
import tflite

from benchmarks.litert import Reference
from golden.program.compare import compare
from golden.program.interpreter import run
from sw import executor
from sw.formats.onnx import runtime as onnx_runtime
from sw.formats.tflite import import_tflite
from tests.sw.formats.tflite.model_file import ModelFile

ACTIVATIONS = tflite.ActivationFunctionType
SPREAD = 50.0       # codes; the standard deviation aimed at for every tensor


def output_length(length, k, stride, dilation, padding):
    """The output's length of a window operator."""
    if padding == "SAME":
        return -(-length // stride)
    return -(-(length - (k - 1) * dilation) // stride)


class Network(ModelFile):
    """A chain or graph of operators; every method takes and returns tensor numbers.

    Scales are drawn at random; weights' scales are such that codes spread over most of int8.
    """

    def __init__(self, shape, seed=0):
        super().__init__()
        self.rng = np.random.default_rng(seed)
        self.quantization = []
        self.input = self.activation(shape)

    def tensor(self, shape, scale=None, zero_point=0, **fields):
        self.quantization.append((scale, zero_point))
        return super().tensor(shape, scale, zero_point, **fields)

    def activation(self, shape, like=None, **fields):
        """A computed int8 tensor, with the quantization of another one or its own."""
        scale, zero_point = (self.rng.uniform(0.01, 0.2), int(self.rng.integers(-60, 61)))
        if like is not None:
            scale, zero_point = self.quantization[like]
        return self.tensor(shape, scale, zero_point, **fields)

    def finish(self, output):
        """The file's content."""
        return self.bytes([self.input], [output])

    def _products(self, x, y, weights, axis, per_channel, bias):
        """Operands of a layer whose sums come out with a deviation of SPREAD codes of y."""
        n_outputs = weights.shape[axis]
        depth = weights.size / n_outputs
        scale = SPREAD * self.quantization[y][0] / (
            self.quantization[x][0] * 73 * 74 * np.sqrt(depth))
        scales = scale * self.rng.uniform(0.5, 1.5, n_outputs if per_channel else 1)
        operands = [x, self.constant(weights, scales, axis=axis)]
        if bias:
            values = self.rng.normal(0, 73 * 74 * np.sqrt(depth) / 4, n_outputs)
            operands.append(self.constant(values.astype(np.int32),
                                          scales * self.quantization[x][0]))
        return operands

    def _weights(self, *shape):
        return self.rng.integers(-127, 128, shape).astype(np.int8)

    def _window(self, x, kernel, stride, padding, dilation=(1, 1)):
        _, height, width, _ = self.shapes[x]
        return tuple(output_length(*values, padding)
                     for values in zip((height, width), kernel, stride, dilation))

    def conv(self, x, channels, kernel=(3, 3), stride=(1, 1), padding="SAME", dilation=(1, 1),
             activation="NONE", groups=1, per_channel=True):
        y = self.activation((1, *self._window(x, kernel, stride, padding, dilation), channels))
        weights = self._weights(channels, *kernel, self.shapes[x][3] // groups)
        self.operator("CONV_2D", self._products(x, y, weights, 0, per_channel, True), [y],
                      Padding=getattr(tflite.Padding, padding), StrideH=stride[0],
                      StrideW=stride[1], DilationHFactor=dilation[0], DilationWFactor=dilation[1],
                      FusedActivationFunction=getattr(ACTIVATIONS, activation))
        return y

    def depthwise(self, x, factor=1, kernel=(3, 3), stride=(1, 1), padding="SAME",
                  dilation=(1, 1), activation="NONE", per_channel=True, bias=True):
        channels = self.shapes[x][3] * factor
        y = self.activation((1, *self._window(x, kernel, stride, padding, dilation), channels))
        weights = self._weights(1, *kernel, channels)
        self.operator("DEPTHWISE_CONV_2D", self._products(x, y, weights, 3, per_channel, bias),
                      [y], Padding=getattr(tflite.Padding, padding), StrideH=stride[0],
                      StrideW=stride[1], DepthMultiplier=factor, DilationHFactor=dilation[0],
                      DilationWFactor=dilation[1],
                      FusedActivationFunction=getattr(ACTIVATIONS, activation))
        return y

    def fully_connected(self, x, outputs, shape=None, activation="NONE", per_channel=False,
                        bias=True, keep=False):
        inputs = self.shapes[x][-1] if keep else int(np.prod(self.shapes[x]))
        y = self.activation(shape or (1, outputs))
        weights = self._weights(outputs, inputs)
        self.operator("FULLY_CONNECTED", self._products(x, y, weights, 0, per_channel, bias), [y],
                      KeepNumDims=keep, FusedActivationFunction=getattr(ACTIVATIONS, activation))
        return y

    def add(self, x, y, activation="NONE"):
        z = self.activation(self.shapes[x])
        self.operator("ADD", [x, y], [z],
                      FusedActivationFunction=getattr(ACTIVATIONS, activation))
        return z

    def mul(self, x, y, activation="NONE"):
        z = self.activation(max(self.shapes[x], self.shapes[y], key=np.prod))
        self.operator("MUL", [x, y], [z],
                      FusedActivationFunction=getattr(ACTIVATIONS, activation))
        return z

    def pool(self, kind, x, kernel=(2, 2), stride=(2, 2), padding="VALID", activation="NONE"):
        y = self.activation((1, *self._window(x, kernel, stride, padding), self.shapes[x][3]),
                            like=x)
        self.operator(kind, [x], [y], Padding=getattr(tflite.Padding, padding),
                      StrideH=stride[0], StrideW=stride[1], FilterHeight=kernel[0],
                      FilterWidth=kernel[1],
                      FusedActivationFunction=getattr(ACTIVATIONS, activation))
        return y

    def mean(self, x, axes=(1, 2), keep=False, like=None):
        channels = self.shapes[x][3]
        y = self.activation((1, 1, 1, channels) if keep else (1, channels), like=like)
        axes = self.constant(np.array(axes, np.int32))
        self.operator("MEAN", [x, axes], [y], KeepDims=keep)
        return y

    def reshape(self, x, shape):
        y = self.activation(shape, like=x)
        self.operator("RESHAPE", [x, self.constant(np.array(shape, np.int32))], [y])
        return y

    def concat(self, inputs, axis=3):
        shape = list(self.shapes[inputs[0]])
        shape[axis] = sum(self.shapes[x][axis] for x in inputs)
        y = self.activation(shape, like=inputs[0])
        self.operator("CONCATENATION", inputs, [y], Axis=axis)
        return y

    def pad(self, x, paddings):
        paddings = np.array(paddings, np.int32)
        y = self.activation(np.array(self.shapes[x]) + paddings.sum(axis=1), like=x)
        self.operator("PAD", [x, self.constant(paddings)], [y])
        return y

    def pointwise(self, kind, x, like=None, **options):
        """An operator of one input: the RELU family, QUANTIZE, LOGISTIC, SOFTMAX and others."""
        y = self.activation(self.shapes[x], like=like)
        self.operator(kind, [x], [y], **options)
        return y


def imported(content, folder):
    """The Program of a file's content."""
    path = folder / "model.tflite"
    path.write_bytes(content)
    return import_tflite(path)


def random_codes(shape, n_images, seed=0):
    """int8 (N, *shape), all codes alike."""
    return np.random.default_rng(seed).integers(-128, 128, (n_images, *shape)).astype(np.int8)


def assert_as_litert(content, folder, n_images=4):
    """Import and compare golden, torch and onnx with LiteRT at every tensor. The Program."""
    program = imported(content, folder)
    x = random_codes(program.input_shape, n_images)
    expected = Reference(content).trace(x, program.tensors)
    assert set(program.outputs) <= set(expected)
    for backend in (run, executor.run, onnx_runtime.run):
        trace = backend(program, x)
        for name, codes in expected.items():
            np.testing.assert_array_equal(trace[name], codes, err_msg=f"{backend} {name}")
    assert compare({"golden": run(program, x), "torch": executor.run(program, x)}, program) == []
    return program

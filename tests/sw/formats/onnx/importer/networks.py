"""Random float ONNX graphs, node by node, and their quantization by ONNX Runtime."""

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from benchmarks.onnx import calibration_reader, compared, reference_trace, runtime_quantization
from golden.program.interpreter import run
from sw.formats.onnx.importer import import_onnx

OPSET, IR = 21, 10


# Attributes of pools, beside their kernel.
POOL_WINDOWS = [
    {"strides": [2, 2], "ceil_mode": 1}, {"pads": [1, 0, 0, 1]}, {"strides": [3, 2]},
    {"strides": [2, 3], "ceil_mode": 1, "count_include_pad": 1},
    {"pads": [1, 1, 1, 1], "count_include_pad": 1}, {"auto_pad": "SAME_UPPER"}]


class Network:
    """A graph; every method takes and returns tensor names."""

    def __init__(self, shape, seed=0, opset=OPSET, batch="N", dtype=TensorProto.FLOAT):
        self.rng = np.random.default_rng(seed)
        self.nodes, self.initializers = [], []
        self.opset, self.shapes = opset, {"x": tuple(shape)}
        self.source = helper.make_tensor_value_info("x", dtype, [batch, *shape])

    def constant(self, value, name=None, dtype=None):
        array = np.asarray(value, dtype)
        name = name or f"c{len(self.initializers)}"
        self.initializers.append(numpy_helper.from_array(array, name))
        return name

    def node(self, kind, inputs, domain="", name=None, **attributes):
        name = name or f"{kind.lower()}{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [f"{name}_out"], name=name, domain=domain,
                                           **attributes))
        return f"{name}_out"

    def floats(self, shape, deviation=1.0, mean=0.0):
        return self.constant(self.rng.normal(mean, deviation, shape).astype(np.float32))

    def conv(self, x, inputs, outputs, kernel=(3, 3), pads=(1, 1, 1, 1), group=1, bias=True,
             **attributes):
        fan_in = inputs // group * kernel[0] * kernel[1]
        operands = [x, self.floats((outputs, inputs // group, *kernel), (2 / fan_in) ** 0.5)]
        if bias:
            operands.append(self.floats((outputs,), 0.2))
        return self.node("Conv", operands, pads=list(pads), group=group, **attributes)

    def norm(self, x, channels):
        return self.node("BatchNormalization", [
            x, self.floats((channels,), 0.2, 1), self.floats((channels,), 0.3),
            self.floats((channels,), 0.2), self.constant(
                self.rng.uniform(0.5, 1.5, channels).astype(np.float32))])

    def gemm(self, x, inputs, outputs, **attributes):
        shape = (outputs, inputs) if attributes.get("transB") else (inputs, outputs)
        return self.node("Gemm", [x, self.floats(shape, inputs ** -0.5),
                                  self.floats((outputs,), 0.1)], **attributes)

    def model(self, output, dtype=TensorProto.FLOAT, shape=None):
        """The checked onnx.ModelProto."""
        graph = helper.make_graph(self.nodes, "net", [self.source],
                                  [helper.make_tensor_value_info(output, dtype, shape)],
                                  self.initializers)
        domains = {node.domain for node in self.nodes} - {""}
        return helper.make_model(graph, ir_version=IR, opset_imports=[
            helper.make_opsetid("", self.opset), *(helper.make_opsetid(d, 1) for d in domains)])


class Quantized(Network):
    """A graph with quantized tensors; every method returns names of real values."""

    def parameters(self, scale, zero_point, dtype):
        return [self.constant(scale, dtype=np.float32), self.constant(zero_point, dtype=dtype)]

    def quantized(self, x, scale=0.05, zero_point=3, dtype=np.int8, clip=None):
        parameters = self.parameters(scale, zero_point, dtype)
        codes = self.node("QuantizeLinear", [x, *parameters])
        if clip:
            codes = self.node("Clip", [codes, *(self.constant(b, dtype=dtype) for b in clip)])
        return self.node("DequantizeLinear", [codes, *parameters])

    def weights(self, shape, axis=0, per_channel=True, limit=127, folded=True):
        """Constant codes, or floats that are quantized and clipped in the graph."""
        scales = self.rng.uniform(0.002, 0.01, shape[axis]) if per_channel else 0.005
        parameters = self.parameters(scales, np.zeros_like(scales), np.int8)
        if folded:
            codes = self.constant(self.rng.integers(-limit, limit + 1, shape), dtype=np.int8)
        else:
            codes = self.node("QuantizeLinear", [self.floats(shape, 0.3), *parameters], axis=axis)
            codes = self.node("Clip", [codes, *(self.constant(bound, dtype=np.int8)
                                                for bound in (-limit, limit))])
        return self.node("DequantizeLinear", [codes, *parameters], axis=axis)


def residual(seed=0, opset=OPSET):
    """Convolutions with norms, a depthwise one, a sum, both pools, a classifier: (3, 8, 8)."""
    net = Network((3, 8, 8), seed, opset)
    x = net.node("Relu", [net.norm(net.conv("x", 3, 8, bias=False), 8)])
    y = net.node("Clip", [net.conv(x, 8, 8, group=8), net.constant(0, dtype=np.float32),
                          net.constant(6, dtype=np.float32)])
    x = net.node("Relu", [net.node("Add", [net.conv(y, 8, 8, (1, 1), (0, 0, 0, 0)), x])])
    x = net.node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    a, b = net.conv(x, 8, 4, (1, 1), (0, 0, 0, 0)), net.conv(x, 8, 6, strides=[1, 1])
    x = net.node("Concat", [net.node("Relu", [a]), net.node("Relu", [b])], axis=1)
    x = net.node("AveragePool", [x], kernel_shape=[2, 2], strides=[2, 2])
    x = net.node("Flatten", [net.node("GlobalAveragePool", [x])])
    return net.model(net.node("Softmax", [net.gemm(x, 10, 5, transB=1)]))


def images(shape, n, seed=1):
    """float32 (n, *shape)."""
    return np.random.default_rng(seed).normal(0, 1, (n, *shape)).astype(np.float32)


def saved(model, folder, name="model.onnx"):
    path = folder / name
    onnx.save(model, path)
    return path


def imported(model, folder):
    return import_onnx(saved(model, folder))


def statically_quantized(model, folder, n=32, **options):
    """The path of what ONNX Runtime's quantize_static makes of a float model."""
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    reader = calibration_reader("x", images(shape, n, 2)[:, None])
    source, path = saved(model, folder, "float.onnx"), folder / "quantized.onnx"
    runtime_quantization().quantize_static(source, path, reader, **options)
    return path


def differences(path, program, x):
    """(share of codes unlike ONNX Runtime's, largest difference, top-1 agreement)."""
    expected = reference_trace(path, program, x)
    assert program.outputs[0] in expected
    found = compared(program, run(program, x), expected)
    return (found["differing_codes"] / 100, found["largest_difference"],
            found["top1_agreement"] / 100)

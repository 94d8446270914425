"""Quantized ONNX graphs as ONNX Runtime, PyTorch and Brevitas write them, against ONNX Runtime.

The scales are such that no result lies half way between two codes, where ONNX Runtime rounds to
the even one and a Program upward; what differs then comes from float scales.
"""

import dataclasses

import numpy as np
import onnx
import pytest
from onnxruntime.quantization import QuantFormat, QuantType

from benchmarks.onnx import reference_trace
from golden import ops
from golden.program.interpreter import run
from sw import executor
from sw.formats.onnx import runtime as onnx_runtime
from sw.formats.onnx.importer import import_onnx, values
from tests.sw.formats.onnx.importer.networks import (
    POOL_WINDOWS,
    Quantized,
    differences,
    images,
    residual,
    saved,
    statically_quantized,
)

INT8, UINT8 = QuantType.QInt8, QuantType.QUInt8


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("activation", [INT8, UINT8])
def test_static_quantization_in_qdq_form(activation, per_channel, tmp_path):
    path = statically_quantized(residual(), tmp_path, quant_format=QuantFormat.QDQ,
                                per_channel=per_channel, activation_type=activation,
                                weight_type=INT8)
    program = import_onnx(path)
    share, largest, agreement = differences(path, program, images((3, 8, 8), 50))
    # Float scales, and sums that are rounded to float32 in front of the quantizer.
    assert share <= 0.02 and largest <= 4 and agreement >= 0.96
    assert [step["operator"] for step in program.metadata["host_input"]] == ["QuantizeLinear"]
    assert "Softmax" in [step["operator"] for step in program.metadata["host_output"]]


@pytest.mark.parametrize("per_channel", [False, True])
def test_static_quantization_in_qlinear_form(per_channel, tmp_path):
    path = statically_quantized(residual(1), tmp_path, quant_format=QuantFormat.QOperator,
                                per_channel=per_channel, activation_type=INT8, weight_type=INT8)
    program = import_onnx(path)
    share, largest, _ = differences(path, program, images((3, 8, 8), 50))
    assert share <= 0.02 and largest <= 6


@pytest.mark.parametrize("per_channel", [False, True])
def test_unsigned_activations_in_qlinear_form(per_channel, tmp_path):
    """Weights of 7 bits: ONNX Runtime's unsigned-by-signed sums saturate on some processors."""
    path = statically_quantized(residual(2), tmp_path, quant_format=QuantFormat.QOperator,
                                per_channel=per_channel, activation_type=UINT8, weight_type=INT8,
                                reduce_range=True)
    share, largest, _ = differences(path, import_onnx(path), images((3, 8, 8), 50))
    assert share <= 0.02 and largest <= 6


def test_every_software_backend_has_the_same_codes(tmp_path):
    path = statically_quantized(residual(3), tmp_path, quant_format=QuantFormat.QDQ,
                                per_channel=True, activation_type=UINT8, weight_type=INT8)
    program, x = import_onnx(path), images((3, 8, 8), 5)
    expected = run(program, x)
    for backend in (executor.run, onnx_runtime.run):
        for name, codes in backend(program, x).items():
            np.testing.assert_array_equal(codes, expected[name])


def brevitas(output=True):
    """QCDQ: clipped codes of few bits, int32 biases with scales of their own, norms kept."""
    net = Quantized((3, 8, 8))
    x = net.quantized("x", 0.0213, 0, clip=(-127, 127))
    bias = net.node("DequantizeLinear", [net.constant(net.rng.integers(-900, 900, 8),
                                                      dtype=np.int32),
                                         net.constant(np.full(8, 1e-4), dtype=np.float32),
                                         net.constant(np.zeros(8), dtype=np.int32)], axis=0)
    x = net.node("Conv", [x, net.weights((8, 3, 3, 3), limit=7), bias], pads=[1, 1, 1, 1])
    x = net.node("Relu", [net.norm(x, 8)])
    x = net.quantized(x, 0.0297, 0, np.uint8, clip=(0, 15))
    y = net.node("Conv", [x, net.weights((8, 1, 3, 3), folded=False)], pads=[1, 1, 1, 1],
                 group=8)
    y = net.node("Add", [net.quantized(x, 0.0411, 0), net.quantized(y, 0.0411, 0)])
    y = net.node("GlobalAveragePool", [net.quantized(y, 0.0507, 0)])
    y = net.node("Reshape", [net.quantized(y, 0.0093, 0), net.constant([0, -1], dtype=np.int64)])
    y = net.node("Gemm", [y, net.weights((5, 8), per_channel=False)], transB=1)
    return net, net.quantized(y, 0.0093, 0) if output else y


def test_brevitas_qcdq(tmp_path):
    net, output = brevitas()
    path = saved(net.model(output), tmp_path)
    program = import_onnx(path)
    share, largest, agreement = differences(path, program, images((3, 8, 8), 50))
    assert share <= 0.01 and largest <= 2 and agreement >= 0.96
    assert sum(isinstance(node.op, ops.Clamp) for node in program.nodes) == 2


def test_logits_without_a_quantizer_get_a_scale_and_a_note(tmp_path):
    net, output = brevitas(output=False)
    path = saved(net.model(output), tmp_path)
    program, x = import_onnx(path), images((3, 8, 8), 20)
    assert "is not quantized in the file: its scale" in program.metadata["notes"][0]
    logits = onnx_runtime.session(onnx.load(path), optimize=False).run(None, {"x": x})[0]
    codes, quantization = run(program, x)[program.outputs[0]], program.output.quantization
    real = (codes.astype(float) - quantization.zero_point) * quantization.scale
    assert np.abs(real - logits).max() <= quantization.scale
    assert codes.min() > -128 and codes.max() < 127


def pt2e():
    """Per-channel weights, a float bias, a hardtanh, data-moving operators between the pairs."""
    net = Quantized((3, 8, 8), batch=1)
    x = net.quantized("x", 0.0297, -5)
    x = net.node("Conv", [x, net.weights((8, 3, 3, 3)), net.floats((8,), 0.1)],
                 pads=[1, 1, 1, 1])
    x = net.quantized(net.node("Relu", [x]), 0.0213, -128)
    y = net.node("Conv", [x, net.weights((8, 8, 1, 1)), net.floats((8,), 0.1)])
    y = net.node("Clip", [y, net.constant(0, dtype=np.float32), net.constant(6, dtype=np.float32)])
    x = net.quantized(net.node("Add", [net.quantized(y, 6 / 255, -128), x]), 0.0411, -100)
    x = net.quantized(net.node("MaxPool", [x], kernel_shape=[2, 2], strides=[2, 2]), 0.0411, -100)
    x = net.node("ReduceMean", [x, net.constant([-1, -2], dtype=np.int64)], keepdims=1)
    x = net.node("Reshape", [net.quantized(x, 0.0213, -90), net.constant([1, 8], dtype=np.int64)],
                 allowzero=1)
    weights = net.node("Transpose", [net.weights((5, 8))], perm=[1, 0])
    x = net.node("Add", [net.node("MatMul", [x, weights]), net.floats((5,), 0.1)])
    return net.model(net.quantized(x, 0.0213, 7))


def test_pt2e(tmp_path):
    path = saved(pt2e(), tmp_path)
    program = import_onnx(path)
    share, largest, _ = differences(path, program, images((3, 8, 8), 40))
    assert share <= 0.01 and largest <= 2
    assert len([node for node in program.nodes if isinstance(node.op, ops.MaxPool)]) == 1


def test_uint8_codes_as_input(tmp_path):
    net = Quantized((3, 6, 6), dtype=onnx.TensorProto.UINT8)
    x = net.node("DequantizeLinear", ["x", *net.parameters(0.02, 140, np.uint8)])
    x = net.node("Conv", [x, net.weights((4, 3, 3, 3))])
    path = saved(net.model(net.quantized(x, 0.05, 3)), tmp_path)
    program = import_onnx(path)
    assert program.input.quantization.zero_point == 12
    assert program.metadata["host_input"][0]["operator"] == "subtract 128"
    x = np.random.default_rng(0).integers(0, 256, (20, 3, 6, 6)).astype(np.uint8)
    expected = reference_trace(path, program, x)
    trace = run(program, (x ^ 0x80).view(np.int8))
    for name, codes in expected.items():
        assert np.abs(trace[name].astype(int) - codes).max() <= 1
        assert (trace[name] != codes).mean() <= 0.01


def test_zero_points_that_are_left_out(tmp_path):
    """Codes are then of the type that they are written with; QuantizeLinear writes uint8."""
    net = Quantized((3, 6, 6), dtype=onnx.TensorProto.INT8)
    x = net.node("DequantizeLinear", ["x", net.constant(0.0213, dtype=np.float32)])
    x = net.node("Conv", [x, net.weights((4, 3, 3, 3))])
    x = net.node("QuantizeLinear", [net.node("Relu", [x]), net.constant(0.0297, dtype=np.float32)])
    path = saved(net.model(x), tmp_path)
    program = import_onnx(path)
    assert [tensor.quantization.zero_point for tensor in program.tensors.values()] == [0, -128]
    x = np.random.default_rng(0).integers(-128, 128, (20, 3, 6, 6)).astype(np.int8)
    trace = run(program, x)
    for name, codes in reference_trace(path, program, x).items():
        assert np.abs(trace[name].astype(int) - codes).max() <= 1
        assert (trace[name] != codes).mean() <= 0.01


def test_an_input_that_is_quantized_twice_has_a_note(tmp_path):
    net = Quantized((3, 4, 4))
    x = net.node("Add", [net.quantized("x", 0.03, 0), net.quantized("x", 0.05, 7)])
    program = import_onnx(saved(net.model(net.quantized(x, 0.06, 0)), tmp_path))
    assert program.metadata["notes"] == [
        "Tensor 'quantizelinear2_out', another quantization of the input, is made from the codes "
        "of 'quantizelinear0_out'"]


def test_a_norm_that_negates_the_lowest_weight(tmp_path):
    net = Quantized((2, 4, 4))
    codes = net.constant(np.full((2, 2, 1, 1), -128), dtype=np.int8)
    weights = net.node("DequantizeLinear", [codes, *net.parameters(0.01, 0, np.int8)])
    x = net.node("Conv", [net.quantized("x", 0.0213, 0), weights])
    x = net.node("Mul", [x, net.constant([[[-1]], [[1]]], dtype=np.float32)])
    path = saved(net.model(net.quantized(x, 0.0411, 0)), tmp_path)
    program = import_onnx(path)
    _, largest, _ = differences(path, program, images((2, 4, 4), 10))
    assert largest <= 2     # 127 in place of 128
    assert "weights of -128 whose channel is negated are taken as -127" in \
        program.metadata["notes"][0]


FAULTS = {
    "a bias that is left out": lambda self, op: dataclasses.replace(op, bias=op.bias * 0),
    "a zero point beside its own": lambda self, op: dataclasses.replace(
        op, bias=op.bias + 3 * op.weights.reshape(len(op.weights), -1).sum(1, dtype=np.int32)),
    "scales of other channels": lambda self, op: dataclasses.replace(op, rescale=dataclasses
        .replace(op.rescale, multiplier=np.roll(op.rescale.multiplier, 1))),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault, tmp_path, monkeypatch):
    path = saved(pt2e(), tmp_path)
    operator = values.Product.operator
    monkeypatch.setattr(values.Product, "operator",
                        lambda self, target: FAULTS[fault](self, operator(self, target)))
    program = import_onnx(path)
    share, largest, _ = differences(path, program, images((3, 8, 8), 1))
    assert share > 0.05 and largest > 2


@pytest.mark.parametrize("geometry", [
    {"pads": (0, 1, 2, 1), "strides": [2, 1]}, {"dilations": [2, 1], "pads": (2, 1, 2, 1)},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]},
    {"auto_pad": "VALID"}], ids=str)
def test_windows_of_convolutions(geometry, tmp_path):
    net = Quantized((3, 8, 7))
    x = net.quantized("x", 0.03, -5)
    x = net.node("Conv", [x, net.weights((4, 3, 3, 2))], **geometry)
    path = saved(net.model(net.quantized(x, 0.05, 1)), tmp_path)
    share, largest, _ = differences(path, import_onnx(path), images((3, 8, 7), 10))
    assert share <= 0.01 and largest <= 1


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("window", POOL_WINDOWS, ids=str)
def test_windows_of_pools(kind, window, tmp_path):
    if kind == "MaxPool":
        window = {key: value for key, value in window.items() if key != "count_include_pad"}
    net = Quantized((3, 8, 7))
    x = net.node(kind, [net.quantized("x", 0.0317, -5)], kernel_shape=[3, 2], **window)
    scale = 0.0317 if kind == "MaxPool" else 0.0223
    path = saved(net.model(net.quantized(x, scale, -5)), tmp_path)
    share, largest, _ = differences(path, import_onnx(path), images((3, 8, 7), 10))
    # An average that leaves out the padding is rounded in both scales, one behind the other.
    once = kind == "MaxPool" or not {"auto_pad", "ceil_mode"} & {*window} and (
        "count_include_pad" in window or "pads" not in window)
    assert share <= (0.01 if once else 0.3) and largest <= 1
    if kind == "MaxPool":
        assert share == 0


def test_a_pad_and_a_changed_scale(tmp_path):
    net = Quantized((3, 5, 6))
    x = net.node("Pad", [net.quantized("x", 0.0317, -5),
                         net.constant([0, 0, 1, 2, 0, 0, 0, 1])])
    path = saved(net.model(net.quantized(x, 0.0223, 9)), tmp_path)
    share, largest, _ = differences(path, import_onnx(path), images((3, 5, 6), 10))
    assert share <= 0.01 and largest <= 1


def joined(net):
    """Tensors of two scales joined, clamped behind that."""
    x = net.node("Concat", [net.quantized("x", 0.0317), net.quantized("x", 0.0411)], axis=1)
    return net.node("Relu", [x])


def averaged(net):
    x = net.node("AveragePool", [net.quantized("x", 0.0317)], kernel_shape=[3, 3],
                 pads=[1, 1, 1, 1])
    return net.node("Flatten", [x])


def scaled(net):
    x = net.node("Flatten", [net.quantized("x", 0.0317)])
    return net.node("Mul", [x, net.floats((1, 48))])


@pytest.mark.parametrize("graph, parts", [
    (joined, {"0", "1", "joined"}), (scaled, {"pixel", "codes"}),
    (averaged, {"codes", "codes/mean"})], ids=["joined", "scaled", "averaged"])
def test_tensors_may_be_called_as_invented_ones(graph, parts, tmp_path):
    net = Quantized((3, 4, 4))
    model, x = net.model(net.quantized(graph(net), 0.0223)), images((3, 4, 4), 2)
    program = import_onnx(saved(model, tmp_path))
    invented = {*program.tensors} - {name for node in model.graph.node for name in node.output}
    assert {name.partition("/")[2] for name in invented} == parts
    for wanted in invented:
        changed = onnx.ModelProto()
        changed.CopyFrom(model)
        for node in changed.graph.node:
            for names in (node.input, node.output):
                names[:] = [wanted if name == program.inputs[0] else name for name in names]
        again = import_onnx(saved(changed, tmp_path))
        assert again.inputs == (wanted,) and f"{wanted}_1" in again.tensors
        np.testing.assert_array_equal(run(again, x)[again.outputs[0]],
                                      run(program, x)[program.outputs[0]])

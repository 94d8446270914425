"""Functions of one code, on all 256 of them, and products of two tensors, against ONNX Runtime."""

import numpy as np
import onnx
import pytest

from benchmarks.onnx import reference_trace
from golden import ops
from golden.program.interpreter import run
from sw.formats.onnx.importer import values
from tests.sw.formats.onnx.importer.networks import Quantized, imported, saved

DOMAIN = "com.microsoft"
N_DRAWS = 12
FUNCTIONS = {"Sigmoid": {}, "Tanh": {}, "LeakyRelu": {"alpha": 0.3}, "HardSwish": {},
             "HardSigmoid": {"alpha": 0.3, "beta": 0.4}}
TYPES = {np.int8: onnx.TensorProto.INT8, np.uint8: onnx.TensorProto.UINT8}


def random_parameters(net, rng, dtype):
    """A scale and a zero point in the graph."""
    return net.parameters(10 ** rng.uniform(-2.5, -0.5), rng.integers(256) - 128 * (
        dtype is np.int8), dtype)


def unary(kind, rng, dtype, form, **attributes):
    """A graph of codes (N, 256) to codes."""
    net = Quantized((256,), dtype=TYPES[dtype])
    given, result = (random_parameters(net, rng, dtype) for _ in range(2))
    if form == "QLinear":
        return net, net.node(f"QLinear{kind}", ["x", *given, *result], DOMAIN, **attributes)
    x = net.node(kind, [net.node("DequantizeLinear", ["x", *given])], **attributes)
    return net, net.node("QuantizeLinear", [x, *result])


def codes_and_reference(net, y, dtype, folder, x):
    """The Program, its codes of the output and ONNX Runtime's. x: codes of the file's type."""
    model = net.model(y, dtype=TYPES[dtype])
    program = imported(model, folder)
    given = x if dtype is np.int8 else (x ^ 0x80).view(np.int8)
    expected = reference_trace(saved(model, folder), program, x)[program.outputs[0]]
    return program, run(program, given)[program.outputs[0]], expected


def all_codes(dtype):
    return np.arange(256).astype(np.uint8).view(dtype)[None]


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("kind, form", [
    *((kind, "QDQ") for kind in FUNCTIONS), ("Sigmoid", "QLinear"), ("LeakyRelu", "QLinear")])
def test_all_codes_are_as_onnx_runtime_has_them(kind, form, dtype, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(N_DRAWS):
        net, y = unary(kind, rng, dtype, form, **FUNCTIONS[kind])
        program, codes, expected = codes_and_reference(net, y, dtype, tmp_path, all_codes(dtype))
        np.testing.assert_array_equal(codes, expected)
        assert isinstance(program.nodes[0].op, ops.Lookup)


def test_ties_go_to_the_even_code(tmp_path):
    """A slope of 1 and twice the scale: every second code is half way between two."""
    net = Quantized((256,), dtype=TYPES[np.int8])
    x = net.node("DequantizeLinear", ["x", *net.parameters(0.5, 0, np.int8)])
    y = net.node("QuantizeLinear", [net.node("LeakyRelu", [x], alpha=1.0),
                                    *net.parameters(1.0, 3, np.int8)])
    _, codes, expected = codes_and_reference(net, y, np.int8, tmp_path, all_codes(np.int8))
    np.testing.assert_array_equal(codes, expected)
    np.testing.assert_array_equal(codes[0, 1:5], [3, 4, 5, 5])


def test_a_clamp_behind_a_function_and_defaults(tmp_path):
    net = Quantized((256,), dtype=TYPES[np.int8])
    x = net.node("DequantizeLinear", ["x", *net.parameters(0.0371, 5, np.int8)])
    x = net.node("Relu", [net.node("Tanh", [net.node("Identity", [x])])])
    y = net.node("QuantizeLinear", [x, *net.parameters(0.0079, -11, np.int8)])
    _, codes, expected = codes_and_reference(net, y, np.int8, tmp_path, all_codes(np.int8))
    np.testing.assert_array_equal(codes, expected)
    for kind in ("LeakyRelu", "HardSigmoid"):
        net, y = unary(kind, np.random.default_rng(1), np.int8, "QDQ")
        _, codes, expected = codes_and_reference(net, y, np.int8, tmp_path, all_codes(np.int8))
        np.testing.assert_array_equal(codes, expected)


@pytest.mark.parametrize("fault", [np.floor, lambda x: np.floor(x + 0.5)])
def test_another_rounding_is_seen(fault, tmp_path, monkeypatch):
    monkeypatch.setattr(values.np, "rint", fault)
    with pytest.raises(AssertionError):
        test_ties_go_to_the_even_code(tmp_path)


def gate(form, dtype, swapped=False, per_channel=True):
    """x times codes of its own, of its largest value per channel or of each pixel."""
    net = Quantized((4, 5, 6), dtype=TYPES[dtype], seed=3)
    given, result = (net.parameters(scale, point + 128 * (dtype is np.uint8), dtype)
                     for scale, point in ((0.0317, -7), (0.00213, 20)))
    kernel = [5, 6] if per_channel else [1, 1]
    x = net.node("QuantizeLinear", [net.node("DequantizeLinear", ["x", *given]), *given])
    y = net.node("MaxPool", [x], kernel_shape=kernel)
    if form == "QLinear":
        operands = [[x, *given], [y, *given]][::-1 if swapped else 1]
        return net, net.node("QLinearMul", [*operands[0], *operands[1], *result], DOMAIN)
    x, y = (net.node("DequantizeLinear", [name, *given]) for name in (x, y))
    z = net.node("Mul", [x, y][::-1 if swapped else 1])
    return net, net.node("QuantizeLinear", [z, *result])


@pytest.mark.parametrize("dtype", TYPES)
@pytest.mark.parametrize("form", ["QDQ", "QLinear"])
@pytest.mark.parametrize("swapped, per_channel", [(False, True), (True, True), (False, False)])
def test_products_of_two_tensors(form, swapped, per_channel, dtype, tmp_path):
    net, y = gate(form, dtype, swapped, per_channel)
    x = np.random.default_rng(0).integers(0, 256, (40, 4, 5, 6)).astype(np.uint8).view(dtype)
    program, codes, expected = codes_and_reference(net, y, dtype, tmp_path, x)
    assert isinstance(program.nodes[-1].op, ops.Mul)
    differ = codes.astype(int) - expected
    assert np.abs(differ).max() <= 1 and (differ != 0).mean() <= 0.001

"""What the host does before and after the program: QUANTIZE, DEQUANTIZE, SOFTMAX."""

import numpy as np
import pytest

from benchmarks.litert import Reference
from golden.program.interpreter import run
from tests.sw.formats.tflite.networks import Network, assert_as_litert, imported, random_codes


def test_softmax_is_the_hosts(tmp_path):
    net = Network((1, 10))
    logits = net.fully_connected(net.input, 6)
    y = net.tensor((1, 6), 1 / 256, -128, name="probabilities")
    net.operator("SOFTMAX", [logits], [y], Beta=1.0)
    program = assert_as_litert(net.finish(y), tmp_path)
    assert program.outputs == (net.names[logits],)
    step, = program.metadata["host_output"]
    assert step == {"operator": "SOFTMAX", "tensor": "probabilities", "dtype": "int8",
                    "scale": 1 / 256, "zero_point": -128, "beta": 1.0}


def quantized_ends(dtype, tail=("DEQUANTIZE",)):
    """dtype -> QUANTIZE -> int8 FULLY_CONNECTED -> tail, whose last tensor is of dtype too."""
    net = Network((1, 10))
    given = net.tensor((1, 10), dtype=dtype, **({} if dtype == "float32" else
                                                {"scale": net.quantization[net.input][0],
                                                 "zero_point": 100}))
    net.operator("QUANTIZE", [given], [net.input])
    result = net.fully_connected(net.input, 6)
    logits = result
    for kind in tail:
        y = net.tensor((1, 6), dtype=dtype, **({} if dtype == "float32" else
                                               {"scale": 0.5, "zero_point": 7}))
        net.operator(kind, [result], [y], **({"Beta": 1.0} if kind == "SOFTMAX" else {}))
        result = y
    return net, given, logits, net.bytes([given], [result])


def test_float_input_and_output(tmp_path):
    net, _, logits, content = quantized_ends("float32", ("DEQUANTIZE", "SOFTMAX"))
    program = imported(content, tmp_path)
    assert program.inputs == (net.names[net.input],)
    assert program.outputs == (net.names[logits],)
    assert [step["operator"] for step in program.metadata["host_input"]] == ["QUANTIZE"]
    assert [step["operator"] for step in program.metadata["host_output"]] == ["DEQUANTIZE",
                                                                               "SOFTMAX"]
    scale, zero_point = net.quantization[net.input]
    codes = random_codes((10,), 20)
    x = ((codes.astype(np.float64) - zero_point) * np.float32(scale)).astype(np.float32)
    expected = Reference(content).trace(x, program.tensors)
    trace = run(program, x)
    for name in program.tensors:
        np.testing.assert_array_equal(trace[name], expected[name])


def test_uint8_input_and_output(tmp_path):
    net, _, logits, content = quantized_ends("uint8", ("QUANTIZE",))
    program = imported(content, tmp_path)
    assert program.outputs == (net.names[logits],)
    assert program.metadata["host_input"][0]["from"] == "uint8"
    x = np.random.default_rng(0).integers(0, 256, (20, 10)).astype(np.uint8)
    expected = Reference(content).trace(x, program.tensors)
    trace = run(program, expected[program.inputs[0]])
    for name in program.tensors:
        np.testing.assert_array_equal(trace[name], expected[name])


@pytest.mark.parametrize("names", [("x", "x"), ("x", "")])
def test_tensors_of_one_name_and_of_none(names, tmp_path):
    net = Network((1, 10))
    first, second = (net.tensor((1, 4), 0.1, 3, name=name) for name in names)
    weights = net.constant(net.rng.integers(-127, 128, (4, 10)).astype(np.int8), 0.01)
    net.operator("FULLY_CONNECTED", [net.input, weights, -1], [first])
    net.operator("RELU", [first], [second])
    program = imported(net.finish(second), tmp_path)
    assert len(program.tensors) == 3
    assert program.nodes[0].outputs == ("x",)


def test_operators_that_the_output_does_not_need_are_left_out(tmp_path):
    net = Network((1, 10))
    y = net.fully_connected(net.input, 4)
    net.pointwise("TANH", net.input)
    assert len(imported(net.finish(y), tmp_path).nodes) == 1

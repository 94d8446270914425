"""MUL of two tensors, and of a tensor and one value per channel, against LiteRT."""

import numpy as np
import pytest
import tflite

from benchmarks.litert import Reference
from golden import ops
from golden.program.interpreter import run
from tests.sw.formats.tflite.networks import Network, assert_as_litert, imported

ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [(1, 256), (1, 5, 9), (1, 6, 7, 4)], ids=len)
def test_two_tensors(shape, activation, tmp_path):
    for seed in range(3):
        net = Network(shape, seed)
        y = net.pointwise("QUANTIZE", net.input)
        z = net.mul(net.input, y, activation) if seed else net.mul(y, y, activation)
        program = assert_as_litert(net.finish(z), tmp_path, 8)
        assert isinstance(program.nodes[-1].op, ops.Mul)


def excited(swapped, gate_shape, seed=0):
    """Squeeze and excitation: a gate of every channel from the mean over all pixels."""
    net = Network((1, 6, 7, 8), seed)
    x = net.conv(net.input, 8, kernel=(1, 1))
    gate = net.fully_connected(net.mean(x), 4, activation="RELU")
    gate = net.fully_connected(gate, 8)
    y = net.tensor((1, 8), 1 / 256, -128)
    net.operator("LOGISTIC", [gate], [y])
    if len(gate_shape) != 2:
        y = net.reshape(y, gate_shape)
    return net.finish(net.conv(net.mul(*[x, y][::-1 if swapped else 1]), 4))


@pytest.mark.parametrize("gate_shape", [(1, 8), (1, 1, 8), (1, 1, 1, 8)], ids=len)
@pytest.mark.parametrize("swapped", [False, True])
def test_one_value_per_channel(swapped, gate_shape, tmp_path):
    program = assert_as_litert(excited(swapped, gate_shape), tmp_path)
    kinds = [type(node.op) for node in program.nodes]
    assert ops.Mul in kinds and ops.Lookup in kinds


def test_hard_swish_between_convolutions(tmp_path):
    net = Network((1, 8, 8, 3))
    x = net.pointwise("HARD_SWISH", net.conv(net.input, 6))
    x = net.pointwise("LEAKY_RELU", net.depthwise(x), Alpha=0.2)
    assert_as_litert(net.finish(net.conv(x, 4)), tmp_path)


@pytest.mark.parametrize("exponent", [15, 16])
def test_products_that_leave_int32_are_noted(exponent, tmp_path):
    """(-128 - 127)**2, shifted left by the exponent."""
    net = Network((1, 256))
    net.input = x = net.tensor((1, 256), 0.5, 127)
    y = net.tensor((1, 256), 0.25 / (1.5 * 2.0**(exponent - 1)), -4)
    net.operator("MUL", [x, x], [y])
    content = net.finish(y)
    program = imported(content, tmp_path)
    codes = np.arange(-128, 128, dtype=np.int8)[None]
    differ = run(program, codes)[program.outputs[0]] != Reference(content).trace(
        codes, program.outputs)[program.outputs[0]]
    assert len(program.metadata["notes"]) == differ.any() == (exponent > 15)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("exponent", [0, 16, 20, 25])
def test_a_constant_wraps_around_as_the_kernel(exponent, activation, tmp_path):
    net = Network((1, 256))
    net.input = x = net.tensor((1, 256), 0.5, 3)
    y = net.tensor((1, 256), 0.25 / (1.5 * 2.0**exponent), -4)
    net.operator("MUL", [x, net.constant(np.array([[127]], np.int8), 0.5)], [y],
                 FusedActivationFunction=getattr(tflite.ActivationFunctionType, activation))
    content = net.finish(y)
    program = imported(content, tmp_path)
    codes = np.arange(-128, 128, dtype=np.int8)[None]
    np.testing.assert_array_equal(
        run(program, codes)[program.outputs[0]],
        Reference(content).trace(codes, program.outputs)[program.outputs[0]])
    assert program.metadata["notes"] == []

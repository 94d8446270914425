"""Factors so large that a reference kernel leaves int32: noted exactly where codes may differ."""

import numpy as np
import pytest

from benchmarks.litert import Reference
from golden.program.interpreter import run
from tests.sw.formats.tflite.networks import Network, imported

ALL_CODES = np.arange(-128, 128, dtype=np.int8)
NOTE = "can leave int32 where they are rescaled; the program's codes saturate there"
WINDOW = {"StrideH": 1, "StrideW": 1}
SCALE = 0.5


def one_operator(kind, factors, zero_point=-4, input_zero_point=3):
    """A file whose operator multiplies each code less its zero point with the factors; one each
    for its channels of a convolution."""
    factors = np.atleast_1d(factors)
    shape = (1, 1, 1, len(factors))
    net = Network((1, 1, 1, 1))
    net.input = x = net.tensor((1, 1, 1, 1), SCALE, input_zero_point)
    y = net.tensor(shape, SCALE / factors[0], zero_point)
    operands, options = [x], {}
    if kind == "MEAN":
        operands, options = [x, net.constant(np.array([1, 2], np.int32))], {"KeepDims": True}
    elif kind not in ("RELU", "QUANTIZE"):
        weights = np.ones((1, 1, 1, len(factors)), np.int8)
        axis, options = 3, WINDOW
        if kind != "DEPTHWISE_CONV_2D":
            weights, axis = weights.T, 0
        if kind == "FULLY_CONNECTED":
            weights, options = weights.reshape(-1, 1), {"KeepNumDims": True}
        scales = factors / factors[0]
        operands += [net.constant(weights, scales, axis=axis),
                     net.constant(np.zeros(len(factors), np.int32), SCALE * scales)]
    net.operator(kind, operands, [y], **options)
    return net.finish(y)


def notes_and_differences(content, folder):
    program = imported(content, folder)
    x = ALL_CODES.reshape(256, 1, 1, 1)
    codes = run(program, x)[program.outputs[0]]
    expected = Reference(content).trace(x, program.outputs)[program.outputs[0]]
    return program.metadata["notes"], codes != expected


@pytest.mark.parametrize("exponent", [7, 15, 22, 23, 24, 25])
@pytest.mark.parametrize("kind", ["RELU", "QUANTIZE", "MEAN", "CONV_2D", "DEPTHWISE_CONV_2D",
                                  "FULLY_CONNECTED"])
def test_what_differs_is_noted_and_what_is_noted_differs(kind, exponent, tmp_path):
    """All sums that the bounds allow are reached here, so both are the same."""
    notes, differ = notes_and_differences(one_operator(kind, 1.5 * 2.0**exponent), tmp_path)
    assert len(notes) == differ.any() == (exponent >= (24 if kind == "FULLY_CONNECTED" else 23))
    assert all(NOTE in note for note in notes)


def beside_the_smallest_int32(kind, zero_point):
    """Sums from -2**24 on, times a factor of 128 less 2**-19: results from 32 above -2**31 on."""
    rng, missing = np.random.default_rng(0), 1.0
    while not 2.0**-27 < missing < 2.0**-26:
        x_scale, w_scale = rng.uniform(0.1, 0.2, 2).astype(np.float32)
        y_scale = np.float32(np.float64(x_scale) * w_scale / 128)
        missing = 1 - np.float64(x_scale) * w_scale / (128 * np.float64(y_scale))
    net = Network((1, 1, 1, 1))
    net.input = x = net.tensor((1, 1, 1, 1), x_scale, 0)
    ones = np.ones((1, 1) if kind == "FULLY_CONNECTED" else (1, 1, 1, 1), np.int8)
    bias = net.constant(np.array([128 - 2**24], np.int32), np.float64(x_scale) * w_scale)
    y = net.tensor((1, 1, 1, 1), y_scale, zero_point)
    net.operator(kind, [x, net.constant(ones, w_scale), bias], [y], **(
        {"KeepNumDims": True} if kind == "FULLY_CONNECTED" else WINDOW))
    return net.finish(y)


@pytest.mark.parametrize("kind", ["CONV_2D", "FULLY_CONNECTED"])
@pytest.mark.parametrize("zero_point", [-128, 0])
def test_a_zero_point_that_takes_the_result_beyond_int32(kind, zero_point, tmp_path):
    notes, differ = notes_and_differences(beside_the_smallest_int32(kind, zero_point), tmp_path)
    assert len(notes) == differ.any() == (zero_point < 0)


def test_the_channels_are_counted(tmp_path):
    content = one_operator("CONV_2D", [2.0**10, 2.0**26, 2.0**27])
    notes, differ = notes_and_differences(content, tmp_path)
    assert notes[0].startswith("Tensor 'tensor2': sums of 2 of 3 channels can leave int32")
    assert differ.any(axis=(0, 2, 3)).tolist() == [False, True, True]


def test_a_clamped_input_counts_as_what_it_can_be(tmp_path):
    """RELU6 keeps its codes at the zero point or above it, so that the sums are small."""
    net = Network((1, 4))
    net.input = x = net.tensor((1, 4), 0.5, -100)
    y, z = net.tensor((1, 4), 0.5, -100), net.tensor((1, 4), 0.5 / (1.5 * 2.0**25), 0)
    net.operator("RELU6", [x], [y])
    net.operator("QUANTIZE", [y], [z])
    assert imported(net.finish(z), tmp_path).metadata["notes"] == []

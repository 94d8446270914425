"""Factors for which a left shift leaves int32: ONNX Runtime saturates as a Program does."""

import numpy as np
import onnx
import pytest

from benchmarks.onnx import reference_trace
from golden.program.interpreter import run
from tests.sw.formats.onnx.importer.networks import Quantized, imported, saved

ALL_CODES = np.arange(-128, 128, dtype=np.int8).reshape(256, 1, 1, 1)


def scaled_codes(form, factor):
    """A convolution of one weight, a sum or a new scale: (code - 3) * factor - 4."""
    net = Quantized((1, 1, 1), dtype=onnx.TensorProto.INT8, batch=1)
    given, result = net.parameters(0.5, 3, np.int8), net.parameters(0.5 / factor, -4, np.int8)
    one = net.constant(np.ones((1, 1, 1, 1)), dtype=np.int8), *net.parameters(1, 0, np.int8)
    if form == "QLinearConv":
        return net, net.node(form, ["x", *given, *one, *result])
    x = net.node("DequantizeLinear", ["x", *given])
    if form == "Conv":
        x = net.node(form, [x, net.node("DequantizeLinear", [*one])])
    elif form == "Add":
        x = net.node(form, [x, x])
    return net, net.node("QuantizeLinear", [x, *result])


@pytest.mark.parametrize("exponent", [7, 22, 24, 28])
@pytest.mark.parametrize("form", ["QLinearConv", "Conv", "Add", "QuantizeLinear"])
def test_codes_saturate_on_both_sides_of_the_bound(form, exponent, tmp_path):
    net, y = scaled_codes(form, 1.5 * 2.0**exponent)
    model = net.model(y, dtype=onnx.TensorProto.INT8)
    program = imported(model, tmp_path)
    expected = reference_trace(saved(model, tmp_path), program, ALL_CODES)
    np.testing.assert_array_equal(run(program, ALL_CODES)[y], expected[y])
    assert program.metadata["notes"] == []

"""Functions of one code, on all 256 of them, against LiteRT's reference kernels."""

import numpy as np
import pytest

from benchmarks.litert import Reference
from golden import ops
from sw.formats.tflite import tables
from tests.sw.formats.tflite.networks import Network, imported

ALL_CODES = np.arange(-128, 128, dtype=np.int8)
N_DRAWS = 25


def unary(kind, rng, **options):
    """A file of one operator with random scales and zero points, as wide as the kernel takes."""
    scale = 10 ** rng.uniform(-3, 0)
    output = {"LOGISTIC": (1 / 256, -128), "TANH": (1 / 128, 0)}.get(
        kind, (scale * 10 ** rng.uniform(-1.5, 1.5), int(rng.integers(-128, 128))))
    net = Network((1, 256))
    net.input = net.tensor((1, 256), scale, int(rng.integers(-128, 128)))
    y = net.tensor((1, 256), *output)
    net.operator(kind, [net.input], [y], **options)
    return net.finish(y)


def table_and_reference(content, folder):
    program = imported(content, folder)
    node, = program.nodes
    codes = Reference(content).trace(ALL_CODES[None], program.outputs)[program.outputs[0]][0]
    return node.op.table, codes


CASES = {"LOGISTIC": {}, "TANH": {}, "HARD_SWISH": {}, "LEAKY_RELU": {"Alpha": 0.3},
         "RELU_N1_TO_1": {}}


@pytest.mark.parametrize("kind", CASES)
def test_all_codes_are_as_litert_has_them(kind, tmp_path):
    rng = np.random.default_rng(0)
    for _ in range(N_DRAWS):
        content = unary(kind, rng, **CASES[kind])
        np.testing.assert_array_equal(*table_and_reference(content, tmp_path))


@pytest.mark.parametrize("alpha", [0.0, 0.01, 1.0, 1.7])
def test_slopes_of_leaky_relu(alpha, tmp_path):
    content = unary("LEAKY_RELU", np.random.default_rng(1), Alpha=alpha)
    np.testing.assert_array_equal(*table_and_reference(content, tmp_path))


@pytest.mark.parametrize("exponent", [20, 24, 27])
def test_leaky_relu_wraps_around_as_the_kernel(exponent, tmp_path):
    net = Network((1, 256))
    net.input = net.tensor((1, 256), 0.5, 3)
    y = net.tensor((1, 256), 0.5 / (1.5 * 2.0**exponent), -4)
    net.operator("LEAKY_RELU", [net.input], [y], Alpha=0.25)
    table, codes = table_and_reference(net.finish(y), tmp_path)
    np.testing.assert_array_equal(table, codes)
    assert (np.diff(codes.astype(int)) < 0).any() == (exponent > 23)


def with_constant(kind, rng, code, swapped, shape, activation):
    net = Network((1, 256), int(rng.integers(1000)))
    constant = net.constant(np.full(shape, code, np.int8), float(rng.uniform(0.01, 0.1)), 5)
    y = net.activation((1, 256))
    operands = [net.input, constant][::-1 if swapped else 1]
    net.operator(kind, operands, [y], FusedActivationFunction=activation)
    return net.finish(y)


@pytest.mark.parametrize("kind", ["ADD", "MUL"])
@pytest.mark.parametrize("code, swapped, shape, activation", [
    (-128, False, (), 0), (127, True, (1,), 1), (5, False, (1, 1), 3), (31, True, (), 0)])
def test_a_constant_of_one_value(kind, code, swapped, shape, activation, tmp_path):
    rng = np.random.default_rng(code + 128)
    content = with_constant(kind, rng, code, swapped, shape, activation)
    table, codes = table_and_reference(content, tmp_path)
    np.testing.assert_array_equal(table, codes)
    assert isinstance(imported(content, tmp_path).nodes[0].op, ops.Lookup)


FAULTS = {
    "one code beside": ("LOGISTIC", "CODES", tables.CODES + 1),
    "a gate that does not saturate": ("HARD_SWISH", "INT16_MAX", 1 << 20),
    "halves of int16 lost": ("HARD_SWISH", "_times", lambda values, by: values * by >> 15),
    "no second slope": ("LEAKY_RELU", "rescaled", lambda values, by: values),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault, tmp_path, monkeypatch):
    kind, name, wrong = FAULTS[fault]
    monkeypatch.setattr(tables, name, wrong)
    with pytest.raises(AssertionError, match="not equal"):
        test_all_codes_are_as_litert_has_them(kind, tmp_path)

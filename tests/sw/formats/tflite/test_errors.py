"""Files and models that are refused: one line that names the operator or the tensor."""

import re

import numpy as np
import pytest

from golden.errors import LockstepError
from sw.formats import parts
from sw.formats.tflite import import_tflite
from tests.sw.formats.tflite.networks import Network, imported


def refused(content, folder, match):
    with pytest.raises(LockstepError, match=match) as caught:
        imported(content, folder)
    assert len(str(caught.value).splitlines()) == 1
    assert "model.tflite" in str(caught.value)


def finished():
    net = Network((1, 6, 6, 3))
    return net.finish(net.fully_connected(net.conv(net.input, 4), 5))


def test_an_unsupported_operator(tmp_path):
    net = Network((1, 10))
    y = net.activation((1, 10), name="squashed")
    net.operator("ELU", [net.input], [y])
    refused(net.finish(y), tmp_path, r"Operator ELU \(tensor 'squashed'\) is not supported; "
            r"supported are ADD, AVERAGE_POOL_2D, .*SOFTMAX")


def test_a_name_of_several_lines(tmp_path):
    net = Network((1, 10))
    net.pointwise("RELU", net.input)
    refused(net.finish(net.activation((1, 10), name="not\n\nwritten")), tmp_path,
            "Output not written must be a tensor of the Program")


def test_a_fused_activation_that_is_none_of_them(tmp_path):
    net = Network((1, 6, 6, 3))
    refused(net.finish(net.conv(net.input, 4, activation="TANH")), tmp_path,
            "fused activation TANH is not supported; supported are NONE, RELU, RELU6")


@pytest.mark.parametrize("signature", [(-1, -1, 6, 3), (1, 6, 6, -1)])
def test_a_dynamic_shape(signature, tmp_path):
    net = Network((1, 6, 6, 3))
    y = net.activation((1, 6, 6, 3), like=net.input, signature=signature, name="open")
    net.operator("RELU", [net.input], [y])
    refused(net.finish(y), tmp_path, "Tensor 'open' must have a known shape")


def test_a_dynamic_batch_is_fine(tmp_path):
    net = Network((1, 6, 6, 3))
    y = net.activation((1, 6, 6, 3), like=net.input, signature=(-1, 6, 6, 3))
    net.operator("RELU", [net.input], [y])
    imported(net.finish(y), tmp_path)


@pytest.mark.parametrize("dtype", ["float16", "float32", "uint16", "uint8", "int16"])
def test_another_type_inside(dtype, tmp_path):
    net = Network((1, 10))
    y = net.tensor((1, 10), 0.1, dtype=dtype, name="inner")
    net.operator("RELU", [net.input], [y])
    z = net.activation((1, 10))
    net.operator("RELU", [y], [z])
    refused(net.finish(z), tmp_path, f"Tensor 'inner' must be int8, not {dtype}")


def test_an_activation_with_a_scale_per_channel(tmp_path):
    net = Network((1, 6, 6, 3))
    y = net.tensor((1, 6, 6, 3), [0.1, 0.2, 0.3], 0, axis=3, name="per_channel")
    net.operator("RELU", [net.input], [y])
    refused(net.finish(y), tmp_path, "Tensor 'per_channel' must have one scale, not 3")


@pytest.mark.parametrize("scale", [None, 0.0, -1.0, np.inf, np.nan])
def test_an_activation_without_a_good_scale(scale, tmp_path):
    net = Network((1, 10))
    y = net.tensor((1, 10), scale, name="bad")
    net.operator("RELU", [net.input], [y])
    refused(net.finish(y), tmp_path, "Tensor 'bad' must have (one|a finite) scale")


def with_weights(**quantization):
    net = Network((1, 10))
    weights = net.constant(np.ones((4, 10), np.int8), name="w", **quantization)
    y = net.activation((1, 4))
    net.operator("FULLY_CONNECTED", [net.input, weights, -1], [y])
    return net.finish(y)


def test_weights_with_a_zero_point(tmp_path):
    refused(with_weights(scale=0.1, zero_point=3), tmp_path,
            "weights must have zero point 0, not 3 .tensor 'w'")


def test_weights_with_scales_along_another_axis(tmp_path):
    refused(with_weights(scale=[0.1] * 10, axis=1), tmp_path,
            "must have 1 scale or one for each of the 4 outputs, not 10 along axis 1")


def test_weights_of_another_type_or_computed(tmp_path):
    net = Network((1, 10))
    y = net.activation((1, 4))
    net.operator("FULLY_CONNECTED", [net.input, net.constant(np.ones((4, 10), np.float32)), -1],
                 [y])
    refused(net.finish(y), tmp_path, "weights must be int8, not float32")
    net = Network((1, 10))
    y = net.activation((1, 4))
    net.operator("FULLY_CONNECTED", [net.input, net.activation((4, 10)), -1], [y])
    refused(net.finish(y), tmp_path, "weights must be a constant of the file")


def test_two_inputs_or_outputs(tmp_path):
    net = Network((1, 10))
    y = net.add(net.input, net.activation((1, 10)))
    refused(net.bytes([0, 1], [y]), tmp_path, "must have 1 input, not 2")
    net = Network((1, 10))
    y = net.pointwise("RELU", net.input)
    refused(net.bytes([net.input], [y, net.input]), tmp_path, "must have 1 output, not 2")


def test_a_batch_of_more_than_one_and_a_mean_over_channels(tmp_path):
    net = Network((2, 10))
    refused(net.finish(net.pointwise("RELU", net.input)), tmp_path, "must have a batch of 1")
    net = Network((1, 4, 4, 3))
    refused(net.finish(net.mean(net.input, (3,))), tmp_path,
            r"over the axes between batch and channels, here \[1, 2\], not over axes \[3\]")


def test_an_addition_that_broadcasts(tmp_path):
    net = Network((1, 4, 4, 3))
    small = net.pool("MAX_POOL_2D", net.input, (4, 4), (4, 4))
    refused(net.finish(net.add(net.input, small)), tmp_path, "inputs must have equal shapes")


@pytest.mark.parametrize("scale", [2.0**-20, 1.01 * 2.0**-20])
def test_an_addition_on_which_the_reference_kernel_stops(scale, tmp_path):
    net = Network((1, 4))
    net.input = net.tensor((1, 4), 0.5, 3)
    y = net.tensor((1, 4), scale, 3, name="sum")
    net.operator("ADD", [net.input, net.input], [y])
    if scale > 2.0**-20:
        assert imported(net.finish(y), tmp_path).metadata["notes"] == []
        return
    refused(net.finish(y), tmp_path, r"Operator ADD .tensor 'sum'.: the output's scale must be "
            r"above 9.54e-07 for these inputs, or the reference kernel stops")


def test_a_product_that_broadcasts_otherwise(tmp_path):
    net = Network((1, 4, 4, 3))
    pixels = net.activation((1, 4, 4, 1))
    refused(net.finish(net.mul(net.input, pixels)), tmp_path, r"Operator MUL .*: beside an input "
            r"of shape \[1, 4, 4, 3\] the other must have the same one or, of 4 dimensions, one "
            r"value per channel, not shape \[1, 4, 4, 1\]")
    net = Network((1, 5, 3))
    refused(net.finish(net.mul(net.activation((1, 1, 3)), net.input)), tmp_path,
            r"one value per channel, not shape \[1, 1, 3\]")


@pytest.mark.parametrize("kind", ["ADD", "MUL"])
def test_constant_operands(kind, tmp_path):
    net = Network((1, 4, 4, 3))
    constant, y = net.constant(np.ones(3, np.int8), 0.1, name="each"), net.activation((1, 4, 4, 3))
    net.operator(kind, [net.input, constant], [y])
    refused(net.finish(y), tmp_path, r"Operator .*: a constant operand must have one value, not "
            r"shape \[3\] \(tensor 'each'\)")
    net = Network((1, 4))
    y = net.activation((1, 4))
    net.operator(kind, [net.input, net.constant(np.ones(1, np.float32), 0.1, name="real")], [y])
    refused(net.finish(y), tmp_path, "Tensor 'real' must be int8, not float32")


def test_a_hard_swish_to_a_scale_far_below_its_inputs(tmp_path):
    net = Network((1, 4))
    net.input, y = net.tensor((1, 4), 1.28, 0), net.tensor((1, 4), 0.0099, 0, name="fine")
    net.operator("HARD_SWISH", [net.input], [y])
    refused(net.finish(y), tmp_path, r"Operator HARD_SWISH .tensor 'fine'.: the output's scale "
            r"must be at least 0.01 for this input")


def test_tensors_beyond_all_measure(tmp_path):
    net = Network((1, 6, 6, 3))
    y = net.activation((1, 1 << 20, 1 << 20, 3), like=net.input)
    net.operator("RELU", [net.input], [y])
    refused(net.finish(y), tmp_path, "must have at most 67108864 elements")
    net = Network((1, 2, 2, 3))
    y = net.pad(net.input, [(0, 0), (0, 0), (0, 0), (0, 1 << 20)])
    refused(net.finish(y), tmp_path, "channels are padded to at most 4096, not 1048579")


def test_softmax_in_the_middle(tmp_path):
    net = Network((1, 10))
    y = net.pointwise("RELU", net.pointwise("SOFTMAX", net.input, Beta=1.0))
    refused(net.finish(y), tmp_path, "runs on the host and so only at the ends")


def test_softmaxes_in_a_circle(tmp_path):
    net = Network((1, 10))
    x, y = net.activation((1, 10)), net.activation((1, 10))
    net.operator("SOFTMAX", [x], [y], Beta=1.0)
    net.operator("SOFTMAX", [y], [x], Beta=1.0)
    refused(net.finish(y), tmp_path, r"Operator SOFTMAX \(tensor '.*'\): depends on itself")


def test_a_stride_of_0_and_a_scale_of_next_to_nothing(tmp_path):
    net = Network((1, 6, 6, 3))
    y = net.activation((1, 6, 6, 3), like=net.input, name="still")
    net.operator("MAX_POOL_2D", [net.input], [y], Padding=0, StrideH=0, StrideW=0, FilterHeight=2,
                 FilterWidth=2, FusedActivationFunction=0)
    refused(net.finish(y), tmp_path, r"Operator MAX_POOL_2D \(tensor 'still'\): ")
    net = Network((1, 10))
    y = net.tensor((1, 10), 1e-45, name="tiny")
    net.operator("RELU6", [net.input], [y])
    refused(net.finish(y), tmp_path, r"Operator RELU6 \(tensor 'tiny'\): ")


def test_a_file_that_is_no_model(tmp_path):
    for content in (b"", b"TFL3", b"\0" * 100, b"PK\3\4 and more", b"\x1c\0\0\0tfl3" + b"\0" * 50):
        refused(content, tmp_path, "is not a TFLite model")


def test_a_header_and_nothing_behind_it(tmp_path):
    for content in (b"\0\0\0\0TFL3", b"\x10\0\0\0TFL3" + b"\0" * 100, b"\xff" * 4 + b"TFL3"):
        refused(content, tmp_path, "damaged|holds no graph")


def test_a_file_cut_short_anywhere(tmp_path):
    content = finished()
    for end in range(8, len(content), 61):
        refused(content[:end], tmp_path, ".")


def test_damaged_bytes_give_an_error_or_a_program(tmp_path):
    content, rng = finished(), np.random.default_rng(0)
    for _ in range(300):
        damaged = bytearray(content)
        for position in rng.integers(8, len(content), 4):
            damaged[position] = rng.integers(0, 256)
        try:
            imported(bytes(damaged), tmp_path)
        except LockstepError as error:
            assert len(str(error).splitlines()) == 1


SHARED = {
    "Shape": lambda net, n: net.numbers(np.ones(n), np.int32),
    "ShapeSignature": lambda net, n: net.numbers(np.ones(n), np.int32),
    "Name": lambda net, n: net.text("n" * n),
    "Quantization": lambda net, n: net.table("QuantizationParameters", Scale=net.numbers(
        np.ones(n), np.float32)),
    "Outputs": lambda net, n: net.numbers(np.zeros(n), np.int32),
}


@pytest.mark.parametrize("field", SHARED)
def test_vectors_that_share_their_bytes(field, tmp_path):
    """Of small files that would fill any memory with what every tensor or operator says alike."""
    net = Network((1, 10))
    y = net.pointwise("RELU", net.input)
    net.repeat("Operator" if field == "Outputs" else "Tensor", 64,
               **{field: SHARED[field](net, 1 << 17)})
    content = net.finish(y)
    assert len(content) < 1 << 20
    refused(content, tmp_path, "Shapes, scales, operands and names of a model have at most "
            "4194304 entries in all")


def test_weights_that_many_layers_share(tmp_path, monkeypatch):
    net = Network((1, 6))
    weights, x = net.constant(np.ones((6, 6), np.int8), 0.1), net.input
    for _ in range(3):
        y = net.activation((1, 6))
        net.operator("FULLY_CONNECTED", [x, weights, -1], [y])
        x = y
    content = net.finish(x)
    imported(content, tmp_path)
    monkeypatch.setattr(parts, "MOST_WEIGHTS", 100)
    refused(content, tmp_path, "The layers of a model have at most 100 weights in all")


def test_a_gigabyte_of_zeros_is_not_read(tmp_path):
    path = tmp_path / "zeros.tflite"
    for start in (b"", b"\x10\0\0\0TFL3"):
        with open(path, "wb") as file:
            file.write(start)
            file.truncate(1 << 30)
        with pytest.raises(LockstepError, match=re.escape(str(path))):
            import_tflite(path)

"""Every operator of the import against LiteRT's reference kernels, at every tensor."""

from dataclasses import replace

import numpy as np
import pytest

from golden import ops
from golden.arith import Rounding, multiplier_and_shift
from golden.program.interpreter import run
from sw.formats.tflite import builder
from sw.formats.tflite.windows import same_padding
from tests.sw.formats.tflite.networks import Network, assert_as_litert, imported, random_codes

ACTIVATIONS = ("NONE", "RELU", "RELU6", "RELU_N1_TO_1")
GEOMETRIES = [
    {"padding": "SAME"}, {"padding": "VALID"}, {"padding": "SAME", "stride": (2, 2)},
    {"padding": "SAME", "kernel": (2, 2)}, {"padding": "SAME", "kernel": (4, 5), "stride": (3, 2)},
    {"padding": "VALID", "kernel": (3, 2), "stride": (2, 1)},
    {"padding": "SAME", "dilation": (2, 3)}, {"padding": "VALID", "dilation": (2, 1)},
    {"padding": "SAME", "kernel": (1, 1), "stride": (2, 3)},
]


def identify(values):
    return ",".join(f"{key}={value}" for key, value in values.items())


@pytest.mark.parametrize("geometry", GEOMETRIES, ids=identify)
def test_conv_2d(geometry, tmp_path):
    for seed, activation in enumerate(ACTIVATIONS):
        net = Network((1, 9, 8, 3), seed)
        y = net.conv(net.input, 5, activation=activation, per_channel=seed % 2 == 0,
                     **geometry)
        assert_as_litert(net.finish(y), tmp_path)


@pytest.mark.parametrize("factor", [1, 2, 3])
@pytest.mark.parametrize("geometry", GEOMETRIES, ids=identify)
def test_depthwise_conv_2d(geometry, factor, tmp_path):
    net = Network((1, 9, 8, 4), factor)
    y = net.depthwise(net.input, factor, activation=ACTIVATIONS[factor], per_channel=factor > 1,
                      **geometry)
    assert_as_litert(net.finish(y), tmp_path)


def test_a_convolution_of_groups(tmp_path):
    net = Network((1, 6, 6, 6))
    program = assert_as_litert(net.finish(net.conv(net.input, 9, groups=3)), tmp_path)
    assert program.nodes[0].op.groups == 3


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("shape", [(1, 37), (1, 1, 1, 20), (1, 3, 4, 5)])
def test_fully_connected(shape, per_channel, tmp_path):
    for seed, activation in enumerate(ACTIVATIONS):
        net = Network(shape, seed)
        y = net.fully_connected(net.input, 11, activation=activation, per_channel=per_channel,
                                bias=seed != 2)
        assert_as_litert(net.finish(y), tmp_path, 20)


def test_fully_connected_pixel_by_pixel(tmp_path):
    net = Network((1, 3, 4, 5))
    y = net.fully_connected(net.input, 6, shape=(1, 3, 4, 6), keep=True)
    assert_as_litert(net.finish(y), tmp_path, 20)


def accumulators_at_the_steps(factor, rng):
    """Sums at and beside every half of an output code, exact ties included."""
    halves = np.arange(-140, 140) + 0.5
    values = np.concatenate([np.floor(halves / factor) + d for d in (-1, 0, 1, 2)])
    return rng.permutation(values[np.abs(values) < 2**30].astype(np.int32))


FACTORS = [0.5, 2.0**-10, 0.75, 1.0, 0.0123, 3.3e-4, 1.7, 2.5e-3]


@pytest.mark.parametrize("kind", ["conv", "depthwise", "fully_connected", "per_channel"])
@pytest.mark.parametrize("factor", FACTORS)
def test_sums_at_every_rounding_boundary(factor, kind, tmp_path):
    """Weights of 0 make each bias a sum of its own."""
    rng = np.random.default_rng(0)
    sums = accumulators_at_the_steps(factor, rng)
    n, scale = len(sums), np.float32(0.25)
    net = Network((1, 1))
    flat = kind in ("fully_connected", "per_channel")
    depthwise = kind == "depthwise"
    x = net.tensor((1, 1) if flat else (1, 1, 1, 1), 0.5, 3)
    zeros = np.zeros((n, 1) if flat else (1, 1, 1, n) if depthwise else (n, 1, 1, 1), np.int8)
    scales = scale if kind != "per_channel" else np.full(n, scale)
    w = net.constant(zeros, scales, axis=3 if depthwise else 0)
    y = net.tensor((1, n) if flat else (1, 1, 1, n), 0.5 * 0.25 / factor, -4)
    operands = [x, w, net.constant(sums, 0.125)]
    if flat:
        net.operator("FULLY_CONNECTED", operands, [y])
    elif depthwise:
        net.operator("DEPTHWISE_CONV_2D", operands, [y], StrideH=1, StrideW=1, DepthMultiplier=n)
    else:
        net.operator("CONV_2D", operands, [y], StrideH=1, StrideW=1)
    net.input = x
    program = assert_as_litert(net.finish(y), tmp_path, 1)
    codes = run(program, random_codes(program.input_shape, 1))[program.outputs[0]]
    assert codes.min() < -100 and codes.max() > 100
    assert program.metadata["notes"] == []


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_add(activation, tmp_path):
    for seed in range(3):
        net = Network((1, 16, 16, 2), seed)
        a, b = (net.conv(net.input, 3, kernel=(1, 1)) for _ in range(2))
        assert_as_litert(net.finish(net.add(a, b, activation)), tmp_path, 20)


def test_add_to_itself_and_of_one_scale(tmp_path):
    net = Network((1, 16, 16, 2))
    assert_as_litert(net.finish(net.add(net.input, net.input)), tmp_path, 8)


WINDOWS = [((2, 2), (2, 2)), ((3, 3), (1, 1)), ((3, 3), (2, 2)), ((3, 2), (1, 3)), ((7, 6), (7, 6)),
           ((5, 4), (2, 1))]


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("kind", ["AVERAGE_POOL_2D", "MAX_POOL_2D"])
def test_pools(kind, window, padding, tmp_path):
    for seed, activation in enumerate(("NONE", "RELU6")):
        net = Network((1, 7, 6, 3), seed)
        y = net.pool(kind, net.input, *window, padding, activation)
        assert_as_litert(net.finish(y), tmp_path, 30)


@pytest.mark.parametrize("size", [(1, 1), (2, 2), (3, 5), (7, 7), (8, 8), (5, 13)])
def test_mean(size, tmp_path):
    for seed, (axes, keep) in enumerate((((1, 2), False), ((2, 1), True), ((-3, -2), False))):
        net = Network((1, *size, 4), seed)
        y = net.mean(net.input, axes, keep, like=net.input if seed == 2 else None)
        assert_as_litert(net.finish(y), tmp_path, 100)


def test_mean_is_not_the_average_pool(tmp_path):
    """With one scale the two differ in ties and by what the kernel cuts off its multiplier."""
    net = Network((1, 2, 2, 8))
    pooled = net.pool("AVERAGE_POOL_2D", net.input)
    mean = Network((1, 2, 2, 8))
    y = mean.mean(mean.input, like=mean.input)
    a, b = imported(net.finish(pooled), tmp_path), imported(mean.finish(y), tmp_path)
    x = random_codes((2, 2, 8), 50)
    assert (run(a, x)[a.outputs[0]].reshape(50, 8) != run(b, x)[b.outputs[0]]).any()


@pytest.mark.parametrize("shapes", [
    [(1, 60)], [(1, 1, 1, 60)], [(1, 5, 3, 4)], [(1, 60), (1, 3, 4, 5)], [(1, 12, 5), (1, 4, 15)],
    [(1, 1, 12, 5), (1, 60)], [(1, 2, 6, 5), (1, 6, 10), (1, 60, 1, 1)]])
def test_reshape(shapes, tmp_path):
    net = Network((1, 3, 4, 5))
    y = net.input
    for shape in shapes:
        y = net.reshape(y, shape)
    program = assert_as_litert(net.finish(y), tmp_path)
    assert all(isinstance(node.op, ops.Reshape) for node in program.nodes)


def test_squeeze(tmp_path):
    net = Network((1, 1, 1, 9))
    y = net.activation((1, 9), like=net.input)
    net.operator("SQUEEZE", [net.input], [y], SqueezeDims=net.numbers([1, 2], np.int32))
    assert_as_litert(net.finish(y), tmp_path)


@pytest.mark.parametrize("axis", [1, 2, 3, -1])
def test_concatenation(axis, tmp_path):
    net = Network((1, 4, 5, 3))
    inputs = [net.input, net.pool("MAX_POOL_2D", net.input, (3, 3), (1, 1), "SAME"), net.input]
    assert_as_litert(net.finish(net.concat(inputs, axis)), tmp_path)


def test_concatenation_of_vectors(tmp_path):
    net = Network((1, 7))
    y = net.concat([net.input, net.pointwise("RELU", net.input, like=net.input)], 1)
    assert_as_litert(net.finish(y), tmp_path)


def test_a_pad_in_front_of_a_convolution_becomes_its_padding(tmp_path):
    for layer in ("conv", "depthwise"):
        net = Network((1, 6, 7, 4))
        padded = net.pad(net.input, [(0, 0), (0, 1), (2, 1), (0, 0)])
        options = {"stride": (2, 2), "padding": "VALID"}
        y = (net.conv(padded, 4, **options) if layer == "conv" else
             net.depthwise(padded, **options))
        program = assert_as_litert(net.finish(y), tmp_path)
        assert [node.op.padding for node in program.nodes] == [(0, 2, 1, 1)]
        assert "is part of" in program.metadata["notes"][0]


@pytest.mark.parametrize("paddings", [
    [(0, 0), (1, 2), (0, 3), (0, 0)], [(0, 0), (1, 0), (1, 1), (2, 3)],
    [(0, 0), (0, 0), (0, 0), (0, 1)]])
def test_a_pad_of_its_own(paddings, tmp_path):
    net = Network((1, 6, 7, 4))
    y = net.pool("MAX_POOL_2D", net.pad(net.input, paddings), (3, 3), (2, 2))
    program = assert_as_litert(net.finish(y), tmp_path)
    assert len(program.nodes) == 2


def test_a_pad_that_two_convolutions_read_stays(tmp_path):
    net = Network((1, 6, 7, 4))
    padded = net.pad(net.input, [(0, 0), (1, 1), (1, 1), (0, 0)])
    a, b = net.conv(padded, 5, padding="VALID"), net.conv(padded, 5, padding="VALID")
    assert len(assert_as_litert(net.finish(net.add(a, b)), tmp_path).nodes) == 4


@pytest.mark.parametrize("kind", ["RELU", "RELU6", "QUANTIZE"])
def test_pointwise(kind, tmp_path):
    for seed in range(4):
        net = Network((1, 8, 8, 4), seed)
        y = net.pointwise(kind, net.input, like=net.input if seed == 0 else None)
        assert_as_litert(net.finish(y), tmp_path, 4)


def half_up(rescale):
    """A Rescale with one rounding in place of two."""
    return lambda *args: replace(rescale(*args), rounding=Rounding.HALF_UP)


FAULTS = {  # what is replaced, and by what
    "one rounding": ("products.gemmlowp_rescale", half_up(builder.gemmlowp_rescale)),
    "larger half above": ("windows.same_padding", lambda *args: (
        lambda top, left, bottom, right: (bottom, right, top, left))(*same_padding(*args))),
    "nearest multiplier": ("products.float_product", lambda factor, *_: (
        *multiplier_and_shift(factor), 0)),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_planted_fault_is_seen(fault, tmp_path, monkeypatch):
    net = Network((1, 8, 8, 3))
    x = net.conv(net.input, 8, stride=(2, 2))
    y = net.tensor((1, 128), net.quantization[x][0], 0)     # a factor of 1/2: ties
    weights = net.constant(np.eye(128, dtype=np.int8), 0.5)
    net.operator("FULLY_CONNECTED", [x, weights, -1], [y])
    content = net.finish(y)
    assert_as_litert(content, tmp_path, 20)
    where, wrong = FAULTS[fault]
    monkeypatch.setattr(f"sw.formats.tflite.{where}", wrong)
    with pytest.raises(AssertionError, match="Mismatched elements"):
        assert_as_litert(content, tmp_path, 20)

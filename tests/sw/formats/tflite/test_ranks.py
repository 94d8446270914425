"""Channels are the last axis at every rank: from the file's order to the file's order."""

import numpy as np
import pytest

from benchmarks.litert import Reference
from flows import convert, sim
from tests.sw.formats.tflite.networks import Network, assert_as_litert

SHAPES = [(1, 12), (1, 4, 6), (1, 3, 4, 5), (1, 2, 3, 4, 5)]


def assert_in_the_files_order(net, y, folder):
    """Convert and run the file; the input and the output are arrays as LiteRT has them."""
    content, path = net.finish(y), folder / "ranks.tflite"
    path.write_bytes(content)
    x = np.random.default_rng(1).integers(-128, 128, (3, *net.shapes[net.input][1:]), np.int8)
    np.save(folder / "x.npy", x)
    convert.main([str(path), "-o", str(folder / "program")])
    sim.main(["--program", str(folder / "program"), "--inputs", str(folder / "x.npy"),
              "--backend", "golden", "--outputs", str(folder / "y.npy")])
    expected = Reference(content).in_file_order(x, {"output": None})["output"]
    np.testing.assert_array_equal(np.load(folder / "y.npy"), expected)
    return assert_as_litert(content, folder)


@pytest.mark.parametrize("shape", SHAPES, ids=len)
def test_operators_without_an_axis(shape, tmp_path):
    net = Network(shape)
    x = net.pointwise("QUANTIZE", net.add(net.input, net.pointwise("RELU", net.input)))
    assert_in_the_files_order(net, x, tmp_path)


@pytest.mark.parametrize("shape, axis", [(shape, axis) for shape in SHAPES
                                         for axis in (*range(1, len(shape)), -1, -2)
                                         if axis % len(shape)])
def test_concatenation_along_every_axis(shape, axis, tmp_path):
    net = Network(shape)
    second = net.pointwise("RELU", net.input, like=net.input)
    y = net.concat([net.input, second, net.input], axis)
    assert_in_the_files_order(net, y, tmp_path)


@pytest.mark.parametrize("before", SHAPES, ids=len)
@pytest.mark.parametrize("after", [(1, 60), (1, 5, 12), (1, 4, 3, 5), (1, 5, 3, 2, 2)], ids=len)
def test_reshapes_between_ranks(before, after, tmp_path):
    size = int(np.prod(before))
    after = (*after[:-1], size // int(np.prod(after[:-1]))) if 60 % size else after
    if np.prod(after) != size:
        after = (1, size)
    net = Network(before)
    assert_in_the_files_order(net, net.reshape(net.input, after), tmp_path)


def test_a_dimension_is_put_in(tmp_path):
    """As the converter writes a convolution of one dimension."""
    net = Network((1, 8, 6))
    y = net.activation((1, 1, 8, 6), like=net.input)
    net.operator("EXPAND_DIMS", [net.input, net.constant(np.array(1, np.int32))], [y])
    y = net.reshape(net.conv(y, 4, kernel=(1, 3)), (1, 8, 4))
    assert_in_the_files_order(net, y, tmp_path)


@pytest.mark.parametrize("keep", [False, True])
@pytest.mark.parametrize("shape", [(1, 7, 5), (1, 2, 3, 4, 5)], ids=len)
def test_the_mean_of_all_pixels(shape, keep, tmp_path):
    net = Network(shape)
    axes = np.arange(1, len(shape) - 1)
    y = net.activation((1, *(1 for _ in axes), 5) if keep else (1, 5))
    net.operator("MEAN", [net.input, net.constant(axes.astype(np.int32))], [y], KeepDims=keep)
    assert_in_the_files_order(net, y, tmp_path)


@pytest.mark.parametrize("shape, paddings", [
    ((1, 9), [(0, 0), (2, 1)]), ((1, 4, 6), [(0, 0), (3, 1), (0, 0)]),
    ((1, 4, 6), [(0, 0), (0, 1), (2, 0)])], ids=str)
def test_a_pad_of_other_ranks(shape, paddings, tmp_path):
    net = Network(shape)
    assert_in_the_files_order(net, net.pad(net.input, paddings), tmp_path)


@pytest.mark.parametrize("shape", [(1, 7, 5), (1, 2, 3, 4, 5)], ids=len)
def test_a_dense_layer_on_every_pixel(shape, tmp_path):
    net = Network(shape)
    y = net.fully_connected(net.input, 6, shape=(*shape[:-1], 6), keep=True)
    assert_in_the_files_order(net, y, tmp_path)


def test_another_order_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("sw.formats.tflite.convert.LAYOUT", "NCHW")
    net = Network((1, 6, 6))
    y = net.conv(net.reshape(net.input, (1, 1, 6, 6)), 4, kernel=(1, 3))
    with pytest.raises(AssertionError):
        assert_in_the_files_order(net, net.reshape(y, (1, 6, 4)), tmp_path)


def test_a_dense_layer_on_all_of_a_sequence(tmp_path):
    net = Network((1, 7, 5))
    assert_in_the_files_order(net, net.fully_connected(net.input, 6), tmp_path)

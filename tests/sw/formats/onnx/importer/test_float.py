"""Float ONNX graphs: the network computes what ONNX Runtime computes, and can be quantized."""

import numpy as np
import onnx
import pytest
import torch

from golden.errors import LockstepError
from golden.program.interpreter import run
from sw import executor
from sw.formats.onnx import runtime as onnx_runtime
from sw.formats.onnx.importer import import_network, import_onnx, unsupported_operators
from sw.layers.weighted import QConv2d, QLinear
from sw.lower.network import lower
from sw.ptq.quantize import quantize
from tests.sw.formats.onnx.importer.networks import (
    POOL_WINDOWS,
    Network,
    Quantized,
    images,
    residual,
    saved,
    statically_quantized,
)

TOLERANCE = 1e-4    # of float32 sums in another order, relative to the largest output


def reference(model, x, output=None):
    """What ONNX Runtime gives at the output or another tensor."""
    if output:
        del model.graph.output[:]
        model.graph.output.append(onnx.ValueInfoProto(name=output))
    return onnx_runtime.session(model, optimize=False).run(None, {"x": x})[0]


def assert_same(model, x, folder, output=None):
    """The network's outputs are ONNX Runtime's. Returns the network."""
    network = import_network(saved(model, folder))
    with torch.no_grad():
        found = network(torch.from_numpy(x)).numpy()
    expected = reference(model, x, output)
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()
    return network


def test_a_network_of_everything(tmp_path):
    model = residual()
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    network = assert_same(model, images((3, 8, 8), 4), tmp_path, gemm.output[0])
    assert len(network.steps) == 12     # norms, constants and activations are parts of layers


def test_it_is_quantized_and_runs(tmp_path):
    network, x = import_network(saved(residual(), tmp_path)), images((3, 8, 8), 64)
    quantized, layers = quantize(network, torch.from_numpy(x))
    program = lower(quantized)
    trace = run(program, x)
    with torch.no_grad():
        logits = network(torch.from_numpy(x)).numpy()
    codes = trace[program.outputs[0]]
    assert (codes.argmax(1) == logits.argmax(1)).mean() >= 0.9
    assert min(layer.sqnr_db for layer in layers) > 20
    for name, tensor in executor.run(program, x).items():
        np.testing.assert_array_equal(tensor, trace[name])


def dense_block(net):
    """As DenseNet: a norm with constants behind it reads what others read too."""
    x = net.conv("x", 3, 4)
    y = net.norm(x, 4)
    scale, shift = (net.node("Unsqueeze", [net.floats((4,), 0.5, mean), net.constant([1, 2])])
                    for mean in (1, 0))
    y = net.node("Relu", [net.node("Add", [net.node("Mul", [y, scale]), shift])])
    return net.node("Concat", [x, net.conv(y, 4, 3)], axis=1)


def constants(net):
    x = net.conv("x", 3, 4, bias=False)
    x = net.node("Add", [net.floats((4, 1, 1)), x])
    x = net.node("Sub", [net.node("Div", [x, net.floats((1, 4, 1, 1), 0.2, 2)]), net.floats((1,))])
    return net.node("Mul", [x, net.constant(0.3, dtype=np.float32)])


def pads(net):
    x = net.node("Pad", ["x", net.constant([0, 0, 1, 0, 0, 0, 2, 3])])
    x = net.conv(x, 3, 4, pads=(0, 1, 0, 0), strides=[2, 1])
    return net.node("Pad", [x, net.constant([0, 1, 1, 0]), net.constant(0, dtype=np.float32),
                            net.constant([2, 3])])


def sums(net):
    a, b, c = (net.node("Relu", [net.conv("x", 3, 4)]) for _ in range(3))
    return net.node("Relu", [net.node("Sum", [net.node("Sum", [a, b, c]), a])])


def matrices(net):
    x = net.node("Flatten", ["x"])
    x = net.node("Add", [net.node("MatMul", [x, net.floats((192, 6), 0.1)]), net.floats((6,))])
    return net.gemm(net.node("Dropout", [net.node("Relu", [x])]), 6, 4, alpha=0.5, beta=2.0)


def shapes(net):
    """A Reshape whose shape is computed from that of its input, as PyTorch wrote them."""
    x = net.node("ReduceMean", [net.conv("x", 3, 4), net.constant([2, 3])], keepdims=1)
    size = net.node("Gather", [net.node("Shape", [x]), net.constant(0)], axis=0)
    size = net.node("Unsqueeze", [size, net.constant([0])])
    target = net.node("Concat", [size, net.constant([-1])], axis=0)
    return net.node("Identity", [net.node("Reshape", [x, target])])


GRAPHS = [dense_block, constants, pads, sums, matrices, shapes]


@pytest.mark.parametrize("graph", GRAPHS, ids=lambda graph: graph.__name__)
def test_graphs(graph, tmp_path):
    net = Network((3, 8, 8))
    x = images((3, 8, 8), 32)
    network = assert_same(net.model(graph(net)), x, tmp_path)
    quantized, _ = quantize(network, torch.from_numpy(x))
    program = lower(quantized)
    with torch.no_grad():
        expected = network(torch.from_numpy(x)).numpy()
    codes, grid = run(program, x)[program.outputs[0]], program.output.quantization
    error = (codes.astype(float) - grid.zero_point) * grid.scale - expected
    assert 10 * np.log10((expected ** 2).mean() / (error ** 2).mean()) > 25


@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
@pytest.mark.parametrize("window", POOL_WINDOWS, ids=str)
def test_pools(kind, window, tmp_path):
    if kind == "MaxPool":
        window = {key: value for key, value in window.items() if key != "count_include_pad"}
    net = Network((3, 8, 7))
    y = net.node(kind, [net.conv("x", 3, 4)], kernel_shape=[3, 2], **window)
    x = images((3, 8, 7), 8)
    network = assert_same(net.model(y), x, tmp_path)
    program = lower(quantize(network, torch.from_numpy(x))[0])
    assert run(program, x)[program.outputs[0]].shape == tuple(
        network(torch.from_numpy(x)).shape)


@pytest.mark.parametrize("geometry", [
    {"pads": (0, 1, 2, 1), "strides": [2, 1]}, {"dilations": [2, 1], "pads": (2, 1, 2, 1)},
    {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, {"auto_pad": "SAME_LOWER", "strides": [2, 2]}],
    ids=str)
def test_convolutions(geometry, tmp_path):
    geometry = dict(geometry)
    net = Network((3, 8, 7))
    pads_given = {"pads": geometry.pop("pads")} if "pads" in geometry else {}
    weights = net.floats((4, 3, 3, 2), 0.3)
    model = net.model(net.node("Conv", ["x", weights], **pads_given, **geometry))
    assert_same(model, images((3, 8, 7), 4), tmp_path)


def test_activations_of_what_others_read_too(tmp_path):
    net = Network((3, 8, 8))
    x = net.conv("x", 3, 4)
    y = net.node("Add", [net.node("Relu", [x]), x])
    network = assert_same(net.model(y), images((3, 8, 8), 4), tmp_path)
    assert [type(getattr(network, name)).__name__ for name, _ in network.steps] == [
        "QConv2d", "QActivation", "QAdd"]


def test_a_planted_fault_is_seen(tmp_path, monkeypatch):
    monkeypatch.setattr("sw.formats.onnx.importer.float_graph.normalisation",
                        lambda walk, node, shape: (np.ones(shape[0]), np.zeros(shape[0])))
    model = residual()
    gemm = next(node for node in model.graph.node if node.op_type == "Gemm")
    with pytest.raises(AssertionError):
        assert_same(model, images((3, 8, 8), 4), tmp_path, gemm.output[0])


def test_what_is_refused(tmp_path):
    net = Network((3, 8, 8))
    model = net.model(net.node("LRN", [net.conv("x", 3, 4)], size=3, name="local"))
    with pytest.raises(LockstepError, match=r"Operator LRN \(node 'local'\) is not supported"):
        import_network(saved(model, tmp_path))
    assert unsupported_operators(saved(model, tmp_path)) == {"LRN": ["local"]}
    net = Network((3, 8, 8))
    low = net.constant(-1, dtype=np.float32)
    model = net.model(net.node("Clip", [net.conv("x", 3, 4), low], name="hard"))
    with pytest.raises(LockstepError, match=r"\(node 'hard'\): bounds must be 0 and 6, or 0 and"):
        import_network(saved(model, tmp_path))
    path = statically_quantized(residual(), tmp_path)
    with pytest.raises(LockstepError, match="A quantized model is converted: python flows/conver"):
        import_network(path)


@pytest.mark.parametrize("make", [Network, Quantized])
@pytest.mark.parametrize("kind", ["MaxPool", "AveragePool"])
def test_pools_of_padding_alone_are_refused_as_by_onnx_runtime(kind, make, tmp_path):
    net = make((3, 8, 8))
    x = "x" if make is Network else net.quantized("x")
    model = net.model(net.node(kind, [x], kernel_shape=[3, 2], pads=[0, 0, 1, 2], name="wide"))
    with pytest.raises(LockstepError, match=rf"Operator {kind} \(node 'wide'\): pads must be less "
                                            r"than the kernel \(3, 2\), not \(0, 0, 1, 2\)"):
        (import_network if make is Network else import_onnx)(saved(model, tmp_path))
    with pytest.raises(Exception, match="Pad should be smaller than kernel"):
        onnx_runtime.session(model, optimize=False)


def test_a_dropout_that_drops_and_a_constant_that_adds_a_dimension_are_refused(tmp_path):
    net = Network((3, 8, 8))
    model = net.model(net.node("Dropout", [net.conv("x", 3, 4), net.constant(
        0.5, dtype=np.float32), net.constant(True)], name="active"))
    with pytest.raises(LockstepError, match=r"\(node 'active'\): training_mode must be false"):
        import_network(saved(model, tmp_path))
    net = Network((3, 8, 8))
    model = net.model(net.node("Add", [net.conv("x", 3, 4), net.floats((1, 1, 1, 1, 1))]))
    with pytest.raises(LockstepError, match=r"constant of shape \[1, 1, 1, 1, 1\] must have one"):
        import_network(saved(model, tmp_path))


def test_an_output_that_is_a_constant_is_refused(tmp_path):
    net = Network((3, 8, 8))
    with pytest.raises(LockstepError, match="holds no operator for the network"):
        import_network(saved(net.model(net.floats((3,))), tmp_path))


def test_activations_beyond_all_measure_are_refused(tmp_path):
    net = Network((3, 8, 8))
    model = net.model(net.conv("x", 3, 4, pads=(9000,) * 4, name="wide"))
    with pytest.raises(LockstepError, match=r"\(node 'wide'\): activations must have at most"):
        import_network(saved(model, tmp_path))


@pytest.mark.parametrize("name", ["result", "source", "owner", "forward", "class", "9/a.b",
                                  "\u756a"])
def test_nodes_may_have_any_name(name, tmp_path):
    net = Network((3, 8, 8))
    net.source.name = name
    model = net.model(net.conv(name, 3, 4, name=name))
    x = torch.from_numpy(images((3, 8, 8), 2))
    program = lower(quantize(import_network(saved(model, tmp_path)), x)[0])
    assert len(program.nodes) == 1


def test_weights_are_those_of_the_file(tmp_path):
    net = Network((6,))
    y = net.gemm("x", 6, 4, transB=1)
    model = net.model(y)
    network = import_network(saved(model, tmp_path))
    layer = getattr(network, network.steps[0][0])
    assert isinstance(layer, QLinear) and not isinstance(layer, QConv2d)
    np.testing.assert_array_equal(layer.weight.detach().numpy(), onnx.numpy_helper.to_array(
        model.graph.initializer[0]))

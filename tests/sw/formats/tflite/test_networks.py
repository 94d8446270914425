"""Whole networks: as real ones are built, on every backend, and the two that are shipped."""

import numpy as np
import pytest

from benchmarks.litert import Reference
from benchmarks.tflite import pixel_codes
from golden.program.compare import compare
from golden.program.interpreter import run
from hw.targets import get_target
from sim import rtl
from sw import executor
from sw.data import load_dataset
from sw.formats.onnx import runtime as onnx_runtime
from sw.formats.parts import Parts
from sw.formats.tflite import import_tflite
from tests.hw.compiler.compiled import assert_as_golden
from tests.sw.formats.tflite.networks import Network, assert_as_litert, imported, random_codes

IMAGES = 200
SHIPPED = ["ad01_int8", "pretrainedResnet_quant"]


def mobile_net():
    """Separable layers, a padded stride, a residual, MEAN and a classifier."""
    net = Network((1, 12, 10, 3), 1)
    x = net.conv(net.pad(net.input, [(0, 0), (0, 1), (0, 1), (0, 0)]), 6, stride=(2, 2),
                 padding="VALID", activation="RELU6")
    y = net.conv(net.depthwise(x, activation="RELU6"), 6, kernel=(1, 1))
    x = net.add(x, y)
    x = net.depthwise(x, 2, stride=(2, 2), activation="RELU6")
    return net.finish(net.fully_connected(net.mean(x), 5, per_channel=True))


def inception_net():
    """Branches joined after a change of scale, a padded average pool, a flattening of pixels."""
    net = Network((1, 9, 7, 4), 2)
    a = net.conv(net.input, 4, kernel=(1, 1), activation="RELU")
    b = net.pool("AVERAGE_POOL_2D", net.input, (3, 3), (1, 1), "SAME")
    b = net.pointwise("QUANTIZE", b, like=a)
    c = net.pointwise("QUANTIZE", net.conv(net.input, 8, dilation=(2, 2)), like=a)
    x = net.pool("MAX_POOL_2D", net.concat([a, b, c]), (3, 3), (2, 2), "SAME", "RELU6")
    x = net.pool("AVERAGE_POOL_2D", x, (3, 3), (2, 2), "SAME")
    x = net.reshape(x, (1, int(np.prod(net.shapes[x]))))
    return net.finish(net.fully_connected(x, 6, activation="RELU"))


def gated_net():
    """As MobileNetV3: hard swish, squeeze and excitation, a leaky slope, a sequence at the end."""
    net = Network((1, 8, 6, 3), 3)
    x = net.pointwise("HARD_SWISH", net.conv(net.input, 6, stride=(2, 2)))
    x = net.depthwise(x)
    gate = net.fully_connected(net.mean(x), 4, activation="RELU")
    gate = net.fully_connected(gate, 6)
    y = net.tensor((1, 6), 1 / 256, -128)
    net.operator("LOGISTIC", [gate], [y])
    x = net.pointwise("LEAKY_RELU", net.mul(x, y), Alpha=0.2)
    x = net.reshape(net.conv(x, 5), (1, 12, 5))
    return net.finish(net.fully_connected(x, 4, shape=(1, 12, 4), keep=True))


NETWORKS = {"mobile_net": mobile_net, "inception_net": inception_net, "gated_net": gated_net}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_on_software(name, tmp_path):
    assert_as_litert(NETWORKS[name](), tmp_path, 50)


@pytest.mark.parametrize("name", NETWORKS)
def test_the_output_on_the_instruction_set_model(name, tmp_path):
    program = imported(NETWORKS[name](), tmp_path)
    assert_as_golden(program, get_target("sim-4x4"), random_codes(program.input_shape, 2))


def chain(*names):
    """Tensors of these names in a row, a pool with an activation between the last two."""
    net = Network((1, 6, 6, 3))
    tensors = [net.activation((1, 6, 6, 3), like=net.input, name=name) for name in names]
    for x, y in zip([net.input, *tensors], tensors[:-1]):
        net.operator("RELU", [x], [y])
    net.operator("MAX_POOL_2D", tensors[-2:-1], tensors[-1:], Padding=0, StrideH=1, StrideW=1,
                 FilterHeight=1, FilterWidth=1, FusedActivationFunction=1)
    return net.finish(tensors[-1])


def test_tensors_may_be_called_alike_and_as_invented_ones(tmp_path):
    program = imported(chain("y", "y/pool", "y_1", "y"), tmp_path)
    assert [*program.tensors] == ["tensor0", "y", "y/pool", "y_1", "y_2/pool", "y_2"]
    program = imported(chain("y/pool", "y"), tmp_path)
    assert [*program.tensors] == ["tensor0", "y/pool", "y/pool_1", "y"]
    x = random_codes(program.input_shape, 2)
    np.testing.assert_array_equal(run(program, x)["y"], run(
        imported(chain("a", "b"), tmp_path), x)["b"])


@pytest.mark.timeout(20)
def test_names_are_invented_at_once_however_many_are_alike():
    parts = Parts({"y"})
    assert [parts.invent("y") for _ in range(1 << 16)][-1] == "y_65536"


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", NETWORKS)
def test_every_tensor_on_the_simulated_accelerator(name, tmp_path):
    content = NETWORKS[name]()
    program = assert_as_litert(content, tmp_path, 2)
    x = random_codes(program.input_shape, 2)
    expected = run(program, x)
    trace = rtl.run(program, x, target="sim-4x4")
    assert set(trace) == set(program.tensors)
    assert compare({"golden": expected, "rtl": trace}, program) == []


def shipped(folder, name, n_images):
    """The Program, its file's content, and inputs: CIFAR-10's pictures, else random codes."""
    path = folder / "mlperf_tiny" / f"{name}.tflite"
    if not path.is_file():
        pytest.skip(f"{path} is not there")
    program = import_tflite(path)
    if len(program.input_shape) == 1:
        return program, path.read_bytes(), random_codes(program.input_shape, n_images)
    pixels = load_dataset("cifar10", folder).test_pixels[:n_images].numpy()
    return program, path.read_bytes(), pixel_codes(pixels)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_models_at_every_tensor(name, external_data):
    program, content, x = shipped(external_data, name, IMAGES)
    expected = Reference(content).trace(x, program.tensors)
    assert set(expected) == set(program.tensors)
    for backend in (run, executor.run, onnx_runtime.run):
        trace = backend(program, x)
        for tensor, codes in expected.items():
            assert (trace[tensor] != codes).sum() == 0, f"{backend} {tensor}"


@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("name", SHIPPED)
def test_the_shipped_models_on_the_simulated_accelerator(name, external_data):
    program, content, x = shipped(external_data, name, 2)
    trace = rtl.run(program, x, target="ecp5-85k", trace=1)
    for tensor, codes in Reference(content).trace(x, trace).items():
        kept = trace[tensor]
        assert np.array_equal(kept, codes[:len(kept)]), tensor

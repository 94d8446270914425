"""The inference Program of a trained state, against float64 layers and on both executors."""

import numpy as np
import pytest
import torch
from torch import nn

from golden import ops
from golden.ops.range_norm import chunking, range_constant
from golden.ops.step import NormStatistics
from golden.program.interpreter import run as golden_run
from golden.program.verify import verify
from models import build_model
from sw import executor
from sw.integer.inference import inference_program
from sw.integer.runner import Runner
from sw.integer.step import integer_step
from sw.integer.train import write_floats
from sw.layers.norms import EPSILON
from sw.layers.weighted import WeightedLayer
from tests.sw.integer.networks import EACH, NETWORKS, batch, network


def trained(name, n_steps):
    """(model, step, state) after some steps on one batch; without any, the running statistics are
    those of the batch, and nothing is saturated."""
    model, n_images = network(name)
    for layer in model.modules():
        if isinstance(layer, WeightedLayer) and layer.norm is not None:
            nn.init.ones_(layer.norm.weight)            # those of residual branches too
    settle, step = (integer_step(model, n_images, input_exponent=-6, settle=settle)
                    for settle in (True, False))
    runner = Runner(settle)
    for _ in range(24):
        runner(batch(settle))
    runner = Runner(step, state=runner.state)
    for number in range(n_steps):
        runner(batch(step, 0) | {"host/step": np.array([number], np.int32)})
    return model, step, runner.state


def float_copy(name, step, state):
    """The network in float64, with the weights and running statistics of the state."""
    function, options, _, shape = NETWORKS[name]
    model = build_model(function, options | {"quantize": False}).eval()
    model.input_shape = shape or model.input_shape
    write_floats(model, state)
    counts = {node.name.removesuffix(".statistics"): node.op.count for node in step.nodes
              if isinstance(node.op, NormStatistics)}
    for path, layer in model.named_modules():
        if not isinstance(layer, WeightedLayer):
            continue
        e_w = int(state[f"{path}.weight.exponent"])
        masters = state[f"{path}.weight"][0].long()
        layer.weight.data = ((masters + 128) >> 8).double() * 2.0**e_w
        if layer.norm is None:
            continue
        length, number = chunking(counts[path])
        unit = 2.0 ** state[f"{path}.q.exponent"][0].double()
        layer.norm.running_mean = state[f"{path}.running.mean"][0].double() * unit / 2**16
        spread = state[f"{path}.running.spread"][0].double() * unit / 2**12
        # The integers have no epsilon that is added.
        layer.norm.running_scale = spread / number * range_constant(length) - EPSILON
    return model.double()


@pytest.mark.parametrize("name", EACH)
def test_every_layer_is_that_of_the_float_network_with_running_statistics(name):
    model, step, state = trained(name, 0)
    program = inference_program(model, step, state)
    codes = batch(step)[program.inputs[0]]
    trace = golden_run(program, codes)
    other = executor.run(program, codes)
    layers = dict(float_copy(name, step, state).named_modules())
    for node in program.nodes:
        output, = node.outputs
        np.testing.assert_array_equal(other[output], trace[output], err_msg=output)
        if isinstance(node.op, (ops.Reshape, ops.MaxPool)):
            continue
        inputs = [torch.from_numpy(trace[each] * program.tensors[each].quantization.scale)
                  for each in node.inputs]
        with torch.no_grad():
            exact = layers[node.name](*inputs).numpy()
        exact = np.nan_to_num(exact)            # of a channel without range
        exact = (exact / program.tensors[output].quantization.scale).clip(-128, 127)
        error = abs(trace[output] - exact)
        if f"{node.name}.running.spread" in state:      # below a code in the mean it is limited
            error = error[:, (state[f"{node.name}.running.spread"][0] >= 16 << 12).numpy()]
        # Half a code, what 12 bits of gamma and beta and 4 of the range leave out, and the bias,
        # which is rounded to a step of the sums.
        rescale = node.op.rescale
        steps = (rescale.multiplier * 2.0 ** -rescale.shift).max()
        assert error.max(initial=0) < 0.52 + 0.001 * abs(exact).max() + steps / 2, output
    assert verify(program).accumulator_width <= 32
    assert all(tensor.quantization.dtype == "int8" for tensor in program.tensors.values())


@pytest.mark.parametrize("name", ["digits", "resnet8", "lenet"])
def test_it_is_the_float_network(name):
    model, step, state = trained(name, 0)
    program = inference_program(model, step, state)
    codes = batch(step)[program.inputs[0]]
    output, = program.outputs
    found = golden_run(program, codes)[output] * program.tensors[output].quantization.scale
    with torch.no_grad():
        exact = float_copy(name, step, state)(torch.from_numpy(codes / 64.0)).numpy()
    assert np.linalg.norm(found - exact) / np.linalg.norm(exact) < 0.1


def test_channels_without_slope_or_room_are_their_constant():
    model, step, state = trained("digits", 1)
    state = {name: value.clone() for name, value in state.items()}
    state["stem.gamma"][0, 0] = 0                   # no slope
    state["stem.running.spread"][0, 1] = 0          # no range
    state["stem.beta"][0, :2] = 1 << 26
    state["stem.running.mean"][0, 2] = -(1 << 31)   # a bias of 2^15 codes
    state["stem.q.exponent"][0, 2] = 40
    program = inference_program(model, step, state)
    op = program.nodes[0].op
    assert not op.weights[:3].any() and op.weights[3].any()
    image, = program.inputs
    y = golden_run(program, batch(step)[image])["stem"]
    exponent = int(state["stem.exponent"])
    assert (y[:, :2] == round(0.25 / 2.0**exponent)).all()
    assert (y[:, 2] == y[0, 2, 0, 0]).all()


@pytest.mark.slow
def test_relu6_is_a_clamp():
    model, step, state = trained("mobilenet_relu6", 1)
    state = {name: value.clone() for name, value in state.items()}
    state["stem.exponent"][:] = -4
    program = inference_program(model, step, state)
    assert program.nodes[0].op.rescale.high == 96


def test_floats_are_written_back():
    model, _, state = trained("digits", 1)
    write_floats(model, state)
    unit = 2.0 ** (int(state["stem.weight.exponent"]) - 8)
    np.testing.assert_array_equal(model.stem.weight.detach().numpy() / unit,
                                  state["stem.weight"][0].numpy())
    gamma = state["stem.gamma"][0].double() / 2**28
    assert abs(model.stem.norm.weight.detach().double() - gamma).max() < 1e-7
    assert isinstance(model.classifier.bias, nn.Parameter)

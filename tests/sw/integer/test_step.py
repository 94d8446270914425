"""The integer training step that is built from a model: one Program, the same bits everywhere."""

import numpy as np
import pytest
import torch
from torch import nn

from golden.errors import LockstepError
from golden.ops import step as ops
from golden.ops.primitives import NUMPY
from golden.ops.step import STEP_OPERATORS
from golden.program import Program
from golden.program.interpreter import run as golden_run
from golden.program.sources import renewed_state
from golden.program.verify import verify
from models import build_model
from sw import executor
from sw.integer.layers import LABEL
from sw.integer.runner import Runner
from sw.integer.step import integer_step
from sw.integer.tape import RANDOM, RATES
from sw.layers.weighted import (
    QAdd,
    QConv2d,
    QGlobalAvgPool2d,
    QInput,
    QLinear,
    WeightedLayer,
)
from sw.quantize.recipes import make_recipe
from tests.sw.integer.networks import EACH, NETWORKS, batch, network, step_program

LEARNT = "weight", "gamma", "beta", "bias"
CUDA = pytest.param("cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(),
                                                     reason="no CUDA device here"))
ON_DEVICES = pytest.mark.parametrize("device", ["cpu", CUDA])


def follow(step, settle, n_settle, n_steps, device="cpu"):
    """Asserts that numpy, torch and the runner agree on every tensor; the last trace."""
    state, runners = None, [Runner(settle, device), Runner(step, device)]
    for number in range(n_settle + n_steps):
        program = settle if number < n_settle else step
        runner = runners[program is step]
        if number == n_settle:
            runner.state = runners[0].state
        inputs = batch(program, number)
        trace = golden_run(program, inputs, state)
        other = executor.run(program, inputs, state=state, device=device)
        assert {*trace} == {*other}
        for name, value in trace.items():
            np.testing.assert_array_equal(other[name], value, err_msg=name)
        outputs = runner(inputs)
        state = renewed_state(program, trace)
        for found, wanted in ((outputs, trace), (runner.state, state)):
            for name, value in found.items():
                np.testing.assert_array_equal(value.cpu().numpy(), wanted[name],
                                              err_msg=name)
    return trace


@ON_DEVICES
@pytest.mark.parametrize("name", EACH)
def test_every_tensor_is_equal_on_numpy_and_torch(name, device):
    _, settle = step_program(name, settle=True)
    _, step = step_program(name)
    follow(step, settle, 1, 2, device)


@pytest.mark.long
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", ["digits", "resnet8", "ds_cnn", "mobilenet"])
@ON_DEVICES
def test_twenty_steps_are_equal(name, device):
    function, options, n_images, _ = {
        "digits": ("resnet_digits", {}, 32, None), "resnet8": ("resnet", {"depth": 8}, 16, None),
        "ds_cnn": ("ds_cnn", {}, 16, None), "mobilenet": ("mobilenet_v1", {}, 4, None)}[name]
    torch.manual_seed(0)
    model = build_model(function, options)
    settle, step = (integer_step(model, n_images, input_exponent=-6, settle=settle)
                    for settle in (True, False))
    follow(step, settle, 4, 20, device)


def test_a_step_is_a_program_that_can_be_stored(tmp_path):
    _, program = step_program("digits")
    program.save(tmp_path)
    loaded = Program.load(tmp_path)
    assert loaded.sha256 == program.sha256 and loaded.batch == 8
    assert loaded.outputs == ("classifier", "head/loss")
    assert {*loaded.inputs} == {"input", LABEL, *RANDOM, *RATES}
    report = verify(loaded)
    assert report.macs > 0
    first, second = (golden_run(each, batch(each)) for each in (program, loaded))
    for name, value in first.items():
        np.testing.assert_array_equal(second[name], value)


def test_all_step_operators_but_few_are_used():
    used = {type(node.op) for name in NETWORKS for node in step_program(name)[1].nodes}
    assert {op.__name__ for op in {*STEP_OPERATORS} - used} <= {
        "GradientDigits", "AverageCodes", "AverageGradient", "MaskedGradient",
        "NormGradientParameters", "NormInputGradient"}


def test_the_largest_weight_fits_and_zeros_are_zeros():
    model, n_images = network("digits")
    with torch.no_grad():
        model.stem.weight.mul_(3.7)
        model.block1.conv1.weight.zero_()
    program = integer_step(model, n_images, input_exponent=-6)
    masters = program.state["stem.weight"].initial
    exponent = int(program.state["stem.weight.exponent"].initial[0])
    real = masters * 2.0 ** (exponent - 8)
    assert 64 * 256 <= abs(masters).max() <= 32639
    assert abs(real - model.stem.weight.detach().numpy()).max() <= 2.0 ** (exponent - 9)
    assert not program.state["block1.conv1.weight"].initial.any()
    assert (program.state["stem.gamma"].initial == 1 << 28).all()


def test_while_it_settles_nothing_is_learnt_and_exponents_find_their_place():
    _, program = step_program("resnet8", settle=True)
    inputs, state, before = batch(program), None, None
    for _ in range(24):
        before = state
        state = renewed_state(program, golden_run(program, inputs, state))
    for name, entry in program.state.items():
        if name.split(".")[-1] in LEARNT or name.endswith(("momentum", "grow")):
            np.testing.assert_array_equal(state[name][0], entry.initial, name)
    moved = [name for name in state if name.endswith(".exponent") and "q." not in name
             and not np.array_equal(state[name], before[name])]
    assert not moved
    assert int(state["stem.exponent"][0, 0]) != 0


class Shared(nn.Module):
    """A pool that is read twice, masks upon masks, and an average pool between convolutions."""

    input_shape = 3, 8, 8

    def __init__(self, quantize=True, overrides=None):
        super().__init__()
        config = make_recipe("banner", quantize=quantize, overrides=overrides)
        self.input = QInput(config)
        self.a = QConv2d(3, 4, 3, padding=1, activation="relu6", config=config)
        self.b = QConv2d(4, 4, 1, activation="relu", config=config)
        self.add = QAdd(activation="relu", config=config)
        self.pool = QGlobalAvgPool2d(config)
        self.c = QConv2d(4, 4, 1, config=config)
        self.add2 = QAdd(config=config)
        self.flatten = nn.Flatten()
        self.last = QLinear(4, 3, config=config)

    def forward(self, x):
        x = self.a(self.input(x))
        x = self.pool(self.add(self.b(x), x))
        return self.last(self.flatten(self.add2(self.c(x), x)))


def test_what_is_read_twice_and_masked_twice():
    torch.manual_seed(0)
    model = Shared()
    settle, step = (integer_step(model, 20, input_exponent=-6, settle=settle)
                    for settle in (True, False))
    kinds = {type(node.op).__name__ for node in step.nodes}
    assert {"MaskedGradient", "AverageCodes", "AverageGradient"} <= kinds
    follow(step, settle, 2, 2)


def float_gradients(plain, inputs):
    """The gradients of the mean loss of a float network, by layer."""
    images = torch.from_numpy(inputs["input"].astype(np.float32)) / 64
    labels = torch.from_numpy(inputs["host/label"][:, 0].astype(np.int64))
    nn.functional.cross_entropy(plain.train()(images), labels).backward()
    return {name: module.weight for name, module in plain.named_modules()
            if isinstance(module, WeightedLayer)}


@pytest.mark.parametrize("gradient", ["extremes", "deviation"])
@pytest.mark.parametrize("name", ["resnet8", "shared"])
def test_gradients_are_those_of_the_float_network(name, gradient):
    """The direction and size of every weight's movement after one step."""
    torch.manual_seed(0)
    overrides = {"norm.range_gradient": gradient}
    make = {"resnet8": lambda **options: build_model(
                "resnet", {"depth": 8, "width": 4, "overrides": overrides} | options),
            "shared": lambda **options: Shared(overrides=overrides, **options)}[name]
    model, plain = make(), make(quantize=False)
    model.input_shape = 3, 12, 12
    for module in model.modules():
        if isinstance(module, WeightedLayer) and module.norm is not None:
            nn.init.ones_(module.norm.weight)       # those of residual branches too
    plain.load_state_dict({name: value for name, value in model.state_dict().items()
                           if name in plain.state_dict()}, strict=False)
    settle, step = (integer_step(model, 32, input_exponent=-6, settle=settle)
                    for settle in (True, False))
    inputs, runner = batch(step), Runner(settle)
    for _ in range(24):
        runner(inputs)
    state = runner.state
    runner = Runner(step, state=state)
    runner(inputs)
    cosines = []
    for name, weight in float_gradients(plain, inputs).items():
        exponent = int(state[f"{name}.weight.exponent"]) - 24
        moved = runner.state[f"{name}.weight.momentum"][0].double() * 2.0**exponent
        found = (moved - 0.1 * 1e-4 * weight.detach().double()).flatten()
        wanted = 0.1 * weight.grad.double().flatten()
        cosines.append(found @ wanted / (found.norm() * wanted.norm()))
        assert 0.8 < found.norm() / wanted.norm() < 1.25, name
    # Each layer's codes move the extremes of the norms before it, and random images have no signal.
    assert min(cosines) > 0.85 and sum(cosines) / len(cosines) > 0.93


def build(forward, **layers):
    """A network of layers whose forward is a function of (self, x)."""
    model = type("Odd", (nn.Module,), {"forward": forward, "input_shape": (3, 8, 8)})()
    for name, module in layers.items():
        setattr(model, name, module)
    return model


CONFIG = make_recipe("banner")


@pytest.mark.parametrize(("layers", "message"), [
    ({"a": QConv2d(3, 4, 3, norm=False, config=CONFIG)},
     r"Layer a \(QConv2d\) must have a norm: only the last layer of the integer training step"),
    ({"a": QConv2d(3, 4, 3, dilation=2, config=CONFIG)}, r"Layer a \(QConv2d\) must have dilation"),
    ({"a": QConv2d(3, 4, 3, config=make_recipe("float"))}, "must have norm.kind range"),
    ({"a": nn.Dropout2d(0.5)}, r"Layer a \(Dropout2d\) is no layer of the integer training step"),
    ({"a": nn.MaxPool2d(2, ceil_mode=True)}, "without dilation and ceil_mode"),
    ({"last": QLinear(192, 3, norm=True, config=CONFIG)}, "must be a linear layer with a bias"),
    ({"last": QLinear(192, 40, config=CONFIG)}, r"Layer last: CrossEntropy must get 2..31 classes"),
])
def test_a_layer_without_integer_form_is_refused_by_name(layers, message):
    layers = {"input": QInput(CONFIG), "a": nn.Identity(), "flatten": nn.Flatten(),
              "last": QLinear(192, 3, config=CONFIG)} | layers
    model = build(lambda self, x: self.last(self.flatten(self.a(self.input(x)))), **layers)
    with pytest.raises(LockstepError, match=message):
        integer_step(model, 20, input_exponent=-6)


def test_a_layer_that_is_called_twice_or_read_by_nothing_is_refused():
    conv, last = QConv2d(3, 3, 3, padding=1, config=CONFIG), QLinear(192, 3, config=CONFIG)
    layers = {"input": QInput(CONFIG), "a": conv, "flatten": nn.Flatten(), "last": last}
    twice = build(lambda self, x: self.last(self.flatten(self.a(self.a(self.input(x))))), **layers)
    with pytest.raises(LockstepError, match="Layer a is called more than once: weights that are"):
        integer_step(twice, 20, input_exponent=-6)

    def forward(self, x):
        x = self.input(x)
        self.a(x)
        return self.last(self.flatten(x))

    with pytest.raises(LockstepError, match="Layer a must be read by a layer that leads to the"):
        integer_step(build(forward, **layers), 20, input_exponent=-6)


def test_formats_of_a_layer_are_refused_and_not_passed_over():
    own = make_recipe("banner", overrides={"weight.bits": 4})
    model = build(lambda self, x: self.last(self.flatten(self.input(x))), input=QInput(CONFIG),
                  flatten=nn.Flatten(), last=QLinear(192, 3, config=own))
    with pytest.raises(LockstepError, match="Layer last .* has a weight format of its own"):
        integer_step(model, 20, input_exponent=-6)


@pytest.mark.parametrize("name", ["loss", "logits", "label", "seed", "step", "head", "host"])
def test_any_name_of_a_layer_will_do(name):
    conv = QConv2d(3, 3, 3, padding=1, config=CONFIG)
    model = build(lambda self, x: self.last(self.flatten(getattr(self, name)(self.input(x)))),
                  input=QInput(CONFIG), flatten=nn.Flatten(), last=QLinear(192, 3, config=CONFIG),
                  **{name: conv})
    assert integer_step(model, 20, input_exponent=-6).outputs == ("last", "head/loss")
    model = build(lambda self, x: getattr(self, name)(self.flatten(self.input(x))),
                  input=QInput(CONFIG), flatten=nn.Flatten(),
                  **{name: QLinear(192, 3, config=CONFIG)})
    assert integer_step(model, 20, input_exponent=-6).outputs == (name, "head/loss")


def test_a_network_without_a_place_for_the_images_is_refused():
    model = build(lambda self, x: self.last(self.flatten(x)), flatten=nn.Flatten(),
                  last=QLinear(192, 3, config=CONFIG))
    with pytest.raises(LockstepError, match="Layer flatten reads the float input; put a QInput"):
        integer_step(model, 20, input_exponent=-6)
    model = build(lambda self, x: self.input(x), input=QInput(CONFIG))
    with pytest.raises(LockstepError, match="must end in a linear layer"):
        integer_step(model, 20, input_exponent=-6)


def test_the_report_names_the_width_of_every_product():
    """By the worst inputs: all codes at an end of their ranges."""
    _, step = step_program("ds_cnn")
    report, products = verify(step), 0
    assert report.accumulator_width <= 48
    for node in step.nodes:
        entry = report[node.name]
        if not entry.macs:
            continue
        products += 1
        low, high = entry.accumulator
        is_kernel = isinstance(node.op, ops.KernelGradient)
        assert entry.accumulator_width <= (48 if is_kernel else 32)
        if is_kernel:
            continue
        shapes = [(1, *step.tensors[name].shape) for name in node.inputs[:2]]
        (_, most), (least, _) = entry.input_ranges[:2]
        x, w = (np.full(shape, value, np.int64) for shape, value in zip(shapes, (most, least)))
        sums = node.op.sums(NUMPY, x, w) if not isinstance(node.op, ops.LogitSums) \
            else np.array(shapes[0][1] * most * least)
        assert low <= sums.min() and sums.min() < 0.5 * low
    assert products == 3 * sum(isinstance(node.op, ops.WeightCodes) for node in step.nodes) - 1
    gradient = report["classifier.weight.gradient"]
    n_images, x = step.batch, gradient.input_ranges[0][1]
    assert gradient.accumulator == (-n_images * x * 32640, n_images * x * 32639)

"""Lowering: the program against the float simulation, folding corners, unsupported layers."""

import copy

import numpy as np
import pytest
import torch
from torch import nn

from golden.errors import LockstepError
from golden.program import Quantization
from golden.program.interpreter import run
from models import build_model
from sw.layers.weighted import QAdd, QAvgPool2d, QConv2d, QGlobalAvgPool2d, QInput, QLinear
from sw.lower.network import fold, lower
from sw.lower.simulate import differing_codes, simulate
from sw.quantize.quantizers import ActivationQuantizer
from sw.quantize.recipes import make_recipe
from sw.train.engine import logits_of
from tests.sw.trained import digits, trained_digits

IMAGES = slice(0, 100)


def gain_of_norms(model, program):
    """Codes behind the steepest channel of an ``exact`` RangeNorm per code in front of it."""
    def step(name):
        return program.tensors[name].quantization.scale
    return max((layer.norm.running_factor()[0].abs().max().item() * step(f"{name}.conv")
                / step(name) for name, layer in model.named_modules()
                if f"{name}.conv" in program.tensors), default=1.0)


@pytest.mark.slow
@pytest.mark.parametrize("norm_lowering", ["fold", "exact"])
def test_program_follows_the_simulation_tensor_by_tensor(norm_lowering):
    model, images = trained_digits(), digits().test_images[IMAGES]
    program = lower(model, norm_lowering)
    simulated = simulate(model, images, program=program)
    trace = run(program, images.numpy())
    assert set(simulated) == set(trace) == set(program.tensors)
    differences = differing_codes(simulated, trace)
    names = list(program.tensors)
    assert names[:2] == ["input", "stem" if norm_lowering == "fold" else "stem.conv"]
    assert differences[names[0]] == (0.0, 0)
    assert differences[names[1]][0] <= 0.001
    assert max(share for share, _ in differences.values()) <= 0.1
    # one code in front of a steep norm is several behind it
    assert max(largest for _, largest in differences.values()) <= 4 * max(
        1, gain_of_norms(model, program))


def test_integer_answers_are_those_of_the_evaluated_model():
    model, images = trained_digits(), digits().test_images
    program = lower(model)
    integer = run(program, images.numpy())[program.outputs[0]].argmax(1)
    assert (integer == logits_of(model, images).argmax(1).numpy()).mean() > 0.99


def test_what_differs_comes_from_the_rounded_bias():
    model, images = trained_digits(), digits().test_images[IMAGES]
    program = lower(model)
    trace = run(program, images.numpy())

    def compare(**options):
        """Share of all codes that differ, and the largest difference."""
        found = differing_codes(simulate(model, images, program=program, **options), trace)
        differing = sum(share * trace[name].size for name, (share, _) in found.items())
        codes = sum(trace[name].size for name in found)
        return differing / codes, max(largest for _, largest in found.values())
    share, largest = compare(int32_bias=True)
    assert share <= 3e-4
    assert largest <= 1
    assert compare()[0] > 10 * max(share, 1e-4)  # the bias does explain them


@pytest.mark.parametrize("fault", ["weight", "zero point", "multiplier"])
def test_a_planted_fault_shows(fault):
    model, images = trained_digits(), digits().test_images[IMAGES]
    program = lower(model)
    op = program.nodes[1].op
    if fault == "weight":
        op.weights.flags.writeable = True
        op.weights[0, 0, 0, 0] ^= 64
    elif fault == "zero point":
        object.__setattr__(op, "input_zero_point", op.input_zero_point + 3)
    else:
        object.__setattr__(op.rescale, "shift", op.rescale.shift + 1)
    differences = differing_codes(simulate(model, images), run(program, images.numpy()))
    assert differences[program.nodes[0].outputs[0]][0] <= 0.001
    assert differences[program.nodes[1].outputs[0]][0] > 0.005


def test_lowering_twice_gives_the_same_program_and_leaves_the_model_alone():
    model = copy.deepcopy(trained_digits()).train()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    assert lower(model).sha256 == lower(model).sha256
    assert model.training
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())


def folded(weight, factor, offset, **overrides):
    """The fields of a linear layer; input S 0.01, Z -5, output S 0.1, Z 7."""
    config = make_recipe(overrides=overrides)
    layer = QLinear(len(weight[0]), len(weight), config=config)
    layer.weight.data = torch.tensor(weight)
    quantizer = ActivationQuantizer(config)
    quantizer.follow(torch.tensor(-13.5), torch.tensor(12.0))
    return fold(layer, np.array(factor), np.array(offset), Quantization(scale=0.01, zero_point=-5),
                quantizer)


def test_negative_gamma_negates_the_weights():
    weight = [[1.0, -0.5], [1.0, -0.5]]
    fields = folded(weight, [2.0, -2.0], [0.3, 0.3])
    assert fields["weights"].tolist() == [[127, -63], [-127, 63]]
    assert fields["rescale"].multiplier[0] == fields["rescale"].multiplier[1]
    assert fields["bias"].tolist() == [round(0.3 / (0.01 / 127 * 2))] * 2


@pytest.mark.parametrize(("factor", "offset"), [(0.0, 0.42), (1e-9, 0.42), (-1e-14, 0.42),
                                            (0.0, 1e9), (0.0, -1e9)])
def test_a_constant_channel_becomes_the_code_of_its_constant(factor, offset):
    fields = folded([[1.0, -0.5]], [factor], [offset])
    assert not fields["weights"].any()
    expected = np.clip(np.floor(offset / 0.1 + 0.5) + 7, -128, 127)
    assert fields["rescale"](fields["bias"].astype(np.int64)[None]).item() == expected


def test_gamma_of_zero_in_a_whole_network():
    model = build_model("resnet_digits", {"width": 4})
    model(digits().train_images[:64])  # calibrates; the last gamma of each block is still 0
    images = digits().test_images[IMAGES]
    program = lower(model)
    convolution = next(node.op for node in program.nodes if node.name == "block1.conv2")
    assert not convolution.weights.any()
    differences = differing_codes(simulate(model, images), run(program, images.numpy()))
    assert differences["block1.conv2"] == (0.0, 0)


class EveryLayer(nn.Module):
    """All layers that lower, in one network, with negative gammas."""

    input_shape = (3, 12, 12)

    def __init__(self):
        super().__init__()
        self.input = QInput()
        self.body = nn.Sequential(
            QConv2d(3, 8, 3, stride=2, padding=1, activation="relu6"), nn.MaxPool2d(2, 1, 1),
            QConv2d(8, 8, 3, padding=2, dilation=2, groups=8, activation="relu"),
            QConv2d(8, 8, 1, norm=False), nn.Dropout(0.5))
        self.add, self.pool = QAdd(), QAvgPool2d(3, stride=2)
        self.global_pool, self.flatten = QGlobalAvgPool2d(), nn.Flatten()
        self.hidden = QLinear(8, 16, norm=True, activation="relu")
        self.last = QLinear(16, 5)

    def forward(self, x):
        x = self.body(self.input(x))
        x = self.global_pool(self.pool(self.add(x, x)))
        return self.last(self.hidden(torch.flatten(x, 1)))


@pytest.mark.parametrize("norm_lowering", ["fold", "exact"])
def test_every_layer_lowers(norm_lowering):
    torch.manual_seed(0)
    model = EveryLayer()
    for module in model.modules():
        if hasattr(module, "running_mean"):
            nn.init.normal_(module.weight)
            nn.init.normal_(module.bias)
    x = torch.randn(64, 3, 12, 12)
    for _ in range(3):
        model(x)
    program = lower(model, norm_lowering)
    simulated = simulate(model, x, program=program, int32_bias=True)
    differences = differing_codes(simulated, run(program, x.numpy()))
    assert max(share for share, _ in differences.values()) < 0.05
    assert max(largest for _, largest in differences.values()) <= 4


class Wrapped(nn.Module):
    input_shape = (1, 8, 8)

    def __init__(self, *layers, function=None):
        super().__init__()
        self.input, self.body, self.function = QInput(), nn.Sequential(*layers), function

    def forward(self, x):
        x = self.body(self.input(x))
        return self.function(x) if self.function else x


@pytest.mark.parametrize(("model", "message"), [
    (Wrapped(QAvgPool2d(2), nn.Conv2d(1, 3, 3)), r"Layer body\.1 \(Conv2d\) is not supported"),
    (Wrapped(nn.Sequential(nn.GELU())), r"Layer body\.0\.0 \(GELU\)"),
    (Wrapped(QAvgPool2d(2), function=torch.sigmoid), "'sigmoid' in the model's forward"),
    (Wrapped(nn.MaxPool2d(2, ceil_mode=True)), r"body\.0 \(MaxPool2d\)"),
    (Wrapped(QAvgPool2d(16)), r"Layer body\.0: Window"),
    (nn.Sequential(nn.ReLU()), "no input_shape")])
def test_unsupported_layers_are_named(model, message):
    for module in model.modules():
        if hasattr(module, "batches"):
            module.batches.fill_(1)
            module.range_high.fill_(1)
    with pytest.raises(LockstepError, match=message):
        lower(model)


def test_float_untrained_and_unknown_are_refused():
    with pytest.raises(LockstepError, match="Layer input was trained in float"):
        lower(build_model("resnet_digits", {"quantize": False}))
    with pytest.raises(LockstepError, match="seen no batch"):
        lower(build_model("resnet_digits"))
    with pytest.raises(LockstepError, match="one of fold, exact, not 'folded'"):
        lower(trained_digits(), "folded")

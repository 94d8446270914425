"""The registry of networks and the digits network itself."""

import sys

import pytest
import torch

from golden.errors import LockstepError
from golden.program.interpreter import run
from models import MODELS, build_model
from sw.layers.weighted import QLayer
from sw.lower.network import lower

SMALL = {"resnet": {"depth": 8}}  # options of a quick network, where the default is not


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("quantize", [True, False])
def test_every_model_trains_one_step(name, quantize):
    torch.manual_seed(0)
    model = build_model(name, {"quantize": quantize} | SMALL.get(name, {}))
    outputs = model(torch.rand(32, *model.input_shape))
    outputs.square().mean().backward()
    assert all(torch.isfinite(parameter.grad).all() for parameter in model.parameters())


@pytest.mark.slow
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("norm_lowering", ["fold", "exact"])
def test_every_model_lowers_and_runs(name, norm_lowering):
    torch.manual_seed(0)
    model = build_model(name, SMALL.get(name))
    images = torch.rand(32, *model.input_shape)
    outputs = model(images)
    program = lower(model, norm_lowering)
    assert program.input_shape == model.input_shape
    assert run(program, images[:2].numpy())[program.outputs[0]].shape == outputs[:2].shape


@pytest.mark.parametrize("name", MODELS)
def test_every_layer_follows_recipe_and_overrides(name):
    def configs(options):
        model = build_model(name, options | SMALL.get(name, {}))
        return [layer.config for layer in model.modules() if isinstance(layer, QLayer)]

    for config in configs({"overrides": {"weight.bits": 4}}):
        assert (config.weight.bits, config.quantize, config.norm.kind) == (4, True, "range")
    for config in configs({"recipe": "float"}):
        assert (config.quantize, config.norm.kind) == (False, "batch")
    for config in configs({"recipe": "jacob", "quantize": False}):
        assert (config.name, config.quantize) == ("jacob", False)


def test_unknown_model_lists_the_known_ones():
    with pytest.raises(LockstepError, match="Unknown model 'resnext'; known models: .*resnet"):
        build_model("resnext")


@pytest.mark.parametrize(("options", "message"), [
    ({"depth": 18}, "no option 'depth'; its options: width"),
    ({"width": "wide"}, "Option width must be a positive integer, not 'wide'"),
    ({"quantize": "yes"}, "quantize must be True or False, not 'yes'"),
    ({"recipe": "baner"}, "Unknown recipe 'baner'"),
    ({"overrides": {"weight.bit": 4}}, "no field 'weight.bit'")])
def test_bad_options(options, message):
    with pytest.raises(LockstepError, match=message):
        build_model("resnet_digits", options)


@pytest.mark.parametrize(("body", "message"), [
    ("def make(width): return width", "cannot be built: TypeError: .*'width'"),
    ("def make(): raise RuntimeError('no')", "cannot be built: RuntimeError: no"),
    ("def make(): pass", "is not a torch.nn.Module but None")])
def test_an_outside_function_that_makes_no_model(tmp_path, body, message):
    (tmp_path / "bad.py").write_text(body)
    with pytest.raises(LockstepError, match=message):
        build_model(f"{tmp_path}/bad.py:make")


def test_what_an_outside_model_may_carry(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from torch import nn\n"
                    "def make():\n    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
                    "    model.regime = [{'epoch': 0, 'optimizer': 'SGD', 'lr': 0.5}]\n"
                    "    model.input_transform = lambda images: 2 * images - 1\n"
                    "    return model\n")
    model = build_model(f"{path}:make")
    assert model.regime[0]["lr"] == 0.5
    assert model.input_transform(torch.ones(1)) == 1


def test_outside_file(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text("from models.resnet_digits import resnet_digits\n"
                    "def small(width=2):\n    return resnet_digits(width=width)\n")
    model = build_model(f"{path}:small", {"width": 3})
    assert model.stem.weight.shape[0] == 3
    with pytest.raises(LockstepError, match="no function 'big'"):
        build_model(f"{path}:big")
    with pytest.raises(LockstepError, match="does not exist"):
        build_model(f"{tmp_path}/none.py:small")


def test_an_outside_function_may_take_anything(tmp_path):
    (tmp_path / "mine.py").write_text("from models.resnet_digits import resnet_digits\n"
                                      "def small(**options):\n"
                                      "    return resnet_digits(**options)\n")
    assert build_model(f"{tmp_path}/mine.py:small", {"width": 3}).stem.weight.shape[0] == 3
    with pytest.raises(LockstepError, match="cannot be built: TypeError: .*'widht'"):
        build_model(f"{tmp_path}/mine.py:small", {"widht": 3})


def test_an_outside_file_of_dataclasses_with_a_neighbour(tmp_path):
    (tmp_path / "neighbour_of_mine.py").write_text("WIDTH = 3\n")
    (tmp_path / "mine.py").write_text(
        "from __future__ import annotations\nfrom dataclasses import dataclass\n"
        "from models.resnet_digits import resnet_digits\n"
        "from neighbour_of_mine import WIDTH\n"
        "@dataclass\nclass Sizes:\n    width: int = WIDTH\n"
        "def small():\n    return resnet_digits(width=Sizes().width)\n")
    before = list(sys.path)
    assert build_model(f"{tmp_path}/mine.py:small").stem.weight.shape[0] == 3
    assert sys.path == before

"""After building: layers know their names, the ends their bits, the probe sees both."""

import copy

import pytest
import torch
import torch.nn.functional as F

from models import build_model
from sw.lower.network import lower
from sw.train import probe

LAYERS = {"stem", "block1.conv1", "block1.conv2", "block2.conv1", "block2.conv2",
          "block2.shortcut", "classifier"}


def built(recipe="banner", **overrides):
    torch.manual_seed(0)
    return build_model("resnet_digits", {"width": 4, "recipe": recipe, "overrides": overrides})


def step(model, n=32):
    torch.manual_seed(1)
    loss = F.cross_entropy(model(torch.rand(n, 1, 8, 8)), torch.arange(n) % 10)
    loss.backward()
    return model


@pytest.mark.parametrize("recipe", ["banner", "dorefa", "niti", "fp8"])
def test_every_observation_names_its_layer(recipe):
    model = built(recipe)
    with probe.recording() as seen:
        step(model)
    names = {kind: {entry.layer for entry in seen if entry.kind == kind} for kind in "WAEG"}
    assert names["W"] == names["G"] == LAYERS
    norms = {f"{name}.norm" for name in LAYERS - {"classifier"}} if recipe == "banner" else set()
    assert names["A"] == LAYERS | {"input", "block1.add", "block2.add", "pool"} | norms
    # nothing flows to the network's input, but dorefa uses one copy for the weight as well
    assert names["E"] == (LAYERS if recipe == "dorefa" else LAYERS - {"stem"})


def test_bits_of_convolutions_linear_layers_and_ends():
    model = built(**{"conv.bits": 5, "linear.bits": 6, "ends.bits": 7})
    assert model.stem.config.weight.bits == 7
    assert model.block1.conv1.config.weight.bits == 5
    assert model.block1.conv1.output.recipe.bits == 5
    assert model.classifier.config.weight.bits == 7
    assert model.classifier.output.recipe.bits == 6
    assert model.block1.add.output.recipe.bits == 8
    codes = {node.name: node.op.weights for node in lower(step(model)).nodes
             if hasattr(node.op, "weights")}
    # lowering multiplies 5-bit codes by 8 and 7-bit ones by 2: as many distinct values
    for name, bits in (("stem", 7), ("block1.conv1", 5), ("classifier", 7)):
        largest = abs(codes[name].astype(int)).reshape(len(codes[name]), -1).max(1)
        assert set(largest) <= {0, (2**(bits - 1) - 1) * 2**(8 - bits)}, name


def test_a_ternary_networks_ends_have_a_grid_of_their_own():
    model = built("twn")
    assert (model.stem.config.weight.grid, model.stem.config.weight.bits) == ("uniform", 8)
    assert model.block1.conv1.config.weight.grid == "ternary"
    assert (model.classifier.config.weight.grid) == "uniform"


def test_float_weights_stay_float_at_the_ends():
    assert built("twn", **{"weight.bits": None}).stem.config.weight.bits is None


def test_a_recipe_with_a_learning_rate_brings_its_regime():
    assert built("niti").regime == [{"epoch": 0, "optimizer": "SGD", "lr": 1.0, "momentum": 0.0,
                                     "weight_decay": 0.0}]
    assert built("wage").regime[0]["lr"] == 0.0625
    assert len(built("banner").regime) > 1


@pytest.mark.parametrize("recipe", ["banner", "jacob", "pact", "niti", "wage"])
def test_a_trained_model_can_be_copied_and_restored(recipe):
    model = step(built(recipe, **{"activation.delay": 0}))
    twin = copy.deepcopy(model).eval()
    fresh = built(recipe, **{"activation.delay": 0}).eval()
    fresh.load_state_dict(model.state_dict())
    x = torch.rand(5, 1, 8, 8)
    expected = model.eval()(x)
    assert torch.equal(twin(x), expected)
    assert torch.equal(fresh(x), expected)
    step(twin.train())


@pytest.mark.parametrize("options", [
    {"activation.granularity": "channel"},
    {"activation.granularity": "group", "activation.group_size": 1}])
def test_ranges_per_channel_are_saved_and_restored(options):
    model = step(built(**options))
    assert model.stem.output.range_high.shape == (4,)
    fresh = built(**options).eval()
    fresh.load_state_dict(model.state_dict())
    x = torch.rand(5, 1, 8, 8)
    assert torch.equal(fresh(x), model.eval()(x))


def test_a_narrow_accumulator_reaches_every_layer_and_survives_a_copy():
    model = step(built(**{"accumulator.bits": 12}))
    wide = step(built(**{"accumulator.bits": 32}))
    x = torch.rand(5, 1, 8, 8)
    narrow = copy.deepcopy(model).eval()(x)
    assert torch.equal(narrow, model.eval()(x))
    assert not torch.equal(narrow, wide.eval()(x))

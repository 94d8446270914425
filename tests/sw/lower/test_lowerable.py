"""What has no integer program says why in one line that names the layer and the limit."""

import pytest
import torch
from torch import nn

from golden.errors import LockstepError
from models import build_model
from sw.layers.connect import connect
from sw.layers.weighted import QConv2d, QInput, QLinear
from sw.lower.network import lower, refined_codes
from sw.quantize.quantizers import weight_codes
from sw.quantize.recipes import make_recipe


def seen(recipe="banner", **overrides):
    """A small network after one batch."""
    torch.manual_seed(0)
    model = build_model("mlp", {"dataset": "digits", "hidden": [16], "recipe": recipe,
                                "overrides": overrides})
    model(torch.rand(64, 1, 8, 8))
    return model


@pytest.mark.parametrize(("recipe", "overrides", "message"), [
    ("float", {}, "Layer input was trained in float"),
    ("dfp16", {}, "Activations of input have 16 bits; an int8 program holds at most 8"),
    ("fp8", {}, "Activations of input are fp8_e4m3: floating-point codes have no single scale"),
    ("banner", {"weight.format": "fp8_e4m3"}, "Weights of hidden.0 are fp8_e4m3: floating-point"),
    ("banner", {"weight.bits": 9}, "Weights of hidden.0 have codes up to 255 .9 bits, uniform"),
    ("dorefa", {"weight.bits": 8, "ends.bits": None}, "Weights of hidden.0 have codes up to 255"),
    ("banner", {"weight.bits": None}, r"Weights of hidden.0 are not quantized \(weight.bits None"),
    ("twn", {"activation.bits": None}, r"Activations of input are not quantized \(activation.bits"),
    ("banner", {"activation.granularity": "channel"}, "Activations of input have a scale per chan"),
    ("banner", {"activation.rounding": "half_even"}, "Activations of hidden.0 round half_even; re"),
    ("banner", {"activation.rounding": "half_away"}, "Activations of hidden.0 round half_away; re"),
    ("banner", {"activation.rounding": "floor"}, "Activations of hidden.0 round floor; requanti"),
    ("jacob", {}, "quantizer of input has seen 1 batches and starts after 200; train"),
    ("banner", {"accumulator.bits": 8}, "Layer hidden.0 was trained with 8 accumulator bits but")])
def test_the_reason(recipe, overrides, message):
    with pytest.raises(LockstepError, match=message) as caught:
        lower(seen(recipe, **overrides))
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(("recipe", "overrides"), [
    ("dfp16", {"weight.bits": 8, "activation.bits": 8}), ("dorefa", {"weight.bits": 6}),
    ("banner", {"activation.rounding": "stochastic"}), ("jacob", {"activation.delay": 0}),
    ("banner", {"activation.rounding": "gemmlowp"}), ("banner", {"accumulator.bits": 32}),
    ("banner", {"weight.granularity": "group", "weight.group_size": 2}),
    ("banner", {"activation.range": "aciq_laplace", "weight.range": "aciq_gauss"}),
    ("banner", {"statistics.bits": 8}), ("banner", {"norm.kind": "l1"}),
    ("banner", {"weight.scale": "multiplier", "weight.multiplier_bits": 8})])
def test_what_does_lower(recipe, overrides):
    assert lower(seen(recipe, **overrides)).nodes


@pytest.mark.parametrize(("kind", "words"), [
    ("weight", "16 channels of hidden.0"), ("error", "10 channels of last"),
    ("activation", "1 channels of input")])
def test_a_group_that_does_not_divide_the_channels_names_the_layer(kind, words):
    overrides = {f"{kind}.granularity": "group", f"{kind}.group_size": 3}
    with pytest.raises(LockstepError, match=f"Group size 3 does not divide the {words}"):
        seen(**overrides)(torch.rand(64, 1, 8, 8)).sum().backward()


def test_exact_lowering_and_stored_statistics():
    with pytest.raises(LockstepError, match="Layer hidden.0: exact lowering keeps statistics"):
        lower(seen(**{"statistics.bits": 8}), "exact")


@pytest.mark.parametrize(("recipe", "factor"), [("banner", 1), ("twn", 64), ("wage", 64)])
def test_small_codes_are_refined_by_a_power_of_two(recipe, factor):
    layer = QLinear(6, 3, config=make_recipe(recipe))
    ones = torch.ones(3, dtype=torch.float64).numpy()
    layer.weight.data[0] = 0
    codes, scales = weight_codes(layer.weight, layer.config.weight)
    refined, unit = refined_codes(layer, ones, 0 * ones, 0.5)
    assert (refined == codes.numpy() * factor).all()
    assert (unit[1:] * factor == 0.5 * scales.expand(3).double().numpy()[1:]).all()
    assert abs(refined).max() <= 127


def test_codes_are_not_refined_past_int32():
    """A bias of 2^29 accumulator steps leaves room for a factor of 2."""
    layer = QLinear(6, 1, config=make_recipe("twn"))
    layer.weight.data.fill_(0.1)
    unit = 0.1 * 0.1
    codes, _ = refined_codes(layer, torch.ones(1).double().numpy(),
                             torch.tensor([unit * 2**29]).double().numpy(), 0.1)
    assert abs(codes).max() == 2


def test_a_network_without_a_weighted_layer_has_no_ends():
    config = make_recipe(overrides={"ends.bits": 4})
    assert connect(nn.Sequential(QInput(config)))
    model = connect(nn.Sequential(QInput(config), QConv2d(1, 2, 3, config=config)))
    assert model[1].config.weight.bits == 4

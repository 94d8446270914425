"""Folding and cross-layer equalisation leave the float function as it is."""

import pytest
import torch

from golden.errors import LockstepError
from models import build_model
from sw.ptq import equalisation
from sw.ptq.config import PtqConfig
from sw.ptq.equalisation import equalise, input_ranges, pairs
from sw.ptq.folding import fold_norms
from sw.ptq.quantize import quantize
from tests.sw.ptq.floats import chain, float_digits, images
from tests.sw.trained import digits

TOLERANCE = 1e-4  # of the largest output; float32 sums in another order


def difference(model, other, x):
    with torch.no_grad():
        expected = model(x)
        return ((other(x) - expected).abs().max() / expected.abs().max()).item()


def test_folded_norms_are_the_same_function():
    model = chain()
    folded = fold_norms(model)
    assert all(getattr(layer, "norm", None) is None for layer in folded.modules())
    assert difference(model, folded, images()) < TOLERANCE


@pytest.mark.parametrize("recipe", ["float", "banner"])
def test_any_norm_folds(recipe):
    model = build_model("resnet_digits", {"width": 4, "quantize": False, "recipe": recipe})
    model(digits().train_sample(64)[0])  # in training mode: running statistics
    for parameter in model.parameters():
        parameter.data.add_(0.1)
    assert difference(model.eval(), fold_norms(model), digits().test_sample(64)[0]) < TOLERANCE


def test_channels_that_were_constant_keep_their_constant():
    model = chain()
    model.first.weight.data[2] = 0
    model.first.norm.running_mean[2] = 0
    model.first.norm.running_variance[2] = 1e-17
    model.depthwise.norm.running_variance[5] = 1e-9  # small, yet it may matter
    model.first.weight.data[2, 0, 1, 1] = 1e-9
    folded = fold_norms(model)
    assert not folded.first.weight[2].any()
    assert folded.first.bias[2] == model.first.norm.bias[2]
    assert folded.depthwise.weight[5].any()
    assert difference(model, folded, images()) < TOLERANCE


def test_a_network_trained_in_few_bits_is_refused():
    model = build_model("resnet_digits", {"width": 4})
    with pytest.raises(LockstepError, match="Layer input was trained with quantization"):
        fold_norms(model)


def test_an_equalised_chain_is_the_same_function_with_equal_ranges():
    model = fold_norms(chain())
    equalised = fold_norms(model)
    assert equalise(equalised) == 3
    assert difference(model, equalised, images()) < TOLERANCE
    assert (equalised.first.weight - model.first.weight).abs().max() > 0.01
    for first, second in pairs(equalised):
        outgoing = first.weight.abs().flatten(1).amax(1)
        incoming = input_ranges(second, len(outgoing))
        assert torch.allclose(outgoing, incoming, rtol=1e-3)


def test_an_equalised_residual_network_is_the_same_function():
    model = fold_norms(float_digits())
    equalised = fold_norms(model)
    assert equalise(equalised) == 2  # inside the two blocks: an addition reads the others
    assert difference(model, equalised, digits().test_sample(100)[0]) < TOLERANCE


def test_equalised_activations_are_the_same_function_with_equal_ranges():
    model = fold_norms(chain())
    equalised = fold_norms(model)
    assert equalise(equalised, images()) == 3
    assert difference(model, equalised, images()) < TOLERANCE
    with torch.no_grad():
        first = equalised.first(equalised.input(images()))
        depthwise = equalised.depthwise(first)
        grouped = equalised.grouped(equalised.max_pool(depthwise))
    for (_, reader), y in zip(pairs(equalised), (first, depthwise, grouped), strict=True):
        outgoing = y.transpose(0, 1).flatten(1).amax(1)
        incoming = input_ranges(reader, len(outgoing), relative=True)
        there = outgoing > 0  # what no image ever activates stays
        assert there.sum() > 5
        torch.testing.assert_close(outgoing[there], incoming[there], rtol=1e-3, atol=0)


def test_relu6_is_not_homogeneous():
    assert [(a.owner, b.owner) for a, b in pairs(fold_norms(chain("relu6")))] == []


def test_dead_channels_stay():
    model = fold_norms(chain())
    model.first.weight[3] = 0
    before = model.first.bias[3].item()
    equalised = fold_norms(model)
    equalise(equalised)
    assert equalised.first.bias[3] == before
    assert difference(model, equalised, images()) < TOLERANCE


def test_equalised_activations_lose_less_to_four_bits():
    model, x = fold_norms(chain()), images()
    errors = {}
    for name in ("none", "weights", "activations"):
        quantized, _ = quantize(model, x, PtqConfig(activation_bits=4, equalise=name))
        errors[name] = difference(model, quantized, x)
    assert errors["activations"] < min(errors["none"], errors["weights"])


@pytest.mark.parametrize("fault", ["bias", "inputs"])
def test_a_planted_fault_changes_the_function(fault, monkeypatch):
    model = fold_norms(chain())
    equalised = fold_norms(model)
    if fault == "inputs":
        monkeypatch.setattr(equalisation, "_scale_inputs", lambda layer, factors: None)
    equalise(equalised)
    if fault == "bias":
        equalised.first.bias.copy_(model.first.bias)
    assert difference(model, equalised, images()) > 100 * TOLERANCE

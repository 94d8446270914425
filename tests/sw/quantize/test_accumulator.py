"""Narrow accumulators: wrap and saturate on numbers, and a layer against its integer sums."""

import pytest
import torch
from torch import nn

from golden.errors import LockstepError
from sw.layers.connect import connect
from sw.layers.weighted import QInput, QLinear
from sw.quantize.accumulator import overflowed
from sw.quantize.quantizers import weight_codes
from sw.quantize.recipes import make_recipe


@pytest.mark.parametrize(("overflow", "expected"), [
    ("wrap", [127, -128, 127, 44, -128, 0]), ("saturate", [127, 127, -128, 127, -128, 127])])
def test_eight_bits(overflow, expected):
    total = torch.tensor([127.0, 128, -129, 300, -128, 256], dtype=torch.float64)
    assert overflowed(total, 8, overflow).tolist() == expected


def network(bits, overflow="wrap", **overrides):
    torch.manual_seed(0)
    config = make_recipe(overrides={"accumulator.bits": bits, "accumulator.overflow": overflow,
                                    **overrides})
    return connect(nn.Sequential(QInput(config), QLinear(20, 6, config=config)))


@pytest.mark.parametrize(("bits", "overflow"), [(32, "wrap"), (14, "wrap"), (14, "saturate")])
def test_a_layer_computes_what_its_integers_do(bits, overflow):
    model = network(bits, overflow)
    x = torch.randn(50, 20)
    model(x)
    layer, source = model.eval()[1], model[0].output
    scale, zero_point = source.parameters_for_evaluation()
    codes, scales = weight_codes(layer.weight, layer.config.weight)
    q = torch.floor(model[0](x).double() / scale + 0.5).long()  # q - Z
    total = (q @ codes.long().t()).tolist()
    modulus = 2**bits

    def held(value):
        if overflow == "saturate":
            return min(max(value, -modulus // 2), modulus // 2 - 1)
        return (value + modulus // 2) % modulus - modulus // 2
    expected = torch.tensor([[held(value) for value in row] for row in total]).double()
    assert (expected != torch.tensor(total)).any() == (bits == 14)
    y = layer.quantized_product(model[0](x), layer.weight, layer.bias)
    assert torch.equal(torch.floor(y.double() / (scale * scales.double()) + 0.5), expected)
    assert zero_point != 0


def test_the_gradient_passes_through_an_overflow():
    model = network(10)
    x = torch.randn(8, 20)
    model(x).sum().backward()
    assert model[1].weight.grad.abs().sum() > 0


@pytest.mark.parametrize("training", [True, False])
def test_sums_are_exact_while_the_input_is_not_quantized(training):
    """In evaluation in a process that has not trained, too: the quantizer has no step there."""
    x = torch.randn(50, 20)
    narrow = network(10, **{"activation.delay": 1}).train(training)
    exact = network(None, **{"activation.delay": 1}).train(training)
    assert torch.equal(narrow(x), exact(x))
    for model in (narrow, exact):
        model.train()(x)
        model(x)
    assert not narrow[0].output.waits
    narrow[1].output, exact[1].output = nn.Identity(), nn.Identity()
    assert (narrow.eval()(x) - exact.eval()(x)).abs().max() > 1  # now it overflows


def test_a_layer_that_nobody_connected():
    config = make_recipe(overrides={"accumulator.bits": 16})
    with pytest.raises(LockstepError, match="Layer QLinear has a 16-bit accumulator but its"):
        QLinear(4, 2, config=config)(torch.randn(3, 4))

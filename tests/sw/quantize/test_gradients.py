"""Quantized gradients against hand-worked numbers: E, G and what bifurcation separates."""

import pytest
import torch

from golden.errors import LockstepError
from sw.quantize.gradients import (
    BifurcatedLinearFunction,
    finish_weight_gradient,
    gradient_copies,
    quantize_error,
    quantize_gradient,
    split_gradient,
)
from sw.quantize.recipe import FLOAT, TensorRecipe
from sw.quantize.recipes import make_recipe
from sw.train import probe


def test_eight_bits_per_tensor():
    g = torch.tensor([[1.27, -0.304], [0.006, 0.0]])  # s = 0.01
    y = quantize_gradient(g, TensorRecipe())
    assert torch.allclose(y, torch.tensor([[1.27, -0.30], [0.01, 0]]), atol=1e-6)
    assert quantize_gradient(g, FLOAT) is g


@pytest.mark.parametrize("random_bits", [0, 128, 255])
def test_the_largest_gradient_becomes_127_whatever_is_drawn(random_bits):
    gradient = torch.tensor([1.27, -1.27, 0.01, 0.0])  # 127, -127, 1 and 0 steps of 8 bits
    _, g8 = split_gradient(gradient, random_bits)
    assert torch.allclose(g8, gradient, atol=1e-5)


@pytest.mark.parametrize(("granularity", "step"), [
    ("tensor", [[8, 8], [8, 8]]), ("sample", [[8, 8], [4, 4]]), ("channel", [[4, 8], [4, 8]])])
def test_scales_by_granularity(granularity, step):
    g = torch.tensor([[1.0, 8.0], [4.0, 2.0]])
    y = quantize_gradient(g, TensorRecipe(bits=2, granularity=granularity))  # codes -1, 0, 1
    assert torch.equal(y, torch.floor(g / torch.tensor(step) + 0.5) * torch.tensor(step))


def test_groups_of_channels():
    recipe = TensorRecipe(bits=2, granularity="group", group_size=2)
    y = quantize_gradient(torch.tensor([[1.0, 8.0, 2.0, 0.4]]), recipe)
    assert y.tolist() == [[0, 8, 2, 0]]
    with pytest.raises(LockstepError, match="Group size 2 does not divide the 3 channels of stem"):
        quantize_gradient(torch.ones(2, 3), recipe, "stem")


def test_the_error_alone_is_rounded_where_the_gradient_is_float():
    g = torch.tensor([[1.27, -0.304]])
    recipe = make_recipe(overrides={"gradient.bits": None, "error.rounding": "half_up"})
    for_weight, error = gradient_copies(g, recipe, "layer")
    assert for_weight is g
    assert torch.allclose(error, torch.tensor([[1.27, -0.30]]))


def test_without_bifurcation_both_copies_are_one():
    recipe = make_recipe(overrides={"bifurcated": False})
    for_weight, error = gradient_copies(torch.randn(50, 3), recipe, "layer", want_error=False)
    assert for_weight is error
    assert len((error / (error.abs().max() / 127)).round().unique()) > 20


def test_the_general_path_gives_the_published_copies():
    """banner's one-pass split beside the same two quantizers written as any other recipe's."""
    g = torch.randn(64, 30, generator=torch.Generator().manual_seed(0))
    split, _ = gradient_copies(g, make_recipe(), "layer")
    general, error = gradient_copies(g, make_recipe(overrides={"error.clipped": "mask"}), "layer")
    assert (split - general).abs().max() < g.abs().max() / 32512  # one step of 16 bits
    assert (error - g).abs().max() < g.abs().max() / 127


def test_the_gradient_of_the_product_is_counted_in_steps_of_the_weights():
    """NITI by hand: the weights' step is 2^-6 (1 / 127 rounded up), the error 1.0 is 64 steps of
    2^-6, so the product is x itself, whose largest, 31, is the largest code of 6 bits."""
    x = torch.tensor([[4.0, -31.0]])
    weight = torch.tensor([[0.5, -1.0]], requires_grad=True)
    y = BifurcatedLinearFunction.apply(x, weight, None, make_recipe("niti"), "layer")
    y.sum().backward()
    assert weight.grad.tolist() == [[4 / 64, -31 / 64]]


@pytest.mark.parametrize(("granularity", "expected"), [
    ("channel", [[1, 0], [8, 0], [0, 2], [4, 4]]), ("group", [[0, 0], [8, 0], [0, 4], [4, 4]])])
def test_the_gradient_to_a_weight_has_its_scales_per_output_channel(granularity, expected):
    """2 bits, codes -1, 0, 1: a step is the largest value of the scale's rows."""
    recipe = make_recipe("dfp16", overrides={
        "gradient_of": "product", "gradient.bits": 2, "gradient.granularity": granularity,
        "gradient.group_size": 2})
    g = torch.tensor([[1.0, 0.1], [8.0, 0.1], [0.1, 2.0], [4.0, 2.0]])
    assert finish_weight_gradient(g, g, recipe, "layer").tolist() == expected
    one_input = finish_weight_gradient(g[:, :1], g[:, :1], recipe, "depthwise")  # groups of outputs
    assert one_input.shape == (4, 1)


@pytest.mark.parametrize("name", ["banner", "dorefa", "wage", "niti", "fp8", "dfp16"])
def test_errors_pass_a_norm_rounded_and_nonzero(name):
    recipe = make_recipe(name)
    torch.manual_seed(1)  # WAGE's nearest power of two may clip the largest values
    x = torch.randn(40, 5, requires_grad=True)
    gradient = torch.randn(40, 5)
    quantize_error(x, recipe, "norm").backward(gradient)
    assert 0 < (x.grad - gradient).abs().max() < 0.2 * gradient.abs().max()


@pytest.mark.parametrize(("name", "kinds"), [
    ("banner", {"E", "G"}), ("niti", {"E", "G"}), ("dorefa", {"E", "G"})])
def test_what_the_probe_sees(name, kinds):
    x = torch.randn(6, 4, requires_grad=True)
    weight = torch.randn(3, 4, requires_grad=True)
    with probe.recording() as seen:
        BifurcatedLinearFunction.apply(x, weight, None, make_recipe(name), "fc").sum().backward()
    assert {entry.kind for entry in seen} == kinds
    assert {entry.layer for entry in seen} == {"fc"}
    for entry in seen:
        assert entry.original.shape == entry.quantized.shape
    shapes = {entry.kind: entry.original.shape for entry in seen}
    assert shapes["G"] == ((3, 4) if name == "niti" else (6, 3))

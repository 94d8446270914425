"""AdaRound: less error on unseen data, at most one step from the weight."""

import copy

import pytest
import torch

from sw.ptq import adaround as module
from sw.ptq.adaround import adaround, input_patches, output_patches, sample_positions
from sw.ptq.config import AdaRoundConfig, PtqConfig
from sw.ptq.folding import fold_norms
from sw.ptq.weights import make_grid, per_output
from tests.sw.ptq.floats import chain, images

SETTINGS = AdaRoundConfig(iterations=300, batch=64)


def layer_and_input(name, x):
    """A folded layer of a Chain, its input for images x and its output."""
    model = fold_norms(chain())
    layer, seen = getattr(model, name), {}
    layer.register_forward_hook(lambda _, inputs, output: seen.update(x=inputs[0], y=output))
    with torch.no_grad():
        model(x)
    return layer, seen["x"], seen["y"]


def patches(layer, x, y, seed=0):
    generator = torch.Generator().manual_seed(seed)
    positions = sample_positions(layer, y, 1000, generator)
    return input_patches(layer, x, positions), output_patches(layer, y, positions)


def error(layer, codes, grid, x, y):
    """Squared error of the layer's output with these codes."""
    rounded = copy.deepcopy(layer)
    rounded.weight.data = (codes * per_output(grid.step, codes)).float()
    with torch.no_grad():
        return (rounded(x) - y).square().sum().item()


def test_patches_times_weights_are_the_layer():
    for name in ("first", "depthwise", "grouped", "classifier"):
        layer, x, y = layer_and_input(name, images())
        inputs, targets = patches(layer, x, y)
        groups = len(inputs)
        weight = layer.weight.reshape(groups, -1, inputs.shape[2])
        found = inputs @ weight.transpose(1, 2) + layer.bias.reshape(groups, 1, -1)
        assert torch.allclose(module._activate(layer, found), targets, atol=1e-4), name


@pytest.mark.parametrize("name", ["first", "depthwise", "grouped", "classifier"])
def test_less_error_on_unseen_data_and_no_weight_moves_by_more_than_a_step(name):
    layer, x, y = layer_and_input(name, images(64))
    grid = make_grid(layer, 3, PtqConfig(weight_bits=3))
    codes = adaround(layer, grid, *patches(layer, x[:32], y[:32]), SETTINGS,
                     torch.Generator().manual_seed(0))
    unseen = x[32:], y[32:]
    assert error(layer, codes, grid, *unseen) < 0.98 * error(layer, grid.codes, grid, *unseen)
    scaled = (layer.weight / per_output(grid.step, codes)).clamp(-3, 3)
    assert (codes - scaled).abs().max() < 1
    assert codes.abs().max() <= 3
    assert (codes != grid.codes).any()


def test_a_clipped_range_bounds_the_codes():
    layer, x, y = layer_and_input("first", images())
    grid = make_grid(layer, 4, PtqConfig(weight_bits=4, weight_range="aciq_gauss"))
    assert (layer.weight.abs() > 7.5 * per_output(grid.step, layer.weight)).any()
    codes = adaround(layer, grid, *patches(layer, x, y), SETTINGS, torch.Generator())
    assert codes.abs().max() <= 7


def test_targets_out_of_reach_do_not_leave_the_grid():
    layer, x, y = layer_and_input("first", images())
    grid = make_grid(layer, 3, PtqConfig(weight_bits=3))
    inputs, targets = patches(layer, x, y)
    codes = adaround(layer, grid, inputs, 3 * targets, SETTINGS, torch.Generator())
    assert codes.abs().max() <= 3


def test_without_regularisation_the_relaxation_is_still_rounded():
    layer, x, y = layer_and_input("first", images())
    grid = make_grid(layer, 4, PtqConfig(weight_bits=4))
    codes = adaround(layer, grid, *patches(layer, x, y), AdaRoundConfig(iterations=1),
                     torch.Generator())
    assert torch.equal(codes, grid.codes)  # one step of 0.01 decides nothing


@pytest.mark.parametrize("fault", ["patches", "activation"])
def test_a_planted_fault_shows(fault, monkeypatch):
    layer, x, y = layer_and_input("first", images(64))
    grid = make_grid(layer, 3, PtqConfig(weight_bits=3))
    inputs, targets = patches(layer, x[:32], y[:32])
    if fault == "patches":
        inputs = inputs.roll(1, dims=2)  # kernel positions against the wrong weights
    else:
        monkeypatch.setattr(module, "_activate", lambda layer, y: -y)
    codes = adaround(layer, grid, inputs, targets, SETTINGS, torch.Generator().manual_seed(0))
    assert error(layer, codes, grid, x[32:], y[32:]) > error(layer, grid.codes, grid, x[32:],
                                                             y[32:])

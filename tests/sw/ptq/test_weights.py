"""Weights on their grid; bias correction restores mean and deviation."""

import copy

import pytest
import torch

from golden.errors import LockstepError
from sw.ptq.config import PtqConfig
from sw.ptq.folding import fold_norms
from sw.ptq.layers import set_codes
from sw.ptq.weights import (
    correct_weights,
    make_grid,
    mean_input_sum,
    mean_per_channel,
    per_output,
)
from tests.sw.ptq.floats import chain

W4 = PtqConfig(weight_bits=4)


def folded():
    return fold_norms(chain())


def test_codes_are_the_nearest_within_the_limit():
    layer = folded().first
    grid = make_grid(layer, 4, W4)
    values = grid.codes * per_output(grid.step, grid.codes)
    assert grid.codes.abs().flatten(1).amax(1).tolist() == [7] * 8
    assert (grid.limit == 7).all()
    assert ((values - layer.weight).abs() <= per_output(grid.step, values) * 0.5 + 1e-6).all()


def test_one_step_for_all_channels():
    grid = make_grid(folded().first, 8, PtqConfig(per_channel_weights=False))
    assert len(grid.step.unique()) == 1
    assert grid.codes.abs().max() == 127


def test_allocated_widths_bound_the_codes():
    grid = make_grid(folded().first, 4, PtqConfig(weight_bits=4, allocate_weights=True))
    assert grid.bits.double().mean() == 4
    assert len(grid.bits.unique()) > 1
    assert (grid.codes.abs().flatten(1).amax(1) == grid.limit).all()


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_corrected_channels_have_the_float_mean_and_deviation(bits):
    layer = folded().grouped
    grid = make_grid(layer, bits, W4)
    quantized = grid.codes * per_output(grid.step, grid.codes)
    xi, shift = correct_weights(layer.weight, quantized)
    corrected = (per_output(xi, quantized) * quantized + per_output(shift, quantized)).flatten(1)
    weight = layer.weight.double().flatten(1)
    assert (corrected.mean(1) - weight.mean(1)).abs().max() <= 1e-6
    assert (corrected.std(1) - weight.std(1)).abs().max() <= 1e-6
    assert (quantized.flatten(1).mean(1) - weight.mean(1)).abs().max() > 1e-3 or bits == 8


@pytest.mark.parametrize("name", ["first", "depthwise", "grouped"])
def test_the_folded_correction_has_the_channel_means_of_the_corrected_weights(name):
    """xi in the factor and m E[sum x] in the offset give the outputs' means of xi Q + m."""
    layer = getattr(folded(), name)
    grid = make_grid(layer, 4, W4)
    x = torch.rand(16, layer.groups * layer.weight.shape[1], 8, 8)
    quantized = grid.codes * per_output(grid.step, grid.codes)
    xi, shift = correct_weights(layer.weight, quantized)
    off_grid = per_output(xi, quantized) * quantized + per_output(shift, quantized)
    bias = layer.bias.double()
    wanted = mean_per_channel(layer.product(x.double(), off_grid, bias))
    integer = copy.deepcopy(layer)
    offset = bias + shift * mean_input_sum(layer, x)
    set_codes(integer, grid.codes, grid.step * xi, offset)
    sums = layer.product(x.double(), integer.weight.double(), None)
    found = mean_per_channel(integer.norm(sums))
    assert (found - wanted).abs().max() <= 1e-6
    uncorrected = mean_per_channel(layer.product(x.double(), quantized, bias))
    assert (uncorrected - wanted).abs().max() > 1e-4


def test_constant_channels_are_not_stretched():
    weight = torch.full((1, 4), 0.5)
    xi, shift = correct_weights(weight, torch.full((1, 4), 0.4))
    assert (xi.item(), shift.item()) == (1, pytest.approx(0.1))


@pytest.mark.parametrize(("value", "message"), [
    (0.0, "Layer first has a zero range: all its weights are 0"),
    (float("nan"), "Layer first has weights that are not finite")])
def test_weights_without_a_range(value, message):
    layer = folded().first
    layer.weight.data.fill_(value)
    with pytest.raises(LockstepError, match=message):
        make_grid(layer, 4, W4)

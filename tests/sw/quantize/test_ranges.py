"""Ranges and scales against hand-worked numbers; the clips of ACIQ against its tables."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from golden.errors import LockstepError
from sw.quantize.ranges import (
    affine_scale,
    constrain_scale,
    extremes,
    optimal_clip,
    quantization_error,
    spread,
    symmetric_scale,
)
from sw.quantize.recipe import TensorRecipe

# arXiv 1810.05723: the zero of d MSE / d a, in units of b for 2..8 bits, of sigma for 1..8.
LAPLACE = (2.8307, 3.8972, 5.0286, 6.2048, 7.4131, 8.6456, 9.8968)
GAUSS = (1.2399, 1.7106, 2.1516, 2.5591, 2.9362, 3.2869, 3.6151, 3.9240)


@pytest.mark.parametrize(("bits", "clip"), list(enumerate(LAPLACE, 2)))
def test_laplace_clips(bits, clip):
    assert optimal_clip(bits, "laplace") == pytest.approx(clip, abs=1e-3)


@pytest.mark.parametrize(("bits", "clip"), list(enumerate(GAUSS, 1)))
def test_gauss_clips(bits, clip):
    assert optimal_clip(bits, "gauss") == pytest.approx(clip, abs=1e-3)


POINTS = np.linspace(0, 40, 400_001)
DENSITIES = {"laplace": np.exp(-POINTS) / 2,
             "gauss": np.exp(-POINTS**2 / 2) / np.sqrt(2 * np.pi)}


def integrated_error(clip, bits, distribution):
    """Mean squared error of clipping at +-clip and of 2^bits levels, by numerical integration.

    Rounding errs by a twelfth of the step squared, as the paper takes it.
    """
    outside = POINTS >= clip
    clipped = 2 * np.trapezoid((POINTS - clip)[outside] ** 2 * DENSITIES[distribution][outside],
                               POINTS[outside])
    return clipped + (2 * clip / 2**bits) ** 2 / 12


@pytest.mark.slow
@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
@pytest.mark.parametrize("bits", range(2, 9))
def test_clips_minimise_the_integrated_error(bits, distribution):
    clips = np.arange(0.5, 12, 0.1)
    for width in (1e-2, 1e-3, 2e-4):  # ever finer around the least
        best = min(clips, key=lambda clip: integrated_error(clip, bits, distribution))
        clips = np.arange(best - 12 * width, best + 12 * width, width)
    assert optimal_clip(bits, distribution) == pytest.approx(best, abs=1e-3)


@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
@pytest.mark.parametrize("bits", [2, 4, 8])
def test_half_range_clips_minimise_the_integrated_error(bits, distribution):
    """Behind a ReLU: one side, so that 2^bits levels span [0, clip]."""
    best = optimal_clip(bits + 1, distribution)

    def error(clip):
        levels = (clip / 2**bits) ** 2 / 12  # half of the values are there; the others are 0
        outside = POINTS >= clip
        return np.trapezoid((POINTS - clip)[outside] ** 2 * DENSITIES[distribution][outside],
                            POINTS[outside]) + levels / 2
    assert error(best) <= min(error(best - 2e-3), error(best + 2e-3))


# 64 values of mean 0: E|x| = 1 and sigma = sqrt(32). Behind a ReLU those that passed have mean 2
# and mean square 35, and the clip is that of one bit more.
TAILS = torch.cat([torch.zeros(62), torch.tensor([32.0, -32.0])])
RELU = torch.cat([torch.zeros(32), torch.ones(31), torch.tensor([33.0])])


@pytest.mark.parametrize(("x", "rule", "low", "high"), [
    (TAILS, "aciq_laplace", -5.0286, 5.0286), (TAILS, "aciq_gauss", -14.4765, 14.4765),
    (RELU, "aciq_laplace", 0, 12.4096), (RELU, "aciq_gauss", 0, 17.3709),
    (RELU, "min_max", 0, 33)])
def test_range_of_one_tensor(x, rule, low, high):
    recipe = TensorRecipe(bits=4, range=rule)
    assert [value.item() for value in extremes(x, recipe, 0)] == pytest.approx([low, high],
                                                                               abs=1e-3)


def drawn(distribution, n=20_000):
    """Values (1, n) of a distribution of deviation 1."""
    uniform = torch.rand(2, n, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    if distribution == "gauss":
        return torch.erfinv(2 * uniform[:1] - 1) * 2**0.5
    return (uniform[:1].log() * torch.sign(uniform[1:] - 0.5)) / 2**0.5


@pytest.mark.parametrize("distribution", ["laplace", "gauss"])
@pytest.mark.parametrize("half", [False, True])
def test_mix_takes_the_distribution_that_errs_less(distribution, half):
    x = drawn(distribution).relu() if half else drawn(distribution)
    errors, found = {}, {}
    for rule in ("aciq_laplace", "aciq_gauss", "aciq_mix"):
        recipe = TensorRecipe(bits=4, range=rule, symmetric=False)
        found[rule] = extremes(x, recipe, 0)
        errors[rule] = quantization_error(x, *found[rule], recipe).item()
    assert errors["aciq_mix"] == min(errors.values())
    assert errors["aciq_laplace"] != errors["aciq_gauss"]
    if not half:
        assert found["aciq_mix"] == found[f"aciq_{distribution}"]


@pytest.mark.parametrize("symmetric", [False, True])
def test_mse_errs_least(symmetric):
    x = torch.cat([drawn("laplace"), 3 * drawn("gauss")])
    recipe = TensorRecipe(bits=4, range="mse", symmetric=symmetric, granularity="channel")
    least = quantization_error(x, *extremes(x, recipe, 0), recipe)
    for rule in ("min_max", "aciq_laplace", "aciq_gauss", "percentile"):
        other = quantization_error(x, *extremes(x, replace(recipe, range=rule), 0), recipe)
        assert (least <= other * 1.02).all(), rule  # fractions of the range come in steps
    assert (least < 0.8 * quantization_error(x, *torch.aminmax(x, dim=1), recipe)).all()


def test_percentile_leaves_out_the_tails():
    x = torch.arange(1001.0)[None]
    low, high = extremes(x, TensorRecipe(range="percentile", percentile=99), 0)
    assert (low, high) == (10, 990)
    low, high = extremes(x, TensorRecipe(range="percentile", percentile=100), 0)
    assert (low, high) == (0, 1000)


def test_the_clip_is_never_wider_than_the_values():
    recipe = TensorRecipe(bits=8, range="aciq_laplace")
    low, high = extremes(torch.tensor([-1.0, 1.0]), recipe, 0)
    assert (low, high) == (-1, 1)


# (2 samples, 4 channels, 2 values)
X = torch.tensor([[[-1.0, 2], [0, 3], [-4, 1], [5, 6]], [[-3, 4], [0, 1], [-2, 3], [7, 8]]])


@pytest.mark.parametrize(("options", "low", "high"), [
    ({}, [-4], [8]), ({"range": "batch_mean"}, [-3.5], [7]),
    ({"granularity": "channel"}, [-3, 0, -4, 5], [4, 3, 3, 8]),
    ({"granularity": "channel", "range": "batch_mean"}, [-2, 0, -3, 6], [3, 2, 2, 7]),
    ({"granularity": "group", "group_size": 2}, [-3, -4], [4, 8]),
    ({"granularity": "group", "group_size": 2, "range": "batch_mean"}, [-2, -3], [3.5, 7]),
    ({"granularity": "sample"}, [-4, -3], [6, 8]),
    ({"range": "clamp", "clamp": 2.5}, [-2.5], [2.5]),
    ({"range": "clamp", "clamp": 2.5, "symmetric": False}, [0], [2.5]),
    ({"range": "clamp", "clamp": 1.0, "granularity": "channel"}, [-1] * 4, [1] * 4)])
def test_extremes_by_granularity(options, low, high):
    recipe = TensorRecipe(**options)
    found = extremes(X, recipe, 1)
    assert [value.tolist() for value in found] == [low, high]
    assert torch.broadcast_shapes(spread(found[0], X, recipe, 1).shape, X.shape) == X.shape


def test_groups_spread_over_their_own_channels():
    recipe = TensorRecipe(granularity="group", group_size=2)
    values = spread(torch.tensor([1.0, 2.0]), X, recipe, 1)
    assert values.shape == (1, 4, 1)
    assert values.flatten().tolist() == [1, 1, 2, 2]


def test_a_group_that_does_not_divide_the_channels():
    recipe = TensorRecipe(granularity="group", group_size=3)
    with pytest.raises(LockstepError, match="Group size 3 does not divide the 4 channels of stem"):
        extremes(X, recipe, 1, "stem")


@pytest.mark.parametrize(("options", "scale", "expected"), [
    ({}, 0.3, 0.3), ({"scale": "power_of_two"}, 0.3, 0.5), ({"scale": "power_of_two"}, 0.25, 0.25),
    ({"scale": "shift"}, 0.3, 0.25), ({"scale": "shift"}, 0.36, 0.5),
    # 0.3 = 0.6 * 2^-1, and 0.6 is 9.6 sixteenths
    ({"scale": "multiplier", "multiplier_bits": 4}, 0.3, 10 / 16 / 2),
    ({"scale": "multiplier", "multiplier_bits": 1}, 3.5, 4.0),
    ({"scale": "multiplier"}, 0.3, 0.3)])
def test_forms_of_scale(options, scale, expected):
    result = constrain_scale(torch.tensor(scale), TensorRecipe(**options)).item()
    assert result == pytest.approx(expected, rel=1e-7)


def test_steps_of_symmetric_and_affine_grids():
    low, high = torch.tensor(-1.0), torch.tensor(3.0)
    assert symmetric_scale(low, high, TensorRecipe()).item() == pytest.approx(3 / 127)
    assert symmetric_scale(low, high, TensorRecipe(bits=2)).item() == pytest.approx(3)
    scale, zero_point = affine_scale(low, high, TensorRecipe(symmetric=False))
    assert scale.item() == pytest.approx(4 / 255)
    assert zero_point == -64  # -128 + 63.75
    scale, zero_point = affine_scale(low, high, TensorRecipe(symmetric=False, bits=4))
    assert (scale.item(), zero_point) == (pytest.approx(4 / 15), -4)  # -8 + 3.75
    scale, zero_point = affine_scale(low * 0, high * 0, TensorRecipe(symmetric=False))
    assert (scale, zero_point) == (2.0**-7, -128)
    for values, zero in ((torch.tensor([-3.0, -1.0]), 127), (torch.tensor([1.0, 3.0]), -128)):
        scale, zero_point = affine_scale(*values, TensorRecipe(symmetric=False))
        assert (scale.item(), zero_point) == (pytest.approx(3 / 255), zero)  # 0 belongs to it

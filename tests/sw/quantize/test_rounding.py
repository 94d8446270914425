"""Rounding: ties of every mode, the dropped bits as random numbers, expected values."""

import pytest
import torch

from sw.quantize.recipe import RANDOM_ROUNDINGS, ROUNDINGS
from sw.quantize.rounding import evaluation_rounding, round_to_integer

HALVES = torch.tensor([-2.5, -1.5, -0.5, 0.5, 1.5, 2.5])


@pytest.mark.parametrize(("rounding", "expected"), [
    ("half_up", [-2, -1, 0, 1, 2, 3]), ("half_away", [-3, -2, -1, 1, 2, 3]),
    ("gemmlowp", [-3, -2, -1, 1, 2, 3]), ("half_even", [-2, -2, 0, 0, 2, 2]),
    ("floor", [-3, -2, -1, 0, 1, 2])])
def test_ties(rounding, expected):
    assert round_to_integer(HALVES, rounding).tolist() == expected


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_integers_stay_and_everything_else_moves_less_than_one(rounding):
    whole = torch.arange(-300.0, 301.0)
    assert torch.equal(round_to_integer(whole, rounding), whole)
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0)) * 50
    y = round_to_integer(x, rounding)
    assert torch.equal(y, y.round())
    assert (y - x).abs().max() < 1


@pytest.mark.parametrize(("fraction", "up"), [
    (0x8000, True), (0x4000, True), (0x4040, False), (0x403F, True), (0x00FF, False),
    (0xFF00, True), (0xFFFF, False), (0x0000, False)])
def test_pseudo_stochastic_compares_the_halves_of_the_dropped_bits(fraction, up):
    x = torch.tensor([2 + fraction / 2**16, -2 - fraction / 2**16], dtype=torch.float64)
    assert round_to_integer(x, "pseudo_stochastic").tolist() == [2 + up, -2 - up]


@pytest.mark.parametrize("upper", [0, 64, 200])
def test_pseudo_stochastic_rounds_up_as_often_as_its_upper_half_says(upper):
    x = (upper * 256 + torch.arange(256, dtype=torch.float64)) / 2**16
    assert round_to_integer(x, "pseudo_stochastic").mean().item() == upper / 256


@pytest.mark.parametrize("value", [0.3, -0.3, 7.9])
def test_stochastic_rounding_has_the_value_as_its_mean(value):
    torch.manual_seed(0)
    y = round_to_integer(torch.full((200000,), value), "stochastic")
    assert len(y.unique()) == 2
    assert y.mean().item() == pytest.approx(value, abs=0.005)


@pytest.mark.parametrize("rounding", ROUNDINGS)
def test_evaluation_draws_nothing(rounding):
    assert evaluation_rounding(rounding) == ("half_up" if rounding in RANDOM_ROUNDINGS
                                             else rounding)

"""Normalizations against hand-worked numbers, training and evaluation, stored statistics."""

import math

import pytest
import torch

from golden.errors import LockstepError
from sw.layers.norms import make_norm
from sw.layers.range_norm import RangeBatchNorm
from sw.layers.weighted import QConv2d, QLinear
from sw.quantize.recipes import make_recipe


def norm_of(kind, channels=1, **options):
    overrides = {"norm.kind": kind} | {f"norm.{key}": value for key, value in options.items()}
    return make_norm(channels, make_recipe("float", overrides=overrides))


X = torch.tensor([0.0, 2, 4, 6]).reshape(4, 1)  # mean 3, variance 5 (20 / 3), E|x - mean| 2


def test_batch_norm():
    norm = norm_of("batch")
    y = norm(X)
    assert y.flatten().tolist() == pytest.approx([v / math.sqrt(5) for v in (-3, -1, 1, 3)],
                                                 rel=1e-5)
    assert norm.running_mean.item() == pytest.approx(0.3)
    assert norm.running_variance.item() == pytest.approx(0.9 + 0.1 * 20 / 3)


def test_l1_batch_norm():
    norm = norm_of("l1")
    sigma = 2.506628  # 2 sqrt(pi / 2)
    y = norm(X)
    assert y.flatten().tolist() == pytest.approx([v / sigma for v in (-3, -1, 1, 3)], rel=1e-4)
    assert norm.running_scale.item() == pytest.approx(sigma, rel=1e-6)  # the first batch sets it
    assert torch.allclose(norm.eval()(X), y, atol=1e-6)


def test_l1_estimates_the_deviation_of_normal_values():
    norm = norm_of("l1")
    norm(3 * torch.randn(40000, 1, generator=torch.Generator().manual_seed(0)))
    assert norm.running_scale.item() == pytest.approx(3, rel=0.02)


def test_frozen_statistics_stay():
    norm = norm_of("frozen")
    norm.running_mean.fill_(1.0)
    norm.running_variance.fill_(4.0)
    y = norm(X)
    assert y.flatten().tolist() == pytest.approx([-0.5, 0.5, 1.5, 2.5], rel=1e-5)
    assert (norm.running_mean, norm.running_variance) == (1, 4)
    assert norm.batches == 0


def test_range_norm_of_one_chunk():
    # range 6, C(4) = 0.5402084 / sqrt(2 ln 4) = 0.3244338
    norm = norm_of("range", chunks=1)
    assert norm(X).flatten().tolist() == pytest.approx([v / 1.946603 for v in (-3, -1, 1, 3)],
                                                       rel=1e-4)


@pytest.mark.parametrize("kind", ["range", "batch", "l1", "frozen"])
def test_the_factor_for_lowering_is_evaluation(kind):
    torch.manual_seed(0)
    norm = norm_of(kind, 3)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    for _ in range(3):
        norm(torch.randn(64, 3, 2, 2) * 2 + 1)
    x = torch.randn(5, 3, 2, 2)
    factor, offset = (value.detach().reshape(1, 3, 1, 1) for value in norm.running_factor())
    assert torch.allclose(norm.eval()(x).double(), factor * x + offset, atol=1e-5)


@pytest.mark.parametrize("kind", ["range", "batch", "l1"])
def test_statistics_in_few_bits(kind):
    config = make_recipe(overrides={"norm.kind": kind, "statistics.bits": 4})
    norm = make_norm(2, config)
    norm.weight.data = torch.tensor([1.0, 0.3])
    gamma, _, _ = norm.stored(torch.ones(2))
    assert gamma.tolist() == pytest.approx([1, 2 / 7])  # 0.3 * 7 = 2.1
    gamma.sum().backward()
    assert norm.weight.grad.tolist() == [1, 1]
    norm.weight.grad = None
    norm(torch.randn(64, 2, 2, 2)).square().sum().backward()
    assert torch.isfinite(norm.weight.grad).all()


@pytest.mark.parametrize("kind", ["range", "batch", "l1"])
def test_a_small_deviation_is_stored_as_one_step(kind):
    """Seven steps to the largest deviation; a channel of a thousandth of it would be 0 of them."""
    norm = make_norm(2, make_recipe(overrides={
        "norm.kind": kind, "statistics.bits": 4, "norm.chunks": 1, "norm.momentum": 1.0,
        "norm.quantize_input": False, "norm.quantize_gradient": False}))
    _, _, deviation = norm.stored(torch.tensor([7.0, 0.007]))
    assert deviation.tolist() == [7, 1]
    x = torch.randn(400, 2) * torch.tensor([7.0, 0.007])
    x.requires_grad_()
    y = norm(x)
    y.square().sum().backward()
    assert torch.isfinite(x.grad).all()
    assert 0.002 < y[:, 1].std() < 0.02  # 0.007 steps of about 1, where 1.0 is exact
    assert torch.allclose(norm.eval()(x), y, atol=0.1)
    factor, _ = norm.running_factor()
    assert 0.5 < factor[1] < 2


def test_statistics_in_groups_name_the_layer():
    config = make_recipe(overrides={"norm.kind": "l1", "statistics.bits": 8,
                                    "statistics.granularity": "group", "statistics.group_size": 3})
    with pytest.raises(LockstepError, match="Group size 3 does not divide the 4 channels of L1Bat"):
        make_norm(4, config)(torch.randn(8, 4))


def test_no_norm_has_a_bias_and_a_norm_none():
    config = make_recipe(overrides={"norm.kind": "none"})
    assert make_norm(4, config) is None
    assert QConv2d(1, 2, 3, config=config).norm is None
    assert QLinear(3, 2, config=make_recipe()).bias is not None


def test_too_few_values_name_layer_count_and_chunks():
    norm = RangeBatchNorm(1, make_recipe(overrides={"norm.chunks": 8}))
    norm.owner = "stem"
    with pytest.raises(LockstepError, match=r"RangeBN of layer stem needs at least 2 values per "
                                            r"chunk, not 1: 6 values per channel in 8 chunks"):
        norm(torch.randn(6, 1))
    norm(torch.randn(9, 1))  # 5 chunks of 2, the last one shorter

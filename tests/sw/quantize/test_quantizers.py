"""Quantizers: grids, true zero, straight-through estimators, the split gradient."""

import numpy as np
import pytest
import torch

from golden import arith
from golden.errors import LockstepError
from sw.quantize.gradients import GRADIENT16_HIGH, split_gradient
from sw.quantize.quantizers import (
    EIGHT_BIT,
    ActivationQuantizer,
    FakeQuantizeFunction,
    affine_parameters,
    quantize_weight,
    weight_codes,
)
from sw.quantize.recipes import make_recipe

INT8 = (-128, 127)


def trained_quantizer(x):
    quantizer = ActivationQuantizer(EIGHT_BIT)
    quantizer(x)
    return quantizer.eval()


@pytest.mark.parametrize(("low", "high"), [(0.0, 6.0), (-1.3, 0.0), (-0.7, 2.9), (0.5, 2.0),
                                           (-3.0, -1.0)])
def test_zero_is_exactly_a_code(low, high):
    scale, zero_point = affine_parameters(torch.tensor(low), torch.tensor(high))
    assert zero_point == zero_point.round()
    assert -128 <= zero_point <= 127
    y = FakeQuantizeFunction.apply(torch.zeros(3), scale, zero_point, INT8, "half_up", False)
    assert torch.equal(y, torch.zeros(3))


def test_constant_tensor_gives_no_nan():
    quantizer = ActivationQuantizer()
    assert torch.equal(quantizer(torch.zeros(4, 3)), torch.zeros(4, 3))
    assert torch.isfinite(quantizer.eval()(torch.full((4, 3), 1.0))).all()


def test_range_is_the_mean_of_the_samples_ranges_and_then_a_moving_average():
    quantizer = ActivationQuantizer(make_recipe(overrides={
        "activation.momentum": 0.25, "activation.range": "batch_mean"}))
    quantizer(torch.tensor([[-1.0, 2.0], [-3.0, 4.0]]))
    assert (quantizer.range_low, quantizer.range_high) == (-2.0, 3.0)
    quantizer(torch.tensor([[-2.0, 7.0], [-2.0, 7.0]]))
    assert quantizer.range_low == -2.0
    assert quantizer.range_high == 4.0  # 0.75 * 3 + 0.25 * 7: torch's convention


def test_the_default_range_is_that_of_the_batch():
    quantizer = ActivationQuantizer()
    quantizer(torch.tensor([[-1.0, 2.0], [-3.0, 4.0]]))
    assert (quantizer.range_low, quantizer.range_high) == (-3.0, 4.0)


def test_evaluation_gives_the_codes_of_golden_arith():
    x = torch.randn(8, 999, generator=torch.Generator().manual_seed(0)) * 3
    quantizer = trained_quantizer(x)
    scale, zero_point = quantizer.parameters_for_evaluation()
    codes = np.floor(quantizer(x).double().numpy() / scale + 0.5) + zero_point
    assert np.array_equal(codes, arith.quantize(x.numpy(), scale, zero_point))


def test_half_rounds_up():
    y = FakeQuantizeFunction.apply(torch.tensor([-1.5, -0.5, 0.5, 1.5]), torch.tensor(1.0),
                                   torch.tensor(0.0), INT8, "half_up", False)
    assert y.tolist() == [-1.0, 0.0, 1.0, 2.0]


@pytest.mark.parametrize(("mask", "expected"), [(False, [1, 1, 1]), (True, [0, 1, 0])])
def test_straight_through_gradient_and_its_mask(mask, expected):
    x = torch.tensor([-500.0, 3.2, 500.0], requires_grad=True)
    y = FakeQuantizeFunction.apply(x, torch.tensor(1.0), torch.tensor(0.0), INT8, "half_up", mask)
    y.sum().backward()
    assert x.grad.tolist() == expected


def test_weights_are_symmetric_per_channel_and_pass_the_gradient():
    weight = (torch.randn(5, 3, 3, 3) * torch.tensor([1e-3, 1, 10, 0, 5]).reshape(5, 1, 1, 1))
    weight.requires_grad_()
    codes, scales = weight_codes(weight)
    assert codes.dtype == torch.int16  # room for the 2^8 - 1 of an 8-bit dorefa grid
    assert codes.abs().flatten(1).amax(1).tolist() == [127, 127, 127, 0, 127]
    quantized = quantize_weight(weight)
    assert torch.allclose(quantized, codes * scales.reshape(5, 1, 1, 1), rtol=1e-6, atol=0)
    quantized.sum().backward()
    assert torch.equal(weight.grad, torch.ones_like(weight))


def test_both_gradient_copies_come_from_one_16_bit_tensor():
    gradient = torch.randn(20000, generator=torch.Generator().manual_seed(1))
    bits = torch.randint(0, 256, gradient.shape, generator=torch.Generator().manual_seed(2))
    g16, g8 = split_gradient(gradient, bits)
    step = (gradient.abs().max() / GRADIENT16_HIGH).item()
    codes16 = np.floor(g16.numpy() / step + 0.5).astype(np.int64)
    assert abs(codes16).max() == GRADIENT16_HIGH
    codes8 = np.floor(g8.numpy() / (256 * step) + 0.5).astype(np.int64)
    assert np.array_equal(codes8, arith.stochastic_shift(codes16, bits.numpy(), 8))
    assert abs(codes8).max() <= 127


def test_stochastic_rounding_is_unbiased():
    gradient = torch.tensor([1.0, 0.3 / 127, -0.3 / 127]).repeat(40000, 1)
    torch.manual_seed(3)
    _, g8 = split_gradient(gradient)
    assert g8.mean(0).mul(127).tolist() == pytest.approx([127, 0.3, -0.3], abs=0.02)


def test_zero_gradient_stays_zero():
    g16, g8 = split_gradient(torch.zeros(7))
    assert not g16.any()
    assert torch.isfinite(g8).all()
    assert g8.abs().max() < 1e-30


def test_float_mode_is_the_identity():
    x = torch.randn(3, 4)
    assert ActivationQuantizer(make_recipe(quantize=False))(x) is x


@pytest.mark.parametrize(("options", "message"), [
    ({"norm.constant": "paperr"}, "norm.constant must be one of code, paper, exact, not 'paperr'"),
    ({"norm.range_gradient": "both"},
     "norm.range_gradient must be one of deviation, extremes, not 'both'"),
    ({"norm.range_gradient": "extremes", "norm.kind": "batch"},
     "Option norm.range_gradient needs norm.kind range, not batch"),
    ({"norm.chunks": 0}, "norm.chunks must be an integer from 1 to 1048576, not 0"),
    ({"norm.momentum": 0}, r"norm.momentum must be in \(0, 1\], not 0")])
def test_bad_options(options, message):
    with pytest.raises(LockstepError, match=message):
        make_recipe(overrides=options)


def test_untrained_quantizer_says_so():
    with pytest.raises(LockstepError, match="seen no batch"):
        ActivationQuantizer().parameters_for_evaluation()

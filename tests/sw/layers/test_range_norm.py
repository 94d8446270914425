"""RangeBN: constants, equation, chunks, gradients, constant channels."""

import math

import numpy as np
import pytest
import torch

from golden import arith
from golden.errors import LockstepError
from golden.ops.range_norm import range_norm_reference, statistics
from sw.layers.norms import EPSILON
from sw.layers.range_norm import RangeBatchNorm, chunk_ranges, expected_range, range_to_sigma
from sw.quantize.quantizers import affine_parameters
from sw.quantize.recipes import make_recipe

FLOAT = make_recipe(quantize=False)


def float64_range_norm(x, gamma, beta, n_chunks=16):
    """The equation, written down once more from the paper's code, in float64 numpy."""
    channels = x.shape[1]
    values = np.moveaxis(x, 1, 0).reshape(channels, n_chunks, -1)
    ranges = (values.max(2) - values.min(2)).mean(1)
    scale = ranges * 0.5402084 / math.sqrt(2 * math.log(values.shape[2]))
    mean = values.mean((1, 2))
    shape = (1, channels, 1, 1)
    factor = gamma / (scale + 1e-5)
    return (x - mean.reshape(shape)) * factor.reshape(shape) + beta.reshape(shape)


def test_constants_are_those_of_the_published_code_and_of_the_paper():
    assert range_to_sigma(256, "code") == pytest.approx(0.5402084 / math.sqrt(2 * math.log(256)),
                                                        rel=1e-6)
    assert range_to_sigma(256, "paper") == pytest.approx(1 / math.sqrt(2 * math.log(256)))
    # Expected range of normal samples: 1.128 (2), 1.693 (3), 3.078 (10), 5.015 (100) (Tippett).
    for n, value in ((2, 1.12838), (3, 1.69257), (10, 3.07751), (100, 5.01519)):
        assert expected_range(n) == pytest.approx(value, abs=1e-4)


@pytest.mark.parametrize("n", [64, 1024, 200704])
def test_size_of_the_constants_relative_to_sigma(n):
    assert 0.88 <= round(range_to_sigma(n, "code") * expected_range(n), 2) <= 0.99
    assert 1.6 <= range_to_sigma(n, "paper") * expected_range(n) <= 1.85


def test_exact_constant_estimates_sigma():
    x = torch.randn(8, 16 * 500, generator=torch.Generator().manual_seed(0)) * 3
    ranges, length = chunk_ranges(x, 16)
    assert (ranges * range_to_sigma(length, "exact")).mean().item() == pytest.approx(3, rel=0.02)


def test_forward_is_the_equation():
    torch.manual_seed(0)
    norm = RangeBatchNorm(3, FLOAT)
    with torch.no_grad():
        norm.weight.copy_(torch.tensor([1.0, -2.0, 0.5]))
        norm.bias.copy_(torch.tensor([0.0, 1.0, -1.0]))
    x = torch.randn(8, 3, 4, 4) + 2
    expected = float64_range_norm(x.double().numpy(), norm.weight.detach().double().numpy(),
                                  norm.bias.detach().double().numpy())
    assert np.abs(norm(x).detach().numpy() - expected).max() < 1e-5
    evaluated = norm.eval()(x).detach().numpy()  # the first batch sets the running statistics
    assert np.abs(evaluated - expected).max() < 1e-5


def test_running_statistics_use_torchs_momentum():
    norm = RangeBatchNorm(1, make_recipe(quantize=False, overrides={"norm.momentum": 0.1}))
    norm(torch.zeros(16, 1, 2, 2))
    norm(torch.ones(16, 1, 2, 2))
    assert norm.running_mean.item() == pytest.approx(0.1)


def test_gradient_matches_float64():
    torch.manual_seed(0)
    x = torch.randn(4, 2, 8, 8, dtype=torch.float64, requires_grad=True)
    norm = RangeBatchNorm(2, FLOAT).double()

    def fresh(x, weight, bias):
        values = x.transpose(0, 1).flatten(1)
        ranges, length = chunk_ranges(values, 16)
        scale = ranges * range_to_sigma(length, "code") + EPSILON
        shape = (1, -1, 1, 1)
        return ((x - values.mean(1).view(shape)) * (weight / scale).view(shape)
                + bias.view(shape))
    assert torch.allclose(norm(x), fresh(x, norm.weight, norm.bias), atol=1e-6)
    assert torch.autograd.gradcheck(fresh, (x, norm.weight, norm.bias))


def test_range_gradient_goes_to_the_first_extreme():
    x = torch.tensor([[1.0, 3.0, 3.0, 0.0, 0.0, 3.0]], requires_grad=True)
    chunk_ranges(x, 1)[0].backward()
    assert x.grad.tolist() == [[0, 1, 0, -1, 0, 0]]


@pytest.mark.parametrize("shape", [(8, 5, 8, 8), (7, 5, 6, 6), (5, 5, 3, 7)])
def test_training_forward_gives_the_codes_of_the_golden_reference(shape):
    torch.manual_seed(0)
    norm = RangeBatchNorm(shape[1])
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    x = torch.randn(shape) * torch.tensor([1, 0.1, 5, 0, 2]).reshape(1, -1, 1, 1) + 0.3
    y = norm(x).detach().double()
    scale, zero_point = affine_parameters(*(value.double() for value in (
        norm.input.range_low, norm.input.range_high)))
    codes = arith.quantize(x.numpy(), scale.item(), int(zero_point)).astype(np.int8)
    golden = range_norm_reference(
        codes, gamma=norm.weight.detach().numpy(), beta=norm.bias.detach().numpy(), eps=EPSILON,
        input_scale=scale.item(), output_scale=0.05, output_zero_point=3)
    difference = arith.quantize(y.numpy(), 0.05, 3) - golden
    assert abs(difference).max() <= 1
    assert (difference != 0).mean() < 0.002


@pytest.mark.parametrize("config", [FLOAT, make_recipe()])
def test_constant_channel_gives_beta_and_zero_gamma_finite_gradients(config):
    norm = RangeBatchNorm(2, config, zero_init=True)
    torch.nn.init.constant_(norm.bias, 0.25)
    x = torch.randn(8, 2, 4, 4)
    x[:, 1] = 1.5
    x.requires_grad_()
    y = norm(x)
    assert torch.allclose(y, torch.full_like(y, 0.25))
    (y * torch.randn_like(y)).sum().backward()
    for gradient in (x.grad, norm.weight.grad, norm.bias.grad):
        assert torch.isfinite(gradient).all()


def test_training_quantizes_the_input_and_evaluation_does_not():
    torch.manual_seed(0)
    norm = RangeBatchNorm(2)
    norm(torch.randn(8, 2, 4, 4))
    x = torch.linspace(-1, 1, 256).reshape(8, 2, 4, 4)
    norm.eval()
    folded = norm(x)
    norm.exact_evaluation = True
    assert 0 < (norm(x) - folded).abs().max() < 0.1


@pytest.mark.parametrize("count", [37, 120, 123, 160, 161])
def test_any_count_is_allowed(count):
    x = torch.arange(float(count)).reshape(1, count)
    ranges, length = chunk_ranges(x, 16)
    parts = [x[0, start:start + length] for start in range(0, count, length)]
    expected = sum((part.max() - part.min()).item() for part in parts) / len(parts)
    codes = x.numpy().astype(np.int8).reshape(1, 1, 1, count)
    if count < 128:
        assert statistics(codes)[1] == expected * len(parts)
    assert ranges.item() == pytest.approx(expected)


def test_too_few_values():
    with pytest.raises(LockstepError, match="at least 2 values per chunk, not 1"):
        RangeBatchNorm(1, FLOAT)(torch.randn(4, 1, 2, 2))

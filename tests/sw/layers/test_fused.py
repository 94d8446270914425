"""sw/layers/fused.py against the modules it replaces: forward to the bit, gradients against
float64."""

import contextlib
import functools
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from golden.errors import LockstepError
from sw.layers import fused, fused_kernels
from sw.layers.fused import FusedNorm
from sw.layers.range_norm import RangeBatchNorm
from sw.layers.weighted import QConv2d
from sw.quantize.gradients import split_gradient
from sw.quantize.quantizers import ActivationQuantizer
from sw.quantize.recipes import make_recipe
from sw.train import probe

ACTIVATIONS = {None: lambda x: x, "relu": F.relu, "relu6": F.relu6}


class Composed(nn.Module):
    """The modules behind a convolution, as sw/layers/weighted.py chains them."""

    def __init__(self, gamma, beta, activation, **overrides):
        super().__init__()
        config = make_recipe("banner", overrides=overrides)
        self.norm = RangeBatchNorm(len(gamma), config)
        self.norm.weight.data, self.norm.bias.data = gamma.clone(), beta.clone()
        self.activation, self.output = ACTIVATIONS[activation], ActivationQuantizer(config)

    def forward(self, x):
        return self.output(self.activation(self.norm(x)))


def example(shape, seed=0, channels_last=False, constant_channel=False):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(shape, generator=generator) * 2 + torch.randn(
        (1, shape[1]) + (1,) * (len(shape) - 2), generator=generator)
    if constant_channel:
        x[:, 0] = 0.75
    if channels_last and x.dim() == 4:
        x = x.contiguous(memory_format=torch.channels_last)
    gamma = torch.randn(shape[1], generator=generator)
    gamma[-1] = 0.0
    return x, gamma, torch.randn(shape[1], generator=generator)


def assert_forward_equal(x, gamma, beta, activation, chunks=16, constant="code"):
    for average in (False, True):
        _assert_forward_equal(x, gamma, beta, activation, chunks, constant, average)


def _assert_forward_equal(x, gamma, beta, activation, chunks, constant, average):
    modules = Composed(gamma, beta, activation, **{
        "norm.chunks": chunks, "norm.constant": constant, "norm.momentum": 1.0,
        "activation.momentum": 1.0, "activation.range": "batch_mean" if average else "min_max"})
    expected = modules(x)
    result = fused.norm_activation_quantize(x, gamma, beta, FusedNorm(
        activation=activation, chunks=chunks, constant=constant, average=average))
    norm, output = modules.norm, modules.output
    for mine, theirs in ((result.output, expected), (result.mean, norm.running_mean),
                         (result.scale, norm.running_scale), (result.low, norm.input.range_low),
                         (result.high, norm.input.range_high),
                         (result.output_low, output.range_low),
                         (result.output_high, output.range_high)):
        assert torch.equal(mine, theirs)
    if min(x.shape) > 1:  # the stride of a dimension of one is arbitrary
        assert result.output.stride() == expected.stride()


@settings(deadline=None, max_examples=60)
@given(shape=st.one_of(
           st.tuples(st.integers(1, 19), st.integers(1, 9), st.integers(1, 9), st.integers(2, 9)),
           st.tuples(st.integers(4, 40), st.integers(1, 9))),
       activation=st.sampled_from([None, "relu", "relu6"]), chunks=st.sampled_from([1, 2, 3]),
       channels_last=st.booleans(), constant_channel=st.booleans(), seed=st.integers(0, 99))
def test_forward_is_the_modules_to_the_bit(shape, activation, chunks, channels_last,
                                           constant_channel, seed):
    if -(-shape[0] * functools.reduce(int.__mul__, shape[2:], 1) // chunks) < 2:
        return  # RangeBN refuses chunks of one value
    x, gamma, beta = example(shape, seed, channels_last, constant_channel)
    assert_forward_equal(x, gamma, beta, activation, chunks)


@pytest.mark.parametrize("channels_last", [False, True])
@pytest.mark.parametrize("shape", [(32, 16, 8, 8), (33, 5, 7, 9), (128, 24, 4, 4)])
@pytest.mark.parametrize("constant", ["code", "paper", "exact"])
def test_forward_with_sixteen_chunks(shape, channels_last, constant):
    assert_forward_equal(*example(shape, 3, channels_last), "relu", 16, constant)


def test_a_tensor_of_zeros_gives_beta():
    x = torch.zeros(16, 3, 4, 4)
    assert_forward_equal(x, torch.ones(3), torch.tensor([-1.0, 0.5, 2.0]), None)


def gradients(function, *inputs, seed=5):
    """Output of function and the gradients to its inputs, of a fixed random linear loss."""
    inputs = [value.clone().requires_grad_() for value in inputs]
    output = function(*inputs)
    weights = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed))
    return torch.autograd.grad((output * weights.to(output.dtype)).sum(), inputs)


def reference_gradients(x, gamma, beta, activation, chunks, mask, range_gradient="deviation"):
    def composed(x, gamma, beta):
        modules = Composed(gamma.detach(), beta.detach(), activation, **{
            "activation.range": "min_max",
            "norm.chunks": chunks, "norm.quantize_gradient": False,
            "norm.range_gradient": range_gradient,
            "activation.clipped": "mask" if mask else "pass"})
        del modules.norm.weight, modules.norm.bias
        modules.norm.weight, modules.norm.bias = gamma, beta
        return modules.double()(x)
    return gradients(composed, x.double(), gamma.double(), beta.double())


def assert_gradients_close(mine, reference, tolerance=2e-5):
    for a, b in zip(mine, reference, strict=True):
        assert a.shape == b.shape
        assert (a - b).abs().max() <= tolerance * b.abs().max() + 1e-7


GRADIENT_CASES = [((16, 4, 6, 6), 4), ((16, 8, 4, 4), 16), ((7, 3, 5, 3), 4), ((40, 6), 4)]


@pytest.mark.parametrize("shape,chunks", GRADIENT_CASES)
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("merged", [False, True])
@pytest.mark.parametrize("range_gradient", ["extremes", "deviation"])
def test_gradients_against_float64(shape, chunks, activation, mask, merged, range_gradient,
                                   monkeypatch):
    monkeypatch.setattr(fused, "_merges_passes", lambda norm: merged)  # as compiled
    x, gamma, beta = example(shape, 1, channels_last=True, constant_channel=True)
    norm = FusedNorm(activation=activation, chunks=chunks, mask=mask, quantize_gradient=False,
                     range_gradient=range_gradient)
    mine = gradients(lambda *a: fused.norm_activation_quantize(*a, norm).output, x, gamma, beta)
    assert_gradients_close(mine, reference_gradients(x, gamma, beta, activation, chunks, mask,
                                                     range_gradient))


@pytest.mark.parametrize("size", [1, 1e-4, 1e-5, 3e-6, 1e-7])
def test_the_gradient_of_small_deviations(size):
    """Below the smallest variance the modules and the passes hold the same floor."""
    x, gamma, beta = example((16, 4, 6, 6), 1)
    norm = FusedNorm(chunks=4, quantize_gradient=False, range_gradient="deviation")
    mine = gradients(lambda *a: fused.norm_activation_quantize(*a, norm).output, x * size, gamma,
                     beta)
    assert_gradients_close(mine, reference_gradients(x * size, gamma, beta, None, 4, False,
                                                     "deviation"), 1e-4)


@pytest.mark.parametrize("fault", ["position", "factor", "activation", "squares"])
def test_the_gradient_check_sees_planted_faults(fault, monkeypatch):
    original = fused_kernels.norm_gradient

    def faulty(codes, step, sums, x, state, *rest):
        if fault == "squares":
            sums = *sums[:2], sums[2] * 1.02
        elif fault == "position":
            at_low = (state.at_low + 1) % (x.shape[0] * x.shape[1])
            state = state._replace(at_low=at_low)
        else:
            state = state._replace(factor=state.factor * 1.001)
        return original(codes, step, sums, x, state, *rest)

    x, gamma, beta = example((16, 4, 6, 6), 1)
    activation = "relu"
    if fault == "activation":
        monkeypatch.setattr(fused_kernels, "_passes", lambda x, *_: x > 0.05)
    else:
        monkeypatch.setattr(fused_kernels, "norm_gradient", faulty)
    kind = "deviation" if fault == "squares" else "extremes"
    norm = FusedNorm(activation=activation, chunks=4, quantize_gradient=False, range_gradient=kind)
    mine = gradients(lambda *a: fused.norm_activation_quantize(*a, norm).output, x, gamma, beta)
    with pytest.raises(AssertionError):
        assert_gradients_close(mine, reference_gradients(x, gamma, beta, activation, 4, False,
                                                         kind))


def test_the_forward_check_sees_a_planted_fault(monkeypatch):
    original = fused_kernels.steps
    monkeypatch.setattr(fused_kernels, "steps", lambda x, scale: original(x + 1e-4, scale))
    with pytest.raises(AssertionError):
        assert_forward_equal(*example((16, 4, 6, 6)), "relu")


def test_a_quantized_gradient_has_the_exact_one_as_its_mean():
    x, gamma, beta = example((16, 4, 6, 6), 1)

    def mine(quantize):
        norm = FusedNorm(activation="relu", chunks=4, quantize_gradient=quantize)
        return gradients(lambda *a: fused.norm_activation_quantize(*a, norm).output,
                         x, gamma, beta)

    torch.manual_seed(0)
    exact, draws = mine(False), [mine(True) for _ in range(300)]
    for index, reference in enumerate(exact):
        values = torch.stack([draw[index] for draw in draws])
        error = (values.mean(0) - reference).abs()
        bound = 5 * values.std(0) / 300**0.5 + 2e-4 * reference.abs().max()
        assert (error <= bound).all()
        assert values.std(0).max() > 0  # it was rounded


def test_the_copies_of_a_gradient():
    torch.manual_seed(0)
    gradient = torch.randn(8, 6, 4)
    seed = torch.tensor(1234, dtype=torch.int32)
    g16, g8, scale, scale8 = fused_kernels.split(gradient, seed, True)
    assert torch.equal(g16, split_gradient(gradient, want8=False)[0])
    index = torch.arange(gradient.numel(), dtype=torch.int32).view(gradient.shape)
    bits = fused_kernels.counter_bits(seed, index)
    assert torch.equal(g8, split_gradient(gradient, bits)[1])
    seeds = torch.arange(2000, dtype=torch.int32) * 7919
    draws = torch.stack([fused_kernels.split(gradient, s, True)[1] for s in seeds])
    assert ((draws.mean(0) - g16).abs() < 5 * scale8 / 2 / 2000**0.5).all()
    assert fused_kernels.split(gradient, seed, False)[1] is None


def test_convolution_with_norm_is_the_chain_of_its_parts():
    torch.manual_seed(3)
    x, weight = torch.randn(16, 4, 9, 9), torch.randn(6, 2, 3, 3)
    gamma, beta, geometry = torch.randn(6), torch.randn(6), ((2, 2), (1, 1), (1, 1), 2)
    norm = FusedNorm(activation="relu", chunks=4, quantize_gradient=False)
    results = []
    for chain in (False, True):
        def network(x, weight, gamma, beta, chain=chain):
            if chain:
                y = fused.bifurcated_conv2d(x, weight, None, geometry)
                return fused.norm_activation_quantize(y, gamma, beta, norm).output
            return fused.conv_norm_activation_quantize(x, weight, gamma, beta, geometry,
                                                       norm).output
        results.append(gradients(network, x, weight, gamma, beta))
    (x1, *others1), (x2, *others2) = results
    for a, b in zip(others1, others2, strict=True):
        assert torch.equal(a, b)
    step = 2 * (x1 - x2).abs().max()  # different random bits: different 8-bit copies
    assert 0 < step < 0.1 * x1.abs().max()


def test_the_gradient_of_a_convolution_uses_both_copies(monkeypatch):
    """A gradient of one value: both copies are exact, so torch's gradients are expected."""
    x, weight, bias = torch.randn(3, 2, 5, 5), torch.randn(4, 2, 3, 3), torch.randn(4)
    geometry = (1, 1), (1, 1), (1, 1), 1

    def run(function):
        inputs = [v.clone().requires_grad_() for v in (x, weight, bias)]
        return torch.autograd.grad(function(*inputs).sum(), inputs)

    mine = run(lambda *a: fused.bifurcated_conv2d(*a, geometry))
    assert_gradients_close(mine, run(lambda *a: F.conv2d(*a, *geometry)))
    original = fused_kernels.split
    monkeypatch.setattr(fused_kernels, "split", lambda g, s, w: (original(g, s, w)[0] * 0,
                                                                 *original(g, s, w)[1:]))
    grad_x, grad_weight, grad_bias = run(lambda *a: fused.bifurcated_conv2d(*a, geometry))
    assert torch.equal(grad_x, mine[0]) and not grad_weight.any() and not grad_bias.any()


@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
@pytest.mark.parametrize("mask", [False, True])
@pytest.mark.parametrize("shape", [(5, 3, 7, 4), (9, 6)])
def test_add_is_the_modules(activation, mask, shape):
    a, b = example(shape, 1)[0], example(shape, 2)[0]
    quantizer = ActivationQuantizer(make_recipe("banner", overrides={
        "activation.clipped": "mask" if mask else "pass"}))

    def composed(a, b):
        return quantizer(ACTIVATIONS[activation](a + b))

    def mine(a, b):
        return fused.add_activation_quantize(a, b, activation, mask).output

    result = fused.add_activation_quantize(a, b, activation, mask)
    assert torch.equal(result.output, composed(a, b))
    assert torch.equal(result.low, quantizer.range_low)
    assert torch.equal(result.high, quantizer.range_high)
    for x, y in zip(gradients(mine, a, b), gradients(composed, a, b), strict=True):
        assert torch.equal(x, y)
    single = fused.activation_quantize(a, activation, mask)
    assert torch.equal(single.output, quantizer(ACTIVATIONS[activation](a)))


@pytest.mark.parametrize("bifurcated", [True, False])
@pytest.mark.parametrize("activation_range", ["min_max", "batch_mean"])
def test_a_layer_without_random_bits_is_the_composed_layer(bifurcated, activation_range):
    """Rounded to nearest, the gradients of both paths are the same codes."""
    config = make_recipe("banner", overrides={
        "bifurcated": bifurcated, "error.rounding": "half_up",
        "activation.range": activation_range})
    torch.manual_seed(0)
    layer = QConv2d(3, 8, 3, padding=1, activation="relu", config=config)
    x = torch.randn(16, 3, 8, 8)
    direction = torch.randn(16, 8, 8, 8)

    def gradients_of(context):
        inputs = x.clone().requires_grad_()
        layer.zero_grad()
        with context:
            (layer(inputs) * direction).sum().backward()
        return [inputs.grad, *(p.grad.clone() for p in layer.parameters())]

    assert layer.fuses
    fused_ones = gradients_of(contextlib.nullcontext())
    for mine, theirs in zip(fused_ones, gradients_of(probe.recording()), strict=True):
        torch.testing.assert_close(mine, theirs, rtol=1e-3, atol=1e-3 * theirs.abs().max().item())


def test_without_bifurcation_the_weights_get_the_coarse_gradient():
    def weight_gradient(bifurcated):
        torch.manual_seed(0)
        layer = QConv2d(3, 8, 3, padding=1, config=make_recipe("banner", overrides={
            "bifurcated": bifurcated, "error.rounding": "half_up"}))
        (layer(torch.randn(16, 3, 8, 8)) * torch.randn(16, 8, 8, 8) ** 3).sum().backward()
        return layer.weight.grad
    fine, coarse = weight_gradient(True), weight_gradient(False)
    error = (fine - coarse).norm() / fine.norm()
    assert 1e-4 < error < 0.1


def test_which_recipes_are_supported():
    assert fused.supports(make_recipe("banner"))
    assert fused.supports(make_recipe("banner", overrides={
        "weight.bits": 4, "norm.chunks": 4, "activation.clipped": "mask",
        "activation.range": "batch_mean", "bifurcated": False, "error.rounding": "half_up"}))
    for overrides in ({"activation.bits": 4}, {"error.bits": 6}, {"gradient.bits": 8},
                      {"norm.kind": "batch"}, {"activation.range": "ema"},
                      {"norm.quantize_input": False}, {"accumulator.bits": 16},
                      {"error.rounding": "floor"}, {"gradient_of": "product"}):
        assert not fused.supports(make_recipe("banner", overrides=overrides)), overrides
    assert not fused.supports(make_recipe("banner", quantize=False))
    for name in ("float", "jacob", "dorefa", "wage"):
        assert not fused.supports(make_recipe(name))


def test_bad_input():
    with pytest.raises(LockstepError, match="Activation must be relu, relu6 or None, not 'tanh'"):
        FusedNorm(activation="tanh")
    with pytest.raises(LockstepError, match="at least 2 values per chunk"):
        fused.norm_activation_quantize(torch.randn(4, 2), torch.ones(2), torch.zeros(2),
                                       FusedNorm())


@pytest.mark.slow
@pytest.mark.parametrize("shape", [
    (7, 5, 5, 3), pytest.param((32, 8, 6, 6), marks=pytest.mark.long)])
def test_compiled_equals_eager(shape):
    """Up to the order of sums: few codes move, by one; gradients as in the float64 test."""
    x, gamma, beta = example(shape, 1, channels_last=True)
    norm = FusedNorm(activation="relu", chunks=16, quantize_gradient=False)
    expected = fused.norm_activation_quantize(x, gamma, beta, norm)
    both = fused.add_activation_quantize(x, x.flip(0), "relu")
    compiled = replace(norm, compiles=True)
    result = fused.norm_activation_quantize(x, gamma, beta, compiled)
    mine = gradients(lambda *a: fused.norm_activation_quantize(*a, compiled).output,
                     x, gamma, beta)
    both_compiled = fused.add_activation_quantize(x, x.flip(0), "relu", compiles=True)
    torch.testing.assert_close(both_compiled.output, both.output)
    quantized = FusedNorm(activation="relu", chunks=16)
    torch.manual_seed(4)
    rounded = gradients(lambda *a: fused.norm_activation_quantize(
        *a, replace(quantized, compiles=True)).output, x, gamma, beta)
    torch.manual_seed(4)
    rounded_eager = gradients(lambda *a: fused.norm_activation_quantize(*a, quantized).output,
                              x, gamma, beta)
    assert_gradients_close(mine, reference_gradients(x, gamma, beta, "relu", 16, False))
    for a, b in zip(rounded, rounded_eager, strict=True):
        assert (a - b).abs().max() < 0.02 * b.abs().max()
    torch.testing.assert_close(result.mean, expected.mean)
    torch.testing.assert_close(result.scale, expected.scale)
    step = (expected.output_high - expected.output_low) / 255
    moved = (result.output - expected.output).abs() / step
    assert moved.max() < 1.01 and (moved > 0.5).float().mean() < 1e-3

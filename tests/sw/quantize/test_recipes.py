"""Every named recipe against numbers worked by hand from its paper's equations."""

import math

import pytest
import torch

from sw.layers.weighted import QConv2d, QLinear, round_stored_weights
from sw.quantize.gradients import quantize_gradient
from sw.quantize.quantizers import ActivationQuantizer, quantize_weight
from sw.quantize.recipes import RECIPES, make_recipe


def weights(recipe, values, **overrides):
    """Quantized weights of one output channel, and the gradient of their sum."""
    weight = torch.tensor([values], requires_grad=True)
    y = quantize_weight(weight, make_recipe(recipe, overrides=overrides).weight)
    y.sum().backward()
    return y.flatten().tolist(), weight.grad.flatten().tolist()


def activations(recipe, values, **overrides):
    """One sample behind a ReLU through a training quantizer, and the gradient of the sum."""
    quantizer = ActivationQuantizer(make_recipe(recipe, overrides=overrides))
    x = torch.tensor([values], requires_grad=True)
    y = quantizer(x)
    y.sum().backward()
    return y.flatten().tolist(), x.grad.flatten().tolist()


def near(values, rel=1e-5):
    return pytest.approx(values, rel=rel, abs=1e-7)


def test_banner_weights():
    """Per channel, 1 / 127 a step: -0.5 is -63.5 steps, a tie towards +infinity."""
    assert weights("banner", [1.0, -0.5, 0.02]) == (near([1, -63 / 127, 3 / 127]), [1, 1, 1])


def test_banner_activations():
    """[0, 2.55]: step 0.01, zero is code -128."""
    assert activations("banner", [0.0, 2.55, 0.134]) == (near([0, 2.55, 0.13]), [1, 1, 1])


def test_banner_has_two_gradients():
    recipe = make_recipe("banner")
    assert (recipe.error.bits, recipe.error.rounding) == (8, "stochastic")
    assert (recipe.gradient.bits, recipe.gradient.rounding) == (16, "half_up")


def folding_layer(**overrides):
    """One 1x1 weight of 1, gamma 2, running mean 0.5 and deviation 2; no activation."""
    layer = QConv2d(1, 1, 1, config=make_recipe("jacob", overrides=overrides))
    layer.weight.data.fill_(1.0)
    layer.norm.weight.data.fill_(2.0)
    layer.norm.running_mean.fill_(0.5)
    layer.norm.running_variance.fill_(4 - 1e-5)
    return layer


X = torch.tensor([0.0, 2.0]).reshape(2, 1, 1, 1)  # mean 1, deviation 1


def test_jacob_corrects_the_fold_to_the_batch():
    """arXiv 1806.08342, 3.2.2: (x w gamma / s_run) s_run / s_batch - gamma mean / s_batch = 2x - 2,
    whatever the running deviation, since a channel's only weight is on its own grid."""
    assert folding_layer()(X).flatten().tolist() == near([-2, 2], 1e-4)


def test_jacob_uses_running_statistics_after_the_freeze():
    """x w gamma / s_run - gamma mean_run / s_run = x - 0.5; nothing is followed any more."""
    layer = folding_layer(**{"norm.freeze_after": 0})
    assert layer(X).flatten().tolist() == near([-0.5, 1.5])
    assert layer.norm.running_mean == 0.5
    layer = folding_layer(**{"norm.freeze_after": 1})
    layer(X)
    assert layer(X).flatten().tolist() != near([-2, 2], 1e-2)


def test_jacob_quantizes_the_folded_weight_per_tensor():
    layer = QConv2d(1, 2, 1, config=make_recipe("jacob"))
    layer.weight.data = torch.tensor([1.0, 1.0]).reshape(2, 1, 1, 1)
    layer.norm.weight.data = torch.tensor([1.0, 0.3])
    layer.norm.running_variance.fill_(1 - 1e-5)
    y = layer.eval()(torch.ones(1, 1, 1, 1))
    assert y.flatten().tolist() == near([1, 38 / 127])  # 0.3 * 127 = 38.1


def test_jacob_starts_after_its_delay_with_the_running_range():
    quantizer = ActivationQuantizer(make_recipe("jacob", overrides={"activation.delay": 1}))
    first = torch.tensor([[0.0, 1.0, 0.333]])
    assert torch.equal(quantizer(first), first)
    assert torch.equal(quantizer.eval()(first), first)
    x = torch.tensor([[0.0, 0.5, 3.0]], requires_grad=True)
    y = quantizer.train()(x)  # 0.95 * 1 + 0.05 * 3
    assert y.max().item() == pytest.approx(1.1)
    assert y[0, 1].item() == near(116 * 1.1 / 255)  # 115.9 steps
    y.sum().backward()
    assert x.grad.tolist() == [[1, 1, 0]]


def test_dorefa_weights():
    """Equation 9 with k = 2: tanh gives 0.5, -0.4, 0.8; over 1.6 plus 1/2 and times 3 they are
    2.4375, 0.75, 3; so 2 * (2, 1, 3) / 3 - 1. Gradient (1 - tanh^2) / 0.8."""
    values = [math.atanh(0.5), math.atanh(-0.4), math.atanh(0.8)]
    assert weights("dorefa", values, **{"weight.bits": 2}) == (
        near([1 / 3, -1 / 3, 1]), near([0.9375, 1.05, 0.45]))


def test_dorefa_one_bit_weights():
    """Section 2.2: sign(w) E|w|."""
    assert weights("dorefa", [0.5, -1.0, 0.0], **{"weight.bits": 1})[0] == near([0.5, -0.5, 0.5])


def test_dorefa_activations():
    """Fifteenths of [0, 1]: 4.65, 3.3 and a clipped 25.5, whose gradient stops."""
    assert activations("dorefa", [0.31, 0.22, 1.7]) == (near([5 / 15, 3 / 15, 1]), [1, 1, 0])


def test_dorefa_gradients():
    """Equation 12 with k = 2, m per sample. Sample 1: (1, -0.5) / 2 + 1/2 = 1 and 1/4 of 3 steps,
    so 1 and, of 0 or 1 step in the ratio 1 : 3, -1 or -1/3. Sample 2: m = 4."""
    recipe = make_recipe("dorefa", overrides={"error.bits": 2}).error
    torch.manual_seed(0)
    g = torch.tensor([[1.0, -0.5], [-4.0, 4.0]]).reshape(1, 2, 2).expand(20000, 2, 2)
    y = torch.stack([quantize_gradient(sample, recipe) for sample in g[:500]])
    assert y[:, 0, 0].unique().tolist() == [1]
    assert y[:, 0, 1].unique().tolist() == near([-1, -1 / 3])
    assert y[:, 0, 1].mean().item() == pytest.approx(-0.5, abs=0.05)
    assert y[:, 1].unique(dim=0).tolist() == [[-4, 4]]


def test_wage_weights():
    """sigma(2) = 1/2, clip to +-1/2: 0.6, -0.5, 0.5 and -1.6 steps, ties to even."""
    assert weights("wage", [0.3, -0.25, 0.25, -0.8])[0] == [0.5, 0, 0, -0.5]


def test_wage_activations():
    """sigma(8) = 2^-7, clip to 1 - 2^-7."""
    assert activations("wage", [0.3, 1.5]) == ([38 / 128, 127 / 128], [1, 0])


@pytest.mark.parametrize("bits", range(2, 9))
def test_wage_grids_at_other_widths(bits):
    """sigma(k) = 2^(1-k), the largest value 1 - sigma: of W, A and U alike."""
    sigma = 2.0 ** (1 - bits)
    values, expected = [1.2 * sigma, 3.0], near([sigma, 1 - sigma], 1e-9)
    overrides = {f"{kind}.bits": bits for kind in ("weight", "activation", "update")}
    assert weights("wage", values, **overrides)[0] == expected
    assert activations("wage", values, **overrides)[0] == expected
    layer = QLinear(2, 1, config=make_recipe(
        "wage", overrides=overrides | {"update.rounding": "half_up"}))
    layer.weight.data = torch.tensor([values])
    round_stored_weights(layer)
    assert layer.weight.flatten().tolist() == expected


def test_wage_errors():
    """Shift(0.3) = 1/4: 1.2 clips to 127 / 128, -0.4 is -51.2 of its 128ths."""
    y = quantize_gradient(torch.tensor([[0.3, -0.1]]), make_recipe("wage").error)
    assert y.tolist() == [[127 / 512, -51 / 512]]


def test_wage_gradients_lose_their_scale():
    """g / Shift(max|g|), not clipped: Shift(0.3) = 1/4, Shift(300) = 256."""
    recipe = make_recipe("wage").gradient
    assert quantize_gradient(torch.tensor([[0.3, -0.1]]), recipe)[0].tolist() == near(
        [1.2, -0.4], 1e-4)
    assert quantize_gradient(torch.tensor([[300.0]]), recipe).item() == near(300 / 256, 1e-4)


def test_wage_stores_weights_in_eight_bits_stochastically():
    """A rate of 8 * 2^-7 moves a weight by eta g = 1.2 * 8 = 9.6 steps of 2^-7: 9 or 10."""
    layer = QLinear(2000, 1, config=make_recipe("wage"))
    layer.weight.data.fill_(0.5 - layer.config.learning_rate * 1.2)
    torch.manual_seed(0)
    round_stored_weights(layer)
    steps = (0.5 - layer.weight) * 128
    assert steps.unique().tolist() == [9, 10]
    assert steps.mean().item() == pytest.approx(9.6, abs=0.05)
    layer.weight.data.fill_(-1.2)
    round_stored_weights(layer)
    assert layer.weight.unique().tolist() == [-127 / 128]


@pytest.mark.parametrize(("fan_in", "limit", "attenuation"), [
    (6, 1.0, 1.0), (24, 0.75, 0.5), (600, 0.75, 0.125)])
def test_wage_starts_no_smaller_than_its_grid(fan_in, limit, attenuation):
    """Equations 6-7: L = max(sqrt(6 / n), 1.5 * 0.5); alpha = max(Shift(0.75 / sqrt(6 / n)), 1),
    0.75 / 0.5 = 1.5 -> 2, 0.75 / 0.1 -> 8."""
    layer = QLinear(fan_in, 500, config=make_recipe("wage"))
    assert 0.99 * limit < layer.weight.abs().max() <= limit
    assert layer.attenuation == attenuation
    assert layer.bias is None


def test_pact_forward_and_the_gradient_to_its_bound():
    """a = 2, k = 2, step 2/3: 0.75, 1.8, 3 and a clipped 4.5 steps. da sums the gradients where
    x >= a, and a decay of 0.01 adds 0.02."""
    config = make_recipe("pact", overrides={"activation.bits": 2, "activation.clamp": 2.0,
                                            "activation.clamp_decay": 0.01})
    quantizer = ActivationQuantizer(config)
    x = torch.tensor([[0.5, 1.2, 2.0, 3.0]], requires_grad=True)
    y = quantizer(x)
    assert y.tolist() == [near([2 / 3, 4 / 3, 2, 2])]
    (y * torch.tensor([1.0, 2, 3, 4])).sum().backward()
    assert x.grad.tolist() == [[1, 2, 0, 0]]
    assert quantizer.bound.grad.item() == near(7.02)
    assert quantizer.parameters_for_evaluation() == (near(2 / 3), -2)


def test_dfp16_shares_one_exponent():
    """1.5 needs 2^-14 (24576 codes; 2^-15 would need 49152): 1e-4 is 1.6384 steps."""
    assert weights("dfp16", [1.5, 1e-4])[0] == [1.5, 2 / 2**14]
    assert activations("dfp16", [1.5, 1e-4])[0] == [1.5, 2 / 2**14]
    y = quantize_gradient(torch.tensor([[-1.5, 1e-4]]), make_recipe("dfp16").error)
    assert y.tolist() == [[-1.5, 2 / 2**14]]


def test_niti_weights_and_activations():
    """1 / 127 needs 2^-6: 64 and -19.2 steps. 2 / 127 needs 2^-5: 1.7 steps drop 0xB333, whose
    upper half 0xB3 exceeds 0x33; 1.6 drop 0x9999, a tie that stays down."""
    assert weights("niti", [1.0, -0.3])[0] == [1, -19 / 64]
    assert activations("niti", [2.0, 1.7 / 32, 1.6 / 32])[0] == [2, 2 / 32, 1 / 32]


def test_niti_moves_weights_by_whole_steps():
    layer = QLinear(3, 1, config=make_recipe("niti"))
    layer.weight.data = torch.tensor([[1.0, -0.5, 0.25]])  # steps of 2^-6
    layer.weight.data -= torch.tensor([[5.0, -31, 0]]) / 64
    round_stored_weights(layer)
    assert (layer.weight * 64).tolist() == [[59, -1, 16]]


def test_twn_weights():
    """E|w| = 0.4, threshold 0.28, kept 1 and 0.29 with mean 0.645."""
    assert weights("twn", [1.0, -0.29, 0.27, 0.04]) == (near([0.645, -0.645, 0, 0]), [1, 1, 1, 1])


def test_wrpn():
    """Sevenths of [-1, 1]: 2.8, -0.7 and a clipped -9.1; fifteenths of [0, 1]: 6 and 18."""
    assert weights("wrpn", [0.4, -0.1, -1.3]) == (near([3 / 7, -1 / 7, -1]), [1, 1, 0])
    assert activations("wrpn", [0.4, 1.2]) == (near([6 / 15, 1]), [1, 0])


def test_fp8():
    """e4m3, maximum 448: 17 lies between 16 and 18 (a tie, to even), 0.3 is 9.6 of 1/32. e5m2,
    maximum 57344: 18 lies between 16 and 20, 0.3 is 4.8 of 1/16. Twice all is scaled by 2."""
    assert weights("fp8", [448.0, 17.0, 0.3])[0] == [448, 16, 0.3125]
    assert weights("fp8", [896.0, 34.0, 0.6])[0] == [896, 32, 0.625]
    assert activations("fp8", [448.0, 17.0, 0.3])[0] == [448, 16, 0.3125]
    y = quantize_gradient(torch.tensor([[57344.0, 18.0, 0.3]]), make_recipe("fp8").error)
    assert y.tolist() == [[57344, 16, 0.3125]]


@pytest.mark.parametrize(("granularity", "size", "expected"), [
    ("tensor", 1, [0, 8, 0, 8]), ("channel", 1, [1, 8, 2, 6]), ("group", 2, [0, 8, 0, 6])])
def test_weights_in_groups(granularity, size, expected):
    """2 bits, codes -1, 0, 1: a step is the largest value of the scale's group."""
    recipe = make_recipe(overrides={"weight.bits": 2, "weight.granularity": granularity,
                                    "weight.group_size": size}).weight
    y = quantize_weight(torch.tensor([[1.0], [8.0], [2.0], [6.0]]), recipe)
    assert y.flatten().tolist() == expected


@pytest.mark.parametrize("name", RECIPES)
def test_a_step_of_every_recipe_is_finite(name):
    torch.manual_seed(0)
    config = make_recipe(name)
    layer = QConv2d(3, 8, 3, activation="relu", config=config)
    x = torch.randn(16, 3, 8, 8, requires_grad=True)
    y = layer(x)
    (y * torch.randn_like(y)).sum().backward()
    assert torch.isfinite(y).all()
    assert 0 < x.grad.abs().sum() < torch.inf
    assert 0 < layer.weight.grad.abs().sum() < torch.inf

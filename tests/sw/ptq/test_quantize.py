"""A float network quantized after training: accuracy, exact lowering, widths, refusals."""

import pytest
import torch

from golden.errors import LockstepError
from golden.program.interpreter import run
from sw.layers.weighted import QLayer, WeightedLayer
from sw.lower.network import lower
from sw.lower.simulate import differing_codes, simulate
from sw.ptq import quantize as module
from sw.ptq.config import AdaRoundConfig, PtqConfig
from sw.ptq.folding import fold_norms
from sw.ptq.layers import AllocatedQuantizer
from sw.ptq.quantize import quantize
from sw.ptq.weights import mean_per_channel
from sw.quantize.quantizers import weight_codes
from sw.train.evaluate import accuracy, logits_of
from tests.sw.ptq.floats import chain, float_digits, images
from tests.sw.trained import digits

NAIVE = {"weight_bits": 4, "activation_bits": 4}
ALL = NAIVE | {"activation_range": "aciq_mix", "weight_range": "mse", "equalise": "weights",
               "bias_correction": "weight", "adaround": AdaRoundConfig(iterations=200)}
TRAINING_FREE = NAIVE | {"activation_range": "aciq_mix", "allocate_weights": True,
                         "bias_correction": "weight"}


def calibration():
    return digits().train_sample(256)[0]


def quality(number=0, **options):
    """(accuracy, relative squared error of the logits) of a quantized resnet_digits of a seed."""
    model, data = float_digits(seed=number), digits()
    quantized, _ = quantize(model, calibration(), PtqConfig(**options))
    exact, found = (logits_of(each, data.test_images) for each in (model, quantized))
    return accuracy(found, data.test_labels), ((found - exact).square().sum()
                                               / exact.square().sum()).item()


def test_eight_bits_lose_less_than_a_point():
    data = digits()
    quantized, _ = quantize(float_digits(), calibration())
    exact = accuracy(logits_of(float_digits(), data.test_images), data.test_labels)
    assert exact > 0.96
    assert accuracy(logits_of(quantized, data.test_images), data.test_labels) > exact - 0.01
    program = lower(quantized)
    codes = run(program, data.test_images.numpy())[program.outputs[0]]
    assert (codes.argmax(1) == data.test_labels.numpy()).mean() > exact - 0.01


def losses(**options):
    """(accuracy lost, relative squared error of the logits) of five networks: float64 (5, 2)."""
    labels, found = digits().test_labels, []
    for seed in range(5):
        exact = accuracy(logits_of(float_digits(seed=seed), digits().test_images), labels)
        reached, error = quality(seed, **options)
        found.append((exact - reached, error))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.long
@pytest.mark.parametrize(("methods", "left"), [
    pytest.param(TRAINING_FREE, 0.5, marks=pytest.mark.long), (ALL, 0.3)],
                         ids=["training free", "all"])
def test_naive_three_bits_lose_more_than_with_the_methods(methods, left):
    few = {"weight_bits": 3, "activation_bits": 3}
    naive, corrected = losses(**few).sum(0), losses(**methods | few).sum(0)
    assert naive[0] > 0.1
    assert (corrected < torch.tensor([0.5, left]) * naive).all()


WEIGHTS, ACTIVATIONS = ({"weight_bits": 3, "activation_bits": 8},
                        {"weight_bits": 8, "activation_bits": 3})


@pytest.mark.slow
@pytest.mark.parametrize(("few", "option"), [
    (ACTIVATIONS, {"activation_range": "aciq_laplace"}),
    (WEIGHTS, {"allocate_weights": True}), (WEIGHTS, {"bias_correction": "output"}),
    *(pytest.param(*case, marks=pytest.mark.long) for case in (
        (ACTIVATIONS, {"activation_range": "mse"}),
        (ACTIVATIONS, {"per_channel_activations": True}),
        (ACTIVATIONS, {"per_channel_activations": True, "allocate_activations": True}),
        (WEIGHTS, {"bias_correction": "weight"}),
        (WEIGHTS, {"adaround": AdaRoundConfig(iterations=200)})))],
    ids=lambda option: " ".join(option) + " " + str(list(option.values())[0])[:12])
def test_each_method_brings_the_logits_nearer(few, option):
    """Where few bits are what it is for; for most of five networks, as none helps each of them."""
    before, after = losses(**few)[:, 1], losses(**few | option)[:, 1]
    assert (after / before).median() < 0.95


def test_more_bits_are_nearer():
    widths = [(4, 4), (4, 8), (8, 4), (8, 8)]
    errors = {pair: quality(weight_bits=pair[0], activation_bits=pair[1])[1] for pair in widths}
    assert errors[8, 8] < min(errors[4, 8], errors[8, 4])
    assert max(errors[4, 8], errors[8, 4]) < errors[4, 4]


@pytest.mark.parametrize("options", [{}, TRAINING_FREE, NAIVE | {"adaround": AdaRoundConfig(
    iterations=20), "bias_correction": "weight", "per_channel_weights": False}],
    ids=["8 bits", "4 bits", "adaround"])
def test_the_program_is_the_simulation(options):
    data = digits().test_images[:100]
    quantized, _ = quantize(float_digits(), calibration(), PtqConfig(**options))
    program = lower(quantized)
    trace = run(program, data.numpy())
    differences = differing_codes(simulate(quantized, data, program=program, int32_bias=True),
                                  trace)
    assert max(largest for _, largest in differences.values()) <= 2
    assert max(share for share, _ in differences.values()) <= 0.01
    for name, layer in quantized.named_modules():
        if isinstance(layer, QLayer):
            low, high = layer.output.recipe.code_bounds
            assert low <= trace[name].min() <= trace[name].max() <= high, name


@pytest.mark.parametrize("activation", ["relu", "relu6"])
def test_a_chain_with_groups_and_pools_lowers(activation):
    model, x = chain(activation), images()
    quantized, results = quantize(model, x, PtqConfig(equalise="weights", bias_correction="weight"))
    assert all(result.sqnr_db > 25 for result in results), results
    program = lower(quantized)
    output = run(program, x.numpy())[program.outputs[0]].astype(float)
    quantization = program.output.quantization
    real = quantization.scale * (output - quantization.zero_point)
    with torch.no_grad():
        expected = model(x)
    assert (torch.from_numpy(real) - expected).abs().max() < 0.1 * expected.abs().max()


def test_the_float_network_stays():
    model = float_digits()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    quantize(model, calibration(), PtqConfig(equalise="weights"))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_the_result_is_in_evaluation_mode_with_the_ranges_of_the_float_network():
    x = calibration()
    quantized, _ = quantize(float_digits(), x, PtqConfig(**NAIVE))
    assert not any(module.training for module in quantized.modules())
    exact = {}
    reference = fold_norms(float_digits())
    for name, layer in reference.named_modules():
        if isinstance(layer, QLayer):
            layer.register_forward_hook(lambda _, __, y, name=name: exact.update({name: y}))
    with torch.no_grad():
        reference(x)
    for name, y in exact.items():
        output = quantized.get_submodule(name).output
        assert (output.range_low, output.range_high) == (y.min(), y.max()), name


def test_widths_by_role():
    _, results = quantize(float_digits(), calibration(), PtqConfig(**NAIVE))
    found = {result.layer: (result.weight_bits, result.activation_bits) for result in results}
    assert found == {
        "input": (None, 8), "stem": (8, 4), "block1.conv1": (4, 4), "block1.conv2": (4, 8),
        "block1.add": (None, 4), "block2.conv1": (4, 4), "block2.conv2": (4, 8),
        "block2.shortcut": (4, 8), "block2.add": (None, 8), "pool": (None, 8),
        "classifier": (8, 8)}
    _, results = quantize(float_digits(), calibration(), PtqConfig(
        **NAIVE, sum_bits=5, ends_bits=None, layer_bits={"block1.conv1": (2, 3)}))
    found = {result.layer: (result.weight_bits, result.activation_bits) for result in results}
    assert found["stem"] == (4, 4)
    assert found["block1.conv1"] == (2, 3)
    assert found["block2.add"] == (None, 5)
    assert found["pool"] == (None, 4)
    assert found["classifier"] == (4, 8)


def test_allocated_widths_have_the_target_as_mean():
    quantized, results = quantize(float_digits(), calibration(), PtqConfig(
        **NAIVE, allocate_weights=True, per_channel_activations=True, allocate_activations=True))
    _, naive = quantize(float_digits(), calibration(), PtqConfig(**NAIVE))
    for result, plain in zip(results, naive):
        assert result.activation_bits == pytest.approx(plain.activation_bits, abs=0.01)
        assert result.weight_bits == (None if plain.weight_bits is None
                                      else pytest.approx(plain.weight_bits, abs=0.01))
    widths = [layer.output.bits for layer in quantized.modules()
              if isinstance(getattr(layer, "output", None), AllocatedQuantizer)]
    assert any(len(bits.unique()) > 1 for bits in widths)


def test_channel_scales_of_activations_do_not_lower():
    config = PtqConfig(per_channel_activations=True)
    assert "reduction axis" in config.simulation_only
    quantized, _ = quantize(float_digits(), calibration(), config)
    with pytest.raises(LockstepError, match="Activations of stem have a scale per channel"):
        lower(quantized)


def test_the_output_correction_restores_the_means():
    model, x = chain(), images()
    quantized, _ = quantize(model, x, PtqConfig(weight_bits=3, bias_correction="output",
                                                ends_bits=None))
    reference = fold_norms(model)
    with torch.no_grad():
        for name in ("first", "depthwise", "grouped"):
            seen = {}
            for network in (reference, quantized):
                getattr(network, name).register_forward_hook(
                    lambda layer, inputs, _, seen=seen, network=network: seen.__setitem__(
                        network, layer.product(inputs[0].double(), layer.weight.double(), None)))
                network(x)
            layer = getattr(reference, name)
            wanted = mean_per_channel(seen[reference]) + layer.bias.double()
            found = mean_per_channel(getattr(quantized, name).norm(seen[quantized]))
            assert (found - wanted).abs().max() <= 1e-6 * wanted.abs().max().clamp_min(1), name


def test_a_wrong_correction_shows(monkeypatch):
    right = quality(**NAIVE, bias_correction="weight")[1]

    def wrong(weight, quantized):
        xi, shift = correct(weight, quantized)
        return xi, -shift
    correct = module.correct_weights
    monkeypatch.setattr(module, "correct_weights", wrong)
    assert quality(**NAIVE, bias_correction="weight")[1] > 2 * right


def dead_output(model):
    model.first.norm.bias.data.fill_(-100.0)


def no_weights(model):
    model.first.norm.weight.data.zero_()


def not_finite(model):
    model.first.norm.bias.data[0] = float("nan")


@pytest.mark.parametrize(("damage", "message"), [
    (dead_output, "Layer first has a zero range: its output is 0 for all 32 calibration images"),
    (no_weights, "Layer first has a zero range: all its weights are 0"),
    (not_finite, "Layer first gives values that are not finite")])
def test_layers_without_a_range(damage, message):
    model = chain()
    damage(model)
    with pytest.raises(LockstepError, match=message):
        quantize(model, images())


def test_no_images():
    with pytest.raises(LockstepError, match="needs at least 1 calibration image"):
        quantize(chain(), images()[:0])


def test_a_layer_that_is_called_twice():
    class Twice(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = chain()
            self.again = self.inner.depthwise

        def forward(self, x):
            x = self.again(self.again(self.inner.first(self.inner.input(x))))
            return self.inner.pool(x)
    with pytest.raises(LockstepError, match="Layer depthwise is called 2 times"):
        quantize(Twice(), images())


@pytest.mark.parametrize(("options", "message"), [
    ({"weight_bits": 9}, "Weights must be 2 to 8 bits, not 9"),
    ({"activation_bits": 1}, "Activations must be 2 to 8 bits, not 1"),
    ({"ends_bits": 16}, "First and last layer must be 2 to 8 bits, not 16"),
    ({"layer_bits": {"stem": (4, 12)}}, "Layer stem must be 2 to 8 bits, not 12"),
    ({"weight_range": "ema"}, "Range of weights must be one of min_max, percentile"),
    ({"bias_correction": "yes"}, "Bias correction must be one of none, weight, output"),
    ({"equalise": "yes"}, "Equalisation must be one of none, weights, activations, not 'yes'"),
    ({"allocate_activations": True}, "Bit allocation of activations needs per-channel"),
    ({"allocate_weights": True, "per_channel_weights": False},
     "Bit allocation of weights needs per-channel")])
def test_settings_that_cannot_work(options, message):
    with pytest.raises(LockstepError, match=message):
        PtqConfig(**options)


def test_an_unknown_layer():
    with pytest.raises(LockstepError, match="There is no layer stern; the layers are input, stem"):
        quantize(float_digits(), calibration(), PtqConfig(layer_bits={"stern": (4, 4)}))


@pytest.mark.parametrize("bits", [4, 8])
def test_lowering_takes_the_weights_as_they_are(bits):
    quantized, _ = quantize(float_digits(), calibration(), PtqConfig(weight_bits=bits))
    for layer in quantized.modules():
        if isinstance(layer, WeightedLayer):
            codes, scales = weight_codes(layer.weight, layer.config.weight)
            assert torch.equal(codes.float(), layer.weight)
            assert (scales == 1).all()

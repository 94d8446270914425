"""The range of logits on whose grid the answers change least."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from golden.errors import LockstepError
from sw.layers.connect import connect
from sw.layers.weighted import QConv2d, QInput
from sw.lower.network import lower
from sw.ptq.answers import FRACTIONS, answers, logits_range
from sw.ptq.answers import divergence as divergence_of
from sw.ptq.config import DistillationConfig, PtqConfig
from sw.ptq.quantize import quantize
from tests.sw.ptq.floats import FLOAT, float_digits
from tests.sw.trained import digits

RECIPE = PtqConfig().activation_recipe(8, at_end=True, clipped=False)
ANSWERS = PtqConfig(logits_range="answers")


def divergence(logits, low, high):
    """KL of the answers on the grid of 256 codes over [low, high], with numpy alone."""
    logits = logits.numpy().astype(np.float64)
    step = (max(high, 0) - min(low, 0)) / 255
    zero = np.floor(-128 - min(low, 0) / step + 0.5)
    grid = (np.clip(np.floor(logits / step + 0.5) + zero, -128, 127) - zero) * step
    wanted, found = (x - np.log(np.exp(x).sum(1, keepdims=True)) for x in (logits, grid))
    return (np.exp(wanted) * (wanted - found)).sum(1).mean()


def drawn(n=200, classes=10):
    return 6 * torch.randn(n, classes, generator=torch.Generator().manual_seed(0))


CONFIDENT = 20 * torch.eye(10)  # divergences below what float32 tells apart


@pytest.mark.parametrize("shift", [0, 40, -40, CONFIDENT],
                         ids=["mixed", "positive", "negative", "confident"])
def test_no_candidate_changes_the_answers_less(shift):
    logits = drawn(10) / 3 + shift if shift is CONFIDENT else drawn() + shift
    low, high = (value.item() for value in logits_range(logits, RECIPE))
    best = divergence(logits, low, high)
    ends = [[value * k / FRACTIONS for k in range(FRACTIONS + 1)]
            for value in (logits.min().item(), logits.max().item())]
    others = [divergence(logits, a, b) for a in ends[0] for b in ends[1] if a < b]
    assert best <= min(others) * (1 + 1e-4)  # of 1e-10 nats float64 keeps six digits


def test_the_answers_change_less_than_on_the_grid_of_the_extremes():
    logits = drawn()
    low, high = (value.item() for value in logits_range(logits, RECIPE))
    assert divergence(logits, low, high) < 0.8 * divergence(
        logits, logits.min().item(), logits.max().item())


def test_what_never_wins_takes_no_codes():
    logits = drawn()
    logits[:, 0] = -500.0
    low, high = logits_range(logits, RECIPE)
    assert low > -50
    assert high > 0.7 * logits.max()


def test_the_divergence_is_from_the_wanted_answers():
    wanted, found = drawn(), drawn() + torch.linspace(-1, 1, 10)
    p, q = (np.exp(x.numpy().astype(np.float64)) for x in (wanted, found))
    p, q = (x / x.sum(1, keepdims=True) for x in (p, q))
    assert divergence_of(answers(found), answers(wanted)).item() == pytest.approx(
        (p * np.log(p / q)).sum(1).mean(), rel=1e-5)
    assert answers(wanted[:, :, None, None]).shape == wanted.shape


def test_small_logits_keep_the_grid_of_their_extremes():
    """Where the answers hardly change, what is left is the noise of the arithmetic."""
    logits = 1e-5 * drawn()
    found = logits_range(logits, RECIPE)
    assert found == (logits.min(), logits.max())


def test_confident_networks_keep_their_winners_apart():
    """All answers are certain on every grid: nothing is gained by cutting the winners."""
    logits = drawn(256)
    logits[torch.arange(256), torch.arange(256) % 10] += 60
    assert logits_range(logits, RECIPE) == (logits.min(), logits.max())


@pytest.mark.parametrize("value", [2.0, -2.0, 3e38])
def test_ranges_at_the_edge(value):
    low, high = logits_range(torch.tensor([[value, value], [value, value / 2]]), RECIPE)
    assert low < high
    assert (low, high) in ((0, value), (value, 0)) or low * high == 0


def test_a_low_end_of_0():
    logits = drawn().clamp(max=0) * 100
    logits[torch.arange(200), torch.arange(200) % 10] = torch.linspace(0, 8, 200) + 100
    logits[torch.arange(200), (torch.arange(200) + 1) % 10] = torch.linspace(8, 0, 200) + 100
    assert logits_range(logits, RECIPE)[0] == 0


def test_of_many_logits_images_evenly_spaced_are_searched(monkeypatch):
    monkeypatch.setattr("sw.ptq.answers.SEARCHED", 1000)
    logits = drawn(1000)
    found = logits_range(logits, RECIPE)
    inner = (logits > logits.min()) & (logits < logits.max())
    inner[::10] = False
    assert logits_range(logits.where(~inner, 0), RECIPE) == found
    inner[::10] = True
    assert logits_range(logits.where(~inner, 0), RECIPE) != found


def test_only_the_logits_get_another_range_and_the_program_has_it():
    images = digits().train_sample(64)[0]
    plain, clipped = (quantize(float_digits(), images, config)[0]
                      for config in (PtqConfig(), ANSWERS))
    scales = [{name: module.scale.item() for name, module in network.named_modules()
               if name.endswith("output") and getattr(module, "scale", None) is not None}
              for network in (plain, clipped)]
    changed = {name for name in scales[0] if scales[0][name] != scales[1][name]}
    assert changed == {"classifier.output"}
    assert scales[1]["classifier.output"] < scales[0]["classifier.output"]
    program = lower(clipped)
    assert program.tensors[program.outputs[0]].quantization.scale == scales[1]["classifier.output"]


class Branched(nn.Module):
    """Logits behind a max pool, and a layer that nobody reads."""

    input_shape = (1, 8, 8)

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.input = QInput(FLOAT)
        self.first, self.dead = QConv2d(1, 10, 3, config=FLOAT), QConv2d(1, 4, 3, config=FLOAT)
        self.pool, self.flatten = nn.MaxPool2d(6), nn.Flatten()

    def forward(self, x):
        x = self.input(x)
        self.dead(x)
        return self.flatten(self.pool(self.first(x)))


def test_maps_in_front_of_a_pool_and_dead_layers_keep_their_range():
    images, model = digits().train_sample(16)[0], connect(Branched()).eval()
    model.first.weight.data *= 20  # some values decide, the others would be cut
    model.dead.weight.data *= 20
    config = replace(ANSWERS, distillation=DistillationConfig(steps=1))
    networks = [quantize(model, images, each)[0] for each in (PtqConfig(), config)]
    for layer in ("first", "dead"):
        plain, other = (network.get_submodule(f"{layer}.output").scale for network in networks)
        assert plain == other, layer


def test_what_gives_no_classes_is_refused():
    import copy

    model = copy.deepcopy(float_digits())
    model.objective = "reconstruction"
    with pytest.raises(LockstepError, match="The logits' range by answers needs a network that"):
        quantize(model, digits().test_images[:8], ANSWERS)


def test_unknown_rule():
    with pytest.raises(LockstepError, match="Range of logits must be one of min_max, answers"):
        PtqConfig(logits_range="mse")

"""The range of logits on whose grid the answers change least."""

import numpy as np
import pytest
import torch

from golden.errors import LockstepError
from sw.lower import lower
from sw.ptq.answers import FRACTIONS, logits_range
from sw.ptq.config import PtqConfig
from sw.ptq.quantize import quantize
from tests.sw.ptq.floats import float_digits
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


@pytest.mark.parametrize("shift", [0, 40, -40], ids=["mixed", "positive", "negative"])
def test_no_candidate_changes_the_answers_less(shift):
    logits = drawn() + shift
    low, high = (value.item() for value in logits_range(logits, RECIPE))
    best = divergence(logits, low, high)
    ends = [[value * k / FRACTIONS for k in range(FRACTIONS + 1)]
            for value in (logits.min().item(), logits.max().item())]
    others = [divergence(logits, a, b) for a in ends[0] for b in ends[1] if a < b]
    assert best <= min(others) * (1 + 1e-3)  # the search computes in float32
    assert shift or best < 0.8 * divergence(logits, logits.min().item(), logits.max().item())


def test_what_never_wins_takes_no_codes():
    logits = drawn()
    logits[:, 0] = -500.0
    low, high = logits_range(logits, RECIPE)
    assert low > -50
    assert high > 0.7 * logits.max()


def test_logits_of_shape_n_c_1_1():
    logits = drawn()
    assert logits_range(logits[:, :, None, None], RECIPE) == logits_range(logits, RECIPE)


def test_logits_that_are_equal_have_a_range():
    low, high = logits_range(torch.full((4, 3), 2.0), RECIPE)
    assert low < high <= 2


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


def test_what_gives_no_classes_is_refused():
    import copy

    model = copy.deepcopy(float_digits())
    model.objective = "reconstruction"
    with pytest.raises(LockstepError, match="The logits' range by answers needs a network that"):
        quantize(model, digits().test_images[:8], ANSWERS)


def test_unknown_rule():
    with pytest.raises(LockstepError, match="Range of logits must be one of min_max, answers"):
        PtqConfig(logits_range="mse")

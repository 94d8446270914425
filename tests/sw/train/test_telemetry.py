"""The figures of telemetry.csv against numbers worked out by hand."""

import math

import pytest
import torch
from torch import nn

from models import build_model
from sw.train import probe
from sw.train.telemetry import COLUMNS, observe_model
from tests.sw.trained import digits


class Hand(nn.Module):
    """Observes known tensors while it runs."""

    def __init__(self, *observations):
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[1.0, -2.0], [0.5, 0.0]]))
        self.register_buffer("range_low", torch.tensor([-1.0, -3.0]))
        self.register_buffer("range_high", torch.tensor([2.0, 5.0]))
        self.observations = observations

    def forward(self, x):
        for layer, kind, original, quantized in self.observations:
            probe.observe(layer, kind, torch.tensor(original), torch.tensor(quantized))
        return x @ self.weight


def rows(*observations):
    found = observe_model(Hand(*observations), torch.ones(3, 2), torch.zeros(3).long(), 7)
    assert all(tuple(sorted(row)) == tuple(sorted(COLUMNS)) and row["epoch"] == 7 for row in found)
    return {(row["layer"], row["kind"]): row for row in found}


def test_error_and_angle_of_known_vectors():
    row = rows(("a", "A", [3.0, 4.0], [3.0, 3.0]))["a", "A"]
    assert row["relative_error"] == pytest.approx(1 / 5)
    assert row["cosine"] == pytest.approx(21 / (5 * math.sqrt(18)))
    assert (row["low"], row["high"]) == (3, 4)  # of the original


def test_the_tensors_of_one_layer_and_kind_count_together():
    found = rows(("a", "A", [3.0, 0.0], [0.0, 0.0]), ("b", "A", [1.0], [1.0]),
                 ("a", "A", [-4.0], [-4.0]), ("a", "G", [2.0], [-1.0]))
    assert found["a", "A"]["relative_error"] == pytest.approx(3 / 5)
    assert found["a", "A"]["cosine"] == pytest.approx(16 / (5 * 4))
    assert (found["a", "A"]["low"], found["a", "A"]["high"]) == (-4, 3)
    assert (found["b", "A"]["relative_error"], found["b", "A"]["cosine"]) == (0, 1)
    assert found["a", "G"]["relative_error"] == pytest.approx(3 / 2)
    assert found["a", "G"]["cosine"] == pytest.approx(-1)


def test_a_tensor_of_zeros_has_no_relative_error():
    row = rows(("a", "E", [0.0, 0.0], [0.0, 0.0]))["a", "E"]
    assert math.isnan(row["relative_error"]) and math.isnan(row["cosine"])


def test_stored_ranges_and_weights():
    found = rows()
    assert (found["", "range"]["low"], found["", "range"]["high"]) == (-3, 5)
    assert (found["", "weight"]["low"], found["", "weight"]["high"]) == (-2, 1)
    assert math.isnan(found["", "weight"]["cosine"])


def test_observing_changes_neither_model_nor_random_numbers():
    torch.manual_seed(3)
    model = build_model("resnet_digits", {"width": 4}).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    generator = torch.get_rng_state()
    images, labels = digits().train_sample(16)
    first = observe_model(model, images, labels, 0)
    assert torch.equal(torch.get_rng_state(), generator)
    assert not model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    torch.rand(5)
    again = observe_model(model, images, labels, 0)  # whatever the generator's state
    assert [list(map(str, row.values())) for row in first] == \
        [list(map(str, row.values())) for row in again]
    assert {row["kind"] for row in first} == {"W", "A", "E", "G", "range", "weight"}

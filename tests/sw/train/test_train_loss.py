"""One step of a linear classifier against formulas: smoothing, distillation, clipping, average."""

import pytest
import torch
from torch import nn

from sw.train.engine import TrainConfig, train
from tests.sw.trained import digits

WHOLE = 1437  # all training images: one step an epoch
LR = 0.5


class Plain(nn.Module):
    """Logits = W x + b, trained by W - LR * gradient."""

    regime = [{"epoch": 0, "optimizer": "SGD", "lr": LR}]

    def __init__(self, seed=0):
        super().__init__()
        self.linear = nn.Linear(64, 10)
        with torch.no_grad():
            torch.nn.init.normal_(self.linear.weight, generator=torch.Generator().manual_seed(seed))
            self.linear.bias.zero_()

    def forward(self, x):
        return self.linear(x.flatten(1))


def train_one(model, **options):
    """(mean loss of one epoch, state after it); a step is an epoch."""
    states = []
    teacher = options.pop("instance", None)
    config = TrainConfig(**({"epochs": 1, "batch_size": WHOLE} | options))
    results = train(model, digits(), config, teacher=teacher,
                    on_epoch=lambda result, state: states.append(state))
    return results[0].train_loss, states[-1]


def log_probabilities(model, temperature=1.0):
    images, labels = digits().train_sample(WHOLE)
    return (model(images).double() / temperature).log_softmax(1), labels


def expected_loss(model):
    log, labels = log_probabilities(model)
    return -log[range(WHOLE), labels].mean()


def test_label_smoothing_gives_every_class_its_share():
    log, _ = log_probabilities(Plain())
    expected = 0.8 * expected_loss(Plain()) - 0.2 * log.mean()  # 0.2 / 10 on each of the ten
    loss, _ = train_one(Plain(), label_smoothing=0.2)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert loss != pytest.approx(expected_loss(Plain()).item(), rel=1e-2)


@pytest.mark.parametrize(("weight", "temperature"), [(0.0, 4.0), (0.3, 4.0), (1.0, 2.0)])
def test_distillation_is_hintons(weight, temperature):
    student, teacher = Plain(1), Plain(2)
    log, _ = log_probabilities(student, temperature)
    taught, _ = log_probabilities(teacher, temperature)
    divergence = (taught.exp() * (taught - log)).sum(1).mean()
    expected = (1 - weight) * expected_loss(student) + weight * temperature**2 * divergence
    loss, _ = train_one(student, instance=teacher, teacher="t", distillation_weight=weight,
                        temperature=temperature)
    assert loss == pytest.approx(expected.item(), rel=1e-5)
    assert teacher.linear.weight.grad is None


def gradient(model):
    expected_loss(model).backward()
    return [parameter.grad for parameter in model.parameters()]


@pytest.mark.parametrize(("limit", "bites"), [(0.1, True), (1e3, False), (None, False)])
def test_clipping_scales_the_whole_gradient(limit, bites):
    model, before = Plain(), Plain()
    wanted = gradient(Plain())
    norm = torch.cat([part.flatten() for part in wanted]).norm()
    assert 0.2 < norm < 100
    train_one(model, clip_gradient=limit)
    scale = limit / norm if bites else 1.0
    for new, old, part in zip(model.parameters(), before.parameters(), wanted, strict=True):
        torch.testing.assert_close(new, old - LR * scale * part, rtol=1e-5, atol=1e-6)


def test_the_average_begins_with_the_first_step():
    model, weights = Plain(), []
    config = TrainConfig(epochs=3, batch_size=WHOLE, average_weights=0.6)
    states = []
    train(model, digits(), config, on_epoch=lambda result, state: states.append(state),
          on_batch=lambda step: weights.append(model.linear.weight.detach().clone()))
    expected = 0.6 * (0.6 * weights[0] + 0.4 * weights[1]) + 0.4 * weights[2]
    torch.testing.assert_close(states[-1].evaluated.linear.weight.data, expected)
    assert not torch.allclose(weights[0], weights[2], rtol=1e-3)

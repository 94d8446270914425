"""The engine: regime, weight decay, resuming, averaging, distillation, numbers not finite."""

import copy
import math

import pytest
import torch
from torch import nn

from golden.errors import LockstepError
from models import build_model
from sw.layers.weighted import QConv2d
from sw.train.engine import NotFiniteError, TrainConfig, accuracy, logits_of, train
from sw.train.schedule import make_optimizer, regime_at
from sw.train.telemetry import observe_model
from tests.sw.trained import digits, trained_digits


@pytest.mark.slow
def test_a_short_training_learns():
    logits = logits_of(trained_digits(), digits().test_images)
    assert accuracy(logits, digits().test_labels) > 0.9


def test_regime_merges_and_lr_rescales_it():
    model = nn.Linear(2, 2)
    model.regime = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9},
                    {"epoch": 3, "lr": 0.01}]
    assert regime_at(model, TrainConfig(), 2) == {"optimizer": "SGD", "lr": 0.1, "momentum": 0.9}
    assert regime_at(model, TrainConfig(), 3)["lr"] == 0.01
    assert regime_at(model, TrainConfig(lr=1.0), 3)["lr"] == pytest.approx(0.1)


def test_no_weight_decay_on_biases_and_norms():
    model = build_model("resnet_digits")
    decayed, others = make_optimizer(model, regime_at(model, TrainConfig(), 0)).param_groups
    assert decayed["weight_decay"] == 1e-4
    assert others["weight_decay"] == 0
    assert all(parameter.dim() > 1 for parameter in decayed["params"])
    assert len(others["params"]) == 13  # gamma and beta of six norms, bias of the classifier


def fresh(seed=5, **options):
    torch.manual_seed(seed)
    return build_model("resnet_digits", {"width": 4, **options})


SETTINGS = [{}, {"schedule": "cosine", "average_weights": 0.9, "warmup_epochs": 0.5},
            {"schedule": "step", "clip_gradient": 0.5, "label_smoothing": 0.1}]


@pytest.mark.slow
@pytest.mark.parametrize("options", SETTINGS)
def test_a_resumed_run_gives_the_same_weights(options):
    settings = TrainConfig(epochs=3, batch_size=256, seed=5, **options)
    whole, wholes = fresh(), []
    results = train(whole, digits(), settings, on_epoch=lambda _, state: wholes.append(state))
    first, kept = fresh(), []

    def stop_after_one(result, state):
        kept.append(copy.deepcopy((state.optimizer.state_dict(), state.model.state_dict(),
                                   state.averaged.state_dict() if state.averaged else None)))
        raise InterruptedError
    with pytest.raises(InterruptedError):
        train(first, digits(), settings, on_epoch=stop_after_one)
    optimizer, weights, averaged = kept[0]
    second, seconds = fresh(seed=1), []
    second.load_state_dict(weights)
    torch.manual_seed(99)
    again = train(second, digits(), settings, start_epoch=1, optimizer_state=optimizer,
                  averaged_state=averaged, on_epoch=lambda _, state: seconds.append(state))
    for name, tensor in wholes[-1].evaluated.state_dict().items():
        assert torch.equal(tensor, seconds[-1].evaluated.state_dict()[name]), name
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name
    assert [result.lr for result in again] == [result.lr for result in results[1:]]


@pytest.mark.parametrize(("options", "message"), [
    ({"epochs": 0}, "at least 1, not 0"), ({"batch_size": 0}, "at least 1, not 0"),
    ({"lr": -1.0}, "positive, not -1.0"),
    ({"label_smoothing": 1.0}, r"Label smoothing must be in \[0, 1\), not 1.0"),
    ({"average_weights": 1.0}, r"Average weights must be in \(0, 1\), not 1.0"),
    ({"average_weights": 0.0}, r"in \(0, 1\), not 0.0"),
    ({"warmup_epochs": 21.0}, r"in 0..20, the number of epochs, not 21.0"),
    ({"clip_gradient": 0.0}, "positive, not 0.0"), ({"temperature": 0.0}, "positive, not 0.0"),
    ({"schedule": "linear"}, "one of regime, cosine, step, not linear"),
    ({"label_smoothing": float("nan")}, "not nan"),
    ({"seed": 2**31}, r"Seed must be in 0\.\.2147483647, not 2147483648"),
    ({"milestones": (1.0, float("inf"))}, "Milestones must be positive epochs")])
def test_bad_settings(options, message):
    with pytest.raises(LockstepError, match=message):
        TrainConfig(**options)


def test_batch_larger_than_the_data():
    with pytest.raises(LockstepError, match="Batch size 5000 is larger than the 1437"):
        train(fresh(), digits(), TrainConfig(batch_size=5000))


def test_the_averaged_weights_are_the_mean_over_the_steps():
    weights, states = [], []
    model = fresh()
    settings = TrainConfig(epochs=1, batch_size=300, average_weights=0.75)
    train(model, digits(), settings,
          on_batch=lambda step: weights.append(model.stem.weight.detach().double().clone()),
          on_epoch=lambda result, state: states.append(state))
    mean = weights[0]
    for weight in weights[1:]:
        mean = 0.75 * mean + 0.25 * weight
    state = states[0]
    assert len(weights) == 4
    assert torch.allclose(state.evaluated.stem.weight.double(), mean, atol=1e-6)
    assert not torch.equal(state.evaluated.stem.weight, model.stem.weight)
    counters = dict(model.named_buffers())
    for name, buffer in state.evaluated.named_buffers():
        if not buffer.is_floating_point():
            assert torch.equal(buffer, counters[name]), name


def test_clipping_bounds_the_update():
    def moved(**options):
        model, before = fresh(), fresh().state_dict()
        config = TrainConfig(epochs=1, batch_size=1437, lr=1.0, **options)
        train(model, digits(), config)
        return sum((p.detach() - before[name]).square().sum().item()
                   for name, p in model.named_parameters()) ** 0.5
    assert moved() > 0.02
    assert moved(clip_gradient=0.001) < 0.02  # the rest is weight decay


@pytest.mark.slow
def test_a_teacher_changes_the_loss_and_stays_as_it_is():
    teacher = trained_digits()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    losses = []
    for weight in (0.0, 1.0):
        config = TrainConfig(epochs=1, batch_size=256, teacher="t", distillation_weight=weight,
                             temperature=1.0)
        losses.append(train(fresh(), digits(), config, teacher=copy.deepcopy(teacher)))
    plain = train(fresh(), digits(), TrainConfig(epochs=1, batch_size=256))
    assert losses[0][0].train_loss == pytest.approx(plain[0].train_loss, rel=1e-6)
    assert losses[1][0].train_loss != pytest.approx(plain[0].train_loss, rel=1e-3)
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())


def test_a_model_may_change_its_data_and_its_optimizer_on_the_way():
    model = fresh()
    model.regime = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1},
                    {"epoch": 1, "optimizer": "AdamW", "lr": 0.001, "betas": (0.8, 0.9)}]
    model.data_regime = [{"epoch": 1, "input_size": 12, "batch_size": 479}]
    shapes, kinds = [], []
    model.register_forward_pre_hook(
        lambda module, inputs: shapes.append(tuple(inputs[0].shape)) if module.training else None)
    train(model, digits(), TrainConfig(epochs=2, batch_size=700),
          on_epoch=lambda result, state: kinds.append(state.optimizer))
    assert shapes == 2 * [(700, 1, 8, 8)] + 3 * [(479, 1, 12, 12)]
    assert [type(optimizer).__name__ for optimizer in kinds] == ["SGD", "AdamW"]
    assert kinds[1].param_groups[0]["betas"] == (0.8, 0.9)


class Copy(nn.Module):
    """Reconstructs through a bottleneck, behind an input transform."""

    objective = "reconstruction"

    def __init__(self):
        super().__init__()
        self.narrow, self.wide = nn.Linear(64, 8), nn.Linear(8, 64)

    def input_transform(self, images):
        return images.flatten(1) - 0.5

    def forward(self, x):
        return self.wide(self.narrow(x))


def test_an_autoencoder_learns_its_input():
    results = train(Copy(), digits(), TrainConfig(epochs=3, batch_size=64))
    assert results[-1].test_loss < results[0].test_loss < 0.5
    assert all(math.isnan(each.test_accuracy) and math.isnan(each.train_accuracy)
               for each in results)


def test_amp_trains_in_bfloat16():
    seen = []
    model = fresh(recipe="float")
    model.stem.register_forward_pre_hook(lambda *_: seen.append(torch.is_autocast_enabled("cpu")))
    train(model, digits(), TrainConfig(epochs=1, batch_size=1000, amp=True))
    assert set(seen) == {True}
    assert model.stem.weight.dtype == torch.float32


def test_the_probe_leaves_the_training_as_it_is():
    settings = TrainConfig(epochs=2, batch_size=256, seed=5)
    plain, observed, rows = fresh(), fresh(), []
    train(plain, digits(), settings)
    sample = digits().train_sample(16)
    train(observed, digits(), settings, on_epoch=lambda result, state: rows.extend(
        observe_model(observed, *sample, result.epoch)))
    assert rows
    for name, tensor in plain.state_dict().items():
        assert torch.equal(tensor, observed.state_dict()[name]), name


@pytest.mark.parametrize("layer", ["stem", "block1.conv2", "block2.shortcut", "classifier"])
def test_a_nan_in_the_weights_names_their_layer(layer):
    model = fresh()
    with torch.no_grad():
        model.get_submodule(layer).weight.view(-1)[0] = float("nan")
    with pytest.raises(NotFiniteError, match=f"at step 0 of epoch 0: .* the output of layer "
                                             f"{layer}$"):
        train(model, digits(), TrainConfig(epochs=1, batch_size=1024))


def test_an_infinite_activation_names_its_layer_and_step_and_keeps_the_weights():
    model, calls, weights = fresh(), [], []

    class Planted(QConv2d):
        def forward(self, x):
            calls.append(self.training)
            return super().forward(x) * (float("inf") if len(calls) >= 3 else 1)
    model.block2.conv1.__class__ = Planted
    with pytest.raises(NotFiniteError, match="at step 2 of epoch 0: .* layer block2.conv1$"):
        train(model, digits(), TrainConfig(epochs=1, batch_size=256),
              on_batch=lambda step: weights.append(model.stem.weight.detach().clone()))
    assert len(weights) == 2
    assert torch.equal(model.stem.weight, weights[-1])


class _Explode(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient * float("inf")


def test_an_infinite_gradient_names_its_layer():
    class Planted(QConv2d):
        def forward(self, x):
            return super().forward(_Explode.apply(x))
    model = fresh(quantize=False)
    model.block1.conv2.__class__ = Planted
    with pytest.raises(NotFiniteError, match="the gradient to the input of layer block1.conv2$"):
        train(model, digits(), TrainConfig(epochs=1, batch_size=1024))

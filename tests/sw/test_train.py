"""The engine: regime, weight decay, resuming, data split, real accuracy."""

import pytest
import torch
from torch import nn

from golden.errors import LockstepError
from models import build_model
from sw.data import load_dataset
from sw.train import TrainConfig, accuracy, logits_of, make_optimizer, regime_at, train
from tests.sw.trained import digits, trained_digits


def test_the_split_is_fixed_and_stratified():
    data = load_dataset("digits")
    assert data.train_images.shape == (1437, 1, 8, 8)
    assert data.test_images.shape == (360, 1, 8, 8)
    assert torch.equal(data.test_labels, load_dataset("digits").test_labels)
    assert data.test_labels.bincount().min() >= 34
    assert 0 <= data.train_images.min()
    assert data.train_images.max() == 1


def test_unknown_dataset_lists_the_known_ones():
    with pytest.raises(LockstepError, match="Unknown dataset 'digit'; known datasets: digits"):
        load_dataset("digit")


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


def test_a_resumed_run_gives_the_same_weights():
    def fresh():
        torch.manual_seed(5)
        return build_model("resnet_digits", {"width": 4})
    settings = TrainConfig(epochs=2, batch_size=256, seed=5)
    whole = fresh()
    train(whole, digits(), settings)
    first, states = fresh(), []
    train(first, digits(), TrainConfig(epochs=1, batch_size=256, seed=5),
          on_epoch=lambda result, optimizer: states.append(optimizer.state_dict()))
    second = fresh()
    second.load_state_dict(first.state_dict())
    torch.manual_seed(99)
    train(second, digits(), settings, start_epoch=1, optimizer_state=states[0])
    for name, tensor in whole.state_dict().items():
        assert torch.equal(tensor, second.state_dict()[name]), name


@pytest.mark.parametrize(("options", "message"), [
    ({"epochs": 0}, "at least 1, not 0"), ({"batch_size": 0}, "at least 1, not 0"),
    ({"lr": -1.0}, "positive, not -1.0")])
def test_bad_settings(options, message):
    with pytest.raises(LockstepError, match=message):
        TrainConfig(**options)


def test_batch_larger_than_the_data():
    with pytest.raises(LockstepError, match="Batch size 5000 is larger than the 1437"):
        train(build_model("resnet_digits"), digits(), TrainConfig(batch_size=5000))


def test_diverged_training_says_so():
    model = build_model("resnet_digits", {"width": 2})
    nn.init.constant_(model.classifier.bias, float("nan"))
    with pytest.raises(LockstepError, match="Training diverged: the loss of epoch 0"):
        train(model, digits(), TrainConfig(epochs=1, batch_size=1024))

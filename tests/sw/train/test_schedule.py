"""Learning rates per step against values worked out by hand; regimes of optimizer and data."""

import math

import pytest
import torch
from torch import nn

from golden.errors import LockstepError
from sw.train.engine import TrainConfig
from sw.train.schedule import (
    data_at,
    load_optimizer,
    make_optimizer,
    make_plan,
    make_scheduler,
    regime_at,
    set_options,
)

STEPS = 4  # of an epoch of Data with batches of 10


class Data:
    """Only counts: 40 images."""

    def steps(self, batch_size, world_size=1):
        return 40 // (batch_size * world_size)


def network(**attributes):
    model = nn.Linear(2, 2)
    for name, value in attributes.items():
        setattr(model, name, value)
    return model


def rates(model, from_step=0, **options):
    """The learning rate of every step of a run, as train() reads it."""
    config = TrainConfig(batch_size=10, **options)
    plan = make_plan(model, Data(), config)
    optimizer = make_optimizer(model, regime_at(model, config, 0))
    scheduler = make_scheduler(optimizer, model, config, plan, from_step)
    found = []
    for _ in range(from_step, plan.starts[-1]):
        found.append(scheduler.get_last_lr()[0])
        assert [group["lr"] for group in optimizer.param_groups] == scheduler.get_last_lr()
        optimizer.step()
        scheduler.step()
    return found


def test_cosine_falls_from_the_first_rate_to_zero():
    found = rates(network(), epochs=2, schedule="cosine", lr=0.8)
    assert found == pytest.approx([0.4 * (1 + math.cos(math.pi * step / 8)) for step in range(8)])
    assert found[4] == pytest.approx(0.4)


def test_cosine_begins_where_the_warm_up_ends():
    found = rates(network(), epochs=2, schedule="cosine", lr=0.8, warmup_epochs=0.5)
    assert found[:2] == pytest.approx([0.4, 0.8])
    assert found[2:] == pytest.approx(
        [0.4 * (1 + math.cos(math.pi * step / 6)) for step in range(6)])


def test_step_divides_by_ten_at_the_milestones():
    model = network()
    assert rates(model, epochs=4, schedule="step", lr=1.0) == pytest.approx(
        8 * [1.0] + 4 * [0.1] + 4 * [0.01])
    assert rates(model, epochs=4, schedule="step", lr=1.0, milestones=(0.5, 3)) == pytest.approx(
        2 * [1.0] + 10 * [0.1] + 4 * [0.01])
    assert rates(model, epochs=4, schedule="step", lr=1.0, milestones=(2,),
                 warmup_epochs=1) == pytest.approx([0.25, 0.5, 0.75, 1.0] + 4 * [1.0] + 8 * [0.1])


def test_the_regime_with_its_own_warm_up():
    model = network(regime=[{"epoch": 2, "lr": 0.01}, {"epoch": 0, "lr": 0.1, "warmup_epochs": 1}])
    expected = [0.025, 0.05, 0.075, 0.1] + 4 * [0.1] + 4 * [0.01]
    assert rates(model, epochs=3) == pytest.approx(expected)
    assert rates(model, epochs=3, lr=1.0) == pytest.approx([10 * rate for rate in expected])
    assert rates(model, epochs=3, warmup_epochs=0) == pytest.approx(8 * [0.1] + 4 * [0.01])


@pytest.mark.parametrize("options", [
    {"schedule": "cosine", "warmup_epochs": 1.5}, {"schedule": "cosine"},
    {"schedule": "step", "warmup_epochs": 0.25}, {"warmup_epochs": 1.5}])
def test_a_position_reached_later_has_the_same_rates(options):
    whole = rates(network(), epochs=3, **options)
    assert len(set(whole)) > 2
    for start in (1, 4, 8):
        assert rates(network(), start, epochs=3, **options) == whole[start:]


def test_data_changes_the_number_of_steps():
    model = network(data_regime=[{"epoch": 2, "batch_size": 5},
                                 {"epoch": 1, "batch_size": 20, "input_size": 16}])
    config = TrainConfig(epochs=4, batch_size=10)
    assert [data_at(model, config, epoch) for epoch in range(4)] == [
        (10, None), (20, 16), (5, 16), (5, 16)]
    plan = make_plan(model, Data(), config)
    assert plan.steps == (4, 2, 8, 8)
    assert plan.starts == (0, 4, 6, 14, 22)
    assert [plan.epoch_at(step) for step in (0, 3, 4, 5, 6, 21)] == [0, 0, 1, 1, 2, 3]
    assert [plan.step_at(epoch) for epoch in (0.5, 1, 1.5, 4)] == [2, 4, 5, 22]
    assert make_plan(model, Data(), config, world_size=2).steps == (2, 1, 4, 4)


SWITCH = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3},
          {"epoch": 2, "optimizer": "AdamW", "lr": 0.01}, {"epoch": 3, "betas": (0.8, 0.9)}]


def test_entries_merge_but_another_optimizer_has_its_own_options():
    model, config = network(regime=SWITCH), TrainConfig()
    assert regime_at(model, config, 1) == {
        "optimizer": "SGD", "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3}
    assert regime_at(model, config, 3) == {
        "optimizer": "AdamW", "lr": 0.01, "weight_decay": 1e-3, "betas": (0.8, 0.9)}
    make_plan(model, Data(), TrainConfig(epochs=4, batch_size=10))


def test_options_change_without_a_new_optimizer():
    model = network(regime=[{"epoch": 0, "lr": 0.1, "momentum": 0.9, "weight_decay": 1e-3},
                            {"epoch": 1, "momentum": 0.5, "weight_decay": 1e-2}])
    optimizer = make_optimizer(model, regime_at(model, TrainConfig(), 0))
    set_options(optimizer, regime_at(model, TrainConfig(), 1))
    weights, biases = optimizer.param_groups
    assert (weights["momentum"], weights["weight_decay"], weights["lr"]) == (0.5, 1e-2, 0.1)
    assert (biases["momentum"], biases["weight_decay"]) == (0.5, 0)


def test_a_network_of_biases_alone_is_not_decayed():
    model = nn.Module()
    model.bias = nn.Parameter(torch.zeros(3))
    settings = {"lr": 0.1, "weight_decay": 1e-3}
    optimizer = make_optimizer(model, settings)
    set_options(optimizer, settings)
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0]


@pytest.mark.parametrize(("attributes", "message"), [
    ({"regime": [{"epoch": 1, "lr": 0.1}]}, "must begin at epoch 0 with an lr"),
    ({"regime": [{"epoch": 0}]}, "must begin at epoch 0 with an lr"),
    ({"regime": [{"lr": 0.1}]}, "entry of a model's regime must be a dict with an integer epoch"),
    ({"regime": [{"epoch": 0, "lr": 0.1}, {"epoch": 1, "optimizer": "SDG"}]},
     "Unknown optimizer 'SDG'; known: ASGD, "),
    ({"regime": [{"epoch": 0, "lr": 0.1}, {"epoch": 1, "betas": (0.9, 0.9)}]},
     "Optimizer SGD does not take the regime's settings .*betas"),
    ({"regime": [{"epoch": 0, "lr": 0.1, "momentum": -1}]}, "Optimizer SGD .*momentum"),
    ({"regime": [{"epoch": 0, "lr": "0.1"}]}, "lr of a model's regime must be a number .*'0.1'"),
    ({"regime": [{"epoch": 0, "lr": 0.1, "warmup_epochs": "2"}]}, "warmup_epochs of a model's"),
    ({"data_regime": 32}, "Every entry of a model's data_regime must be a dict"),
    ({"data_regime": [{"epoch": 0, "batch_size": "64"}]}, "must be a positive integer, not '64'"),
    ({"data_regime": [{"input_size": 4}]}, "model's data_regime must be a dict with an integer"),
    ({"data_regime": [{"epoch": 1, "batch_size": 0}]},
     "batch_size of a model's data_regime must be a positive integer, not 0")])
def test_a_bad_regime_is_refused_before_training(attributes, message):
    with pytest.raises(LockstepError, match=message):
        make_plan(network(**attributes), Data(), TrainConfig(epochs=2, batch_size=10))


def test_a_rate_of_0_cannot_be_scaled():
    model = network(regime=[{"epoch": 0, "lr": 0.0}, {"epoch": 1, "lr": 0.1}])
    make_plan(model, Data(), TrainConfig(epochs=2, batch_size=10))
    with pytest.raises(LockstepError, match="scales the regime's first lr, which is 0"):
        make_plan(model, Data(), TrainConfig(epochs=2, batch_size=10, lr=0.5))


def test_an_optimizer_state_of_another_network_is_refused():
    settings = {"lr": 0.1}
    state = make_optimizer(nn.Linear(2, 2, bias=False), settings).state_dict()
    with pytest.raises(LockstepError, match="The optimizer's state does not fit the model"):
        load_optimizer(make_optimizer(nn.Linear(2, 2), settings), state)

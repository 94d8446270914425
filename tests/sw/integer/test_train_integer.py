"""Training in integers: one hash on every machine, resumed or not, and what is refused."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from golden.errors import LockstepError
from golden.ops.step.update import MOMENTUM
from models import build_model
from sw.data import load_dataset
from sw.integer.initial import draw_weights
from sw.integer.train import (
    IntegerState,
    check_integer,
    input_exponent,
    last_step,
    momentum_code,
    observe_state,
    state_hash,
    train,
)
from sw.layers.weighted import WeightedLayer
from sw.train.config import TrainConfig

#: Of two epochs of a small network on digits: a machine that gives another one computes otherwise.
HASH = "6534be29c1f9e4b37b1368d22cedd77ac20abd0f8a4581246766355688b110d8"


@pytest.fixture(scope="module")
def digits():
    return load_dataset("digits", None)


def model():
    result = build_model("resnet_digits", {"width": 4})
    draw_weights(result, 0)
    return result


CONFIG = {"epochs": 2, "batch_size": 96, "seed": 3, "lr": 0.05}


@pytest.fixture(scope="module")
def trained(digits):
    """(results, states after every epoch) of an uninterrupted training."""
    states = []
    results = train(model(), digits, TrainConfig(**CONFIG), on_epoch=lambda result, state:
                    states.append(state.optimizer.state_dict()))
    return results, states


def test_one_hash_on_every_machine(trained):
    results, states = trained
    assert state_hash(states[-1]["codes"]) == HASH
    assert results[1].train_loss < results[0].train_loss < 2.4
    assert results[1].lr == pytest.approx(0.05) and results[1].test_accuracy > 0.12


def test_a_resumed_training_is_the_same(digits, trained):
    results, states = trained
    again = []
    rest = train(model(), digits, TrainConfig(**CONFIG), start_epoch=1,
                 codes=states[0]["codes"], on_epoch=lambda result, state: again.append(state))
    assert state_hash(again[-1].optimizer.codes) == state_hash(states[-1]["codes"])
    assert [result.train_loss for result in rest] == [results[1].train_loss]
    assert rest[0].test_accuracy == results[1].test_accuracy


@pytest.mark.parametrize("change", [{"seed": 4}, {"lr": 0.051}])
def test_seed_and_rate_matter(digits, trained, change):
    states = []
    train(model(), digits, TrainConfig(**CONFIG | change | {"epochs": 1}),
          on_epoch=lambda result, state: states.append(state))
    assert state_hash(states[-1].optimizer.codes) != state_hash(trained[1][0]["codes"])


def test_progress_and_telemetry(digits, trained):
    seen = []
    train(model(), digits, TrainConfig(**CONFIG | {"epochs": 1}), on_batch=seen.append)
    assert [step.done for step in seen] == [*range(1, 15)] and seen[-1].total == 14
    assert seen[-1].loss == trained[0][0].train_loss and seen[-1].images == 96
    step = check_integer(model(), digits, TrainConfig(**CONFIG))
    rows = observe_state(IntegerState(trained[1][0]["codes"], step), 0)
    weights = {row["layer"] for row in rows if row["kind"] == "weight"}
    assert {"stem.weight", "classifier.weight"} <= weights
    stem, = (row for row in rows if row["layer"] == "stem.weight")
    codes = trained[1][0]["codes"]
    for name, most in (("stem", 127), ("classifier.gradient", 32767), ("stem.sums", 32767)):
        row, = (row for row in rows if row["layer"] == name)
        assert row["kind"] == "range"
        assert row["high"] == -row["low"] == most * 2.0 ** int(codes[f"{name}.exponent"])
    assert -1.5 < stem["low"] < 0 < stem["high"] < 1.5


def test_initial_weights_have_the_deviation_of_the_layers():
    for name, options in (("resnet", {"depth": 8}), ("mobilenet_v1", {})):
        torch.manual_seed(0)
        drawn, own = build_model(name, options), build_model(name, options)
        draw_weights(drawn, 7)
        for a, b in zip(drawn.modules(), own.modules()):
            if isinstance(a, WeightedLayer) and a.weight.numel() > 2000:
                assert abs(a.weight.std() / b.weight.std() - 1) < 0.05
                assert abs(a.weight.mean()) < 0.05 * a.weight.std()
    again = build_model("resnet", {"depth": 8})
    draw_weights(again, 7)
    first = build_model("resnet", {"depth": 8})
    draw_weights(first, 7)
    assert torch.equal(again.stem.weight, first.stem.weight)
    draw_weights(first, 8)
    assert not torch.equal(again.stem.weight, first.stem.weight)
    values = again.stacks[2][0].conv2.weight.detach().double()
    kurtosis = (values**4).mean() / (values**2).mean() ** 2
    assert 2.7 < kurtosis < 3.1        # normal: 3, twelve uniform numbers: 2.9


def test_codes_of_the_host(digits):
    assert input_exponent(digits) == -7 and momentum_code(0.9) == MOMENTUM
    assert momentum_code(0.0) == 0
    cifar = SimpleNamespace(mean=(0.4914, 0.4822, 0.4465), std=(0.2470, 0.2435, 0.2616))
    assert input_exponent(cifar) == -5
    assert math.floor(0.9 * 2**31 + 0.5) == MOMENTUM


@pytest.mark.parametrize(("config", "message"), [
    ({"label_smoothing": 0.1}, "Option label-smoothing has no form in the arithmetic of integers"),
    ({"clip_gradient": 1.0}, "Option clip-gradient"), ({"average_weights": 0.9}, "average-weights"),
    ({"amp": True}, "Option amp"), ({"compile": True}, "Option compile"),
    ({"teacher": "x"}, "Option teacher"), ({"channels_last": True}, "Option channels-last")])
def test_options_without_integer_form_are_refused(digits, config, message):
    with pytest.raises(LockstepError, match=message):
        check_integer(model(), digits, TrainConfig(**CONFIG | config))


def regime(**entry):
    result = model()
    result.regime = [{"epoch": 0, "optimizer": "SGD", "lr": 0.1} | entry]
    return result


def test_networks_without_integer_form_are_refused(digits):
    config = TrainConfig(**CONFIG)
    for network, message in (
            (regime(optimizer="Adam"), "Optimizer Adam has no form in the arithmetic of integers"),
            (regime(nesterov=True, momentum=0.9), "SGD's option nesterov"),
            (regime(momentum=1.0), "SGD's momentum must be below 1 in the arithmetic of integers"),
            (build_model("autoencoder", {}), "Model Autoencoder reconstructs its input"),
            (build_model("resnet_digits", {"classes": 9}), "must have 10 outputs for data set")):
        with pytest.raises(LockstepError, match=message):
            check_integer(network, digits, config)
    with pytest.raises(LockstepError, match="SGD's lr must be below 32768"):
        check_integer(model(), digits, TrainConfig(**CONFIG | {"lr": 1e12}))
    frozen = model()
    frozen.stem.weight.requires_grad_(False)
    with pytest.raises(LockstepError, match="Parameter stem.weight does not learn"):
        check_integer(frozen, digits, config)
    transformed = model()
    transformed.input_transform = lambda images: images
    with pytest.raises(LockstepError, match="has an input_transform, which has no form"):
        check_integer(transformed, digits, config)
    sized = model()
    sized.data_regime = [{"epoch": 1, "input_size": 16}]
    with pytest.raises(LockstepError, match="Image sizes that change"):
        check_integer(sized, digits, config)


def test_momentum_and_batch_may_change_by_epoch(digits):
    network = model()
    network.regime = [{"epoch": 0, "optimizer": "SGD", "lr": 0.05, "momentum": 0.9},
                      {"epoch": 1, "momentum": 0.5}]
    network.data_regime = [{"epoch": 0, "batch_size": 240}, {"epoch": 1, "batch_size": 479}]
    states = []
    train(network, digits, TrainConfig(epochs=2, seed=0), on_epoch=lambda result, state:
          states.append(state.optimizer.codes))
    assert np.isfinite(states[-1]["stem.weight"].numpy()).all()
    assert state_hash(states[0]) != state_hash(states[1])
    # What an interrupted run is evaluated with is the step of its last epoch.
    config = TrainConfig(epochs=2, seed=0)
    batches = [last_step(network, digits, config, states[0], epoch).batch for epoch in (0, 1)]
    assert batches == [240, 479]

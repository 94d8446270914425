"""Compiled training: the switch, the compiler, checkpoints that any process loads."""

import dataclasses

import pytest
import torch

from golden.errors import LockstepError
from models import build_model
from sw.layers.weighted import QLayer
from sw.train.checkpoint import load_checkpoint, make_checkpoint
from sw.train.engine import TrainConfig, train
from sw.train.schedule import make_optimizer
from sw.train.torch_compile import check_compilable, check_narrow, compile_passes, compiled
from tests.sw.trained import digits


def fresh(seed=5, **options):
    torch.manual_seed(seed)
    return build_model("resnet_digits", {"width": 8, **options})


def compiles(network):
    """Which answers its layers give: do their merged passes go through torch.compile?"""
    return {layer.compiles_passes for layer in network.modules() if isinstance(layer, QLayer)}


def test_only_the_layers_of_the_compiled_network_compile():
    """One network that is compiled leaves the numbers of every other as they are."""
    first, other = fresh(), fresh()
    assert compiled(first) is first
    assert (compiles(first), compiles(other)) == ({True}, {False})
    compile_passes(first, False)
    assert compiles(first) == {False}


def test_a_training_without_the_option_is_as_if_it_had_come_alone():
    foreign = make_optimizer(torch.nn.Linear(2, 2), {"lr": 0.1}).state_dict()
    network = compiled(fresh())
    with pytest.raises(LockstepError, match="state does not fit"):
        train(network, digits(), TrainConfig(epochs=1, batch_size=256), optimizer_state=foreign)
    assert compiles(network) == {False}


def test_only_recipes_with_merged_passes_turn_it_on():
    network = fresh(recipe="float")
    assert compiled(network) is not network
    assert compiles(network) == {False}


class Foreign(torch.nn.Module):
    """A model of plain modules: 4 channels, 1x1, stride 2."""

    def __init__(self):
        super().__init__()
        self.shortcut = torch.nn.Conv2d(4, 8, 1, stride=2)


def test_a_convolution_that_would_crash_is_refused():
    with pytest.raises(LockstepError, match="cannot take layer shortcut: .* writes past"):
        compiled(Foreign())
    with pytest.raises(LockstepError, match="--channels-last cannot take layer shortcut: "):
        check_narrow(Foreign(), "--channels-last")
    for recipe in ("banner", "float"):  # its shortcut is as narrow but takes another kernel
        check_compilable(fresh(recipe=recipe, width=4))
        check_narrow(fresh(recipe=recipe, width=4), "--channels-last")


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["banner", "float", "jacob"])
def test_narrow_networks_train_in_channels_last(recipe):
    """torch's kernel for the shortcut would end the process, or spoil what lies behind a buffer."""
    losses = [train(fresh(recipe=recipe, width=4), digits(), TrainConfig(
        epochs=1, batch_size=256, channels_last=channels_last))[0].train_loss
        for channels_last in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


@pytest.mark.long
def test_a_narrow_network_trains_compiled():
    config = TrainConfig(epochs=1, batch_size=256)
    losses = [train(fresh(recipe="float", width=4), digits(), dataclasses.replace(
        config, compile=compile, channels_last=compile))[0].train_loss
        for compile in (True, False)]
    assert losses[0] == pytest.approx(losses[1], rel=1e-4)


BROKEN = """#!/bin/sh
echo note >&2
echo "x.cpp:1: fatal error: omp.h: No such file" >&2
exit 1
"""


def test_without_a_compiler_no_training_begins(tmp_path, monkeypatch):
    monkeypatch.setattr("sw.train.schedule.make_optimizer", lambda *_: pytest.fail("trained"))
    check_compilable(fresh())
    broken = tmp_path / "broken-g++"
    broken.write_text(BROKEN)
    broken.chmod(0o755)
    for command, reason in ((tmp_path / "none", "No such file or directory"),
                            (broken, "omp.h: No such file"), ("false", "exit status 1")):
        monkeypatch.setenv("CXX", str(command))
        with pytest.raises(LockstepError, match=f"^--compile needs a C.. compiler .*{reason}.*"):
            compiled(fresh())


@pytest.mark.slow
@pytest.mark.filterwarnings("error:Dynamo detected")
@pytest.mark.parametrize("recipe", [  # the kernels; the network as a whole
    pytest.param("banner", marks=pytest.mark.long), "float"])
def test_a_compiled_training_learns_resumes_and_loads(tmp_path, recipe):
    settings = TrainConfig(epochs=4, batch_size=64, lr=0.2, schedule="cosine", compile=True)

    def save(result, state):
        make_checkpoint(state, name="resnet_digits", model_config={"width": 8, "recipe": recipe},
                        dataset="digits", train_config=settings,
                        history=[{}] * (result.epoch + 1)
                        ).save(tmp_path / f"{result.epoch}.pt")
    whole = fresh(recipe=recipe)
    results = train(whole, digits(), settings, on_epoch=save)
    assert results[-1].test_accuracy > 0.6  # chance is 0.1
    assert set(torch.load(tmp_path / "3.pt", weights_only=True)["state"]) == \
        set(fresh(recipe=recipe).state_dict())

    kept = load_checkpoint(tmp_path / "1.pt", model="resnet_digits")
    again = fresh(seed=1, recipe=recipe)
    kept.restore_training(again)
    resumed = train(again, digits(), settings, start_epoch=2, optimizer_state=kept.optimizer)
    assert [each.train_loss for each in resumed] == [each.train_loss for each in results[2:]]
    for name, value in whole.state_dict().items():
        assert torch.equal(value, again.state_dict()[name]), name

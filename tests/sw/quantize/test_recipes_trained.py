"""Every recipe trains: an accuracy on the digits, and the integer program of those that have one.

``float``, ``dfp16`` and ``fp8`` have none; tests/sw/lower/test_lowerable.py has their reasons.
"""

import functools
import json

import numpy as np
import pytest
import torch

from cli import command as cli
from flows import sim
from golden.program.interpreter import run
from models import build_model
from sw.layers.weighted import round_stored_weights
from sw.lower.network import lower
from sw.lower.simulate import differing_codes, simulate
from sw.quantize.recipes import RECIPES
from sw.train.engine import TrainConfig, logits_of, train
from tests.sw.trained import digits, train_once

# Short runs: jacob's delay and freeze within them, niti's update narrower, as at its end.
OVERRIDES = {"jacob": {"activation.delay": 20, "norm.freeze_after": 150},
             "niti": {"gradient.bits": 4}}
LOWERED = [name for name in RECIPES if name not in ("float", "dfp16", "fp8")]
# Largest share of codes that differ from the simulation in the worst tensor, and by how many.
# What differs is the integer bias (the test below): a few-bit grid turns one code into many.
DIFFERENCES = {"banner": (0.08, 4), "jacob": (0.1, 8), "twn": (0.15, 8), "wage": (0, 0),
               "niti": (0, 0), "dorefa": (0.25, 32), "pact": (0.35, 64), "wrpn": (0.3, 48)}
RTL = ("banner", "pact", "wage")
#: One of each kind of grid and range; the others train in `make test-all` alone.
TRAINED = [name if name in ("banner", "jacob", "wage", "pact") else
           pytest.param(name, marks=pytest.mark.long) for name in LOWERED]


@functools.cache
def trained(recipe, network="resnet_digits"):
    """A network of 5 epochs with seed 0; do not change it."""
    options = {"width": 4} if network == "resnet_digits" else {"dataset": "digits", "hidden": [64]}

    def make():
        torch.manual_seed(0)
        model = build_model(network,
                            options | {"recipe": recipe, "overrides": OVERRIDES.get(recipe)})
        train(model, digits(), TrainConfig(epochs=5, batch_size=32, schedule="cosine"))
        return model.eval()
    return train_once(make, recipe, network)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
def test_every_recipe_learns_the_digits(recipe):
    """A fully connected network with one hidden layer of 64."""
    accuracy = digits_accuracy(logits_of(trained(recipe, "mlp"), digits().test_images))
    assert accuracy >= (0.85 if recipe in ("wage", "niti") else 0.9)


def digits_accuracy(logits):
    return (logits.argmax(1) == digits().test_labels).double().mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TRAINED)
def test_the_integer_program_follows_the_simulation(recipe):
    model, images = trained(recipe), digits().test_images[:100]
    program = lower(model)
    integer = run(program, images.numpy())
    differences = differing_codes(simulate(model, images, program=program), integer)
    share, largest = DIFFERENCES[recipe]
    assert max(value for value, _ in differences.values()) <= share
    assert max(value for _, value in differences.values()) <= largest
    integer_logits = torch.from_numpy(run(program, digits().test_images.numpy())[
        program.outputs[0]].astype(np.int64))
    assert abs(digits_accuracy(integer_logits)
               - digits_accuracy(logits_of(model, digits().test_images))) <= 0.03
    # with the same bias there is no difference to speak of
    rounded = differing_codes(simulate(model, images, program=program, int32_bias=True), integer)
    assert max(value for value, _ in rounded.values()) <= 2e-3
    assert max(value for _, value in rounded.values()) <= 2


@pytest.mark.slow
@pytest.mark.parametrize("recipe", TRAINED)
def test_every_backend_runs_the_program_without_a_difference(recipe, monkeypatch, tmp_path, capsys):
    program = lower(trained(recipe))
    program.save(tmp_path / "program")
    np.save(tmp_path / "x.npy", digits().test_images[:3].numpy())
    if recipe not in RTL:  # a quarter of a minute each; golden's own trace stands in
        monkeypatch.setattr(sim, "run_rtl", lambda program, x, options: (run(program, x), None))
    with pytest.raises(SystemExit) as stop:
        cli.run(sim.main, ["--program", str(tmp_path / "program"), "--inputs",
                           str(tmp_path / "x.npy"), "--target", "sim-4x4", "--report",
                           str(tmp_path / "report.json")])
    assert stop.value.code == 0, capsys.readouterr()
    with open(tmp_path / "report.json") as file:
        rows = json.load(file)["comparison"]
    assert [row["backend"] for row in rows] == ["torch", "onnx", "rtl"]
    for row in rows:
        assert (row["differences"], row["tensors"]) == (0, len(program.tensors))


@pytest.mark.slow
@pytest.mark.parametrize(("rounding", "moves"), [("half_up", False), ("stochastic", True)])
def test_small_steps_move_stored_weights_by_chance_only(rounding, moves):
    """Steps of at most 0.002 * sqrt(2), less than half the grid's 2^-7."""
    torch.manual_seed(0)
    model = build_model("mlp", {"dataset": "digits", "hidden": [64], "recipe": "wage",
                                "overrides": {"update.rounding": rounding,
                                              "learning_rate": 0.002}})
    round_stored_weights(model)
    before = model.hidden[0].weight.clone()
    train(model, digits(), TrainConfig(epochs=1, batch_size=32))
    assert (not torch.equal(model.hidden[0].weight, before)) == moves

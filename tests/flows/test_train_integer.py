"""flows/train.py --arithmetic integer: its files, resuming, any number of processes, refusals."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from flows import deploy, sim, train
from golden.errors import LockstepError
from golden.program import Program
from golden.program.interpreter import run as golden_run
from models import build_model
from sw.train.checkpoint import Checkpoint

ROOT = Path(__file__).parents[2]
MODEL = ["--model", "resnet_digits", "--model-config", "{'width': 4}"]


@pytest.fixture(autouse=True)
def plain_report(monkeypatch):
    """A page without plots, which take seconds."""
    monkeypatch.setattr("cli.training.outputs.write_report",
                        lambda path, *rest, **options: Path(path).write_text(""))


def arguments(runs, name="r", *extra, epochs=1, batch=120):
    return [*MODEL, "--arithmetic", "integer", "--save", name, "--runs-dir", str(runs), "--epochs",
            str(epochs), "-b", str(batch), "--quiet", "--lr", "0.05", *extra]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """A folder with the run "r" of two epochs."""
    folder = tmp_path_factory.mktemp("runs")
    assert train.main(arguments(folder, epochs=2)) == 0
    return folder


def hash_of(runs, name):
    return json.loads((runs / name / "config.json").read_text())["state_sha256"]


def test_the_files_of_a_run(runs):
    run = runs / "r"
    config = json.loads((run / "config.json").read_text())
    assert config["arithmetic"] == "integer" and len(config["state_sha256"]) == 64
    program = Program.load(run / "program")
    assert program.sha256 == config["program_sha256"]
    assert program.metadata["accuracy"]["integer"] == config["test_accuracy"]
    inputs = np.load(run / "test_inputs.npy")
    labels = np.load(run / "test_labels.npy")
    logits = golden_run(program, inputs)[program.outputs[0]]
    assert (logits.argmax(1) == labels).mean() == config["test_accuracy"]
    step = Program.load(run / "step")
    assert step.batch == 120 and step.outputs == ("classifier", "head/loss")
    codes = torch.load(run / "checkpoint.pt", weights_only=True)["optimizer"]["codes"]
    for name, entry in step.state.items():
        np.testing.assert_array_equal(entry.initial, codes[name][0].numpy())
    results = pandas.read_csv(run / "results.csv")
    assert results["train_loss"].is_monotonic_decreasing and len(results) == 2
    telemetry = pandas.read_csv(run / "telemetry.csv")
    assert {"weight", "range"} == {*telemetry["kind"]} and {*telemetry["epoch"]} == {0, 1}
    checkpoint = torch.load(run / "checkpoint.pt", weights_only=True)
    assert checkpoint["optimizer"]["arithmetic"] == "integer"
    unit = 2.0 ** (int(codes["stem.weight.exponent"]) - 8)
    assert torch.equal(checkpoint["state"]["stem.weight"], codes["stem.weight"][0] * unit)


def test_a_resumed_run_is_the_same(runs):
    assert train.main(arguments(runs, "parts")) == 0
    assert hash_of(runs, "parts") != hash_of(runs, "r")
    assert train.main(["--resume", "--save", "parts", "--runs-dir", str(runs), "--epochs", "2",
                       "--quiet"]) == 0
    assert hash_of(runs, "parts") == hash_of(runs, "r")
    assert (runs / "parts/program/program.json").read_bytes() == (
        runs / "r/program/program.json").read_bytes()


@pytest.mark.slow
def test_evaluation_and_the_flows_behind_it(runs, capsys, tmp_path):
    assert train.main(["--evaluate", "--save", "r", "--runs-dir", str(runs)]) == 0
    accuracy = json.loads((runs / "r/config.json").read_text())["test_accuracy"]
    out = capsys.readouterr().out
    assert f"test accuracy {100 * accuracy:.2f} %" in out
    assert f"integer program accuracy {100 * accuracy:.2f} % (360 images)" in out
    assert sim.main(["--program", str(runs / "r/step"), "--backend", "torch"]) == 0
    program = str(runs / "r/program")
    assert sim.main(["--program", program, "--backend", "torch"]) == 0
    deploy.main(["--program", program, "--target", "sim-4x4", "-o", str(tmp_path / "deploy")])
    assert (tmp_path / "deploy/manifest.json").is_file()


@pytest.mark.slow
def test_it_begins_from_a_float_run(runs):
    floats = [*MODEL[:3], "{'width': 4, 'recipe': 'float'}", "--save", "bn", "--runs-dir",
              str(runs), "--epochs", "6", "-b", "32", "--quiet", "--lr", "0.05"]
    assert train.main(floats) == 0
    initial = ["--initial", str(runs / "bn/checkpoint.pt"), "--lr", "0.002"]
    assert train.main(arguments(runs, "tuned", *initial, batch=32)) == 0
    before, after = (pandas.read_csv(runs / name / "results.csv").iloc[-1]["test_accuracy"]
                     for name in ("bn", "tuned"))
    assert before > 0.5 and after > before - 0.05


@pytest.mark.parametrize(("options", "message"), [
    (["--recipe", "jacob"], "Recipe jacob has no form in --arithmetic integer"),
    (["--weight-bits", "4"], "Override weight.bits has no form in --arithmetic integer"),
    (["--model-config", "{'quantize': False}"], "A network with quantize False has no form"),
    (["--norm-lowering", "exact"], "--norm-lowering exact has no effect on --arithmetic integer"),
    (["--clip-gradient", "1"], "Option clip-gradient has no form in the arithmetic of integers"),
    (["--label-smoothing", "0.1"], "Option label-smoothing has no form"),
    (["--model", "ds_cnn", "--model-config", "{}"], "Optimizer Adam has no form"),
    (["--initial", "nowhere.pt"], "There is no checkpoint nowhere.pt"),
])
def test_what_has_no_integer_form_is_refused(tmp_path, options, message):
    given = arguments(tmp_path)
    for name, value in zip(options[::2], options[1::2]):
        if name in given:
            given[given.index(name) + 1] = value
        else:
            given += [name, value]
    with pytest.raises(LockstepError, match=message):
        train.main(given)
    assert not [*tmp_path.iterdir()]


def test_the_arithmetic_of_a_run_stays(runs):
    resume = ["--resume", "--save", "r", "--runs-dir", str(runs), "--epochs", "3", "--quiet"]
    with pytest.raises(LockstepError, match="was trained with arithmetic integer, not float"):
        train.main([*resume, "--arithmetic", "float"])
    with pytest.raises(LockstepError, match="--initial has no effect on a run that is resumed"):
        train.main([*resume, "--initial", str(runs / "r/checkpoint.pt")])
    with pytest.raises(LockstepError, match="Epochs must be at least 2, which the run has done"):
        train.main(["--resume", "--save", "r", "--runs-dir", str(runs), "--epochs", "1"])
    for option, value in (("--epochs", "3"), ("--label-smoothing", "0.1"), ("--initial", "a.pt")):
        with pytest.raises(LockstepError, match=f"{option} has no effect on --evaluate"):
            train.main(["--evaluate", "--save", "r", "--runs-dir", str(runs), option, value])
    with pytest.raises(LockstepError, match="--arithmetic has no effect on --evaluate"):
        train.main(["--evaluate", "--save", "r", "--runs-dir", str(runs), "--arithmetic",
                    "integer"])
    with pytest.raises(LockstepError, match=r"has no stem.weight of shape \(8, 1, 3, 3\)"):
        train.main([*arguments(runs, "other"), "--initial", str(runs / "r/checkpoint.pt"),
                    "--model-config", "{'width': 8}"])


def test_a_deeper_network_is_no_initial_one(tmp_path):
    torch.manual_seed(0)
    deep = build_model("resnet", {"depth": 20, "dataset": "digits", "width": 2})
    Checkpoint(model="resnet", model_config={"depth": 20, "dataset": "digits", "width": 2},
               dataset="digits", train_config={}, epochs_done=1, history=[],
               state=deep.state_dict()).save(tmp_path / "deep.pt")
    given = arguments(tmp_path / "runs", "r", "--initial", str(tmp_path / "deep.pt"))
    given[1], given[3] = "resnet", "{'depth': 8, 'dataset': 'digits', 'width': 2}"
    with pytest.raises(LockstepError, match="is of another network: it has stacks.0.1"):
        train.main(given)


@pytest.mark.slow
@pytest.mark.parametrize("n_processes", [2, 3])
def test_any_number_of_processes_gives_the_same_state(runs, n_processes):
    name = f"of{n_processes}"
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node",
               str(n_processes), "flows/train.py",
               *arguments(runs, name, epochs=2, batch=120 // n_processes)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=280,
                          env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr
    assert hash_of(runs, name) == hash_of(runs, "r")

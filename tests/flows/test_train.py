"""flows/train.py: its files, its errors, resuming, interruption."""

import copy
import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas
import pytest
import torch

from cli import command as cli
from flows import train
from golden.errors import LockstepError
from golden.program import Program

ROOT = Path(__file__).parents[2]
SMALL = "{'width': 4}"


def arguments(runs, *extra, config=SMALL, epochs=1):
    return ["--model", "resnet_digits", "--model-config", config, "--save", "r", "--runs-dir",
            str(runs), "--epochs", str(epochs), "-b", "256", "--quiet", *extra]


@pytest.fixture(autouse=True)
def plain_report(request, monkeypatch):
    """A page without plots, which take seconds, where the test is not about them."""
    def write(path, history, config, telemetry=(), *, running=False):
        Path(path).write_text('<meta http-equiv="refresh">' if running else "")

    if request.function is not test_all_outputs:
        monkeypatch.setattr("cli.training.outputs.write_report", write)


def contents(folder):
    return {path.relative_to(folder): path.read_bytes() for path in folder.rglob("*")
            if path.is_file()}


@pytest.mark.slow
def test_all_outputs(tmp_path, capsys):
    assert train.main(arguments(tmp_path, epochs=2)) == 0
    run = tmp_path / "r"
    assert sorted(path.name for path in run.iterdir()) == [
        "best.pt", "checkpoint.pt", "config.json", "program", "report.html", "results.csv",
        "telemetry.csv", "test_inputs.npy", "test_labels.npy"]
    assert np.load(run / "test_inputs.npy").shape == (360, 1, 8, 8)
    assert torch.load(run / "checkpoint.pt", weights_only=True)["model"] == "resnet_digits"
    results = pandas.read_csv(run / "results.csv")
    assert len(results) == 2
    assert {"train_loss", "test_accuracy", "lr"} <= set(results)
    page = (run / "report.html").read_text()
    assert "Accuracy" in page
    assert "cdn.bokeh.org" not in page
    assert "Gradient to the input: cosine similarity" in page
    assert 'http-equiv="refresh"' not in page  # the run has ended
    telemetry = pandas.read_csv(run / "telemetry.csv")
    assert set(telemetry["kind"]) == {"W", "A", "E", "G", "range", "weight"}
    assert set(telemetry["epoch"]) == {0, 1}
    errors = telemetry[telemetry["kind"] == "E"]
    assert errors["relative_error"].between(1e-4, 0.5).all()
    assert errors["cosine"].between(0.9, 1).all()
    config = json.loads((run / "config.json").read_text())
    assert config["model_config"] == {"width": 4}
    assert config["seed"] == 0
    assert Program.load(run / "program").sha256 == config["program_sha256"]
    assert "wrote" in capsys.readouterr().out


def without_times(path):
    return pandas.read_csv(path).drop(columns=["seconds", "images_per_second"])


@pytest.mark.slow
def test_resume_equals_one_long_run(tmp_path):
    train.main(arguments(tmp_path / "whole", epochs=2))
    train.main(arguments(tmp_path / "parts", epochs=1))
    train.main(["--save", "r", "--runs-dir", str(tmp_path / "parts"), "--resume", "--epochs", "2",
                "--quiet"])
    whole, parts = tmp_path / "whole" / "r", tmp_path / "parts" / "r"
    assert without_times(whole / "results.csv").equals(without_times(parts / "results.csv"))
    for name in ("program/program.json", "telemetry.csv", "config.json"):
        assert (whole / name).read_bytes() == (parts / name).read_bytes()


@pytest.mark.slow
def test_an_interruption_keeps_the_previous_outputs_and_can_be_resumed(tmp_path, monkeypatch):
    train.main(arguments(tmp_path))
    before = contents(tmp_path / "r")
    with monkeypatch.context() as patch:
        def stop(*_):
            raise KeyboardInterrupt
        patch.setattr("cli.training.run.write_outputs", stop)
        with pytest.raises(KeyboardInterrupt):
            train.main(arguments(tmp_path, "--seed", "1", epochs=2))
    after = contents(tmp_path / "r")
    assert after.pop(Path(".partial.pt"))
    assert after.pop(Path(".partial-best.pt"))
    assert b'http-equiv="refresh"' in after[Path("report.html")]  # of the run that goes on
    assert len(after.pop(Path("results.csv")).splitlines()) == 3
    live = {Path("report.html"), Path("telemetry.csv"), Path("results.csv")}
    assert {path: after[path] for path in after.keys() - live} == \
        {path: before[path] for path in before.keys() - live}
    train.main(["--save", "r", "--runs-dir", str(tmp_path), "--resume", "--quiet"])
    config = json.loads((tmp_path / "r" / "config.json").read_text())
    assert config["seed"] == 1
    assert config["epochs"] == 2


def test_a_failure_while_writing_leaves_nothing_half_written(tmp_path):
    (tmp_path / "old").write_text("old")

    def fail():
        with cli.replacing(tmp_path) as temporary:
            (temporary / "old").write_text("new")
            raise RuntimeError
    with pytest.raises(RuntimeError):
        fail()
    assert contents(tmp_path) == {Path("old"): b"old"}


NETWORKS = """
from torch import nn
from sw.layers.weighted import QConv2d, QInput, QLinear

class Net(nn.Module):
    input_shape = (1, 8, 8)
    def __init__(self, *layers):
        super().__init__()
        self.body = nn.Sequential(QInput(), *layers)
    def forward(self, x):
        return self.body(x)

def unsupported(): return Net(QConv2d(1, 2), nn.BatchNorm2d(2), nn.Flatten(), QLinear(72, 10))
def channels(): return Net(QConv2d(3, 2), nn.Flatten(), QLinear(72, 10))
def features(): return Net(nn.Flatten(), QLinear(65, 10))
def maps(): return Net(QConv2d(1, 10))
def constant(): return Net(nn.Flatten())
def raising():
    model = Net(nn.Flatten(), QLinear(64, 10))
    model.forward = lambda x: x.no_such_method()
    return model
def transforming():
    model = Net(nn.Flatten(), QLinear(64, 10))
    model.input_transform = {"train": None, "eval": None}
    return model
"""


@pytest.mark.parametrize(("function", "message"), [
    ("unsupported", "Layer body.2 (BatchNorm2d) is not supported"),
    ("channels", "does not take images of shape (1, 8, 8) of data set digits"),
    ("features", "does not take images of shape (1, 8, 8) of data set digits"),
    ("maps", "must return (N, 10) logits for data set digits, not (32, 10, 6, 6)"),
    ("constant", "has no parameters to train"),
    ("raising", "of data set digits: AttributeError: 'Tensor' object has no attribute 'no_such"),
    ("transforming", "must be a function of a batch of images (N, C, H, W), not a dict")])
def test_an_unfit_network_is_refused_before_training(tmp_path, monkeypatch, function, message):
    monkeypatch.setattr("sw.train.engine.train", lambda *args, **kwargs: pytest.fail("trained"))
    (tmp_path / "nets.py").write_text(NETWORKS)
    with pytest.raises(LockstepError, match=re.escape(message)):
        train.main(["--model", f"{tmp_path}/nets.py:{function}", "--runs-dir",
                    str(tmp_path / "runs"), "--quiet"])
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_wait_for_the_renames(tmp_path, monkeypatch, capsys, number):
    (tmp_path / "a").mkdir()
    rename = os.replace

    def signalled(source, target):
        signal.raise_signal(number)
        rename(source, target)

    def main(argv):
        with cli.replacing(tmp_path) as temporary:
            for name in ("a", "b"):
                (temporary / name).write_text("new")
            monkeypatch.setattr(os, "replace", signalled)
    handlers = [signal.getsignal(each) for each in (signal.SIGINT, signal.SIGTERM)]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    try:
        with pytest.raises(SystemExit) as stop:
            cli.run(main)
    finally:
        for each, handler in zip((signal.SIGINT, signal.SIGTERM), handlers, strict=True):
            signal.signal(each, handler)
    assert stop.value.code == 130
    assert capsys.readouterr().err.count("\n") == 1
    assert contents(tmp_path) == {Path("a"): b"new", Path("b"): b"new"}


def test_a_float_run_has_no_program(tmp_path):
    train.main(arguments(tmp_path, config="{'width': 4, 'quantize': False}"))
    assert not (tmp_path / "r" / "program").exists()


def test_a_float_run_takes_the_program_of_an_earlier_8_bit_run_away(tmp_path):
    train.main(arguments(tmp_path))
    train.main(arguments(tmp_path, config="{'width': 4, 'quantize': False}"))
    assert not (tmp_path / "r" / "program").exists()


@pytest.mark.parametrize(("extra", "message"), [
    (["--model", "resnt"], "Unknown model 'resnt'; known models: "),
    (["--dataset", "digit"], "Unknown dataset 'digit'; known datasets: "),
    (["--model-config", "{'width': "], "--model-config is not a Python literal"),
    (["--model-config", "{[1]: 2}"], "--model-config is not a Python literal"),
    (["--model-config", "[1]"], "--model-config must be a dict"),
    (["--model-config", "{'classes': 3}"], "must return (N, 10) logits"),
    (["--model-config", "{'widht': 4}"], "no option 'widht'"),
    (["--epochs", "0"], "at least 1"), (["--epochs", "x"], "argument --epochs: invalid int"),
    (["--no-such-option"], "unrecognized arguments: --no-such-option"),
    (["--model-config", "{'quantize': 'no'}"], "Option quantize must be True or False"),
    (["--model", "broken.py:make"], "Model file broken.py does not exist"),
    (["--label-smoothing", "1"], "Label smoothing must be in [0, 1), not 1.0"),
    (["--average-weights", "1"], "Average weights must be in (0, 1), not 1.0"),
    (["--amp"], "--amp is for float networks only"),
    (["--teacher", "no.pt"], "There is no checkpoint no.pt"),
    (["-b", "2000"], "Batch size 2000 is larger than the 1437 training images"),
    (["--recipe", "baner"], "Unknown recipe 'baner'"), (["--weight-bits", "20"], "weight.bits"),
    (["--set", "weight.bits"], "--set takes FIELD=VALUE, not 'weight.bits'"),
    (["--set", "norm.kindd=batch"], "norm.kindd"),
    (["--seed", "2147483648"], "Seed must be in 0..2147483647, not 2147483648"),
    (["--threads", "0"], "argument --threads: must be a whole number in 1..4096, not '0'"),
    (["--timeout", "0"], "argument --timeout: must be a positive number of seconds"),
    (["--timeout", "inf"], "argument --timeout: must be a positive number of seconds"),
    (["--milestones", "1;2"], "argument --milestones: must be epochs with commas between them, "
                              "such as 10,15, not '1;2'"),
    (["--model-config", "{'recipe': 'jacob'}", "--recipe", "wage"],
     "--model-config names recipe 'jacob', --recipe 'wage'; give one of them"),
    (["--model-config", "{'quantize': False}", "--gradient-bits", "4"],
     "--gradient-bits has no effect on a network with quantize False"),
    (["--resume"], "There is no checkpoint")])
def test_bad_input(tmp_path, extra, message):
    with pytest.raises(LockstepError, match=re.escape(message)):
        train.main(arguments(tmp_path / "runs", *extra))
    assert not (tmp_path / "runs").exists()


def test_a_checkpoint_of_another_model_is_refused(tmp_path):
    train.main(arguments(tmp_path))
    path = tmp_path / "r" / "checkpoint.pt"
    for field, value, message in (
            ("model", "lenet", "is of model lenet, not resnet_digits"),
            ("model_config", {"width": 8}, "trained with model_config"),
            ("format", "other", "not a Lockstep checkpoint")):
        content = torch.load(path, weights_only=True)
        torch.save(content | {field: value}, path)
        with pytest.raises(LockstepError, match=message):
            train.main(arguments(tmp_path, "--resume"))
        torch.save(content, path)
    torch.save(content | {"model_config": {"width": 8}}, path)
    with pytest.raises(LockstepError, match="weights do not fit model resnet_digits"):
        train.main(arguments(tmp_path, "--resume", config="{'width': 8}"))
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(LockstepError, match="damaged"):
        train.main(arguments(tmp_path, "--resume"))


def test_recipe_options_reach_the_layers():
    from cli.training.options import model_options, parse

    options = model_options(parse([
        "--model-config", "{'depth': 8, 'overrides': {'norm.chunks': 8}}", "--recipe", "jacob",
        "--weight-bits", "4", "--gradient-bits", "6", "--conv-bits", "5", "--set",
        "weight.granularity=tensor", "--set", "norm.fold=False", "--sync-norm"]))
    assert options == {"depth": 8, "recipe": "jacob", "overrides": {
        "norm.chunks": 8, "weight.bits": 4, "error.bits": 6, "gradient.bits": 6, "conv.bits": 5,
        "weight.granularity": "tensor", "norm.fold": False, "norm.synchronise": True}}


def test_another_recipe_is_not_resumed(tmp_path):
    train.main(arguments(tmp_path))
    with pytest.raises(LockstepError, match="trained with recipe 'banner', not 'float'"):
        train.main(arguments(tmp_path, "--resume", "--recipe", "float"))
    with pytest.raises(LockstepError, match="trained with overrides"):
        train.main(arguments(tmp_path, "--resume", "--weight-bits", "4"))
    train.main(arguments(tmp_path, "--resume", "--recipe", "banner"))  # the default, named


def test_evaluation_prints_and_writes_nothing(tmp_path, capsys):
    train.main(arguments(tmp_path, "--average-weights", "0.5"))
    before = contents(tmp_path)
    trained = capsys.readouterr().out
    assert train.main(["--evaluate", str(tmp_path / "r" / "checkpoint.pt")]) == 0
    evaluated = capsys.readouterr().out
    accuracies = [re.findall(r"accuracy (\S+) %", text) for text in (trained, evaluated)]
    assert len(accuracies[0]) == 2
    assert accuracies[0] == accuracies[1]
    assert contents(tmp_path) == before
    for extra, field in ((["--recipe", "float"], "recipe 'banner', not 'float'"),
                         (["--weight-bits", "4"], "overrides {}, not {'weight.bits': 4}"),
                         (["--model-config", "{'width': 8}"], "model_config {'width': 4}, not")):
        with pytest.raises(LockstepError, match=f"trained with {field}.*; --evaluate takes the"):
            train.main(["--evaluate", str(tmp_path / "r" / "checkpoint.pt"), *extra])


@pytest.mark.slow
def test_a_taught_run_keeps_its_best_epoch(tmp_path):
    train.main(arguments(tmp_path))
    teacher = tmp_path / "r" / "checkpoint.pt"
    train.main(arguments(tmp_path / "s", "--teacher", str(teacher), "--lr", "0.4", epochs=3))
    run = tmp_path / "s" / "r"
    accuracies = pandas.read_csv(run / "results.csv")["test_accuracy"]
    best = torch.load(run / "best.pt", weights_only=True)
    assert best["epochs_done"] == accuracies.argmax() + 1
    assert best["history"][-1]["test_accuracy"] == accuracies.max()
    assert json.loads((run / "config.json").read_text())["teacher"] == str(teacher)


def test_a_teacher_of_other_classes_is_refused(tmp_path):
    train.main(arguments(tmp_path))
    with pytest.raises(LockstepError, match="The teacher has 10 outputs, the model 12"):
        train.main(arguments(tmp_path / "s", "--teacher", str(tmp_path / "r" / "checkpoint.pt"),
                             config="{'width': 4, 'classes': 12}"))


def test_a_teacher_that_raises_is_refused(tmp_path):
    from cli.training.rehearsal import rehearse
    from models import build_model
    from sw.data import load_dataset
    from sw.train.distributed import ALONE
    from sw.train.engine import TrainConfig

    teacher = build_model("resnet_digits", {"width": 4})
    teacher.forward = lambda x: {}["no such key"]
    with pytest.raises(LockstepError, match="The teacher does not take .*: KeyError: 'no such"):
        rehearse(build_model("resnet_digits", {"width": 4}), load_dataset("digits"),
                 TrainConfig(), None, teacher, ALONE)


def test_evaluation_on_images_of_another_shape_is_refused(tmp_path, monkeypatch):
    from sw.data import load_dataset

    train.main(arguments(tmp_path, config="{'width': 4, 'quantize': False}"))
    digits, checkpoint = load_dataset("digits"), str(tmp_path / "r" / "checkpoint.pt")
    images, labels = digits.test_sample(2)
    coloured = images.expand(-1, 3, -1, -1), labels
    for changed, message in (
            ({"test_sample": lambda n: coloured}, "does not take images of shape (3, 8, 8)"),
            ({"n_classes": 12}, "must return (N, 12) logits for data set digits, not (2, 10)")):
        other = copy.copy(digits)
        vars(other).update(changed)
        monkeypatch.setattr("sw.data.load_dataset", lambda *_, other=other, **__: other)
        with pytest.raises(LockstepError, match=re.escape(message)):
            train.main(["--evaluate", checkpoint])


@pytest.mark.parametrize(("batch", "chunks", "fits"), [(17, 16, True), (16, 16, False),
                                                       (80, 79, True), (40, 50, False)])
def test_norm_chunks_are_judged_by_the_batch(tmp_path, batch, chunks, fits):
    (tmp_path / "nets.py").write_text(NETWORKS + f"""
from sw.quantize.recipes import make_recipe
def chunked():
    config = make_recipe(overrides={{"norm.chunks": {chunks}}})
    return Net(nn.Flatten(), QLinear(64, 10, norm=True, config=config))
""")
    options = ["--model", f"{tmp_path}/nets.py:chunked", "--runs-dir", str(tmp_path / "runs"),
               "--quiet", "--epochs", "1", "-b", str(batch)]
    if fits:
        assert train.main(options) == 0  # the probe of telemetry.csv fits too
        return
    with pytest.raises(LockstepError, match="needs at least 2 values per chunk"):
        train.main(options)
    assert not (tmp_path / "runs").exists()


def test_a_recipe_without_integers_trains_and_says_why(tmp_path, capsys):
    train.main(arguments(tmp_path, "--recipe", "fp8"))
    assert "no integer program: Activations of input are fp8_e4m3" in capsys.readouterr().out
    assert not (tmp_path / "r" / "program").exists()


def test_a_run_without_a_terminal_prints_a_line_per_epoch(tmp_path, capsys):
    options = [option for option in arguments(tmp_path, epochs=2) if option != "--quiet"]
    train.main(options)
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("r: epoch")]
    assert len(lines) == 2
    assert all("images/s" in line and "s left" in line for line in lines)


def test_divergence_keeps_the_last_good_state(tmp_path):
    with pytest.raises(LockstepError, match="Training diverged at step .* of epoch"):
        train.main(arguments(tmp_path, "--lr", "1e38", "--recipe", "float", epochs=3))
    assert not (tmp_path / "r" / "checkpoint.pt").exists()


@pytest.mark.parametrize(("error", "status"), [(LockstepError("two\nlines"), 2),
                                           (KeyboardInterrupt(), 130), (None, 0)])
def test_exit_status(error, status, capsys):
    def main(argv):
        if error:
            raise error
    with pytest.raises(SystemExit) as exit_info:
        cli.run(main)
    assert exit_info.value.code == status
    assert capsys.readouterr().err.count("\n") == (status != 0)


@pytest.mark.slow
def test_as_a_command(tmp_path):
    done = subprocess.run([sys.executable, "flows/train.py", "--model", "nope"], cwd=ROOT,
                          capture_output=True, text=True, check=False,
                          env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 2
    assert done.stderr == ("error: Unknown model 'nope'; known models: autoencoder, "
                           "ds_cnn, lenet, mlp, mobilenet_v1, resnet, resnet_digits, vgg (or "
                           "path/to/file.py:function)\n")

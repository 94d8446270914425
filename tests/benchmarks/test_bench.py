"""flows/bench.py: the rows of each suite and their goals, on short or planted measurements."""

import ast
import json
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import accuracy, train_speed
from benchmarks.suites import command_of
from flows import bench
from golden.errors import LockstepError
from tests.sw.data.test_archives import cifar_files, write_folder


@pytest.mark.slow
def test_digits_rows(tmp_path, capsys):
    assert bench.main(["digits", "-o", str(tmp_path), "--seeds", "1", "--epochs", "1"]) == 0
    rows = json.loads((tmp_path / "digits.json").read_text())
    assert all(set(row) == {"name", "value", "unit", "goal", "met", "command", "context"}
               for row in rows)
    by_name = {row["name"]: row for row in rows}
    assert by_name["digits.accuracy.integer_minus_simulated.largest"]["value"] < 5
    assert by_name["digits.differing_codes.first"]["met"]
    assert "goal >= 97.5" in capsys.readouterr().out


def test_unknown_suite():
    with pytest.raises(LockstepError, match="Unknown suite 'digit'; known: digits"):
        bench.main(["digit"])
    with pytest.raises(LockstepError, match="A suite must come before '-o'; known: digits"):
        bench.main(["-o", "rows", "digits"])


@pytest.mark.parametrize("arguments, message", [
    (["digits", "--target", "sim-4x4"], "unrecognized arguments: --target sim-4x4"),
    (["tflite", "--seeds", "2"], "unrecognized arguments: --seeds 2"),
    (["accelerator", "--threads", "1"], "unrecognized arguments: --threads 1"),
    ([], "the following arguments are required: SUITE")])
def test_an_option_of_another_suite_is_refused(arguments, message):
    with pytest.raises(LockstepError, match=message):
        bench.main(arguments)


def test_the_help_of_a_suite_shows_its_own_options_only(capsys):
    with pytest.raises(SystemExit):
        bench.main(["digits", "--help"])
    shown = capsys.readouterr().out
    assert "--epochs" in shown and "--target" not in shown and "--checkpoint" not in shown


def test_a_command_names_what_is_not_the_default():
    arguments = bench.parse(["ptq", "--threads", "1", "--seeds", "2", "--checkpoint", "a=b",
                             "--device", "cpu"])
    assert command_of("ptq", arguments) == (
        "python flows/bench.py ptq --seeds 2 --threads 1 --checkpoint a=b")
    assert command_of("digits", bench.parse(["digits"])) == "python flows/bench.py digits"


class _Cifar:
    n_train, n_test = 50_000, 10_000

    def steps(self, batch_size):
        return self.n_train // batch_size


@pytest.fixture
def planted(monkeypatch):
    """Trainings that take no time: float 80 + seed %, everything else a little less."""
    seen = []

    def train(command, **_):
        options = dict(zip(command[2::2], command[3::2]))
        network, variant, seed = options["--save"].split("-")
        directory = Path(options["--runs-dir"]) / options["--save"]
        seen.append((network, variant, int(seed)))
        value = 80.0 + int(seed) - {"float_bn": 0, "banner_deviation": 0.25}.get(variant, 1.0)
        config = {"model": options["--model"], "epochs": int(options["--epochs"]),
                  "model_config": {"dataset": "cifar10",
                                   **ast.literal_eval(options["--model-config"])},
                  "batch_size": int(options["-b"]), "seed": int(seed),
                  "lr": float(options["--lr"]), "schedule": "cosine",
                  "arithmetic": options["--arithmetic"], "compile": "--compile" in command,
                  "channels_last": "--compile" in command, "test_accuracy": value / 100}
        if "banner" in variant:
            config |= {"integer_accuracy": (value - 0.5) / 100, "integer_images": 10_000}
        (directory / "config.json").write_text(json.dumps(config))
        (directory / "results.csv").write_text(
            f"epoch,train_loss,test_loss\n0,2.0,1.9\n1,{1 - value / 1000},1.5\n")
        return subprocess.CompletedProcess(command, 0, "", "")
    monkeypatch.setattr(accuracy.subprocess, "run", train)
    monkeypatch.setattr("sw.data.load_dataset", lambda *args: _Cifar())
    return seen


def test_accuracy_rows_pair_the_seeds_and_check_the_goals(tmp_path, planted):
    bench.main(["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu",
                "--first-seed", "2"])
    rows = {row["name"].removeprefix("accuracy.resnet8."): row
            for row in json.loads((tmp_path / "accuracy.json").read_text())}
    assert rows["float_bn"]["value"] == pytest.approx(83)
    assert rows["float_bn.seed4.accuracy"]["value"] == pytest.approx(84)
    assert rows["float_bn.standard_error"]["value"] == pytest.approx(3**-0.5)
    row = rows["banner_deviation_minus_float_bn"]
    assert row["value"] == pytest.approx(-0.25) and row["goal"] == ">= -0.3" and row["met"]
    assert "float_bn 2, 3, 4; float_extremes 2, 3, 4" in row["context"]
    assert "first-seed 2" in row["command"]
    assert rows["integer_deviation_minus_float_bn"]["met"] is False
    assert rows["integer_deviation_minus_float_deviation"]["value"] == pytest.approx(0)
    assert rows["banner_deviation_minus_float_bn.train_loss"]["value"] == pytest.approx(0.00025)
    assert rows["banner_deviation.program_minus_simulated"]["value"] == pytest.approx(-0.5)
    assert rows["banner_deviation_minus_float_bn.standard_error"]["value"] == pytest.approx(0)
    assert len(planted) == 3 * len(accuracy.VARIANTS)


def test_a_program_is_compared_over_the_same_images(tmp_path, planted):
    arguments = ["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu",
                 "--seeds", "1", "--variants", "banner_deviation"]
    bench.main(arguments)
    path = tmp_path / "accuracy-runs/resnet8-banner_deviation-0/config.json"
    for change, has in (({}, True), ({"integer_images": 1000}, False)):
        path.write_text(json.dumps(json.loads(path.read_text()) | change))
        bench.main(arguments)
        names = {row["name"] for row in json.loads((tmp_path / "accuracy.json").read_text())}
        assert ("accuracy.resnet8.banner_deviation.seed0.program" in names) is has


def test_accuracy_goes_on_where_it_stopped(tmp_path, planted):
    arguments = ["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu",
                 "--variants", "float_bn,banner_nearest"]
    bench.main([*arguments, "--seeds", "1"])
    bench.main([*arguments, "--seeds", "2"])
    assert planted == [("resnet8", "float_bn", 0), ("resnet8", "banner_nearest", 0),
                       ("resnet8", "float_bn", 1), ("resnet8", "banner_nearest", 1)]


def test_accuracy_repeats_what_other_sources_or_settings_trained(tmp_path, planted, monkeypatch):
    arguments = ["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu",
                 "--variants", "float_bn", "--seeds", "1"]
    with pytest.raises(LockstepError, match="There are no finished trainings in"):
        bench.main([*arguments, "--report-only"])
    bench.main(arguments)
    stamp = accuracy.source_hash()
    monkeypatch.setattr(accuracy, "source_hash", lambda: "changed")
    bench.main([*arguments, "--report-only"])
    assert len(planted) == 1
    row, *_ = json.loads((tmp_path / "accuracy.json").read_text())
    assert row["context"].endswith(f"sources {stamp}")
    bench.main(arguments)
    bench.main([*arguments, "--epochs", "2"])
    assert len(planted) == 3
    with pytest.raises(LockstepError, match="There are no finished trainings in"):
        bench.main([*arguments, "--report-only"])
    bench.main(arguments)       # all of them are kept
    monkeypatch.setattr(accuracy, "source_hash", lambda: stamp)
    bench.main(arguments)
    assert len(planted) == 3
    assert len([*(tmp_path / "accuracy-runs").iterdir()]) == 3


def test_an_earlier_report_counts(tmp_path, planted):
    arguments = ["accuracy", "--networks", "resnet8", "--device", "cpu", "--variants",
                 "float_bn,banner_deviation", "-o"]
    bench.main([*arguments, str(tmp_path / "a"), "--seeds", "2"])
    report = tmp_path / "a/accuracy.json"
    more = [*arguments, str(tmp_path / "b"), "--recorded", str(report)]
    bench.main([*more, "--seeds", "2", "--first-seed", "1"])
    assert len(planted) == 6
    rows = {row["name"]: row for row in json.loads((tmp_path / "b/accuracy.json").read_text())}
    assert "float_bn 0, 1, 2; banner_deviation 0, 1, 2" in rows["accuracy.resnet8.float_bn"][
        "context"]
    assert rows["accuracy.resnet8.float_bn"]["value"] == pytest.approx(81)
    assert rows["accuracy.resnet8.banner_deviation_minus_float_bn"]["value"] == pytest.approx(-.25)
    program = rows["accuracy.resnet8.banner_deviation.program_minus_simulated"]
    assert program["value"] == pytest.approx(-0.5)
    bench.main([*more, "--seeds", "1", "--epochs", "3"])        # other conditions
    assert len(planted) == 8
    whole = json.loads(report.read_text())
    report.write_text(json.dumps([row for row in whole if "seed0.test_loss" not in row["name"]]))
    with pytest.raises(LockstepError, match="lack figures of float_bn, seed 0"):
        bench.main(more)
    report.write_text("[1]")
    with pytest.raises(LockstepError, match="accuracy.json cannot be read"):
        bench.main(more)


def test_an_earlier_report_of_another_rate_does_not_count(tmp_path, planted, monkeypatch):
    arguments = ["accuracy", "--networks", "resnet8", "--device", "cpu", "--seeds", "1",
                 "--variants", "float_bn,integer_continued", "-o"]
    bench.main([*arguments, str(tmp_path / "a")])
    more = [*arguments, str(tmp_path / "b"), "--recorded", str(tmp_path / "a/accuracy.json")]
    bench.main(more)
    assert len(planted) == 2
    variant = accuracy.VARIANTS["integer_continued"]
    monkeypatch.setitem(accuracy.VARIANTS, "integer_continued", replace(variant, lr=0.01))
    bench.main(more)
    assert [name for _, name, _ in planted[2:]] == ["float_bn", "integer_continued"]


def test_what_is_unfinished_or_not_ours_does_not_count(tmp_path, planted):
    arguments = ["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu",
                 "--variants", "float_bn", "--seeds", "1"]
    run = tmp_path / "accuracy-runs/resnet8-float_bn-0"
    bench.main(arguments)
    (run / "results.csv").unlink()
    bench.main(arguments)
    (run / ".partial.pt").touch()
    with pytest.raises(LockstepError, match="There are no finished trainings in"):
        bench.main([*arguments, "--report-only"])
    (run / ".partial.pt").unlink()
    for _ in range(2):
        (run / "stamp.json").unlink()
        bench.main(arguments)
    assert len(planted) == 4 and len([*run.parent.iterdir()]) == 3


def test_what_continues_a_training_asks_for_it(tmp_path, planted):
    arguments = ["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu",
                 "--variants", "integer_continued", "--seeds", "1", "--epochs"]
    for epochs in ("1", "6", "1"):
        bench.main([*arguments, epochs])
    names = [name for _, name, _ in planted]
    assert names == ["float_bn", "integer_continued"] * 2
    row, *_ = json.loads((tmp_path / "accuracy.json").read_text())
    assert "integer_continued (1 epoch from 0.0005 behind float_bn) 0" in row["context"]


def test_accuracy_names_the_training_that_failed(tmp_path, monkeypatch):
    monkeypatch.setattr("sw.data.load_dataset", lambda *args: _Cifar())
    monkeypatch.setattr(accuracy.subprocess, "run", lambda command, **_:
                        subprocess.CompletedProcess(command, 2, "", "x\nerror: no such thing\n"))
    with pytest.raises(LockstepError,
                       match="Training resnet8-float_bn-0 failed: error: no such thing"):
        bench.main(["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu"])


def test_the_sources_of_a_training_are_those_that_it_reads(tmp_path, monkeypatch):
    before = accuracy.source_hash()
    (tmp_path / "sw").mkdir()
    (tmp_path / "sw/a.py").write_text("x = 1")
    monkeypatch.setattr(accuracy, "ROOT", tmp_path)
    found = accuracy.source_hash()
    (tmp_path / "sw/a.py").write_text("x = 2")
    assert len({before, found, accuracy.source_hash()}) == 3


@pytest.mark.slow
def test_trainings_on_a_hundred_pictures(tmp_path, monkeypatch):
    """What a run writes is what a training asks for; one that is there is not run again."""
    monkeypatch.delenv("LOCKSTEP_DATA", raising=False)
    write_folder(tmp_path, cifar_files(10))
    arguments = ["accuracy", "-o", str(tmp_path / "bench"), "--networks", "resnet8", "--epochs",
                 "1", "--seeds", "1", "--device", "cpu", "--threads", "1", "--datasets-dir",
                 str(tmp_path), "--variants", "jacob,integer_deviation"]
    assert bench.main(arguments) == 0
    rows = {row["name"]: row for row in json.loads((tmp_path / "bench/accuracy.json").read_text())}
    for variant in ("jacob", "integer_deviation"):
        assert rows[f"accuracy.resnet8.{variant}.train_loss"]["value"] > 1
    monkeypatch.setattr(accuracy.subprocess, "run", None)
    assert bench.main(arguments) == 0


@pytest.mark.parametrize("arguments, message", [
    (["accuracy", "--networks", "resnet9"], "Unknown network 'resnet9'; known: resnet8, resnet20"),
    (["accuracy", "--variants", "banana"], "Unknown variant 'banana'; known: float_bn"),
    (["accuracy", "--first-seed", "-1"], "First seed must be at least 0, not -1"),
    (["train-speed", "--repetitions", "0"], "Repetitions must be at least 1, not 0"),
])
def test_bad_options(arguments, message, tmp_path):
    with pytest.raises(LockstepError, match=message):
        bench.main([*arguments, "-o", str(tmp_path)])


@pytest.mark.long
def test_train_speed_rows(monkeypatch):
    monkeypatch.setattr("torch.compile", lambda model, **_: model)  # it takes minutes
    monkeypatch.setattr(train_speed, "_has_brevitas", lambda: False)
    rows = {row["name"]: row for row in train_speed.measure_cpu(8, 2, 1, "command")}
    assert rows["train_speed.resnet8.ratio_to_float32"]["value"] > 1
    assert rows["train_speed.resnet8.banner.milliseconds"]["value"] > 0
    assert 5 < rows["train_speed.resnet8.float.peak_memory"]["value"] < 500

"""flows/bench.py: the rows of each suite and their goals, on short or planted measurements."""

import json

import pytest

from benchmarks import accuracy, train_speed
from benchmarks.suites import command_of
from flows import bench
from golden.errors import LockstepError


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

    def train_one(settings, data, device):
        variant = settings["variant"]
        seen.append((settings["network"], variant, settings["seed"]))
        value = 80.0 + settings["seed"] - {"float_bn": 0, "banner": 0.25}.get(variant, 1.0)
        integer = {"integer": value - 0.5} if accuracy.VARIANTS[variant].integer else {}
        return {"simulated": value, "seconds": 1.0, "history": [], **integer}
    monkeypatch.setattr(accuracy, "_train_one", train_one)
    monkeypatch.setattr("sw.data.load_dataset", lambda *args: _Cifar())
    return seen


def test_accuracy_rows_pair_the_seeds_and_check_the_goals(tmp_path, planted):
    bench.main(["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu"])
    rows = {row["name"]: row for row in json.loads((tmp_path / "accuracy.json").read_text())}
    assert rows["accuracy.resnet8.float_bn"]["value"] == 81
    assert rows["accuracy.resnet8.float_bn.standard_deviation"]["value"] == pytest.approx(1)
    assert rows["accuracy.resnet8.banner_minus_float_bn"] | {"command": ""} == {
        "name": "accuracy.resnet8.banner_minus_float_bn", "value": -0.25, "unit": "points",
        "goal": "within 0.5", "met": True, "command": "",
        "context": rows["accuracy.resnet8.float_bn"]["context"]}
    assert rows["accuracy.resnet8.banner_minus_float_bn.standard_error"]["value"] == 0
    assert rows["accuracy.resnet8.banner_integer_minus_simulated"]["met"] is False
    assert len(planted) == 3 * len(accuracy.VARIANTS)


def test_accuracy_goes_on_where_it_stopped(tmp_path, planted):
    arguments = ["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu",
                 "--variants", "float_bn,banner"]
    bench.main([*arguments, "--seeds", "1"])
    bench.main([*arguments, "--seeds", "2"])
    assert planted == [("resnet8", "float_bn", 0), ("resnet8", "banner", 0),
                       ("resnet8", "float_bn", 1), ("resnet8", "banner", 1)]


def test_accuracy_does_not_take_a_result_of_other_sources(tmp_path, planted, monkeypatch):
    arguments = ["accuracy", "-o", str(tmp_path), "--networks", "resnet8", "--device", "cpu",
                 "--variants", "banner", "--seeds", "1"]
    bench.main(arguments)
    monkeypatch.setattr(accuracy, "source_hash", lambda: "changed")
    with pytest.raises(LockstepError, match="no finished trainings of these sources"):
        bench.main([*arguments, "--report-only"])


@pytest.mark.parametrize("arguments, message", [
    (["accuracy", "--networks", "resnet9"], "Unknown network 'resnet9'; known: resnet8, resnet20"),
    (["accuracy", "--variants", "banana"], "Unknown variant 'banana'; known: float_bn"),
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

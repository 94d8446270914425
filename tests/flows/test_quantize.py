"""flows/quantize.py: its outputs, its flags, its errors."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from flows import quantize
from golden.errors import LockstepError
from golden.program import Program
from golden.program.interpreter import run
from models import build_model
from sw.ptq.config import AdaRoundConfig, PtqConfig
from sw.train.checkpoint import Checkpoint
from tests.sw.ptq.floats import float_digits
from tests.sw.trained import digits

ROOT = Path(__file__).parents[2]
FLOAT = {"width": 8, "quantize": False, "recipe": "float"}


def save(path, network, model_config=FLOAT):
    Checkpoint(model="resnet_digits", model_config=model_config, dataset="digits", train_config={},
               epochs_done=1, history=[], state=network.state_dict()).save(path)
    return str(path)


@pytest.fixture
def checkpoint(tmp_path):
    return save(tmp_path / "float.pt", float_digits())


@pytest.mark.slow
def test_eight_bits_to_a_program(checkpoint, tmp_path, capsys):
    assert quantize.main([checkpoint, "-o", str(tmp_path / "p"),
                          "--report", str(tmp_path / "r.json")]) == 0
    program, report = Program.load(tmp_path / "p"), json.loads((tmp_path / "r.json").read_text())
    data = digits()
    codes = run(program, data.test_images.numpy())[program.outputs[0]]
    share = (codes.argmax(1) == data.test_labels.numpy()).mean()
    assert report["integer"]["integer"] == pytest.approx(share)
    assert share > report["float"]["accuracy"] - 0.01
    assert report["program_sha256"] == program.sha256
    assert program.metadata["ptq"]["weight_bits"] == 8
    assert [layer["layer"] for layer in report["layers"]][:2] == ["input", "stem"]
    printed = capsys.readouterr().out
    assert "float: test accuracy" in printed
    assert "integer program: test accuracy" in printed
    assert f"wrote {tmp_path / 'p'}" in printed


@pytest.mark.slow
def test_the_published_flags_run_as_a_simulation(checkpoint, tmp_path, capsys):
    arguments = (f"-a resnet_digits --checkpoint {checkpoint} -b 512 --qtype int4 -qw int4 -pcq_w "
                 f"-pcq_a -sh -c laplace -baa -baw -bcw -o {tmp_path / 'p'}").split()
    assert quantize.main(arguments) == 0
    printed = capsys.readouterr().out
    assert len([line for line in printed.splitlines() if line.startswith("simulation only")]) == 1
    assert "reduction axis" in printed
    assert not (tmp_path / "p").exists()


def test_short_and_readable_names_mean_the_same():
    short = quantize.parse("c.pt --qtype int4 -qw int4 -pcq_w -pcq_a -sh -c mix -baa -baw "
                           "-bcw".split())
    readable = quantize.parse("c.pt --activation-bits 4 --weight-bits 4 --per-channel-weights "
                              "--per-channel-activations --shuffle --clipping mix "
                              "--bit-allocation-activations --bit-allocation "
                              "--bias-correction".split())
    assert vars(short) == vars(readable)
    assert quantize.configuration(short) == PtqConfig(
        weight_bits=4, activation_bits=4, activation_range="aciq_mix",
        per_channel_activations=True, allocate_weights=True, allocate_activations=True,
        bias_correction="weight")


def test_the_other_options():
    arguments = quantize.parse(
        "c.pt --calibration percentile --percentile 99 --weight-calibration mse --equalize "
        "--adaround --adaround-iterations 7 --no-ends-8-bit --no-per-channel-weights "
        "--output-correction --sum-bits 4 --layer-bits stem=8,5 --seed 3".split())
    assert quantize.configuration(arguments) == PtqConfig(
        activation_range="percentile", percentile=99.0, weight_range="mse", equalise="weights",
        adaround=AdaRoundConfig(iterations=7), ends_bits=None, per_channel_weights=False,
        bias_correction="output", sum_bits=4, layer_bits={"stem": (8, 5)}, seed=3)


def test_what_is_equalised():
    for option, expected in (([], "none"), (["--equalize"], "weights"),
                             (["--equalize-activations"], "activations")):
        assert quantize.configuration(quantize.parse(["c.pt", *option])).equalise == expected


def test_what_the_logits_range_comes_from():
    for option, expected in (([], "min_max"), (["--logits-calibration", "answers"], "answers")):
        assert quantize.configuration(quantize.parse(["c.pt", *option])).logits_range == expected


@pytest.mark.slow
def test_the_same_seed_gives_the_same_program(checkpoint, tmp_path):
    hashes = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        quantize.main([checkpoint, "-o", str(tmp_path / name), "--weight-bits", "4", "--adaround",
                       "--adaround-iterations", "20", "--seed", str(seed), "--images", "64"])
        hashes.append(Program.load(tmp_path / name).sha256)
    assert hashes[0] == hashes[1] != hashes[2]


@pytest.mark.parametrize(("arguments", "message"), [
    (["-a", "resnet19", "--checkpoint", "x.pt"], "Unknown model 'resnet19'; known models: auto"),
    (["x.pt"], "There is no checkpoint x.pt"),
    ([], "Name one checkpoint to quantize"),
    (["x.pt", "--checkpoint", "y.pt"], "Name one checkpoint to quantize"),
    (["x.pt", "--weight-bits", "9"], "Weights must be 2 to 8 bits, not 9"),
    (["x.pt", "--qtype", "int1"], "Activations must be 2 to 8 bits, not 1"),
    (["x.pt", "--qtype", "bfloat16"], "must be a number or int with a number"),
    (["x.pt", "--layer-bits", "stem=4"], "--layer-bits: must be LAYER=W,A"),
    (["x.pt", "--images", "0"], "Option --images must be at least 1, not 0: without calibration"),
    (["x.pt", "-c", "exp"], "invalid choice: 'exp'"),
    (["x.pt", "-c", "mix", "--calibration", "mse"], "two names of one choice"),
    (["x.pt", "-bcw", "--output-correction"], "not allowed with"),
    (["x.pt", "--equalize", "--equalize-activations"], "not allowed with"),
    (["x.pt", "--percentile", "20", "--calibration", "percentile"], "Option percentile must be"),
    (["x.pt", "-baa"], "Bit allocation of activations needs per-channel activations"),
    (["x.pt", "-b", "0"], "must be at least 1"),
    (["x.pt", "--seed", "-1"], "Option --seed must be in 0..2147483647, not -1"),
    (["x.pt", "--report", "absent/r.json"], "Cannot write absent/r.json: there is no such"),
    (["x.pt", "--report", "."], ". is a folder, not a file to write")])
def test_bad_options(arguments, message):
    with pytest.raises(LockstepError, match=re.escape(message)):
        quantize.main(arguments)


def test_program_and_report_are_written_both_or_not_at_all(checkpoint, tmp_path):
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    for program, report in (("p", "r" * 300), ("foreign", "r.json")):
        before = sorted(tmp_path.rglob("*"))
        with pytest.raises((LockstepError, OSError), match="File name too long|must not be overw"):
            quantize.main([checkpoint, "--images", "64", "-o", str(tmp_path / program),
                           "--report", str(tmp_path / report)])
        assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize(("program", "report"), [
    ("new", "new"), ("new/program", "new"), ("old", "old/r.json"), ("old", "old/program.json")])
def test_a_report_lies_beside_the_program(program, report, checkpoint, tmp_path):
    quantize.main([checkpoint, "--images", "64", "-o", str(tmp_path / "old")])
    before = {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")}
    with pytest.raises(LockstepError, match="must lie beside each other, not one in the other"):
        quantize.main([checkpoint, "--images", "64", "-o", str(tmp_path / program),
                       "--report", str(tmp_path / report)])
    assert {path: path.is_file() and path.read_bytes() for path in tmp_path.rglob("*")} == before


def test_a_folder_of_another_is_refused_before_the_work(checkpoint, tmp_path, monkeypatch):
    (tmp_path / "mine.txt").write_text("kept")
    monkeypatch.setattr(quantize, "load", lambda arguments: pytest.fail("loaded a network"))
    with pytest.raises(LockstepError, match="is not a Program and must not be overwritten"):
        quantize.main([checkpoint, "-o", str(tmp_path)])
    assert (tmp_path / "mine.txt").read_text() == "kept"


def test_a_checkpoint_of_another_model(checkpoint):
    with pytest.raises(LockstepError, match="is of model resnet_digits, not vgg"):
        quantize.main(["-a", "vgg", "--checkpoint", checkpoint])


def test_a_checkpoint_trained_in_eight_bits(tmp_path):
    network = build_model("resnet_digits", {"width": 8})
    with pytest.raises(LockstepError, match="Layer input was trained with quantization"):
        quantize.main([save(tmp_path / "c.pt", network, {"width": 8})])


def test_a_layer_with_a_zero_range(tmp_path):
    network = build_model("resnet_digits", FLOAT).eval()
    torch.nn.init.constant_(network.block2.conv2.norm.weight, 0)
    network(digits().train_sample(8)[0])
    with pytest.raises(LockstepError, match="Layer block1.conv2 has a zero range"):
        quantize.main([save(tmp_path / "c.pt", network)])  # untrained: zero_init gammas


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_2(tmp_path):
    result = subprocess.run(
        [sys.executable, "flows/quantize.py", str(tmp_path / "none.pt"), "-o", str(tmp_path / "p")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
        env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 2
    assert result.stderr == f"error: There is no checkpoint {tmp_path / 'none.pt'}\n"
    assert not (tmp_path / "p").exists()

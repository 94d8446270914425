"""A run of flows/train.py that is killed in the middle of an epoch and continued."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pandas
import pytest
import torch

ROOT = Path(__file__).parents[2]
TIMES = ["seconds", "images_per_second"]
EPOCHS = 2


def command(runs: Path, name: str, *extra: str) -> list[str]:
    return [sys.executable, "flows/train.py", "--model", "resnet_digits", "--model-config",
            "{'width': 4}", "--runs-dir", str(runs), "--save", name, "-b", "32", "--epochs",
            str(EPOCHS), "--schedule", "cosine", "--warmup-epochs", "0.5", "--average-weights",
            "0.97", "--quiet", *extra]


def start(arguments: list[str]) -> subprocess.Popen:
    return subprocess.Popen(arguments, cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})


def epochs_done(run: Path) -> int:
    """Rows of results.csv, which is there after the first epoch."""
    table = run / "results.csv"
    return len(pandas.read_csv(table)) if table.is_file() else 0


def assert_equal(a, b, path="checkpoint"):
    """Equal to the bit, except for the times."""
    if isinstance(a, dict):
        assert a.keys() == b.keys(), path
        for key in a:
            if key not in TIMES:
                assert_equal(a[key], b[key], f"{path}.{key}")
    elif isinstance(a, list):
        assert len(a) == len(b), path
        for index, (x, y) in enumerate(zip(a, b)):
            assert_equal(x, y, f"{path}[{index}]")
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b), path
    else:
        assert a == b, path


@pytest.mark.long
def test_a_killed_run_continues_as_if_never_stopped(tmp_path):
    assert start(command(tmp_path, "whole")).wait(200) == 0
    process = start(command(tmp_path, "killed"))
    deadline = time.monotonic() + 200
    while not epochs_done(tmp_path / "killed") and time.monotonic() < deadline:
        time.sleep(0.02)
    while not (tmp_path / "killed" / ".partial.pt").is_file():
        time.sleep(0.02)
    time.sleep(0.3)  # into the next epoch
    process.send_signal(signal.SIGKILL)
    assert process.wait(30) == -signal.SIGKILL
    assert 1 <= epochs_done(tmp_path / "killed") < EPOCHS
    assert not (tmp_path / "killed" / "checkpoint.pt").exists()

    assert start(command(tmp_path, "killed", "--resume")).wait(200) == 0
    for name in ("checkpoint.pt", "best.pt"):
        assert_equal(*(torch.load(tmp_path / run / name, weights_only=True)
                       for run in ("whole", "killed")))
    whole, killed = (pandas.read_csv(tmp_path / run / "results.csv").drop(columns=TIMES)
                     for run in ("whole", "killed"))
    pandas.testing.assert_frame_equal(whole, killed, check_exact=True)
    assert (tmp_path / "whole/telemetry.csv").read_bytes() == \
        (tmp_path / "killed/telemetry.csv").read_bytes()
    assert (tmp_path / "whole/program/program.json").read_bytes() == \
        (tmp_path / "killed/program/program.json").read_bytes()

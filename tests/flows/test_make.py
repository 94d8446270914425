"""The Makefile: what a target makes first, without making it."""

import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def dry_run(*arguments, folder=ROOT):
    """What make would run."""
    return subprocess.run(["make", "-n", "-C", str(folder), *arguments], check=True, text=True,
                          capture_output=True).stdout


@pytest.fixture
def clone(tmp_path):
    """A checkout in which nothing was trained."""
    (tmp_path / "Makefile").write_text((ROOT / "Makefile").read_text())
    for name in ("requirements.lock", "pyproject.toml"):
        (tmp_path / name).write_text("")
    return tmp_path


@pytest.mark.parametrize("target", ["sim", "deploy"])
def test_the_demos_program_is_made_first_where_it_is_missing(clone, target):
    lines = dry_run(target, folder=clone)
    assert lines.index("flows/train.py") < lines.index(f"flows/{target}.py")


@pytest.mark.parametrize("target", ["sim", "deploy"])
def test_a_program_that_is_there_or_named_is_not_trained(clone, target):
    assert "flows/train.py" not in dry_run(target, "PROGRAM=elsewhere/program", folder=clone)
    (clone / ".venv").mkdir()
    (clone / ".venv/.lockstep-stamp").write_text("")
    (clone / "runs/demo/program").mkdir(parents=True)
    (clone / "runs/demo/program/program.json").write_text("{}")
    assert "flows/train.py" not in dry_run(target, folder=clone)

"""The tests of a file run in one process, which makes what they share once."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
TEST = """import pytest

@pytest.mark.parametrize("k", range(20))
def test_one_of_many(k, worker_id):
    with open("{name}.workers", "a") as file:
        file.write(worker_id)
"""


@pytest.mark.slow
def test_a_file_stays_in_one_process(tmp_path):
    options = re.search(r"^PYTEST .*-m pytest (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for name in ("one", "two", "three"):
        (tmp_path / f"test_{name}.py").write_text(TEST.format(name=name))
    subprocess.run([sys.executable, "-m", "pytest", *options[1].split(), "-p", "no:cacheprovider"],
                   cwd=tmp_path, check=True, capture_output=True)
    for name in ("one", "two", "three"):
        assert (tmp_path / f"{name}.workers").read_text() in ("gw0" * 20, "gw1" * 20)

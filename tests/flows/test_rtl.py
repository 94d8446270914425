"""The written RTL is the same from run to run, names no path, and bad targets are refused."""

import hashlib
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


def run_rtl(*args: str, hash_seed: str = "0") -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, str(ROOT / "flows" / "rtl.py"), *args], text=True,
                          capture_output=True, check=False,
                          env={**os.environ, "PYTHONHASHSEED": hash_seed})


def written(folder, hash_seed):
    result = run_rtl("--target", "array-2x4", "-o", str(folder), hash_seed=hash_seed)
    assert result.returncode == 0, result.stderr
    assert f"wrote {folder / 'accelerator.v'}" in result.stdout
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return written(tmp_path_factory.mktemp("rtl"), "1")


@pytest.mark.long
def test_two_runs_write_the_same_bytes(folder, tmp_path):
    first, second = ({path.name: path.read_bytes() for path in where.iterdir()}
                     for where in (folder, written(tmp_path, "2")))
    assert sorted(first) == ["accelerator.v", "interface.json", "lockstep.h"]
    assert first == second


@pytest.mark.slow
def test_no_path_of_the_machine_is_in_the_files(folder):
    for path in folder.iterdir():
        text = path.read_text()
        for trace in (str(ROOT), str(Path.home()), sys.prefix, "site-packages", ".py"):
            assert trace not in text, f"{path.name} contains {trace}"


@pytest.mark.slow
def test_the_interface_lists_the_ports_of_the_verilog(folder):
    interface = json.loads((folder / "interface.json").read_text())
    verilog = (folder / "accelerator.v").read_text()
    assert interface["sha256"]["accelerator.v"] == hashlib.sha256(verilog.encode()).hexdigest()
    top = verilog[verilog.index("module accelerator("):]
    ports = set(re.search(r"\((.*?)\);", top, re.DOTALL)[1].replace(",", " ").split())
    assert ports == {p["name"] for p in interface["ports"]} | {"clk", "rst"}
    assert interface["target"]["rows"] == 2


@pytest.mark.slow
def test_ports_of_external_memory_are_listed_and_nothing_is_said_of_unused_units(tmp_path):
    command = ("from flows.rtl import write_rtl; from hw.targets import get_target; "
               f"write_rtl(get_target('sim-8x8-axi'), {str(tmp_path)!r})")
    result = subprocess.run([sys.executable, "-c", command], text=True, capture_output=True,
                            check=True, cwd=ROOT)
    assert result.stderr == ""
    ports = {p["name"]: p for p in json.loads((tmp_path / "interface.json").read_text())["ports"]}
    assert ports["memory__araddr"]["direction"] == "out"
    assert ports["memory__rdata"] | {"width": 64, "direction": "in"} == ports["memory__rdata"]


def test_an_unknown_target_is_one_line_and_exit_2(tmp_path):
    result = run_rtl("--target", "nonsense", "-o", str(tmp_path / "out"))
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert "Unknown target 'nonsense'" in result.stderr
    assert not (tmp_path / "out").exists()

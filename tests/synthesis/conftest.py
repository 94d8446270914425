"""Synthesis with tools that are played, on a design of no content, in a cache of its own."""

import sys

import pytest

import hw.targets
from tests.synthesis.fake_tools import FakeTools, tiny_design


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    tools = FakeTools(tmp_path / "bin")
    monkeypatch.setattr("synthesis.tools.BIN", tools.folder)
    monkeypatch.setattr("flows.synth.CACHE", tmp_path / "cache")
    monkeypatch.setattr("flows.synth.top_design", lambda top, target: tiny_design())
    return tools


NEW_FILE = """
from hw.targets.target import Device, Target

DEVICE = Device(name="LFE5U-S", flow="ecp5", part="--12k", package="BGA9", speed_grade=8,
                available={"luts": 900, "ffs": 900, "dsps": 5, "brams": 9, "distributed_ram": 9},
                goals_mhz={"small": 77})
TARGETS = (Target(name="small", rows=2, columns=4, device=DEVICE.name),)
"""


@pytest.fixture
def new_target(tmp_path, monkeypatch):
    """Targets and devices once one more file lies in hw/targets, which is all that they take."""
    folder = tmp_path / "targets"
    folder.mkdir()
    (folder / "lfe5u_s.py").write_text(NEW_FILE)
    monkeypatch.setattr(hw.targets, "__path__", [*hw.targets.__path__, str(folder)])
    yield hw.targets.find()
    sys.modules.pop("hw.targets.lfe5u_s")

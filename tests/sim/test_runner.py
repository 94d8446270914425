"""Builds are cached by content, failures are readable, drivers run without Python."""

import shutil
import threading

import pytest

from golden.errors import LockstepError
from sim.runner import BUILD_ROOT, SimulationError, build, run_cocotb, run_driver

pytestmark = pytest.mark.slow
COUNTER = """
module testbench(input logic clk, output logic [31:0] count);
  initial count = 0;
  always_ff @(posedge clk) count <= count + STEP;
endmodule
"""
DRIVER = """
#include "Vtop.h"
#include <cstdio>
#include <cstdlib>
int main(int n, char** arguments) {
  Vtop top;
  unsigned long limit = strtoul(arguments[1], nullptr, 10);
  if (limit == 0) { fputs("the limit is 0", stderr); return 3; }
  for (unsigned long k = 0; k < limit; ++k) {
    top.clk = 0; top.eval(); top.clk = 1; top.eval();
    if (k % 1000 == 0) { printf("at %lu\\n", k); fflush(stdout); }
  }
  printf("%u\\n", top.count);
}
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = tmp_path_factory.mktemp("source")
    (folder / "driver.cc").write_text(DRIVER)
    path = folder / "testbench.sv"
    path.write_text(COUNTER.replace("STEP", "1"))
    return path


@pytest.fixture(scope="module")
def driven(source):
    return build([source], "testbench", driver=source.parent / "driver.cc")


@pytest.fixture(scope="module")
def counter(source):
    return build([source], "testbench")


def test_a_driver_prints_lines_and_its_result(driven):
    lines = []
    assert run_driver(driven, [2500], on_line=lines.append) == "2500\n"
    assert lines == ["at 0\n", "at 1000\n", "at 2000\n", "2500\n"]


def test_a_driver_that_fails_says_why(driven):
    with pytest.raises(SimulationError, match="testbench failed: the limit is 0"):
        run_driver(driven, [0])


def test_a_driver_that_takes_too_long_fails(driven):
    with pytest.raises(SimulationError, match="no end after 1 s"):
        run_driver(driven, [1 << 60], time_limit=1)


def test_another_driver_is_another_build(source, driven, tmp_path):
    other = tmp_path / "driver.cc"
    other.write_text(DRIVER.replace("1000", "2000"))
    again = build([source], "testbench", driver=other)
    assert again.folder != driven.folder
    assert run_driver(again, [1]) == "1\n"


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


def test_concurrent_builds_of_one_design_share_one_folder(source, tmp_path):
    for runtime in BUILD_ROOT.glob("runtime-*/"):  # compiling Verilator's library is not the point
        shutil.copytree(runtime, tmp_path / runtime.name)
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

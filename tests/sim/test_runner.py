"""Builds are cached by content, failures are readable, whole runs need no Python per cycle."""

import threading

import pytest

from golden.errors import LockstepError
from sim.runner import SimulationError, build, run_cocotb, run_to_finish

COUNTER = """
module testbench(input logic clk, output logic finished);
  int unsigned limit;
  int fd;
  logic [31:0] count = 0;
  initial begin
    finished = 0;
    if (!$value$plusargs("limit=%d", limit)) limit = STEP;
  end
  always_ff @(posedge clk) begin
    count <= count + STEP;
    if (count == limit && !finished) begin
      finished <= 1;
      fd = $fopen("count.txt", "w");
      $fwrite(fd, "%0d", count);
      $fclose(fd);
    end
  end
endmodule
"""


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    path = tmp_path_factory.mktemp("source") / "testbench.sv"
    path.write_text(COUNTER.replace("STEP", "1"))
    return path


@pytest.fixture(scope="module")
def counter(source):
    return build([source], "testbench")


def test_a_run_reads_plusargs_writes_files_and_counts_cycles(counter, tmp_path):
    short = run_to_finish(counter, plusargs={"limit": 10}, run_dir=tmp_path)
    assert (tmp_path / "count.txt").read_text() == "10"
    assert run_to_finish(counter, plusargs={"limit": 5010}, run_dir=tmp_path) == short + 5000


def test_a_run_that_does_not_finish_fails(counter):
    with pytest.raises(SimulationError, match="not finished after 100 cycles"):
        run_to_finish(counter, plusargs={"limit": 10_000}, max_cycles=100)


def test_a_run_that_takes_too_long_fails(counter):
    with pytest.raises(SimulationError, match="no end after 2 s"):
        run_to_finish(counter, plusargs={"limit": 1_000_000_000}, time_limit=2)


def test_runs_leave_nothing_in_the_current_folder(counter, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run_to_finish(counter, plusargs={"limit": 10})
    assert list(tmp_path.iterdir()) == []


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

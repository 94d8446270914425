"""flows/sim.py on Programs with several inputs, outputs and state."""

import json

import numpy as np
import pytest
import torch

from cli import rtl_backend
from golden import ops
from golden.program import Quantization
from golden.program.builder import ProgramBuilder
from golden.program.interpreter import run as golden_run
from sim import rtl as sim_rtl
from tests.flows.sim_command import exit_of, fake_rtl, one_line
from tests.golden.stateful import streaming_inputs, streaming_program

torch.set_num_threads(1)


@pytest.fixture
def streaming(tmp_path):
    """(program, its folder, its inputs' file): two inputs, two outputs and state."""
    program, path = streaming_program("NHWC"), tmp_path / "x.npz"
    np.savez(path, **streaming_inputs("NHWC", n_images=3))
    return program, str(program.save(tmp_path / "program")), str(path)


@pytest.mark.parametrize("backend", ["golden", "torch", "onnx"])
def test_several_inputs_and_outputs_are_archives(backend, streaming, tmp_path, capsys):
    program, folder, inputs = streaming
    outputs = tmp_path / "y.npz"
    assert exit_of(["--program", folder, "--inputs", inputs, "--backend", backend, "--images", "2",
                    "--outputs", str(outputs)], capsys)[0] == 0
    trace = golden_run(program, streaming_inputs("NHWC", n_images=3))
    with np.load(outputs) as archive:
        assert archive.files == ["limited", "both"]
        for name in archive.files:
            assert archive[name].shape == (2, 3, 4, 2)
            np.testing.assert_array_equal(archive[name],
                                          np.moveaxis(trace[name], 1, -1)[:2])


@pytest.mark.parametrize("name", ["file", "allow_pickle", "a/b"])
def test_outputs_of_any_name(name, tmp_path, capsys):
    builder = ProgramBuilder()
    builder.input("x", (2,), Quantization(scale=1.0, zero_point=0))
    builder.node(name, ops.Clamp(low=0), ["x"])
    builder.node("other", ops.Clamp(high=0), ["x"])
    folder, outputs = tmp_path / "program", tmp_path / "y.npz"
    builder.build("names", (name, "other")).save(folder)
    assert exit_of(["--program", str(folder), "--backend", "golden", "--outputs", str(outputs)],
                   capsys)[0] == 0
    with np.load(outputs, allow_pickle=False) as archive:
        assert archive.files == [name, "other"]


def test_files_for_several_inputs_and_outputs_that_do_not_fit(streaming, tmp_path, capsys):
    program, folder, inputs = streaming
    run = ["--program", folder, "--backend", "golden", "--inputs"]
    one_line(exit_of([*run, inputs, "--outputs", str(tmp_path / "y.npy")], capsys),
             "has 2 outputs, so --outputs must end in .npz")
    np.save(tmp_path / "x.npy", np.zeros((1, 3, 4, 2), np.int8))
    one_line(exit_of([*run, str(tmp_path / "x.npy")], capsys), "not a NumPy .npz file of arrays")
    np.savez(tmp_path / "half.npz", x=np.zeros((1, 3, 4, 2), np.int8))
    one_line(exit_of([*run, str(tmp_path / "half.npz")], capsys),
             "Inputs of program stream must be x, bias, not x")
    one_line(exit_of([*run, str(tmp_path / "no.npz")], capsys), "No such file")
    np.savez(tmp_path / "none.npz", **streaming_inputs("NHWC", n_images=0))
    one_line(exit_of([*run, str(tmp_path / "none.npz")], capsys), "at least 1 image")
    assert exit_of(run[:-1], capsys)[0] == 0


def test_all_backends_agree_on_several_inputs_and_outputs(streaming, monkeypatch, tmp_path,
                                                           capsys):
    fake_rtl(monkeypatch)
    program, folder, inputs = streaming
    report = tmp_path / "r.json"
    status, out, _ = exit_of(["--program", folder, "--inputs", inputs, "--report", str(report)],
                             capsys)
    assert status == 0
    assert "3 images" in out
    rows = json.loads(report.read_text())["comparison"]
    assert [(row["backend"], row["tensors"], row["differences"]) for row in rows] == [
        (name, len(program.tensors), 0) for name in ("torch", "onnx", "rtl")]


def test_the_rtl_backend_takes_several_inputs(streaming, monkeypatch):
    def run(program, x, *, report, progress, **options):
        progress(3)
        report.append("report")
        return golden_run(program, x)

    monkeypatch.setattr(sim_rtl, "run", run)
    program, x = streaming[0], streaming_inputs("NHWC", n_images=3)
    trace, report = rtl_backend.run_rtl(program, x, rtl_backend.RtlOptions(target=None))
    assert {*trace} == {*program.tensors} and report == "report"

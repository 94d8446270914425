"""flows/convert.py: what it prints and writes, and that bad input leaves nothing behind."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from cli import command as cli
from flows import convert, sim
from golden.errors import LockstepError
from golden.program import Program
from tests.sw.formats.tflite.networks import Network

ROOT = Path(__file__).parents[2]


@pytest.fixture
def model(tmp_path):
    """A file with a padded convolution, a softmax and odd names."""
    net = Network((1, 6, 6, 3))
    x = net.conv(net.pad(net.input, [(0, 0), (1, 1), (1, 1), (0, 0)]), 4, padding="VALID")
    logits = net.fully_connected(x, 5)
    y = net.tensor((1, 5), 1 / 256, -128, name="a;b/c#1:0")
    net.operator("SOFTMAX", [logits], [y], Beta=1.0)
    path = tmp_path / "small.tflite"
    path.write_bytes(net.finish(y))
    return path


def test_a_model_becomes_a_program(model, tmp_path, capsys):
    assert convert.main([str(model), "-o", str(tmp_path / "program")]) is None
    out = capsys.readouterr().out
    program = Program.load(tmp_path / "program")
    assert program.name == "small"
    assert program.input_layout == "NHWC"
    assert program.sha256 in out
    assert "host    SOFTMAX after the program (tensor a;b/c#1:0)" in out
    assert "note    PAD (tensor 'tensor1') is part of CONV_2D" in out
    assert f"wrote   {tmp_path / 'program'}, 3 nodes" in out


def test_the_program_runs_in_the_layout_of_the_file(model, tmp_path, capsys):
    convert.main([str(model), "-o", str(tmp_path / "program")])
    np.save(tmp_path / "x.npy", np.zeros((3, 6, 6, 3), np.int8))
    sim.main(["--program", str(tmp_path / "program"), "--inputs", str(tmp_path / "x.npy"),
              "--backend", "golden", "--outputs", str(tmp_path / "y.npy"),
              "--trace", str(tmp_path / "trace")])
    assert np.load(tmp_path / "y.npy").shape == (3, 5)


def test_outputs_are_in_the_layout_of_the_file(tmp_path):
    net = Network((1, 6, 7, 3), seed=4)
    path = tmp_path / "image.tflite"
    path.write_bytes(net.finish(net.conv(net.input, 5)))
    convert.main([str(path), "-o", str(tmp_path / "program")])
    program = Program.load(tmp_path / "program")
    x = np.random.default_rng(0).integers(-128, 128, (2, 6, 7, 3), dtype=np.int8)
    np.save(tmp_path / "x.npy", x)
    sim.main(["--program", str(tmp_path / "program"), "--inputs", str(tmp_path / "x.npy"),
              "--backend", "golden", "--outputs", str(tmp_path / "y.npy"),
              "--trace", str(tmp_path / "trace")])
    outputs = np.load(tmp_path / "y.npy")
    traced = np.load(tmp_path / "trace" / "golden" / sim.trace_file(program.outputs[0]))
    assert traced.shape == (2, *program.output.shape)
    np.testing.assert_array_equal(outputs, traced.transpose(0, 2, 3, 1))


def test_conversion_gives_the_same_bytes_twice(model, tmp_path):
    for folder in ("one", "two"):
        convert.main([str(model), "-o", str(tmp_path / folder)])
    for name in ("program.json", "tensors.npz"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_name_too_long_is_one_line(capsys):
    with pytest.raises(SystemExit) as caught:
        cli.run(convert.main, [f"{'m' * 300}.tflite", "-o", "absent"])
    assert caught.value.code == 2
    assert capsys.readouterr().err.startswith("error: File name too long: mmm")


def test_an_unknown_ending_is_refused(tmp_path):
    with pytest.raises(LockstepError, match="model.h5 must end in .tflite"):
        convert.main(["model.h5", "-o", str(tmp_path)])


@pytest.mark.parametrize("content", [None, b"", b"\0" * 1000, b"\x10\0\0\0TFL3\xff\xff"])
def test_bad_files_give_one_line_and_status_2(content, tmp_path):
    path, output = tmp_path / "bad.tflite", tmp_path / "program"
    if content is not None:
        path.write_bytes(content)
    result = subprocess.run(
        [sys.executable, str(ROOT / "flows" / "convert.py"), str(path), "-o", str(output)],
        capture_output=True, text=True, check=False, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert result.returncode == 2
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.startswith("error: ") and "bad.tflite" in result.stderr
    assert not output.exists()

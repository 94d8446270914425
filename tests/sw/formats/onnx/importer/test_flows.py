"""The commands: convert, quantize and bench with ONNX models."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest

from benchmarks.onnx import light_models, quantized_light
from flows import bench, convert, quantize
from golden.errors import LockstepError
from golden.program import Program
from golden.program.interpreter import run
from sw.formats.onnx.exporter.integer import export_integer
from sw.formats.onnx.importer import unsupported_operators
from tests.programs import residual_net
from tests.sw.formats.onnx.importer.networks import (
    Network,
    images,
    residual,
    saved,
    statically_quantized,
)

ROOT = Path(__file__).parents[5]


def test_convert_writes_the_program(tmp_path, capsys):
    path = statically_quantized(residual(), tmp_path)
    assert convert.main([str(path), "-o", str(tmp_path / "program")]) is None
    program = Program.load(tmp_path / "program")
    assert program.metadata["source"]["format"] == "onnx"
    assert run(program, images((3, 8, 8), 2))[program.outputs[0]].shape == (2, 5)
    printed = capsys.readouterr().out
    assert "Softmax after the program" in printed and "QuantizeLinear before" in printed


def test_convert_gives_an_exported_program_back(tmp_path):
    program = residual_net()
    path = saved(export_integer(program), tmp_path)
    convert.main([str(path), "-o", str(tmp_path / "program")])
    assert Program.load(tmp_path / "program").sha256 == program.sha256


def test_quantize_with_given_images(tmp_path, capsys):
    path = saved(residual(), tmp_path)
    np.save(tmp_path / "x.npy", images((3, 8, 8), 64))
    assert quantize.main([str(path), "--inputs", str(tmp_path / "x.npy"), "-o",
                          str(tmp_path / "program"), "--report", str(tmp_path / "r.json")]) == 0
    program = Program.load(tmp_path / "program")
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["agreement"] >= 0.9 and report["program_sha256"] == program.sha256
    assert program.name == path.stem
    assert "of the 64 calibration images" in capsys.readouterr().out


def test_quantize_with_a_data_set(tmp_path, capsys):
    net = Network((1, 8, 8))
    x = net.node("Flatten", [net.node("Relu", [net.conv("x", 1, 4)])])
    path = saved(net.model(net.gemm(x, 256, 10)), tmp_path)
    assert quantize.main([str(path), "--dataset", "digits", "-o", str(tmp_path / "program")]) == 0
    assert "integer program: test accuracy" in capsys.readouterr().out


@pytest.mark.parametrize("options, message", [
    ([], "An ONNX model has no data set of its own"),
    (["--dataset", "digits", "--inputs", "x.npy"], "An ONNX model has no data set of its own"),
    (["--inputs", "absent.npy"], "Inputs absent.npy: No such file"),
    (["--inputs", "WRONG"], r"must be floats of shape \(N, 3, 8, 8\), not float32 \(2, 3, 4, 4\)"),
    (["--dataset", "digits"], r"does not take images of shape \(1, 8, 8\) of data set digits"),
    (["--dataset", "digits", "-a", "resnet_digits"], "Option --arch is for checkpoints")])
def test_what_quantize_refuses(options, message, tmp_path):
    np.save(tmp_path / "wrong.npy", images((3, 4, 4), 2))
    options = [str(tmp_path / "wrong.npy") if option == "WRONG" else option for option in options]
    with pytest.raises(LockstepError, match=message):
        quantize.main([str(saved(residual(), tmp_path)), *options])


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e200])
def test_images_beyond_float32_are_refused(value, tmp_path):
    x = images((3, 8, 8), 2).astype(np.float64)
    x[1, 0, 0, 0] = value
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(LockstepError, match="x.npy must be finite as float32"):
        quantize.main([str(saved(residual(), tmp_path)), "--inputs", str(tmp_path / "x.npy")])


@pytest.mark.slow
def test_an_error_is_one_line_and_exit_2(tmp_path):
    path = tmp_path / "model.onnx"
    path.write_bytes(b"no model")
    for flow, options in (("convert", []), ("quantize", ["--dataset", "digits"])):
        done = subprocess.run([sys.executable, ROOT / f"flows/{flow}.py", path, "-o",
                               tmp_path / "program", *options], capture_output=True, text=True,
                              cwd=ROOT, env={"PYTHONPATH": str(ROOT), "PATH": "/usr/bin:/bin"})
        assert done.returncode == 2 and not (tmp_path / "program").exists()
        assert done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_the_operators_that_keep_networks_out_are_named():
    found = {name: unsupported_operators(path) for name, path in light_models().items()}
    assert {name: {*kinds} for name, kinds in found.items() if kinds} == {
        "bvlc_alexnet": {"LRN"}, "inception_v1": {"LRN"}, "zfnet512": {"LRN"},
        "shufflenet": {"Transpose"}}
    assert len(found["bvlc_alexnet"]["LRN"]) == 2


def test_bench_prints_what_keeps_a_network_out(tmp_path, capsys):
    assert bench.main(["onnx", "--networks", "zfnet512", "-o", str(tmp_path)]) == 0
    rows = json.loads((tmp_path / "onnx.json").read_text())
    assert [(row["name"], row["value"]) for row in rows] == [
        ("onnx.light.zfnet512.unsupported_operators", 1)]
    assert "kept out by LRN (2 nodes)" in rows[0]["context"]
    with pytest.raises(LockstepError, match="Unknown network lenet; known: bvlc_alexnet"):
        bench.main(["onnx", "--networks", "lenet", "-o", str(tmp_path)])


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("name", ["inception_v2", "squeezenet", *(
    pytest.param(name, marks=pytest.mark.long) for name in ("densenet121", "resnet50", "vgg19"))])
def test_light_networks_are_calibrated_and_run(name):
    network, program, x, trace = quantized_light(light_models()[name], 1)
    assert set(trace) == set(program.tensors)
    assert trace[program.outputs[0]].shape[:2] == (1, 1000)


def test_the_checker_takes_what_is_exported():
    onnx.checker.check_model(export_integer(residual_net()), full_check=True)


@pytest.mark.slow
def test_the_quantizer_of_onnx_runtime_hides_no_module_of_ours():
    script = ("import sys; from benchmarks.onnx import runtime_quantization as get; "
              "before = list(sys.path); get().quantize_static; assert sys.path == before; "
              "from models import build_model")
    subprocess.run([sys.executable, "-c", script], cwd=ROOT, check=True)

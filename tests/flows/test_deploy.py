"""flows/deploy.py: the folder, its manifest, the same bytes twice, and what is refused."""

import dataclasses
import hashlib
import json
import shutil
import subprocess

import numpy as np
import onnxruntime
import pytest

from cli import command as cli
from flows import deploy, sim
from golden.errors import LockstepError
from golden.program import Program
from golden.program.interpreter import run as golden_run
from hw.compiler import Image
from hw.targets import get_target
from tests.golden.stateful import streaming_inputs, streaming_program
from tests.programs import Maker, linear_net, norm_net, random_codes, residual_net

TARGET = get_target("sim-4x4")


@pytest.fixture
def software_only(monkeypatch):
    """Deployments without Verilog and memory image: seconds less for tests of the rest."""
    def write_hardware(program, target, folder, batch):
        (folder / "rtl").mkdir()
        (folder / "rtl" / "accelerator.v").write_text("module accelerator; endmodule\n")
    monkeypatch.setattr(deploy, "write_hardware", write_hardware)


def contents(folder):
    return {path.relative_to(folder).as_posix(): path.read_bytes()
            for path in sorted(folder.rglob("*")) if path.is_file()}


@pytest.mark.slow
def test_whole_deployment_twice(tmp_path):
    program = residual_net()
    x = random_codes(program, 4)
    first = deploy.deploy(program, TARGET, x, tmp_path / "a")
    second = deploy.deploy(residual_net(), TARGET, x, tmp_path / "b")
    files = contents(first)
    assert files == contents(second)
    for name in ("rtl/accelerator.v", "rtl/interface.json", "include/lockstep.h"):
        assert name in files
    assert {name.rpartition(".")[2] for name in files if name.startswith("memory/")} >= {"hex",
                                                                                       "bin"}
    for data in files.values():
        assert str(tmp_path).encode() not in data


def test_a_run_of_the_image_computes_a_batch(tmp_path, capsys):
    program = linear_net()
    program.save(tmp_path / "program")
    argv = ["--program", str(tmp_path / "program"), "--target", "array-2x4", "-o",
            str(tmp_path / "d"), "--images", "2"]
    deploy.main([*argv, "--batch", "3"])
    image = Image.load(tmp_path / "d" / "memory")
    assert image.batch == 3
    assert {"input", "input#2"} <= {*image.placements}
    with pytest.raises(SystemExit) as stop:
        cli.run(deploy.main, [*argv, "--batch", "0"])
    assert stop.value.code == 2
    assert capsys.readouterr().err == "error: --batch must be at least 1, not 0\n"
    assert Image.load(tmp_path / "d" / "memory").batch == 3, "nothing is lost"


def test_manifest_names_every_file(tmp_path, software_only):
    program = residual_net()
    folder = deploy.deploy(program, TARGET, random_codes(program), tmp_path / "d")
    manifest = json.loads((folder / "manifest.json").read_text())
    files = contents(folder)
    del files["manifest.json"]
    assert {name: entry["sha256"] for name, entry in manifest["files"].items()} == {
        name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert manifest["program"] == {"name": program.name, "sha256": program.sha256}
    assert manifest["target"]["name"] == "sim-4x4"
    assert manifest["accuracy"] == {"integer": 0.5}
    assert set(manifest["versions"]) == set(deploy.PACKAGES)


@pytest.mark.parametrize("make", [residual_net, norm_net])
def test_vectors_models_and_weights(make, tmp_path, software_only):
    program = make()
    x = random_codes(program, 5)
    folder = deploy.deploy(program, TARGET, x, tmp_path / "d")
    expected = golden_run(program, x)
    inputs, outputs = (np.load(folder / "vectors" / f"{name}.npy") for name in ("inputs",
                                                                                "outputs"))
    np.testing.assert_array_equal(inputs, x)
    np.testing.assert_array_equal(outputs, expected[program.outputs[0]])
    assert Program.load(folder / "program").sha256 == program.sha256
    runner = onnxruntime.InferenceSession(folder / "onnx" / "model_integer.onnx",
                                          providers=["CPUExecutionProvider"])
    codes, = runner.run(None, {"input": expected["input"]})
    np.testing.assert_array_equal(codes, outputs)
    with np.load(folder / "weights" / "weights.npz", allow_pickle=False) as archive:
        for node in program.nodes:
            for field in ("weights", "bias"):
                if hasattr(node.op, field):
                    np.testing.assert_array_equal(archive[f"node/{node.name}.{field}"],
                                                  getattr(node.op, field))
        for name, tensor in program.tensors.items():
            assert archive[f"tensor/{name}.scale"] == tensor.quantization.scale
            assert archive[f"tensor/{name}.zero_point"] == tensor.quantization.zero_point


def test_vectors_are_in_the_layout_of_the_file(tmp_path, software_only):
    make = Maker("image", (2, 5, 6), seed=3)
    program = make.program(make.conv(make.input, 4), layout="NHWC")
    x = random_codes(program, 3)
    folder = deploy.deploy(program, TARGET, x, tmp_path / "d")
    inputs, outputs = (np.load(folder / "vectors" / f"{name}.npy") for name in ("inputs",
                                                                                "outputs"))
    np.testing.assert_array_equal(inputs, x)
    expected = golden_run(program, x)[program.outputs[0]]
    np.testing.assert_array_equal(outputs, expected.transpose(0, 2, 3, 1))


@pytest.mark.skipif(shutil.which("gcc") is None, reason="no C compiler here")
def test_headers_compile_and_hold_the_numbers(tmp_path, software_only):
    program = residual_net()
    x = random_codes(program, 3)
    folder = deploy.deploy(program, TARGET, x, tmp_path / "d")
    op = program.nodes[0].op
    (tmp_path / "main.c").write_text(
        '#include <stdio.h>\n#include "weights.h"\n#include "vectors.h"\n'
        "int main(void) { long w = 0, b = 0, y = 0;\n"
        f"for (int i = 0; i < {op.weights.size}; i++) w += (i + 1) * "
        "lockstep_conv0_weights[i];\n"
        f"for (int i = 0; i < {op.bias.size}; i++) b += lockstep_conv0_bias[i];\n"
        "for (int i = 0; i < LOCKSTEP_N_VECTORS * LOCKSTEP_OUTPUT_SIZE; i++) "
        "y += lockstep_outputs[i];\n"
        'printf("%ld %ld %ld %.17g\\n", w, b, y, LOCKSTEP_INPUT_SCALE); return 0; }\n')
    subprocess.run(["gcc", "-Wall", "-Wno-unused-const-variable", "-I", folder / "include", "-o",
                    tmp_path / "main", tmp_path / "main.c"], check=True, timeout=60)
    printed = subprocess.run([tmp_path / "main"], check=True, capture_output=True, text=True,
                             timeout=60).stdout.split()
    weights = op.weights.ravel().astype(int)
    outputs = golden_run(program, x)[program.outputs[0]]
    assert printed[:3] == [str((weights * np.arange(1, weights.size + 1)).sum()),
                           str(op.bias.sum()), str(outputs.sum())]
    assert float(printed[3]) == program.input.quantization.scale


def test_several_inputs_and_state_are_refused(tmp_path, software_only):
    program = streaming_program()
    with pytest.raises(LockstepError, match="A deployment does not run program stream: it has 2 i"):
        deploy.deploy(program, TARGET, streaming_inputs(), tmp_path / "d")
    assert not any(tmp_path.iterdir())


def test_foreign_folders_are_left_alone(tmp_path, software_only):
    program = residual_net()
    x = random_codes(program, 1)
    for name, content in (("notes.txt", "mine"), ("manifest.json", "{}"),
                          ("manifest.json", "[1]")):
        folder = tmp_path / f"foreign-{name}-{len(content)}"
        folder.mkdir()
        (folder / name).write_text(content)
        with pytest.raises(ValueError, match="not an earlier deployment"):
            deploy.deploy(program, TARGET, x, folder)
        assert contents(folder) == {name: content.encode()}
    (tmp_path / "empty").mkdir()
    deploy.deploy(program, TARGET, x, tmp_path / "empty")


def test_a_failure_leaves_the_earlier_deployment(tmp_path, software_only, monkeypatch):
    program = residual_net()
    folder = deploy.deploy(program, TARGET, random_codes(program, 1), tmp_path / "d")
    before = contents(folder)

    def interrupted(*args):
        raise KeyboardInterrupt
    monkeypatch.setattr(deploy, "write_manifest", interrupted)
    with pytest.raises(KeyboardInterrupt):
        deploy.deploy(program, TARGET, random_codes(program, 2), folder)
    assert contents(folder) == before
    assert [path.name for path in tmp_path.iterdir()] == ["d"]
    monkeypatch.undo()


def test_command(tmp_path, software_only, capsys):
    program = residual_net()
    program.save(tmp_path / "run" / "program")
    np.save(tmp_path / "run" / sim.DEFAULT_INPUTS, random_codes(program, 5))
    argv = ["--program", str(tmp_path / "run" / "program"), "--target", "sim-4x4", "-o",
            str(tmp_path / "out"), "--images", "2"]
    with pytest.raises(SystemExit) as stop:
        cli.run(deploy.main, argv)
    assert stop.value.code == 0
    assert "onnx/model_integer.onnx" in capsys.readouterr().out
    assert len(np.load(tmp_path / "out" / "vectors" / "inputs.npy")) == 2


@pytest.mark.parametrize(("option", "value", "word"), [
    ("--target", "spartan", "known are sim-4x4"), ("--images", "0", "--images must be at least 1"),
    ("--program", "nowhere", "nowhere")])
def test_bad_input(tmp_path, software_only, capsys, option, value, word):
    residual_net().save(tmp_path / "program")
    argv = ["--program", str(tmp_path / "program"), "-o", str(tmp_path / "out"), option, value]
    with pytest.raises(SystemExit) as stop:
        cli.run(deploy.main, argv)
    assert stop.value.code == 2
    err = capsys.readouterr().err
    assert word in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "out").exists()


def test_scales_that_onnx_cannot_hold(tmp_path, software_only, capsys):
    program = residual_net()
    quantization = dataclasses.replace(program.input.quantization, scale=1e-45)
    tensors = program.tensors | {"input": dataclasses.replace(program.input,
                                                              quantization=quantization)}
    dataclasses.replace(program, tensors=tensors).save(tmp_path / "program")
    with pytest.raises(SystemExit) as stop:
        cli.run(deploy.main, ["--program", str(tmp_path / "program"), "-o", str(tmp_path / "out")])
    assert stop.value.code == 2
    assert capsys.readouterr().err.startswith("error: Scale of tensor input must be in 1.17549e-38")
    assert not (tmp_path / "out").exists()

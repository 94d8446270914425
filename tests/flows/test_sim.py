"""flows/sim.py: one backend or all, the comparison that can fail, and one line for bad input."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from cli import command as cli
from cli.inputs import DEFAULT_IMAGES
from cli.rtl_backend import check_batch
from flows import deploy, formal, rtl, sim, synth
from golden.errors import LockstepError
from golden.program.interpreter import run as golden_run
from hw.compiler import compile_program
from hw.targets import get_target
from tests.flows.sim_command import exit_of, fake_rtl, one_line
from tests.programs import linear_net, norm_net, random_codes, residual_net

torch.set_num_threads(1)


@pytest.fixture
def saved(tmp_path):
    """(program, its folder, a file of inputs)."""
    program = residual_net()
    program.save(tmp_path / "program")
    np.save(tmp_path / "x.npy", random_codes(program, 3))
    return program, str(tmp_path / "program"), str(tmp_path / "x.npy")


def test_no_two_tensors_of_a_trace_share_a_file(tmp_path):
    names = ["a/b", "a_b", "a%2Fb", "..", "\ud800"]
    sim.write_traces(tmp_path / "trace", {"golden": {
        name: np.full(1, number, np.int8) for number, name in enumerate(names)}})
    files = list((tmp_path / "trace" / "golden").iterdir())
    assert {file.name for file in files} == {"a%2Fb.npy", "a_b.npy", "a%252Fb.npy", "...npy",
                                             "%D800.npy"}
    assert sorted(np.load(file).item() for file in files) == [0, 1, 2, 3, 4]


def test_a_name_too_long_for_a_file_is_refused_before_the_work(tmp_path, capsys):
    program, name = linear_net(), "é" * 126  # 252 bytes and .npy
    source = program.inputs[0]
    nodes = [dataclasses.replace(node, inputs=[name if key == source else key
                                               for key in node.inputs]) for node in program.nodes]
    program = dataclasses.replace(
        program, inputs=(name,),
        tensors={key: value for key, value in program.tensors.items() if key != source}
        | {name: dataclasses.replace(program.tensors[source], name=name)},
        nodes=nodes)
    program.save(tmp_path / "program")
    argv = ["--program", str(tmp_path / "program"), "--backend", "golden", "--trace",
            str(tmp_path / "trace")]
    one_line(exit_of(argv, capsys), "cannot name a file after tensor éé", "at most 255 bytes")
    assert not (tmp_path / "trace").exists()


@pytest.mark.parametrize("backend", ["golden", "torch", "onnx"])
def test_one_backend(saved, backend, tmp_path, capsys):
    program, folder, inputs = saved
    outputs, trace, report = (str(tmp_path / name) for name in ("out/y.npy", "trace", "r.json"))
    status, out, _ = exit_of(["--program", folder, "--inputs", inputs, "--backend", backend,
                              "--outputs", outputs, "--trace", trace, "--report", report], capsys)
    assert status == 0
    assert outputs in out
    expected = golden_run(program, np.load(inputs))
    np.testing.assert_array_equal(np.load(outputs), expected[program.outputs[0]])
    for name, tensor in expected.items():
        np.testing.assert_array_equal(np.load(f"{trace}/{backend}/{name}.npy"), tensor)
    with open(report) as file:
        written = json.load(file)
    assert written["program"]["sha256"] == program.sha256
    assert written["images"] == 3
    assert written["comparison"] == []


def test_all_backends_agree(saved, monkeypatch, tmp_path, capsys):
    fake_rtl(monkeypatch)
    program, folder, inputs = saved
    report = str(tmp_path / "r.json")
    status, out, _ = exit_of(["--program", folder, "--inputs", inputs, "--report", report,
                              "--images", "2"], capsys)
    assert status == 0
    with open(report) as file:
        rows = json.load(file)["comparison"]
    assert [row["backend"] for row in rows] == ["torch", "onnx", "rtl"]
    values = 2 * sum(int(np.prod(tensor.shape)) for tensor in program.tensors.values())
    for row in rows:
        assert row["tensors"] == row["of"] == len(program.tensors)
        assert row["values"] == values
        assert row["differences"] == 0
        assert row["backend"] in out


def test_one_changed_value_is_reported(saved, monkeypatch, tmp_path, capsys):
    program, folder, inputs = saved
    node = program.nodes[3]

    def change(trace):
        tensor = trace[node.outputs[0]].copy()
        tensor[1, 2, 3, 4] ^= 1
        return trace | {node.outputs[0]: tensor}
    fake_rtl(monkeypatch, change)
    report = str(tmp_path / "r.json")
    status, out, _ = exit_of(["--program", folder, "--inputs", inputs, "--report", report], capsys)
    assert status == 1
    expected = int(golden_run(program, np.load(inputs))[node.outputs[0]][1, 2, 3, 4])
    assert (f"rtl: first differs at {node.name} (Add), tensor {node.outputs[0]}, index "
            f"(1, 2, 3, 4): expected {expected}, got {expected ^ 1} (1 values differ)") in out
    with open(report) as file:
        difference, = json.load(file)["differences"]
    assert difference["backend"] == "rtl"
    assert (difference["expected"], difference["actual"]) == (expected, expected ^ 1)


def test_a_wrong_zero_point_is_reported(saved, monkeypatch, capsys):
    """A backend that runs the program with one zero point off by one."""
    program, folder, inputs = saved
    node = program.nodes[0]
    rescale = dataclasses.replace(node.op.rescale, zero_point=node.op.rescale.zero_point + 1)
    nodes = (dataclasses.replace(node, op=dataclasses.replace(node.op, rescale=rescale)),
             *program.nodes[1:])
    wrong = dataclasses.replace(program, nodes=nodes)

    monkeypatch.setattr(sim, "run_rtl", lambda right, x, options: (golden_run(wrong, x), None))
    status, out, _ = exit_of(["--program", folder, "--inputs", inputs], capsys)
    assert status == 1
    assert f"rtl: first differs at {node.name} (Conv2d)" in out
    assert f"rtl: then differs at {program.nodes[1].name}" in out
    assert "torch: first" not in out


def test_random_inputs_where_none_are_given(saved, tmp_path, capsys):
    _, folder, inputs = saved
    status, out, _ = exit_of(["--program", folder, "--backend", "golden"], capsys)
    assert status == 0
    assert f"random codes, {DEFAULT_IMAGES} images" in out
    np.save(tmp_path / sim.DEFAULT_INPUTS, np.load(inputs))
    _, out, _ = exit_of(["--program", folder, "--backend", "golden"], capsys)
    assert f"{sim.DEFAULT_INPUTS}, 3 images" in out


def test_wrong_shape(saved, tmp_path, capsys):
    _, folder, _ = saved
    bad = str(tmp_path / "bad.npy")
    np.save(bad, np.zeros((2, 1, 9, 8), np.int8))
    one_line(exit_of(["--program", folder, "--inputs", bad], capsys),
             "bad.npy", "(N, 1, 8, 8)", "(2, 1, 9, 8)")


@pytest.mark.parametrize("dtype", [np.int32, np.uint8, bool, complex])
def test_wrong_dtype(saved, tmp_path, capsys, dtype):
    _, folder, _ = saved
    bad = str(tmp_path / "bad.npy")
    np.save(bad, np.zeros((2, 1, 8, 8), dtype))
    one_line(exit_of(["--program", folder, "--inputs", bad], capsys), "float or int8")


@pytest.mark.parametrize("content", [b"", b"not an array", b"\x93NUMPY\x01\x00"])
def test_inputs_that_are_no_array(saved, tmp_path, capsys, content):
    _, folder, _ = saved
    bad = tmp_path / "bad.npy"
    bad.write_bytes(content)
    one_line(exit_of(["--program", folder, "--inputs", str(bad)], capsys), "bad.npy", ".npy array")


def test_pickled_inputs_are_not_loaded(saved, tmp_path, capsys):
    _, folder, _ = saved
    bad = str(tmp_path / "bad.npy")
    np.save(bad, np.array([{}]), allow_pickle=True)
    one_line(exit_of(["--program", folder, "--inputs", bad], capsys), "not a NumPy .npy array")


def test_missing_and_empty_inputs(saved, tmp_path, capsys):
    _, folder, _ = saved
    one_line(exit_of(["--program", folder, "--inputs", str(tmp_path / "no.npy")], capsys),
             "no.npy", "No such file")
    np.save(tmp_path / "empty.npy", np.zeros((0, 1, 8, 8), np.int8))
    one_line(exit_of(["--program", folder, "--inputs", str(tmp_path / "empty.npy")], capsys),
             "at least 1 image")


def test_altered_program_names_the_hash(saved, tmp_path, capsys):
    program, folder, inputs = saved
    path = tmp_path / "program" / "program.json"
    path.write_text(path.read_text().replace('"NCHW"', '"NHWC"', 1))
    one_line(exit_of(["--program", folder, "--inputs", inputs], capsys), "altered", program.sha256)


def test_truncated_and_missing_program(saved, tmp_path, capsys):
    _, folder, inputs = saved
    path = tmp_path / "program" / "tensors.npz"
    path.write_bytes(path.read_bytes()[:-100])
    one_line(exit_of(["--program", folder, "--inputs", inputs], capsys), "tensors.npz", "sha256")
    one_line(exit_of(["--program", str(tmp_path / "none")], capsys), "none")


def test_unknown_target_lists_the_known(saved, capsys):
    _, folder, inputs = saved
    one_line(exit_of(["--program", folder, "--inputs", inputs, "--target", "spartan"], capsys),
             "spartan", "sim-4x4", "sim-8x8", "ecp5-85k")


def test_images_and_verilog_that_do_not_belong(saved, tmp_path, capsys):
    program, folder, _ = saved
    image = compile_program(linear_net(), get_target("sim-4x4"))
    image.save(tmp_path / "other")
    one_line(exit_of(["--program", folder, "--image", str(tmp_path / "other")], capsys),
             image.program_sha256, program.sha256)
    compile_program(program, get_target("sim-4x4")).save(tmp_path / "image")
    one_line(exit_of(["--program", folder, "--image", str(tmp_path / "image"), "--target",
                      "sim-8x8"], capsys), "for target sim-4x4, not sim-8x8")
    one_line(exit_of(["--program", folder, "--image", str(tmp_path / "none")], capsys),
             "none", "No such file")
    one_line(exit_of(["--program", folder, "--verilog", str(tmp_path / "none.v")], capsys),
             "none.v", "No such file")


def test_a_batch_that_has_no_effect_is_refused(saved, tmp_path, capsys):
    program, folder, inputs = saved
    argv = ["--program", folder, "--inputs", inputs, "--batch"]
    one_line(exit_of([*argv, "0"], capsys), "--batch must be at least 1, not 0")
    one_line(exit_of([*argv, "2", "--backend", "golden"], capsys),
             "--batch has no effect on the golden backend")
    compile_program(program, get_target("sim-4x4")).save(tmp_path / "image")
    one_line(exit_of([*argv, "2", "--image", str(tmp_path / "image")], capsys),
             "--batch has no effect on an image that is already compiled")
    with pytest.raises(LockstepError, match="has a batch of its own, of 4 images: --batch has no"):
        check_batch(dataclasses.replace(program, batch=4), 4)


def test_a_hang_of_the_hardware_is_a_finding(saved, monkeypatch, capsys):
    _, folder, inputs = saved

    def hang(program, x, options):
        raise sim.SimulationFailure("no progress in node conv0")
    monkeypatch.setattr(sim, "run_rtl", hang)
    status, out, _ = exit_of(["--program", folder, "--inputs", inputs], capsys)
    assert status == 1
    assert "rtl: failed: no progress in node conv0" in out


@pytest.mark.parametrize("option", ["--jobs", "--images"])
def test_numbers_below_one(saved, capsys, option):
    _, folder, inputs = saved
    one_line(exit_of(["--program", folder, "--inputs", inputs, option, "0"], capsys), option, "0")


def test_absent_device(saved, capsys):
    if torch.cuda.is_available():
        pytest.skip("a CUDA device is here")
    _, folder, inputs = saved
    one_line(exit_of(["--program", folder, "--inputs", inputs, "--backend", "torch", "--device",
                      "cuda"], capsys), "cuda is not available")


def test_failed_runs_leave_earlier_outputs(saved, tmp_path, capsys):
    _, folder, inputs = saved
    outputs = tmp_path / "y.npy"
    outputs.write_bytes(b"earlier")
    np.save(tmp_path / "bad.npy", np.zeros((2, 3), np.int8))
    status, *_ = exit_of(["--program", folder, "--inputs", str(tmp_path / "bad.npy"), "--backend",
                          "golden", "--outputs", str(outputs)], capsys)
    assert status == 2
    assert outputs.read_bytes() == b"earlier"


@pytest.mark.parametrize(("option", "words"), [
    ("--outputs", "is a folder, not a file"), ("--report", "is a folder, not a file"),
    ("--trace", "golden is not an earlier trace")])
def test_folders_of_others_are_never_replaced(saved, tmp_path, capsys, option, words):
    _, folder, _ = saved
    (tmp_path / "mine" / "golden").mkdir(parents=True)
    (tmp_path / "mine" / "golden" / "work.py").write_text("kept")
    one_line(exit_of(["--program", folder, "--backend", "golden", option, str(tmp_path / "mine")],
                     capsys), words)
    assert (tmp_path / "mine" / "golden" / "work.py").read_text() == "kept"


@pytest.mark.parametrize("option", ["--outputs", "--report"])
def test_devices_and_links_are_never_replaced(saved, tmp_path, capsys, option):
    """Such as /dev/null and /dev/stdout, by who may."""
    _, folder, _ = saved
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to(tmp_path / "kept")
    for path in (tmp_path / "pipe", tmp_path / "link"):
        one_line(exit_of(["--program", folder, "--backend", "golden", option, str(path)], capsys),
                 f"{path} is a device or a link, not a file to write")
    assert (tmp_path / "pipe").is_fifo() and (tmp_path / "link").is_symlink()


def test_outputs_have_the_name_that_was_asked_for(saved, tmp_path, capsys):
    _, folder, _ = saved
    exit_of(["--program", folder, "--backend", "golden", "--outputs", str(tmp_path / "y")], capsys)
    assert len(np.load(tmp_path / "y")) == DEFAULT_IMAGES


@pytest.mark.parametrize("argv", [[], ["--backend", "fpga"], ["--images", "few"], ["--bogus"]])
def test_a_malformed_command_line_is_one_line(capsys, argv):
    one_line(exit_of(argv, capsys), "flows/sim.py --help")


@pytest.mark.parametrize("flow", [deploy, formal, rtl, synth])
def test_every_flow_answers_an_unknown_option_in_one_line(capsys, flow):
    with pytest.raises(SystemExit) as stop:
        cli.run(flow.main, ["--bogus"])
    assert stop.value.code == 2
    assert capsys.readouterr().err.count("\n") == 1


def test_float_inputs_of_a_vector_network(tmp_path, capsys):
    program = linear_net()
    program.save(tmp_path / "program")
    x = np.random.default_rng(0).normal(0, 2, (3, 37)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    status, *_ = exit_of(["--program", str(tmp_path / "program"), "--backend", "onnx", "--inputs",
                          str(tmp_path / "x.npy"), "--outputs", str(tmp_path / "y.npy")], capsys)
    assert status == 0
    np.testing.assert_array_equal(np.load(tmp_path / "y.npy"),
                                  golden_run(program, x)[program.outputs[0]])


def test_what_the_target_cannot_run_is_found_before_anything_runs(tmp_path, capsys):
    norm_net().save(tmp_path / "program")
    status, _, err = exit_of(["--program", str(tmp_path / "program"), "--target", "sim-4x4"],
                             capsys)
    assert status == 2
    assert len(err.splitlines()) == 1
    assert "does not run on the accelerator" in err


def test_a_command_run_as_a_script_does_not_hide_the_package_sim():
    """`python flows/sim.py` has flows/ in front of all else in sys.path."""
    code = "import sys; sys.path.insert(0, 'flows'); import cli.command; import sim.runner"
    done = subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2],
                          capture_output=True, text=True)
    assert done.returncode == 0, done.stderr

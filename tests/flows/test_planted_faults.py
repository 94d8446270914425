# amaranth: UnusedElaboratable=no
"""The comparison with the real simulated hardware agrees, and finds each fault that is planted:
a flipped weight bit in the memory image, an off-by-one in the rescaler, a wrong zero point.
"""

import dataclasses
import json

import numpy as np
import pytest
import torch

from flows import sim
from golden.program.interpreter import run as golden_run
from hw.compiler import compile_program
from hw.isa import N_WORDS, decode
from hw.rtl.accelerator import Accelerator
from hw.rtl.lanes.rescaler import RescalerPipeline
from hw.rtl.verilog import to_verilog
from hw.targets import get_target
from tests.programs import random_codes, residual_net

torch.set_num_threads(1)
pytestmark = pytest.mark.slow
TARGET = get_target("sim-4x4")


@pytest.fixture
def command(tmp_path):
    """(program, inputs, function that runs flows/sim.py with more options: status, report)."""
    program = residual_net()
    x = random_codes(program, 3)
    program.save(tmp_path / "program")
    np.save(tmp_path / "x.npy", x)

    def run(*options):
        status = sim.main(["--program", str(tmp_path / "program"), "--inputs",
                           str(tmp_path / "x.npy"), "--target", TARGET.name, "--jobs", "1",
                           "--report", str(tmp_path / "report.json"), *map(str, options)])
        return status, json.loads((tmp_path / "report.json").read_text())
    return program, x, run


def assert_first_difference(report, program, x, node):
    """The first difference is rtl's, at this node, with golden's value as the expected one."""
    assert {difference["backend"] for difference in report["differences"]} == {"rtl"}
    first = report["differences"][0]
    assert first["node"] == node.name
    expected = golden_run(program, x)[node.outputs[0]][tuple(first["index"])]
    assert first["expected"] == expected != first["actual"]


def test_agreement_and_report(command):
    program, _, run = command
    status, report = run()
    assert status == 0
    assert report["differences"] == []
    assert [row["differences"] for row in report["comparison"]] == [0, 0, 0]
    assert report["target"] == TARGET.name
    assert report["configuration_id"] == TARGET.configuration_id
    nodes = [step["node"] for step in report["ops"]]  # in the order in which they run
    assert sorted(nodes) == sorted(node.name for node in program.nodes)
    for field in ("macs", "bytes_moved"):
        assert report[field] == sum(step[field] for step in report["ops"]) > 0
    assert report["utilisation"] == report["macs"] / (TARGET.n_macs * report["cycles"])
    assert 0 < report["array_utilisation"] <= 1 and 0 <= report["vector_utilisation"] <= 1
    on_array = report["macs"] - report["vector_macs"]
    assert report["array_utilisation"] == on_array / (TARGET.n_macs * report["cycles"])
    assert report["wall_seconds"] > 0
    assert report["cycles_per_second"] > 0


def test_a_flipped_weight_bit_in_the_image(command, tmp_path):
    program, x, run = command
    image = compile_program(program, TARGET)
    step = image.steps[0]
    assert step.node == program.nodes[0].name
    fields = decode(image.instructions.reshape(-1, N_WORDS)[step.first_instruction].tolist())
    blocks = list(image.blocks)
    number = next(k for k, block in enumerate(blocks) if block.bank == fields["b_bank"]
                  and block.base <= fields["b_base"] < block.base + len(block.words))
    words = blocks[number].words.copy()
    its = words[fields["b_base"] - blocks[number].base:]
    its[tuple(np.argwhere(its)[0])] ^= 1 << 6
    blocks[number] = dataclasses.replace(blocks[number], words=words)
    dataclasses.replace(image, blocks=tuple(blocks)).save(tmp_path / "image")
    status, report = run("--image", tmp_path / "image")
    assert status == 1
    assert_first_difference(report, program, x, program.nodes[0])


@pytest.mark.long
def test_an_off_by_one_in_the_rescaler(command, tmp_path, monkeypatch):
    program, x, run = command
    monkeypatch.setattr(RescalerPipeline, "first_half", lambda self, now: (now.one - 1)[:32])
    (tmp_path / "wrong.v").write_text(to_verilog(Accelerator(TARGET), "accelerator"))
    status, report = run("--verilog", tmp_path / "wrong.v")
    assert status == 1
    assert {difference["backend"] for difference in report["differences"]} == {"rtl"}
    first = report["differences"][0]
    assert first["actual"] == first["expected"] - 1


def test_a_wrong_zero_point(command, tmp_path, monkeypatch):
    program, x, run = command
    monkeypatch.setattr("hw.compiler.verify", lambda wrong: None)  # it would name the node
    node = program.nodes[3]
    rescale = node.op.rescale
    rescale = dataclasses.replace(rescale, zero_point=rescale.zero_point + 1)
    nodes = list(program.nodes)
    nodes[3] = dataclasses.replace(node, op=dataclasses.replace(node.op, rescale=rescale))
    image = compile_program(dataclasses.replace(program, nodes=tuple(nodes)), TARGET)
    dataclasses.replace(image, program_sha256=program.sha256).save(tmp_path / "image")
    status, report = run("--image", tmp_path / "image")
    assert status == 1
    assert_first_difference(report, program, x, node)

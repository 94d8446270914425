"""Whole programs on the simulated accelerator equal golden in every tensor."""

import re
from dataclasses import replace

import numpy as np
import pytest

from golden.errors import LockstepError
from golden.program import interpreter
from golden.program.compare import compare
from golden.program.verify import verify
from hw.compiler import compile_program
from hw.isa import N_WORDS, decode
from hw.rtl.accelerator import Accelerator
from hw.rtl.verilog import to_verilog
from hw.targets import get_target
from sim import rtl
from sim.design import accelerator_verilog
from sim.runner import SimulationError
from tests import programs
from tests.targets import AXI, ROTATING, SHAPES

pytestmark = pytest.mark.slow
TARGET = "sim-4x4"
# All but those with operators that the accelerator does not have.
RUNNABLE = [name for name in programs.small_programs() if name != "norm_net"]


def make(name):
    return programs.small_programs()[name]


def differences(program, n_images=2, **options):
    x = programs.random_codes(program, n_images)
    trace = rtl.run(program, x, **options)
    assert set(trace) == set(program.tensors)
    return compare({"golden": interpreter.run(program, x), "rtl": trace}, program)


@pytest.mark.parametrize("name", RUNNABLE)
def test_every_tensor_of_every_program_equals_golden(name):
    assert differences(make(name), 4, target=TARGET) == []


@pytest.mark.parametrize("name", RUNNABLE)
def test_running_through_gives_what_stopping_after_each_instruction_gives(name):
    program = make(name)
    x, output = programs.random_codes(program, 3), program.outputs[0]
    through = rtl.run(program, x, target=TARGET, trace=False)
    assert list(through) == [output]
    assert np.array_equal(through[output], interpreter.run(program, x)[output])


@pytest.mark.long
@pytest.mark.parametrize("name", RUNNABLE)
def test_every_program_on_a_shape_that_rotates(name):
    assert differences(make(name), target=ROTATING) == []


@pytest.mark.long
@pytest.mark.parametrize("name", SHAPES)
def test_any_shape_of_the_array_gives_the_same_bits(name):
    for program in map(make, RUNNABLE):
        assert differences(program, target=name) == [], program.name


def test_the_number_of_images_jobs_and_the_layout_do_not_matter():
    program = programs.linear_net()
    x = programs.random_codes(program, 5)
    report, done = [], []
    trace = rtl.run(program, x, target=TARGET, jobs=2, report=report, progress=done.append)
    assert compare({"golden": interpreter.run(program, x), "rtl": trace}, program) == []
    assert sum(done) == 5
    nothing = rtl.run(program, x[:0], target=TARGET)
    assert all(len(values) == 0 for values in nothing.values())


@pytest.mark.parametrize("batch", [3, 4])
def test_images_that_share_instructions_are_as_golden(batch):
    program, report = programs.pixel_net(), []
    image = compile_program(program, get_target(TARGET), batch)
    single = compile_program(program, get_target(TARGET))
    assert len(image.instructions) <= len(single.instructions)
    x = programs.random_codes(program, 7)   # the last run is not full
    trace = rtl.run(program, x, target=TARGET, image=image, report=report)
    assert compare({"golden": interpreter.run(program, x), "rtl": trace}, program) == []
    assert report[0].batch == batch and report[0].macs == batch * verify(program).macs


def test_the_first_images_alone_can_be_traced():
    program = programs.linear_net()
    x = programs.random_codes(program, 3)
    trace = rtl.run(program, x, target=TARGET, trace=1)
    golden = interpreter.run(program, x)
    for name, values in trace.items():
        n_images = 3 if name == program.outputs[0] else 1
        assert np.array_equal(values, golden[name][:n_images])


def test_the_report_adds_up():
    program, report = programs.residual_net(), []
    rtl.run(program, programs.random_codes(program, 2), target=TARGET, report=report)
    summary, = report
    assert summary.target == TARGET
    assert summary.images == 2
    assert summary.macs == sum(step.macs for step in summary.steps)
    # The compiler may run them in another order.
    assert {step.node for step in summary.steps} == {node.name for node in program.nodes}
    assert 0 < summary.utilisation < 1
    assert summary.unexplained == 0
    assert 0 < summary.counters["array_busy"] <= summary.cycles
    # Side by side the engines take less than one instruction after the other.
    assert summary.cycles < sum(step.cycles for step in summary.steps)
    for step in summary.steps:
        # A fully connected layer may be shared between both.
        assert step.op != "Conv2d" or step.counters["array_busy"]
        assert step.op not in ("Add", "GlobalAveragePool") or step.counters["vector_busy"]
    assert summary.cycles_per_second > 0


def test_an_altered_weight_is_reported_where_it_acts():
    program = programs.residual_net()
    image = compile_program(program, get_target(TARGET))
    fields = decode([int(word) for word in image.instructions[:N_WORDS]])
    blocks = []
    for block in image.blocks:
        words = block.words.copy()
        at = fields["b_base"] - block.base
        if block.bank == fields["b_bank"] and 0 <= at < len(words):
            words[at, 0] ^= 64
        blocks.append(replace(block, words=words))
    found = differences(program, target=TARGET, image=replace(image, blocks=tuple(blocks)))
    assert found[0].node == image.steps[0].node
    assert found[0].expected != found[0].actual


def test_an_error_of_the_hardware_is_raised():
    program = programs.linear_net()
    image = compile_program(program, get_target(TARGET))
    instructions = image.instructions.copy()
    instructions[0] |= 15
    with pytest.raises(SimulationError, match="stopped with error OPCODE"):
        rtl.run(program, programs.random_codes(program, 1), target=TARGET,
                image=replace(image, instructions=instructions))


def test_an_image_of_another_target_is_refused():
    program = programs.linear_net()
    image = compile_program(program, get_target("sim-8x8"))
    with pytest.raises(LockstepError, match="image is for target sim-8x8, not sim-4x4"):
        rtl.run(program, programs.random_codes(program, 1), target=TARGET, image=image)


@pytest.mark.long
def test_the_verilog_is_the_same_every_time_and_names_no_path():
    text = accelerator_verilog(AXI)
    assert text == to_verilog(Accelerator(AXI), "accelerator")
    assert not re.search(r"\.py\b|/home|/work|/tmp|\bsrc\b", text)


def test_no_unit_but_the_host_interface_has_the_reset_itself():
    text = accelerator_verilog(AXI)
    modules = re.findall(r"^module (\S+?) ?\((.*)$", text, re.MULTILINE)
    assert len(modules) > 30
    assert [name for name, ports in modules if re.search(r"\brst\b", ports)] == [
        "accelerator", "\\accelerator.host"]

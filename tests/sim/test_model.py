"""The instruction-set model as an executor: several inputs and outputs, state, batches."""

import pytest

from golden.program import interpreter
from golden.program.compare import compare
from golden.program.sources import renewed_state, run_steps
from hw.compiler import CannotRun, Image, compile_program
from hw.targets import get_target
from sim import model
from tests.golden import stateful

TARGETS = ["sim-4x4", "sim-8x8-axi", "ecp5-85k"]


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("batch", [1, 2])
def test_inputs_outputs_and_state_are_goldens(target, layout, batch):
    program = stateful.streaming_program(layout)
    image = compile_program(program, get_target(target), batch)
    assert image.inputs == ("x", "bias", "memory")
    assert image.outputs == ("limited", "both", "mixed")
    inputs = [stateful.streaming_inputs(layout, 3, seed) for seed in range(3)]

    def run(program, x, state=None):
        return model.run(program, x, state, target=target, image=image)

    steps = zip(run_steps(interpreter.run, program, inputs), run_steps(run, program, inputs))
    for golden, actual in steps:
        assert not compare({"golden": golden, "model": actual}, program)
        assert set(golden) == set(actual)
    assert (renewed_state(program, actual)["memory"] != program.state["memory"].initial).any()


def test_an_image_with_state_survives_saving(tmp_path):
    program = stateful.streaming_program()
    image = compile_program(program, get_target("sim-4x4"))
    image.save(tmp_path)
    again = Image.load(tmp_path)
    assert (again.inputs, again.outputs) == (image.inputs, image.outputs)
    assert again.steps == image.steps and again.placements == image.placements
    assert again.to_bytes() == image.to_bytes()


def test_operators_that_the_accelerator_lacks_are_named():
    with pytest.raises(CannotRun, match="Node 'weigh': operator Weigh does not run"):
        compile_program(stateful.step_program(), get_target("sim-4x4"))

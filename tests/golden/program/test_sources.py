"""Several inputs and outputs, dtypes and state: what a run starts from and leaves."""

from dataclasses import replace

import numpy as np
import pytest

from golden.errors import LockstepError
from golden.program import Program, State, interpreter
from golden.program.compare import compare
from golden.program.plain import beyond_plain, check_plain
from golden.program.sources import renewed_state, run_steps, source_codes
from golden.program.verify import verify
from sw import executor
from sw.formats.onnx import runtime
from tests.golden.samples import residual_program
from tests.golden.stateful import (
    literal_step,
    step_inputs,
    step_program,
    streaming_inputs,
    streaming_program,
)


def test_steps_pass_their_state_on():
    program = step_program()
    verify(program)
    assert program.sources == ("x", "target", "rate", "masters", "momenta")
    state = [program.state[name].initial.tolist() for name in ("masters", "momenta")]
    inputs = [step_inputs(seed) for seed in range(4)]
    for x, trace in zip(inputs, run_steps(interpreter.run, program, inputs), strict=True):
        y, sums, *state = literal_step(*state, x["x"], x["target"], 3)
        assert trace["y"].tolist() == y
        assert program.output_array(trace["sums"], "sums").tolist() == sums
        assert [trace[f"{name}_next"][0].tolist() for name in ("masters", "momenta")] == state
        assert [str(trace[name].dtype) for name in ("y", "masters_next", "momenta_next")] == [
            "int8", "int16", "int32"]
    assert state[0] != program.state["masters"].initial.tolist()
    # The Program itself is as it was: the first step again gives the first trace again.
    again = interpreter.run(program, inputs[0])
    assert again["masters"][0].tolist() == program.state["masters"].initial.tolist()


def test_every_software_executor_runs_the_same_steps():
    program, inputs = step_program(), [step_inputs(seed) for seed in range(3)]
    runs = {"golden": interpreter.run, "torch": executor.run, "onnx": runtime.run}
    for traces in zip(*(run_steps(run, program, inputs) for run in runs.values()), strict=True):
        assert compare(dict(zip(runs, traces)), program) == []
        for trace in traces:
            assert {*trace} == {*program.tensors}
            for name, tensor in program.tensors.items():
                assert trace[name].dtype == tensor.dtype


def test_a_run_may_start_from_any_state():
    program = step_program()
    first, second = step_inputs(0), step_inputs(1)
    *_, last = run_steps(interpreter.run, program, [first, second])
    state = renewed_state(program, interpreter.run(program, first))
    assert {*state} == {"masters", "momenta"}
    resumed = interpreter.run(program, second, state)
    for name, codes in last.items():
        np.testing.assert_array_equal(resumed[name], codes)
    assert (interpreter.run(program, second)["y"] != resumed["y"]).any()


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_every_software_executor_renews_state(layout):
    program = streaming_program(layout)
    verify(program)
    steps = [streaming_inputs(layout, seed=seed) for seed in range(3)]
    runs = {name: list(run_steps(run, program, steps)) for name, run in
            (("golden", interpreter.run), ("torch", executor.run), ("onnx", runtime.run))}
    for traces in zip(*runs.values(), strict=True):
        assert compare(dict(zip(runs, traces)), program) == []
        for trace in traces:
            assert {*trace} == {*program.tensors}
    golden = runs["golden"]
    np.testing.assert_array_equal(golden[1]["memory"], golden[0]["mixed"])
    assert (golden[1]["memory"] != golden[0]["memory"]).any()
    assert golden[0]["x"].shape == (2, 2, 3, 4)
    shape = (2, 2, 3, 4) if layout == "NCHW" else (2, 3, 4, 2)
    assert program.output_array(golden[0]["limited"], "limited").shape == shape


def test_a_difference_in_the_state_is_named():
    program = streaming_program()
    golden = interpreter.run(program, streaming_inputs())
    wrong = golden | {"memory": golden["memory"] + np.int8(1)}
    found, = compare({"golden": golden, "other": wrong}, program)
    assert (found.node, found.tensor, found.n_different) == ("state", "memory", 48)


def test_one_input_and_output_may_be_left_unnamed():
    program = residual_program()
    x = np.zeros((2, 3, 8, 8), np.int8)
    np.testing.assert_array_equal(program.quantize_input({"x": x}), program.quantize_input(x))
    for use in (lambda p: p.input, lambda p: p.input_shape, lambda p: p.quantize_input(x),
                lambda p: p.quantize_inputs(x)):
        with pytest.raises(LockstepError, match=r"step must have 1 of inputs here, not 3 \(x, tar"):
            use(step_program())
    with pytest.raises(LockstepError, match=r"must have 1 of outputs here, not 2 \(y, sums\)"):
        step_program().output_array(x)


@pytest.mark.parametrize(("change", "message"), [
    ({"rate": None}, "Inputs of program step must be x, target, rate, not x, target$"),
    ({"extra": 1}, "must be x, target, rate, not x, target, rate, extra"),
    ({"rate": np.array([3])}, "Input rate of program step must be int32, not int64"),
    ({"rate": np.array([3.0])}, "Input rate of program step must be int32, not float64"),
    ({"rate": np.int32(3)}, r"Input rate of program step must have shape \(1\), not \(\)"),
    ({"rate": np.ones((3, 1), np.int32)}, r"must have shape \(1\), not \(3, 1\)"),
    ({"x": np.zeros((3, 5), np.int16)}, "Input x of program step must be float or int8, not int16"),
    ({"x": np.zeros((3, 4), np.int8)}, r"must have shape \(N, 5\) in NCHW, not \(3, 4\)"),
    ({"x": np.zeros((2, 5), np.int8)}, r"must have one batch, not 2 \(x\), 3 \(target\)"),
    ({"x": np.zeros((2, 5), np.int8), "target": np.zeros((2, 5), np.int8)},
     "Program step runs batches of 3, not 2"),
])
def test_inputs_that_do_not_fit_are_refused(change, message):
    inputs = {name: x for name, x in (step_inputs() | change).items() if x is not None}
    for run in (interpreter.run, executor.run, runtime.run):
        with pytest.raises(LockstepError, match=message):
            run(step_program(), inputs)


def test_a_state_that_does_not_fit_is_refused():
    program = step_program()
    state = {name: codes for name, codes in source_codes(program, step_inputs()).items()
             if name in program.state}
    for change, message in (
            ({"masters": None}, "State of program step must be masters, momenta, not momenta"),
            ({"masters": state["masters"].astype(np.int32)},
             r"must be int16 of shape \(1, 5\), not int32 of shape \(1, 5\)"),
            ({"momenta": state["momenta"][0]}, r"of shape \(1, 5\), not int32 of shape \(5,")):
        given = {name: x for name, x in (state | change).items() if x is not None}
        with pytest.raises(LockstepError, match=message):
            interpreter.run(program, step_inputs(), given)
    with pytest.raises(LockstepError, match="State of program residual must be empty, not x"):
        interpreter.run(residual_program(), np.zeros((1, 3, 8, 8), np.int8), {"x": 0})


def test_a_state_of_images_has_one_batch_per_run():
    program = streaming_program()
    two = interpreter.run(program, streaming_inputs(n_images=2))
    np.testing.assert_array_equal(two["memory"][0], two["memory"][1])
    with pytest.raises(LockstepError, match=r"memory .* must be int8 of shape \(3, 2, 3, 4\), not"):
        interpreter.run(program, streaming_inputs(n_images=3), renewed_state(program, two))


def test_what_is_beyond_a_plain_program_is_named():
    assert beyond_plain(residual_program()) is None
    check_plain(residual_program(), "A stage")
    plain = residual_program()
    fields = {"name": "p", "nodes": plain.nodes, "tensors": plain.tensors, "inputs": ("x",),
              "outputs": ("y",)}
    for change, message in (
            ({"outputs": ("y", "f")}, r"2 outputs \(y, f\)"), ({"batch": 4}, r"a batch of its own"),
            ({"state": {"n": State(renewed_by="a", initial=np.zeros((6, 8, 8), np.int8))}},
             r"state \(n\)")):
        with pytest.raises(LockstepError, match=f"A stage does not run .* p: it has {message}"):
            check_plain(Program(**fields | change), "A stage")
    assert beyond_plain(step_program()) == "3 inputs (x, target, rate)"
    wide = step_program(inputs=("x",), outputs=("y",), state={}, batch=None)
    assert beyond_plain(wide) == "int32 codes (tensor rate)"
    shared = {name: replace(tensor, batched=False) for name, tensor in plain.tensors.items()}
    assert beyond_plain(replace(plain, tensors=shared)) == "tensors without a batch (tensor x)"

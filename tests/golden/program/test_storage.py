"""Versions of stored Programs: what version 1 can say stays as it was, version 2 says the rest."""

import json

import numpy as np
import pytest

from golden.errors import LockstepError
from golden.program import Program, State, encoding, interpreter, storage
from golden.program.sources import run_steps
from golden.program.verify import verify
from tests.golden.samples import residual_program
from tests.golden.stateful import (
    OPERATORS,
    step_inputs,
    step_program,
    streaming_inputs,
    streaming_program,
)

# As version 1 wrote it, before there was another.
RESIDUAL_SHA256 = "ef4a89739f70aa7c4721f93fe137b2ad487c9369bf7ff295090a063005172f35"


@pytest.fixture(autouse=True)
def operators(monkeypatch):
    """Files may hold the operators of these tests."""
    for kind in OPERATORS:
        monkeypatch.setitem(encoding.CLASSES, kind.__name__, kind)


def test_plain_programs_are_still_version_1(tmp_path):
    program = residual_program()
    assert storage.version(program) == 1
    assert program.sha256 == RESIDUAL_SHA256
    document = json.loads((program.save(tmp_path / "p") / "program.json").read_text())
    assert document["version"] == 1
    assert {*document["program"]} == {"name", "input_layout", "inputs", "outputs", "tensors",
                                      "nodes", "metadata"}
    assert {*document["program"]["tensors"]["x"]} == {"shape", "scale", "zero_point", "dtype"}


@pytest.mark.parametrize(("make", "inputs"), [(step_program, step_inputs),
                                              (streaming_program, streaming_inputs)])
def test_the_others_round_trip_as_version_2(make, inputs, tmp_path):
    program = make()
    program.save(tmp_path / "p")
    make().save(tmp_path / "q")
    for name in ("program.json", "tensors.npz"):
        assert (tmp_path / "p" / name).read_bytes() == (tmp_path / "q" / name).read_bytes()
    assert json.loads((tmp_path / "p" / "program.json").read_text())["version"] == 2
    loaded = Program.load(tmp_path / "p")
    verify(loaded)
    assert loaded.sha256 == program.sha256
    assert (loaded.inputs, loaded.outputs, loaded.batch) == (program.inputs, program.outputs,
                                                             program.batch)
    assert loaded.tensors == program.tensors
    assert list(loaded.state) == list(program.state)
    for name, state in program.state.items():
        assert loaded.state[name].renewed_by == state.renewed_by
        assert loaded.state[name].initial.dtype == state.initial.dtype
    steps = [inputs(seed=seed) for seed in range(3)]
    for first, second in zip(*(run_steps(interpreter.run, p, steps) for p in (program, loaded)),
                             strict=True):
        for name, codes in first.items():
            np.testing.assert_array_equal(second[name], codes)


def test_state_is_part_of_the_hash():
    program = step_program()
    hashes = {program.sha256, step_program(batch=None).sha256}
    masters = np.array(program.state["masters"].initial)
    masters[2] += 1
    for changed in (State(renewed_by="masters_next", initial=masters),
                    State(renewed_by="masters", initial=program.state["masters"].initial)):
        hashes.add(step_program(state=program.state | {"masters": changed}).sha256)
    assert len(hashes) == 4
    turned = dict(reversed(program.state.items()))
    assert step_program(state=turned).sha256 == program.sha256
    assert list(step_program(state=turned).state) == list(program.state)


def rewritten(directory, change):
    """The stored Program with its JSON changed and all hashes right again."""
    path = directory / "program.json"
    document = json.loads(path.read_text())
    change(document)
    document["sha256"] = encoding.digest(encoding.canonical(document["program"]))
    path.write_text(json.dumps(document))
    return directory


@pytest.mark.parametrize(("change", "message"), [
    (lambda document: document.update(version=1), "holds a program of version 2, not 1"),
    (lambda document: document.update(version=3), "must have format version 1 or 2, not 3"),
    (lambda document: document.update(version=True), "must have format version 1 or 2, not True"),
    (lambda document: document.update(version="2"), "must have format version 1 or 2, not '2'"),
    (lambda document: document["program"].update(state=5), "is invalid"),
    (lambda document: document["program"].update(batch=0), "Batch must be in 1"),
    (lambda document: document["program"]["state"]["masters"].pop("initial"), "lacks 'initial'"),
    (lambda document: document["program"]["state"]["masters"].update(renewed_by="no"),
     "Tensor no must be in tensors"),
    (lambda document: document["program"]["state"].update(
        x=document["program"]["state"]["masters"]), "State x must not be an input as well"),
    (lambda document: document["program"]["state"]["masters"]["initial"].update(sha256="0"),
     "array a00000 has sha256"),
    (lambda document: document["program"]["tensors"]["x"].update(batched=1),
     "Batched must be a bool"),
    (lambda document: document["program"]["tensors"]["sums"].update(dtype="int64"),
     "Dtype must be int8, int16 or int32, not 'int64'"),
    (lambda document: document["program"]["tensors"]["sums"].update(zero_point=1),
     r"Zero point of int32 must be in 0..0, not 1"),
])
def test_files_with_other_contents_are_refused(change, message, tmp_path):
    directory = rewritten(step_program().save(tmp_path / "p"), change)
    with pytest.raises(LockstepError, match=f"program.json .*{message}"):
        Program.load(directory)


def test_a_plain_program_does_not_load_as_version_2(tmp_path):
    directory = rewritten(residual_program().save(tmp_path / "p"),
                          lambda document: document.update(version=2))
    with pytest.raises(LockstepError, match="holds a program of version 1, not 2"):
        Program.load(directory)

"""Trace comparison: a planted wrong element is found where it first shows."""

import numpy as np
import pytest

from golden.errors import LockstepError
from golden.program import interpreter
from golden.program.compare import compare
from tests.golden.samples import residual_program


@pytest.fixture(scope="module")
def case():
    program = residual_program()
    return program, interpreter.run(program, np.random.default_rng(1).normal(size=(2, 3, 8, 8)))


def copied(trace):
    return {name: value.copy() for name, value in trace.items()}


def test_equal_traces(case):
    program, trace = case
    assert compare({"golden": trace, "rtl": copied(trace)}, program) == []
    kept = {"y": trace["y"].astype(np.int32)}           # only the output, in a wider type
    assert compare({"golden": trace, "rtl": kept}, program) == []


def test_first_difference(case):
    program, trace = case
    torch, rtl = copied(trace), copied(trace)
    rtl["y"][1, 2] ^= 1
    rtl["s"][1, 4, 3, 2] ^= 1
    rtl["s"][1, 5, 0, 0] ^= 1
    torch["g"][0, 3] ^= 2
    found = compare({"torch": torch, "golden": trace, "rtl": rtl}, program)
    assert [(d.backend, d.node, d.tensor) for d in found] == [
        ("rtl", "add", "s"), ("torch", "mean", "g"), ("rtl", "logits", "y")]
    first = found[0]
    assert (first.op, first.index, first.n_different) == ("Add", (1, 4, 3, 2), 2)
    assert first.expected == trace["s"][1, 4, 3, 2]
    assert first.actual == rtl["s"][1, 4, 3, 2]
    assert str(first).startswith("rtl: add (Add) gives tensor s with ")


def test_what_cannot_be_compared(case):
    program, trace = case
    for other, message in (
            ({}, "Backend rtl gives no output y"),
            ({"y": trace["y"][:1]}, r"Tensor y of backend rtl must have shape \(2, 5\), not \(1,"),
            ({"y": trace["y"].astype(float)}, "must hold integers, not float64")):
        with pytest.raises(LockstepError, match=message):
            compare({"golden": trace, "rtl": other}, program)
    with pytest.raises(LockstepError, match="Traces must hold 'golden'"):
        compare({"rtl": trace}, program)

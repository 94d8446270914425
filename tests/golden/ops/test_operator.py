"""What every record says is what its operator does: rows, ranges, sums, tables, places."""

from dataclasses import dataclass

import numpy as np
import pytest

from golden import ops
from golden.errors import LockstepError
from golden.ops.operator import Elementwise
from golden.program import Program, encoding, interpreter
from golden.program.verify import verify
from tests.golden import literal_operators
from tests.golden.ops import examples

INT8 = (-128, 127)
EVERY = pytest.mark.parametrize(("op", "shapes"), examples.EXAMPLES, ids=examples.names())


def test_every_operator_has_an_example():
    assert {type(op) for op, _ in examples.EXAMPLES} == {*ops.OPERATORS}
    assert {*literal_operators.BY_CLASS} == {operator.__name__ for operator in ops.OPERATORS}
    for operator in ops.OPERATORS:
        assert issubclass(operator, ops.Operator)
        assert encoding.CLASSES[operator.__name__] is operator


@EVERY
def test_every_operator_is_the_literal_one(op, shapes):
    x = examples.inputs(shapes, n_images=2)
    np.testing.assert_array_equal(op(*x), literal_operators.run(op, *x))


def check_rows(op, shapes):
    """Every two rows of the output come from the rows that the record names, and no others."""
    x = examples.inputs(shapes)
    y = op(*x)
    if op.input_rows(0, 1, *shapes) is None:
        return
    for n_rows in (1, 2, 3):
        for first in range(y.shape[2] - n_rows + 1):
            rows = op.input_rows(first, first + n_rows, *shapes)
            assert len(rows) == len(shapes)
            parts = [tensor[:, :, low:high] for tensor, (low, high) in zip(x, rows)]
            part = op.for_rows(first, first + n_rows, *shapes)(*parts)
            assert (part == y[:, :, first:first + n_rows]).all()


@EVERY
def test_rows(op, shapes):
    if len(shapes[0]) == 3:
        check_rows(op, shapes)


def check_ranges(op, shapes):
    """Outputs and sums stay within what is proven of them."""
    for low, high in (INT8, (-128, -100), (3, 3), (-9, 90)):
        ranges = ((low, high),) * len(shapes)
        x = examples.inputs(shapes, low=low, high=high)
        least, most = op.output_range(ranges)
        y = op(*x)
        assert least <= y.min() and y.max() <= most
        bounds, _ = op.accumulators(ranges)
        if bounds is not None:
            sums = op.accumulate(*x)
            assert bounds[0].min() <= sums.min() and sums.max() <= bounds[1].max()


@EVERY
def test_ranges(op, shapes):
    check_ranges(op, shapes)


@EVERY
def test_tables_and_places(op, shapes):
    x = examples.inputs(shapes)
    y = op(*x)
    assert y.dtype == np.int8
    assert y.shape[1:] == op.output_shape(*shapes)
    assert op.n_inputs in (None, len(shapes))
    if op.table is not None:
        assert (op.table[x[0].astype(int) + 128] == y).all()
    if op.in_place:
        assert (np.sort(y, axis=None) == np.sort(x[0], axis=None)).all()
    if op.needs_image:
        with pytest.raises(ValueError, match=r"must get one \(C, H, W\) input"):
            op.output_shape((int(np.prod(shapes[0])),))
    assert isinstance(op.macs(*shapes), int)


@EVERY
def test_proven_and_stored(op, shapes, tmp_path):
    program = examples.program(op, shapes)
    report = verify(program)["node"]
    assert report.macs == op.macs(*shapes)
    loaded = Program.load(program.save(tmp_path / "program"))
    assert loaded.sha256 == program.sha256
    x = dict(zip(program.inputs, examples.inputs(shapes)))
    assert (interpreter.run(loaded, x)["y"] == op(*x.values())).all()


@EVERY
def test_zero_points_are_proven(op, shapes):
    if op.reads_zero_points or op.same_quantization or op.writes_zero_point is not None:
        program = examples.program(op, shapes)
        name = program.inputs[-1] if op.reads_zero_points else "y"
        tensor = program.tensors[name]
        object.__setattr__(tensor.quantization, "zero_point", 99)
        with pytest.raises(LockstepError, match="zero point"):
            verify(program)


def test_a_class_without_rows_shape_or_meaning_cannot_be_made():
    class Half(ops.Operator):
        pass

    with pytest.raises(TypeError, match="compute.*input_rows.*output_shape"):
        Half()


@dataclass(frozen=True, kw_only=True, eq=False)
class Shifted(ops.MaxPool):
    """Planted fault: a row too few."""

    def input_rows(self, first, end, *shapes):
        (low, high), = super().input_rows(first, end, *shapes)
        return ((low, max(low + 1, high - 1)),)


@dataclass(frozen=True, kw_only=True, eq=False)
class Narrow(Elementwise):
    """Planted fault: the range of its inputs is not that of its sum."""

    n_inputs = 2

    def compute(self, p, first, second):
        return p.clip(p.codes((p.integers(first) + p.integers(second)) * 2), -128, 127)


@dataclass(frozen=True, kw_only=True, eq=False)
class Uncut(Elementwise):
    """Planted fault: rows that are not computed from themselves."""

    def compute(self, p, x):
        return x[:, :, ::-1]


@pytest.mark.parametrize(("check", "op", "shapes"), [
    (check_rows, Shifted(kernel=(3, 3), stride=(1, 1)), [examples.IMAGE]),
    (check_rows, Uncut(), [examples.IMAGE]),
    (check_ranges, Narrow(), [examples.IMAGE, examples.IMAGE])])
def test_planted_faults_are_found(check, op, shapes):
    with pytest.raises((AssertionError, ValueError)):
        check(op, shapes)

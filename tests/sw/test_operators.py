"""Every operator in every executor, and one that is a class of this file alone."""

from dataclasses import dataclass

import numpy as np
import pytest
import torch

from golden import ops
from golden.errors import LockstepError
from golden.ops.operator import INT8, Elementwise
from golden.ops.primitives import NUMPY, Numpy, Primitives
from golden.program import Program, encoding
from golden.program.interpreter import run as golden_run
from golden.program.verify import verify
from sw import executor
from sw.formats.onnx import runtime
from sw.formats.onnx.exporter.integer import export_qdq
from sw.formats.onnx.exporter.symbolic import Integers
from tests.golden.ops import examples

EVERY = pytest.mark.parametrize(("op", "shapes"), examples.EXAMPLES, ids=examples.names())


def check_everywhere(op, shapes):
    """All executors give golden's codes."""
    program = examples.program(op, shapes)
    x = dict(zip(program.inputs, examples.inputs(shapes)))
    expected = golden_run(program, x)
    for backend in (executor.run, runtime.run):
        actual = backend(program, x)
        for name, tensor in expected.items():
            assert actual[name].dtype == tensor.dtype
            np.testing.assert_array_equal(actual[name], tensor, err_msg=name)


@EVERY
def test_executors_agree(op, shapes):
    check_everywhere(op, shapes)


@EVERY
def test_real_forms_come_near(op, shapes):
    program = examples.program(op, shapes)
    x = examples.inputs(shapes)
    real = {f"{name}_real": (0.03 * (codes.astype(np.float64) - program.tensors[
        name].quantization.zero_point)).astype(np.float32)
        for name, codes in zip(program.inputs, x)}
    y, = runtime.session(export_qdq(program), optimize=False).run(None, real)
    quantization = program.tensors["y"].quantization
    codes = np.round(y / quantization.scale) + quantization.zero_point
    assert abs(codes - op(*x)).max() <= 1


WINDOW = dict(stride=(2, 1), padding=(1, 0, 0, 1))
SHAPES = {"x": (3, 4, 9, 7), "weights": (1, 6, 4, 3, 3), "gradient": (3, 6, 4, 6)}
TRAINING = [
    (ops.ConvolutionSums(input_zero_point=5, **WINDOW), ("x", "weights"), "int8"),
    (ops.InputGradient(size=(9, 7), **WINDOW), ("gradient", "weights"), "int8"),
    (ops.InputGradient(size=(9, 7), rescale=ops.Rescale.from_factors(1e-3, zero_point=4),
                       **WINDOW), ("gradient", "weights"), "int8"),
    (ops.WeightGradient(kernel=(3, 3), input_zero_point=5, **WINDOW), ("x", "gradient"), "int8"),
    (ops.WeightGradient(kernel=(3, 3), input_zero_point=5, n_digits=2,
                        taps=(0, 9), **WINDOW), ("x", "gradient"), "int16")]


@pytest.mark.parametrize(("op", "names", "dtype"), TRAINING)
def test_training_operators_on_torch(op, names, dtype):
    assert {type(op) for op, *_ in TRAINING} == {*ops.TRAINING_OPERATORS}
    rng = np.random.default_rng(0)
    inputs = [rng.integers(-128, 128, SHAPES[name]).astype(np.int8) for name in names]
    if dtype == "int16":
        inputs[1] = rng.integers(-32000, 32000, SHAPES["gradient"]).astype(np.int16)
    expected = op(*inputs)
    actual = executor.execute(op, *map(torch.from_numpy, inputs))
    if not isinstance(expected, tuple):
        expected, actual = (expected,), (actual,)
    for one, other in zip(expected, actual, strict=True):
        assert str(other.dtype) == f"torch.{one.dtype}"
        np.testing.assert_array_equal(other.numpy(), one)


def test_every_primitive_is_implemented_or_refused_by_name():
    whole = {"part", "all_sum", "all_max"}      # of a batch that is in one piece, as by default
    primitives = {name for name in vars(Primitives) if not name.startswith("_")} - whole
    assert primitives == {name for name in vars(Numpy) if not name.startswith("_")}
    assert primitives == {name for name in vars(executor.Torch) if not name.startswith("_")}
    missing = {name for name in primitives if getattr(Integers, name) is getattr(Primitives, name)}
    assert missing == {"batch", "max", "min", "split", "host", "flip", "kernel_sums", "place",
                       "counter_bits"}


@dataclass(frozen=True, kw_only=True, eq=False)
class SquaredDifference(Elementwise):
    """y = min((q_1 - q_2)**2 >> shift, 127): no other file knows of it."""

    n_inputs = 2
    shift: int = 4

    def output_range(self, input_ranges):
        return 0, 127

    def compute(self, p, first, second):
        difference = p.integers(first) - p.integers(second)
        return p.codes(((difference * difference) >> self.shift).clip(0, 127))


def test_an_operator_of_one_class_runs_everywhere(tmp_path, monkeypatch):
    op, shapes = SquaredDifference(shift=3), [examples.IMAGE] * 2
    check_everywhere(op, shapes)
    program = examples.program(op, shapes)
    assert verify(program)["node"].output_range == (0, 127)
    with pytest.raises(LockstepError, match="Node node: SquaredDifference has no QDQ form"):
        export_qdq(program)
    program.save(tmp_path / "program")
    with pytest.raises(LockstepError, match="SquaredDifference"):
        Program.load(tmp_path / "program")
    # What its line in golden/ops/__init__.py does.
    monkeypatch.setitem(encoding.CLASSES, "SquaredDifference", SquaredDifference)
    loaded = Program.load(tmp_path / "program")
    assert loaded.sha256 == program.sha256
    x = dict(zip(program.inputs, examples.inputs(shapes)))
    assert (golden_run(loaded, x)["y"] == golden_run(program, x)["y"]).all()
    assert op.input_rows(1, 3, *shapes) == ((1, 3), (1, 3))


class Sorted(Elementwise):
    """Needs what no executor has."""

    def compute(self, p, x):
        return p._refuse("sort")


class Range(Elementwise):
    """Needs what ONNX does not have."""

    def compute(self, p, x):
        return p.clip(x, int(p.host(x).min()), INT8[1])


def test_what_a_stage_lacks_is_refused_by_name():
    x = examples.inputs([(4,)])
    with pytest.raises(LockstepError, match="The torch executor has no Sorted: Torch has no sort"):
        executor.execute(Sorted(), *x)
    program = examples.program(Range(), [(4,)])
    golden_run(program, x[0])
    executor.run(program, x[0])
    with pytest.raises(LockstepError, match="Node node: Range has no ONNX form"):
        runtime.run(program, x[0])


@pytest.mark.parametrize(("primitive", "wrong"), [
    ("lookup", lambda self, x, table: NUMPY.lookup(x, np.roll(table, 1))),
    ("window_max", lambda self, x, *window: NUMPY.window_max(x, *window[:2], (0, 0, 0, 0)))])
def test_a_wrong_primitive_is_found(monkeypatch, primitive, wrong):
    """Planted faults in golden itself: the others do not follow."""
    op, shapes = {"lookup": (ops.Lookup(table=np.arange(-128, 128)), [(3, 4, 4)]),
                  "window_max": (ops.MaxPool(kernel=(3, 3), stride=(1, 1), padding=(0, 1, 0, 1)),
                                 [(3, 4, 4)])}[primitive]
    check_everywhere(op, shapes)
    monkeypatch.setattr(executor.Torch, primitive, lambda self, x, *rest: torch.from_numpy(
        np.array(wrong(self, x.numpy(), *rest))))
    with pytest.raises((AssertionError, ValueError)):
        check_everywhere(op, shapes)

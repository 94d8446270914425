"""`golden.arith` recorded in ONNX operators gives the same integers in ONNX Runtime."""

import numpy as np
import pytest

from golden import arith
from golden.arith import Rounding
from golden.errors import LockstepError
from sw.formats.onnx.exporter.builder import GraphBuilder, TracedValue, along_channels
from sw.formats.onnx.runtime import session

INT32 = arith.INT32_MIN, arith.INT32_MAX
SHIFTS = np.arange(63)
# Every shift with each of these multipliers.
MULTIPLIERS = [0, 1, 3, 1 << 30, (1 << 30) + 1, 1_518_500_250, arith.MULTIPLIER_MAX]


def corner_accumulators(rng):
    """int64 (N, 1): extremes, small values, powers of two and their neighbours, random ones."""
    powers = [sign * ((1 << n) + off) for n in range(31) for sign in (-1, 1) for off in (-1, 0, 1)]
    values = [*INT32, INT32[0] + 1, INT32[1] - 1, *range(-20, 21), *powers,
              *rng.integers(*INT32, 200)]
    return np.array(values, dtype=np.int64)[:, None]


def run_graph(build, x, low, high, optimize=True):
    """What ONNX Runtime gives for `build(value)` on int64 x (N, C)."""
    graph = GraphBuilder("probe")
    graph.declare_input("x", "int64", x.shape[1:])
    result = build(TracedValue(graph, "x", low, high))
    graph.declare_output(result.name, "int64", (max(x.shape[1], 1),))
    runner = session(graph.model("", {}), optimize=optimize)
    actual, = runner.run(None, {"x": x})
    assert actual.min() >= result.low
    assert actual.max() <= result.high
    return actual


@pytest.mark.parametrize("optimize", [True, False])
@pytest.mark.parametrize("rounding", list(Rounding))
def test_requantize(rounding, optimize):
    rng = np.random.default_rng(3)
    multiplier = np.repeat(MULTIPLIERS, len(SHIFTS))
    shift = np.tile(SHIFTS, len(MULTIPLIERS))
    acc = np.repeat(corner_accumulators(rng), len(shift), axis=1)

    def both(value):
        return arith.requantize(value, along_channels(multiplier, 2), along_channels(shift, 2), 3,
                                *INT32, rounding)
    np.testing.assert_array_equal(run_graph(both, acc, *INT32, optimize), both(acc))


@pytest.mark.parametrize("rounding", list(Rounding))
@pytest.mark.parametrize(("multiplier", "shift"), [(1 << 30, 31), (77, 0), (1 << 30, 32),
                                                   (arith.MULTIPLIER_MAX, 62)])
def test_requantize_with_scalars(multiplier, shift, rounding):
    acc = corner_accumulators(np.random.default_rng(4))

    def both(value):
        return arith.requantize(value, multiplier, shift, -5, -128, 127, rounding)
    np.testing.assert_array_equal(run_graph(both, acc, *INT32), both(acc))


def test_a_wrong_rounding_would_be_seen():
    acc = corner_accumulators(np.random.default_rng(5))
    half_up = run_graph(lambda v: arith.requantize(v, 1 << 30, 35, 0, *INT32), acc, *INT32)
    gemmlowp = arith.requantize(acc, 1 << 30, 35, 0, *INT32, Rounding.GEMMLOWP)
    assert (half_up != gemmlowp).any()


def test_clips_that_cannot_act_are_left_out():
    graph = GraphBuilder("probe")
    value = TracedValue(graph, "x", -5, 5)
    assert value.clip(-5, 9) is value
    assert value + 0 is value
    assert value * 1 is value
    assert value >> 0 is value
    assert (value.clip(-2, 9).low, value.clip(-2, 9).high) == (-2, 5)


def test_values_beyond_int64_are_refused():
    value = TracedValue(GraphBuilder("layer7"), "x", *INT32)
    with pytest.raises(LockstepError, match="layer7: values .* do not fit int64"):
        (value << 31) * 4


def test_store_refuses_values_beyond_int8():
    with pytest.raises(LockstepError, match="probe: values -129..0 do not fit int8"):
        TracedValue(GraphBuilder("probe"), "x", -129, 0).store()

"""The update of the integer training step against Python integers and float64 SGD."""

import math

import numpy as np
import pytest

from golden import arith
from golden.ops.step import RunningStatistics, VectorUpdate, WeightCodes, WeightUpdate
from golden.ops.step.update import rate_code
from tests.golden.ops.step.common import (
    SEED,
    STEP,
    channels,
    limit,
    literal_lanes,
    literal_random,
    one,
    run,
)

INT32 = -(1 << 31), (1 << 31) - 1
NINE_TENTHS = 1932735283


def operands(shape, seed=0, scale=1 << 22):
    rng = np.random.default_rng(seed)
    m = rng.integers(-30000, 30001, (1, *shape)).astype(np.int16)
    v = rng.integers(-scale, scale, (1, *shape)).astype(np.int32)
    gradient = rng.integers(-scale, scale, (1, *shape)).astype(np.int32)
    m.flat[:3], v.flat[:4] = (32767, -32768, 0), (*INT32, 0, -1)
    gradient.flat[1:5] = *INT32, 0, -1
    return m, v, gradient


@pytest.mark.parametrize("shape", [(4, 3, 3, 2), (5, 6)])
@pytest.mark.parametrize(("e_w", "grow", "e_ga"), [(-6, 0, -10), (-6, 1, -3), (63, 1, 40),
                                                   (-64, 0, -128), (0, 0, 5)])
def test_weights_are_the_literal_ones(shape, e_w, grow, e_ga):
    m, v, gradient = operands(shape)
    (rate_m, rate_s), (decay_m, decay_s) = rate_code(0.1 / 64), rate_code(1e-3)
    scalars = [one(x) for x in (e_ga, rate_m, rate_s, decay_m, decay_s)]
    found = run(WeightUpdate(tensor_id=13), m, v, gradient, one(e_w, "int8"), one(grow, "int8"),
                *scalars, SEED, STEP)
    new = min(e_w + grow, 63)
    grow = new - e_w
    words = (0, *range(3, m.ndim), 2, 1)
    noise = [(a << 8) + b for a, b in zip(literal_random(13, m.size), literal_random(14, m.size))]
    expected = []
    for a, b, d, r in zip(*(x.transpose(words).ravel().tolist() for x in (m, v, gradient)), noise):
        a, b = limit(a, -32639, 32639) + grow >> grow, b + grow >> grow
        b = limit(literal_lanes(b, NINE_TENTHS, 31)
                  + literal_lanes(d, rate_m, rate_s - (e_ga + 8 - e_w - new + 8 + 16))
                  + literal_lanes(a, decay_m, decay_s - 16), *INT32)
        expected.append((limit(a - ((b + r) >> 16), -32639, 32639), b))
    for x, column in zip(found, zip(*expected)):
        assert x.transpose(words).ravel().tolist() == list(column)
    assert found[2][0, 0] == new
    assert found[3][0, 0] == (max(abs(a) for a, _ in expected) >= 120 * 256)


def test_weights_are_float64_sgd():
    rng = np.random.default_rng(0)
    e_w, e_ga, n_steps = -6, -32, 40
    m = rng.integers(-8000, 8000, (1, 20, 30)).astype(np.int16)
    v = np.zeros_like(m, np.int32)
    real, velocity = m[0] * 2.0 ** (e_w - 8), 0.0
    drawn = rng.normal(0, 3e6, (n_steps, 1, 20, 30)) + rng.normal(0, 3e6, (1, 1, 20, 30))
    for step, gradient in enumerate(np.floor(drawn).astype(np.int64)):
        scalars = [one(x) for x in (e_ga, *rate_code(0.02), *rate_code(0.02 * 1e-2))]
        m, v, e, grow = WeightUpdate(tensor_id=13)(
            m, v, ((gradient + 128) >> 8).astype(np.int32), one(e_w, "int8"), one(0, "int8"),
            *scalars, SEED, one(step))
        slope = gradient[0] * 2.0 ** (e_ga - e_w) + 1e-2 * real
        velocity = 0.9 * velocity + 0.02 * slope
        real = real - velocity
        assert grow[0, 0] == 0 and e[0, 0] == e_w
    error = m[0] - real / 2.0 ** (e_w - 8)
    moved = abs(real / 2.0 ** (e_w - 8)).mean()
    assert abs(error).max() < 15 and abs(error.mean()) < 0.2 and moved > 3000
    w, = run(WeightCodes(), m)
    np.testing.assert_array_equal(w, (m.astype(int) + 128) >> 8)
    assert abs(w * 2.0 ** e_w - real).max() <= 2.0 ** e_w * 0.63


@pytest.mark.parametrize(("e", "fraction"), [(-12, 28), (-40, 24), (5, 28), (-64, 0)])
def test_vectors_are_the_literal_ones(e, fraction):
    rng = np.random.default_rng(0)
    m, v, g = rng.integers(*INT32, (3, 1, 40)).astype(np.int32)
    m[0, :4], v[0, :4], g[0, :4] = (*INT32, *INT32), (*INT32, *INT32[::-1]), (*INT32, 0, 0)
    multiplier, shift = rate_code(0.1 / 32)
    found = run(VectorUpdate(fraction=fraction), m, v, g, one(e), one(multiplier), one(shift))
    expected = []
    for a, b, c in zip(*(x[0].tolist() for x in (m, v, g))):
        b = limit(literal_lanes(b, NINE_TENTHS, 31)
                  + literal_lanes(c, multiplier, shift - e - fraction), *INT32)
        expected.append((limit(a - b, *INT32), b))
    assert [x[0].tolist() for x in found] == [list(column) for column in zip(*expected)]
    op = VectorUpdate(fraction=fraction)
    assert op.accumulators(()) == (None, None)


@pytest.mark.parametrize("settle", [False, True])
@pytest.mark.parametrize("count", [64, 75])
def test_running_statistics_are_the_literal_ones(settle, count):
    rng = np.random.default_rng(0)
    n = 60
    e = rng.integers(-70, 70, n)
    total, spread = rng.integers(-128 * count, 127 * count, n), rng.integers(0, 4081, n)
    largest = rng.choice([0, 47, 48, 100, 126, 127], n)
    mean, running = rng.integers(-(1 << 23), 1 << 23, n), rng.integers(0, 1 << 24, n)
    mean[:2], largest[:2] = INT32, 0
    found = run(RunningStatistics(count=count, settle=settle), channels(e, "int8"),
                channels(total), channels(spread, "int16"), channels(largest, "int8"),
                channels(mean), channels(running))
    for c in range(n):
        old = limit(int(e[c]), -64, 63)
        new = limit(old + (largest[c] >= 127) - (largest[c] < 48), -64, 63)
        assert found[0][0, c] == new
        for x, before, value in (
                (found[1], int(mean[c]), ((int(total[c]) << 16) + (count >> 1)) // count),
                (found[2], int(running[c]), int(spread[c]) << 12)):
            y = value if settle else before + ((value - before + 4) >> 3)
            y = y + 1 >> 1 if new > old else y << (old - new)
            assert x[0, c] == limit(y, *INT32)


def test_widths_and_what_is_refused():
    op = WeightUpdate(tensor_id=0)
    assert op.accumulators(()) == (None, None)
    assert {width.name: width.bits for width in op.widths(())} == {
        "Momentum": 34, "Master": 17}
    with pytest.raises(ValueError, match=r"must get masters \(O, I, ...\), not shape \(4,\)"):
        op.output_shape(*[(4,)] * 3, *[(1,)] * 9)
    with pytest.raises(ValueError, match="Fraction must be in 0..31, not 32"):
        VectorUpdate(fraction=32)
    bounds = [(0, 0), (-128 * 64, 127 * 64), (0, 4080), (0, 127), (0, 0), (0, 0)]
    assert RunningStatistics(count=64).accumulators(bounds) == (None, None)
    with pytest.raises(ValueError, match="Total must be one of 63 codes, not -8192..8128"):
        RunningStatistics(count=63).accumulators(bounds)
    bounds[2] = 0, 4096
    with pytest.raises(ValueError, match="Spread must fit 13 bits, not 4096"):
        RunningStatistics(count=64).accumulators(bounds)
    w, = run(WeightCodes(), np.array([[-32768, 32767, -32639, 127, 128, -128, -129]], np.int16))
    assert w.tolist() == [[-127, 127, -127, 0, 1, 0, -1]]


def test_rates_have_16_significant_bits():
    rng = np.random.default_rng(0)
    for value in [0.1, 0.1 / 64, 1e-5, 1.0, 1e-12, 1e-300, 2.0 ** 31 - 1e6, 2.0 ** -20,
                  1 - 2.0 ** -30, *rng.uniform(0, 1e-3, 50)]:
        multiplier, shift = rate_code(value)
        assert multiplier % (1 << 15) == 0 and 1 << 30 <= multiplier <= arith.MULTIPLIER_MAX
        assert abs(math.ldexp(multiplier, -shift) / value - 1) <= 2.0 ** -16
    assert rate_code(1 - 2.0 ** -30) == (1 << 30, 30) and rate_code(0)[0] == 0
    for value in (-1e-9, 2.0 ** 31, math.inf, math.nan):
        with pytest.raises(ValueError, match="Rate must be at least 0 and below"):
            rate_code(value)

"""Residual addition of the integer training step, both ways, against Python integers and reals."""

import numpy as np
import pytest

from golden.ops.step import GradientAddition, ResidualAddition
from tests.golden.ops.step.common import (
    SEED,
    STEP,
    cosine,
    limit,
    literal_lanes,
    literal_random,
    literal_top,
    one,
    relative_error,
    run,
)

EXPONENTS = [(0, 0, 0), (-3, 2, 1), (5, -15, -9), (-20, 0, 0), (0, -21, -2), (3, -60, 3),
             (-64, 63, 60), (63, -64, -64), (-7, -7, -30), (-128, 127, 127)]
EVERY = pytest.mark.parametrize("e", EXPONENTS, ids=str)


def literal_sum(a, b, e_a, e_b, e_y, most, r=None):
    unit = max(min(e_a, e_b), max(e_a, e_b) - most)
    total = 0
    for x, e in ((a, e_a), (b, e_b)):
        total += x << e - unit if e >= unit else x >> min(unit - e, 62)
    return literal_lanes(total, 1 << 30, 30 + e_y - unit, r)


def operands(dtype, seed=0):
    rng, info = np.random.default_rng(seed), np.iinfo(dtype)
    a, b = (rng.integers(info.min, info.max + 1, (2, 3, 4, 5)).astype(dtype) for _ in range(2))
    for x, first in ((a, (info.min, info.max, 0, 0)), (b, (info.min, info.max, 0, info.max))):
        x[0, 0, 0, :4] = first
    return a, b


@EVERY
def test_forward_is_the_literal_one(e):
    a, b = operands("int8")
    for activation, low in (("relu", 0), ("none", -128)):
        y, top = run(ResidualAddition(activation=activation), a, b, *(one(v, "int8") for v in e))
        expected = [literal_sum(int(u), int(v), *e, 20) for u, v in zip(a.ravel(), b.ravel())]
        assert y.ravel().tolist() == [limit(v, low, 127) for v in expected]
        assert top[0, 0] == literal_top([max(v, low) if low == 0 else v for v in expected])


@EVERY
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_backward_is_the_literal_one(e, activation):
    a, b = operands("int16")
    y = np.random.default_rng(3).integers(0, 128, a.shape).astype(np.int8)
    y[:, :, ::2] = 0
    mask = {"none": [], "relu": [y], "relu6": [y, one(-4, "int8")]}[activation]
    op = GradientAddition(activation=activation, tensor_id=1024)
    g, top = run(op, a, b, *(one(v, "int8") for v in e), SEED, STEP, *mask)
    low, high = {"none": (-1, 999), "relu": (0, 999), "relu6": (0, 96)}[activation]
    order = [np.moveaxis(v, 1, -1).ravel().tolist() for v in (a, b, y)]
    expected = [literal_sum(limit(u, -32639, 32639), limit(v, -32639, 32639) * (low < m < high),
                            *e, 15, r)
                for u, v, m, r in zip(*order, literal_random(1024, a.size))]
    assert np.moveaxis(g, 1, -1).ravel().tolist() == [limit(v, -32639, 32639) for v in expected]
    assert top[0, 0] == literal_top(expected)


@pytest.mark.parametrize("e", [(0, 0, 1), (-3, 2, 3), (4, -9, 5), (-30, 2, 3), (2, -30, 3)])
def test_additions_are_near_the_real_sums(e):
    rng = np.random.default_rng(1)
    a, b = rng.integers(-128, 128, (2, 4, 500)).astype(np.int8)
    y, _ = run(ResidualAddition(activation="none"), a, b, *(one(v, "int8") for v in e))
    exact = (a * 2.0 ** e[0] + b * 2.0 ** e[1]) / 2.0 ** e[2]
    assert abs(y - exact).max() <= 0.5 + 2.0 ** -18
    a, b = rng.integers(-32639, 32640, (2, 4, 500)).astype(np.int16)
    g, _ = run(GradientAddition(tensor_id=1), a, b, *(one(v, "int8") for v in e), SEED, STEP)
    exact = (a * 2.0 ** e[0] + b * 2.0 ** e[1]) / 2.0 ** e[2]
    assert abs(g - exact).max() <= 1 + 2.0 ** -6
    assert relative_error(g, exact) < 1e-3 and cosine(g, exact) > 1 - 1e-6


@pytest.mark.parametrize("value", [0, 1, -128, 127])
def test_constants(value):
    x = np.full((1, 2), value, np.int8)
    y, top = run(ResidualAddition(activation="none"), x, x, *[one(0, "int8")] * 2,
                 one(1, "int8"))
    assert (y == value).all() and top[0, 0] == literal_top([value])


def test_the_sums_fit_32_bits_and_one_bit_more_is_refused():
    for op, bounds in ((ResidualAddition(), (-128, 127)), (GradientAddition(tensor_id=0), (0, 0))):
        width, = op.widths((bounds,) * 2)
        assert op.accumulators((bounds,) * 2) == (None, None)
        assert 1 << 27 <= width.high < 1 << 30 + 1
    with pytest.raises(ValueError, match="Sum of shifted codes must fit 32 bits, not"):
        ResidualAddition().accumulators(((-2048, 2047), (-128, 127)))
    with pytest.raises(ValueError, match="Activation of an addition must be none or relu"):
        ResidualAddition(activation="relu6")
    with pytest.raises(ValueError, match=r"must get b of shape \(2, 3\), not \(3, 2\)"):
        ResidualAddition().output_shape((2, 3), (3, 2), (1,), (1,), (1,))

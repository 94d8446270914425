"""The lanes with shifts that are data: on Python integers, arrays, tensors and as operators."""

import numpy as np
import pytest
import torch

from golden import arith
from golden.ops.step import GradientCodes, GradientDigits, LaneCodes
from golden.ops.step.base import TENSOR_ID_MAX
from tests.golden.ops.step.common import (
    SEED,
    STEP,
    channels,
    cosine,
    limit,
    literal_lanes,
    literal_random,
    literal_top,
    one,
    relative_error,
    run,
)

EDGES = [0, 1, -1, 2, -2, 127, -128, (1 << 30) - 1, 1 << 30, (1 << 31) - 1, -(1 << 31), 1 << 40,
         -(1 << 40)]


def test_lanes_are_the_literal_ones_on_integers_arrays_and_tensors():
    rng = np.random.default_rng(0)
    x = np.array(EDGES * 40 + [int(v) for v in rng.integers(-1 << 31, 1 << 31, 2000)], np.int64)
    m = rng.integers(0, 1 << 31, len(x))
    m[::7], m[1::7] = 1 << 30, (1 << 31) - 1
    s, r = rng.integers(-40, 130, len(x)), rng.integers(0, 256, len(x))
    for noise in (None, r):
        expected = [literal_lanes(*map(int, row)) for row in
                    zip(x, m, s, *([] if noise is None else [noise]))]
        assert arith.lanes(x, m, s, noise).tolist() == expected
        tensors = [torch.from_numpy(v) for v in (x, m, s, *([] if noise is None else [noise]))]
        assert arith.lanes(*tensors).tolist() == expected
        assert [arith.lanes(*map(int, row)) for row in zip(
            x[:300], m, s, *([] if noise is None else [noise]))] == expected[:300]
        assert -(1 << 31) <= min(expected) and max(expected) < 1 << 31


def test_half_up_lanes_are_requantize():
    rng = np.random.default_rng(1)
    x, m, s = (rng.integers(low, high, 50_000) for low, high in
               ((-1 << 31, 1 << 31), (0, 1 << 31), (0, 63)))
    expected = arith.requantize(x, m, s, 0, -1 << 40, 1 << 40)
    np.testing.assert_array_equal(arith.lanes(x, m, s), expected)
    # A multiplier beyond 31 bits or below 0 is limited, and a shift beyond 62 is nothing.
    assert arith.lanes(1 << 30, 1 << 40, 31) == arith.lanes(1 << 30, (1 << 31) - 1, 31)
    assert arith.lanes(5, -3, 0) == 0 == arith.lanes(-(1 << 31), (1 << 31) - 1, 63)
    assert arith.lanes(3, 1 << 30, -1) == arith.lanes(3, 1 << 30, 0)


@pytest.mark.parametrize("dropped", [9, 12, 20])
def test_stochastic_lanes_have_no_bias(dropped):
    x = np.arange(-1 << dropped, 1 << dropped, max(1, 1 << dropped - 9))
    r = np.arange(256)[:, None]
    y = arith.lanes(x, 1 << 30, 30 + dropped, r).mean(0)
    assert abs(y - x / 2.0 ** dropped).max() <= 1 / 512
    assert abs((y - x / 2.0 ** dropped).mean()) < 1e-3


def test_helpers_of_the_arithmetic():
    values = [0, 1, 2, 3, 4, 255, 256, (1 << 31) - 1, 1 << 31, (1 << 53) + 1, 1 << 62]
    assert [arith.bit_length(v) for v in values] == [v.bit_length() for v in values]
    assert arith.bit_length(np.array(values)).tolist() == [v.bit_length() for v in values]
    assert arith.bit_length(torch.tensor(values)).tolist() == [v.bit_length() for v in values]
    x = np.array([-7, -1, 0, 1, 7, 10])
    for n in (1, 2, 3, 4):
        assert arith.round_divide(x, n).tolist() == [(v + n // 2) // n for v in x.tolist()]
        assert arith.floor_divide(torch.from_numpy(x), n).tolist() == [v // n for v in x.tolist()]


def test_digits_are_balanced():
    g = np.arange(-32768, 32768).reshape(4, -1).astype(np.int16)
    low, high = run(GradientDigits(), g)
    expected = np.clip(g.astype(int), -32639, 32639)
    np.testing.assert_array_equal(high.astype(int) * 256 + low, expected)
    assert low.min() == -128 and high.min() == -127 and high.max() == 127


@pytest.mark.parametrize("shift", [-40, -3, 0, 4, 9, 33, 70])
def test_gradient_codes_are_the_literal_ones(shift):
    rng = np.random.default_rng(0)
    x = (rng.integers(-1 << 31, 1 << 31, (3, 5)) >> rng.integers(0, 31, (3, 5))).astype(np.int32)
    x[0, :3] = 0, (1 << 31) - 1, -(1 << 31)
    g16, g8, top = run(GradientCodes(tensor_id=513), x, one(shift), SEED, STEP)
    y = [literal_lanes(int(v), 1 << 30, 30 + shift) for v in x.ravel()]
    wanted = [limit(v, -32639, 32639) for v in y]
    assert g16.ravel().tolist() == wanted and top[0, 0] == literal_top(y)
    assert g8.ravel().tolist() == [limit((v + r) >> 8, -127, 127) for v, r in
                                   zip(wanted, literal_random(513, 15))]


def wide(shape=(2, 3, 4, 5), seed=0):
    rng = np.random.default_rng(seed)
    x = rng.integers(-1 << 31, 1 << 31, shape) >> rng.integers(0, 31, shape)
    x[0, 0, 0, :4] = 0, 1, (1 << 31) - 1, -(1 << 31)
    return x.astype(np.int32)


@pytest.mark.parametrize(("low", "high", "width"), [(-128, 127, 8), (0, 90, 8),
                                                    (-32639, 32639, 16)])
@pytest.mark.parametrize("identity", [None, 77])
def test_lane_codes_are_the_literal_ones(low, high, width, identity):
    x, random = wide(), [] if identity is None else [SEED, STEP]
    noise = [None] * x.size if identity is None else literal_random(identity, x.size)
    fields = {"width": width, "low": low, "high": high, "tensor_id": identity}
    for multipliers, shifts in (([1 << 30], [40]), ([123456789], [33]), ([1], [-5]),
                                ([1 << 30] * 3, [35, 70, 62]), ([(1 << 31) - 1, 0, 1], [0, 31, 9])):
        op = LaneCodes(per_channel=len(shifts) > 1, **fields)
        y, top = run(op, x, channels(multipliers), channels(shifts), *random)
        rows = np.moveaxis(x, 1, -1).ravel().tolist()
        expected = [literal_lanes(v, multipliers[i % len(shifts) if len(shifts) > 1 else 0],
                                  shifts[i % len(shifts) if len(shifts) > 1 else 0], r)
                    for i, (v, r) in enumerate(zip(rows, noise))]
        assert np.moveaxis(y, 1, -1).ravel().tolist() == [limit(v, low, high) for v in expected]
        assert top[0, 0] == literal_top(expected)


def test_codes_are_near_the_real_values():
    x = np.random.default_rng(0).normal(0, 1e6, (4, 5, 6)).astype(np.int32)
    for identity, error in ((None, 0.5), (3, 1)):
        op = LaneCodes(width=16, low=-32639, high=32639, tensor_id=identity)
        y, _ = run(op, x, one(1 << 30), one(38), *([] if identity is None else [SEED, STEP]))
        assert abs(y - x / 256).max() <= error
        assert relative_error(y, x / 256) < 2e-4 and cosine(y, x / 256) > 1 - 1e-7
    g16, g8, _ = run(GradientCodes(tensor_id=5), x, one(8), SEED, STEP)
    assert abs(g16 - x / 256).max() <= 0.5
    assert abs(g8 * 256.0 - g16).max() < 256 and abs((g8 * 256.0 - g16).mean()) < 40
    assert cosine(g8, x) > 0.999


def test_what_lanes_refuse():
    with pytest.raises(ValueError, match="Tensor id must be in 0..2147483647"):
        GradientCodes(tensor_id=TENSOR_ID_MAX + 1)
    with pytest.raises(ValueError, match="High must be in -128..127, not 128"):
        LaneCodes(low=-128, high=128)
    with pytest.raises(ValueError, match="Width must be 8 or 16, not 32"):
        LaneCodes(width=32, low=0, high=1)
    with pytest.raises(ValueError, match=r"must get shift of shape \(3,\), not \(1,\)"):
        LaneCodes(low=0, high=1, per_channel=True).output_shape((3, 4), (3,), (1,))
    with pytest.raises(ValueError, match="GradientDigits must get gradient for every image"):
        GradientDigits().output_batched(False)
    with pytest.raises(TypeError, match="must be an int16 array"):
        GradientDigits()(np.zeros((1, 3), np.int8))

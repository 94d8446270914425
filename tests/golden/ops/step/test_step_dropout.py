"""Dropout, masks and reshaped gradients of the integer training step, against Python integers."""

import numpy as np
import pytest

from golden.ops.step import Dropout, DropoutGradient, MaskedGradient, ReshapedGradient
from tests.golden.ops.step.common import (
    SEED,
    STEP,
    limit,
    literal_lanes,
    literal_random,
    literal_top,
    one,
    run,
)

SHAPE = 5, 6, 4, 3
LAST = 0, 2, 3, 1       # channels innermost: the order of the random bits


def literal(x, drop, shift, random, rounding=None):
    factor = ((256 << 22) + (256 - drop) // 2) // (256 - drop)
    rounding = [None] * len(random) if rounding is None else rounding
    return [literal_lanes(v * (r >= drop), factor, shift + 22, noise)
            for v, r, noise in zip(x.transpose(LAST).ravel().tolist(), random, rounding)]


@pytest.mark.parametrize("drop", [1, 51, 102, 255])
@pytest.mark.parametrize("shift", [-3, 0, 2])
def test_dropout_is_the_literal_one(drop, shift):
    rng = np.random.default_rng(drop)
    x = rng.integers(-128, 128, SHAPE).astype(np.int8)
    g = rng.integers(-32768, 32768, SHAPE).astype(np.int16)
    random = literal_random(9, x.size)
    y, top = run(Dropout(drop=drop, tensor_id=9), x, one(shift), SEED, STEP)
    expected = literal(x, drop, shift, random)
    assert top[0, 0] == literal_top(expected)
    assert y.transpose(LAST).ravel().tolist() == [limit(v, -128, 127) for v in expected]
    op = DropoutGradient(drop=drop, tensor_id=9, rounding_id=11)
    back, top = run(op, g, one(shift), SEED, STEP)
    expected = literal(g.clip(-32639, 32639), drop, shift, random, literal_random(11, x.size))
    assert top[0, 0] == literal_top(expected)
    assert back.transpose(LAST).ravel().tolist() == [limit(v, -32639, 32639) for v in expected]


def test_dropout_keeps_its_share_and_the_mean():
    x = np.full((64, 16, 8, 8), 40, np.int8)
    y, _ = run(Dropout(drop=102, tensor_id=1), x, one(0), SEED, STEP)
    kept = y != 0
    assert abs(kept.mean() - 154 / 256) < 0.005 and set(np.unique(y)) == {0, 66}
    assert abs(y.mean() - 40) < 0.5
    back, _ = run(DropoutGradient(drop=102, tensor_id=1, rounding_id=2),
                  np.full(x.shape, 300, np.int16), one(0), SEED, STEP)
    np.testing.assert_array_equal(back != 0, kept)


def test_masks_and_shapes():
    g = np.arange(-6, 6, dtype=np.int16).reshape(1, 12)
    y = np.array([[0, 1, 95, 96, 97, 127] * 2], np.int8)
    masked, = run(MaskedGradient(activation="relu"), g, y)
    assert masked.tolist() == [[0, -5, -4, -3, -2, -1, 0, 1, 2, 3, 4, 5]]
    masked, = run(MaskedGradient(activation="relu6"), g, y, one(-4, "int8"))
    assert masked.tolist() == [[0, -5, -4, 0, 0, 0, 0, 1, 2, 0, 0, 0]]
    image, = run(ReshapedGradient(shape=(2, 3, 2)), g)
    np.testing.assert_array_equal(image[0], g.reshape(2, 3, 2))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="Drop must be in 1..255, not 256"):
        Dropout(drop=256, tensor_id=0)
    with pytest.raises(ValueError, match="Activation must be relu or relu6, not 'none'"):
        MaskedGradient(activation="none")
    with pytest.raises(ValueError, match=r"must get g of shape \(6,\), not \(7,\)"):
        ReshapedGradient(shape=(2, 3)).output_shape((7,))

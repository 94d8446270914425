"""The head of the integer training step against Python integers and float64 softmax."""

import math

import numpy as np
import pytest

from golden.digits import MAX_TERMS
from golden.ops.step import CrossEntropy, LogitSums
from tests.golden.ops.step.common import (
    channels,
    cosine,
    limit,
    literal_lanes,
    one,
    relative_error,
    run,
)

INT32 = -(1 << 31), (1 << 31) - 1


def logits(n_classes, exponent, seed=0):
    """(N, J) sums and labels; the first rows are adversarial."""
    rng = np.random.default_rng(seed)
    acc = np.floor(rng.normal(0, rng.uniform(0.1, 8, (60, 1)), (60, n_classes)) * 2.0 ** -exponent)
    acc = np.clip(acc, *INT32).astype(np.int32)
    acc[0], acc[1], acc[2] = 0, *INT32
    acc[3, 0], acc[4, 0] = INT32
    acc[5] = [(-1) ** j * INT32[1] for j in range(n_classes)]
    label = rng.integers(0, n_classes, (60, 1)).astype(np.int8)
    label[3:5] = 0
    return acc, label


@pytest.mark.parametrize("n_classes", [2, 10, 31])
@pytest.mark.parametrize("exponent", [-30, -14, -9, 0])
def test_cross_entropy_is_the_literal_one(n_classes, exponent):
    acc, label = logits(n_classes, exponent)
    gradient, loss = run(CrossEntropy(), acc, label, one(22 - exponent))
    for row, found, right in zip(acc.tolist(), gradient, label[:, 0]):
        t = [limit(literal_lanes(v, 1549082005, 22 - exponent), -32768, 32767) for v in row]
        d = [max(t) - v for v in t]
        u = [math.floor(2 ** (24 - v % 256 / 256) + 0.5) >> v // 256 for v in d]
        p = [(v << 24) // sum(u) for v in u]
        p[right] = -sum(v for j, v in enumerate(p) if j != right)
        assert found.tolist() == p and sum(p) == 0
    assert loss.min() >= 0


@pytest.mark.parametrize("n_classes", [2, 10, 31])
@pytest.mark.parametrize("exponent", [-20, -12])
def test_cross_entropy_is_near_float64s(n_classes, exponent):
    acc, label = logits(n_classes, exponent, 1)
    acc, label = acc[6:], label[6:]
    gradient, loss = run(CrossEntropy(), acc, label, one(22 - exponent))
    real = acc * 2.0 ** exponent
    p = np.exp(real - real.max(1, keepdims=True))
    p /= p.sum(1, keepdims=True)
    right = np.arange(n_classes) == label
    expected, exact = p - right, -np.log(p[right])
    assert relative_error(gradient / 2.0 ** 24, expected) < 3e-3
    assert cosine(gradient, expected) > 1 - 1e-5
    # The logits are rounded to 2^-8 octaves.
    assert abs(loss[:, 0] / 65536 - exact).max() < 1.1 * math.log(2) / 256
    for row, wanted in zip(gradient, expected):     # of each image, those near 0 too
        if np.abs(wanted).max() > 1e-4:
            assert relative_error(row / 2.0 ** 24, wanted) < 6e-3


def test_the_loss_is_that_of_the_rounded_logits():
    rng = np.random.default_rng(0)
    octaves = rng.integers(-5000, 5000, (300, 10))
    octaves -= octaves.max(1, keepdims=True)
    acc = np.rint(octaves * math.log(2) / 256 * 2.0 ** 16).astype(np.int32)
    label = rng.integers(0, 10, (300, 1)).astype(np.int8)
    _, loss = run(CrossEntropy(), acc, label, one(22 + 16))
    real = octaves * math.log(2) / 256
    exact = np.log(np.exp(real).sum(1)) - real[np.arange(300), label[:, 0]]
    assert abs(loss[:, 0] / 65536 - exact).max() < 5e-5


@pytest.mark.parametrize("shift", [-60, 0, 5, 24, 50])
def test_logits_are_the_literal_ones(shift):
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (4, 9)).astype(np.int8)
    w = rng.integers(-127, 128, (1, 5, 9)).astype(np.int8)
    bias = np.array([0, 123456789, -987654321, *INT32])
    acc, = run(LogitSums(), x, w, channels(bias), one(shift))
    expected = x.astype(int) @ w[0].T.astype(int) + [
        literal_lanes(int(b), 1 << 30, 30 + shift) for b in bias]
    np.testing.assert_array_equal(acc, np.clip(expected, *INT32))


def test_the_largest_sums_fit_and_more_is_refused():
    x, w = (np.full((1, *shape), -128, np.int8) for shape in ((MAX_TERMS,), (1, MAX_TERMS)))
    acc, = run(LogitSums(), x, w, channels([INT32[1]]), one(0))
    assert acc[0, 0] == INT32[1]
    acc, = run(LogitSums(), x, w, channels([0]), one(0))
    assert acc[0, 0] == 128 * 128 * MAX_TERMS
    with pytest.raises(ValueError, match="with I at most 131071, not shape"):
        LogitSums().output_shape((MAX_TERMS + 1,), (1, MAX_TERMS + 1), (1,), (1,))
    assert CrossEntropy().accumulators(()) == (None, None)
    with pytest.raises(ValueError, match=r"must get 2..31 classes, not shape \(32,\)"):
        CrossEntropy().output_shape((32,), (1,), (1,))
    assert 32 << 24 >= 1 << 29 > 31 << 24       # of a divisor of 29 bits

"""Pooling of the integer training step, both ways, against Python integers and torch in float64."""

import numpy as np
import pytest
import torch
from torch.nn import functional

from golden.ops.step import (
    AverageCodes,
    AverageGradient,
    GlobalAverageCodes,
    MaximumCodes,
    MaximumGradient,
    SpreadGradient,
)
from golden.ops.step.convolution import pixel_factor
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

# kernel, stride, padding, (H, W)
CASES = [((2, 2), None, (0, 0, 0, 0), (4, 6)), ((3, 3), (2, 2), (1, 1, 1, 1), (6, 5)),
         ((2, 3), (1, 2), (1, 0, 0, 2), (4, 5)), ((1, 1), (2, 3), (0, 0, 0, 0), (5, 5))]
EVERY = pytest.mark.parametrize("case", CASES)


def operands(case, seed=0):
    kernel, stride, padding, size = case
    fields = {"kernel": kernel, "stride": stride, "padding": padding}
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (2, 3, *size)).astype(np.int8)
    x[0, 0], x[0, 1], x[1, 0] = 0, -128, rng.integers(0, 2, size)      # ties
    shape = MaximumCodes(**fields).output_shape(x.shape[1:])
    return x, rng.integers(-32639, 32640, (2, *shape)).astype(np.int16), fields


def windows_of(case, x, g):
    """For each place of g the places of x that its window holds, row by row."""
    kernel, stride, (top, left, _, _), size = case
    stride = stride or kernel
    for n, c, r, k in np.ndindex(*g.shape):
        rows = [r * stride[0] + a - top for a in range(kernel[0])]
        columns = [k * stride[1] + b - left for b in range(kernel[1])]
        yield (n, c, r, k), [(n, c, a, b) for a in rows for b in columns
                             if 0 <= a < size[0] and 0 <= b < size[1]]


@EVERY
def test_pools_are_the_literal_ones(case):
    x, g, fields = operands(case)
    multiplier, shift = pixel_factor(case[0][0] * case[0][1])
    average, largest, spread, first = np.zeros((2, *g.shape), int), None, *(
        np.zeros(x.shape, int) for _ in range(2))
    average, largest = average
    for place, members in windows_of(case, x, g):
        values = [int(x[m]) for m in members]
        average[place], largest[place] = sum(values), max(values)
        for m in members:
            spread[m] += int(g[place])
        first[members[values.index(max(values))]] += int(g[place])
    y, = run(MaximumCodes(**fields), x)
    np.testing.assert_array_equal(y, largest)
    for low in (-128, 0):
        y, top = run(AverageCodes(low=low, **fields), x, one(-1))
        results = [literal_lanes(int(v), multiplier, shift - 1) for v in average.ravel()]
        assert y.ravel().tolist() == [limit(v, low, 127) for v in results]
        assert top[0, 0] == literal_top(results)
    noise = literal_random(9, x.size)
    for op, total, factor, extra in (
            (AverageGradient(size=case[3], tensor_id=9, **fields), spread, pixel_factor(
                case[0][0] * case[0][1]), []),
            (MaximumGradient(size=case[3], tensor_id=9, **fields), first, (1 << 30, 30), [x])):
        for down in (0, 2, -3):
            found, top = run(op, g, one(down), SEED, STEP, *extra)
            order = np.moveaxis(total, 1, -1)
            results = [literal_lanes(int(v), factor[0], factor[1] + down, r)
                       for v, r in zip(order.ravel(), noise)]
            assert np.moveaxis(found, 1, -1).ravel().tolist() == [
                limit(v, -32639, 32639) for v in results]
            assert top[0, 0] == literal_top(results)


@EVERY
def test_gradients_are_torchs_in_float64(case):
    x, g, fields = operands(case, 1)
    x = np.random.default_rng(5).permutation(2 * 3 * case[3][0] * case[3][1]) - 90
    x = x.reshape(2, 3, *case[3]).astype(np.int8)       # no ties, so that the maxima are torch's
    kernel, stride, (top, left, bottom, right), _ = case
    for op, pool, fill, extra in (
            (AverageGradient, functional.avg_pool2d, 0.0, []),
            (MaximumGradient, functional.max_pool2d, -1e9, [x])):
        real = torch.from_numpy(x.astype(np.float64)).requires_grad_()
        pool(functional.pad(real, (left, right, top, bottom), value=fill), kernel,
             stride or kernel).backward(torch.from_numpy(g.astype(np.float64)))
        found, _ = run(op(size=case[3], tensor_id=0, **fields), g, one(2), SEED, STEP, *extra)
        exact = real.grad.numpy() / 4
        assert abs(found - exact).max() <= 1
        assert relative_error(found, exact) < 1e-3 and cosine(found, exact) > 1 - 1e-6


@pytest.mark.parametrize("size", [(4, 4), (1, 1), (7, 7), (3, 5)])
def test_global_averages(size):
    rng = np.random.default_rng(0)
    x = rng.integers(-128, 128, (3, 6, *size)).astype(np.int8)
    x[0, 0], x[0, 1], x[0, 2] = 0, 127, -128
    multiplier, shift = pixel_factor(size[0] * size[1])
    for low, down in ((0, 0), (-128, -2), (0, 3)):
        y, top = run(GlobalAverageCodes(low=low), x, one(down))
        results = [literal_lanes(int(v), multiplier, shift + down)
                   for v in x.sum((2, 3), dtype=int).ravel()]
        assert y.ravel().tolist() == [limit(v, low, 127) for v in results]
        assert top[0, 0] == literal_top(results)
        exact = np.clip(x.mean((2, 3)) / 2.0 ** down, low, 127)
        assert abs(y - exact).max() <= 0.5 + 1e-6
    g = rng.integers(-32639, 32640, (3, 6)).astype(np.int16)
    spread, = run(SpreadGradient(size=size), g)
    np.testing.assert_array_equal(spread, np.broadcast_to(g[..., None, None], (3, 6, *size)))


def test_the_largest_sums_fit_and_more_is_refused():
    wide = {"kernel": (256, 256), "stride": (256, 256)}
    op = AverageGradient(size=(256, 256), tensor_id=0, **wide)
    width, = op.widths(())
    assert width.high < 1 << 31 and op.accumulators(()) == (None, None)
    y, _ = run(GlobalAverageCodes(low=-128), np.full((1, 1, 256, 256), -128, np.int8), one(0))
    assert y[0, 0] == -128
    with pytest.raises(ValueError, match="Pixels must be in 1..65536, not 65792"):
        AverageGradient(size=(256, 257), tensor_id=0, kernel=(256, 257))
    with pytest.raises(ValueError, match="Pixels must be in 1..65536, not 65792"):
        GlobalAverageCodes().output_shape((3, 256, 257), (1,))
    with pytest.raises(ValueError, match="Low must be in -128..0, not 1"):
        AverageCodes(kernel=(2, 2), low=1)
    with pytest.raises(ValueError, match=r"must get g of shape \(3, 2, 2\), not \(3, 2, 3\)"):
        AverageGradient(size=(4, 4), kernel=(2, 2), tensor_id=0).output_shape(
            (3, 2, 3), (1,), (1,), (1,))

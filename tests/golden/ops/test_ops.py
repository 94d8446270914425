"""The operators against literal loops, and their validation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden import ops
from golden.arith import Rounding
from tests.golden import literal


def rescale(factors=0.01, zero_point=0, **fields):
    return ops.Rescale.from_factors(factors, zero_point=zero_point, **fields)


@st.composite
def convolutions(draw):
    small = st.integers(1, 3)
    groups, per_group, per_output = draw(small), draw(small), draw(small)
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    weights = rng.integers(-128, 128, (groups * per_output, per_group, draw(small), draw(small)),
                           dtype=np.int8)
    op = ops.Conv2d(
        weights=weights, bias=rng.integers(-2**31, 2**31, len(weights), dtype=np.int32),
        input_zero_point=draw(st.integers(-128, 127)), stride=(draw(small), draw(small)),
        padding=tuple(draw(st.integers(0, 2)) for _ in range(4)),
        dilation=(draw(st.integers(1, 2)), draw(st.integers(1, 2))), groups=groups,
        rescale=rescale(rng.random(len(weights)) * 1e-3))
    shape = (2, groups * per_group, draw(st.integers(5, 7)), draw(st.integers(5, 7)))
    return op, rng.integers(-128, 128, shape, dtype=np.int8)


@settings(deadline=None, max_examples=60)
@given(convolutions())
def test_conv2d_is_the_literal_loop(case):
    op, x = case
    acc = op.accumulate(x)
    for image, expected in zip(acc, x.tolist()):
        assert image.tolist() == literal.conv2d(op, expected)
    low, high = op.accumulator_bounds()
    assert (acc.min(axis=(0, 2, 3)) >= low).all()
    assert (acc.max(axis=(0, 2, 3)) <= high).all()
    y = op(x)
    assert y.dtype == np.int8
    assert y.shape == acc.shape
    for channel in range(acc.shape[1]):
        m, s = int(op.rescale.multiplier[channel]), int(op.rescale.shift[channel])
        expected = literal.half_up(int(acc[0, channel, 0, 0]), m, s, 0, -128, 127)
        assert y[0, channel, 0, 0] == expected


def test_raw_codes_with_the_folded_bias_give_the_same_accumulators():
    rng = np.random.default_rng(1)
    op = ops.Linear(weights=rng.integers(-127, 128, (5, 40), dtype=np.int8),
                    bias=np.arange(5), input_zero_point=-77, rescale=rescale())
    x = rng.integers(-128, 128, (9, 40), dtype=np.int8)
    raw = x.astype(np.int64) @ op.weights.T.astype(np.int64) + op.folded_bias()
    assert (op.accumulate(x) == raw).all()
    low, high = op.raw_accumulator_bounds()
    assert (raw >= low).all()
    assert (raw <= high).all()


def test_bounds_are_reached_and_cover_every_partial_sum():
    rng = np.random.default_rng(2)
    op = ops.Linear(weights=rng.integers(-127, 128, (1, 30), dtype=np.int8), bias=np.array([-5]),
                    input_zero_point=10, rescale=rescale())
    largest = np.where(op.weights > 0, 127, -128).astype(np.int8)
    low, high = op.accumulator_bounds()
    assert op.accumulate(largest)[0, 0] + 5 == high[0]      # the bias is added last
    terms = (op.weights.astype(int) * (rng.integers(-128, 128, (200, 30)) - 10))
    sums = np.cumsum(rng.permuted(terms, axis=1), axis=1)
    assert sums.min() >= low[0]
    assert sums.max() <= high[0]


def test_large_sums_stay_exact():
    op = ops.Linear(weights=np.full((1, 4096), 127, np.int8), bias=np.array([1]),
                    input_zero_point=-128, rescale=rescale())
    x = np.full((1, 4096), 127, np.int8)
    x[0, 0] = 126
    assert op.accumulate(x)[0, 0] == 127 * (4096 * 255 - 1) + 1     # odd and above 2**24


def test_padding_is_the_zero_point():
    op = ops.Conv2d(weights=np.ones((1, 1, 3, 3), np.int8), bias=np.array([0]),
                    input_zero_point=7, padding=(1, 1, 1, 1), rescale=rescale(1.0))
    assert (op(np.full((1, 1, 4, 4), 7, np.int8)) == 0).all()


@given(st.integers(-128, 127), st.integers(-128, 127), st.sampled_from(list(Rounding)))
def test_add_is_tflites(first, second, rounding):
    m1, s1 = 1340103214, 32
    op = ops.Add(input_zero_points=(-4, 9), input_rescales=((m1, s1), (1 << 30, 31)),
                 rescale=rescale(3.1e-6, 5, rounding=rounding))
    requantize = literal.gemmlowp if rounding is Rounding.GEMMLOWP else literal.half_up
    limits = -2**31, 2**31 - 1
    total = (requantize((first + 4) << 20, m1, s1, 0, *limits)
             + requantize((second - 9) << 20, 1 << 30, 31, 0, *limits))
    m, s = int(op.rescale.multiplier[0]), int(op.rescale.shift[0])
    expected = requantize(total, m, s, 5, -128, 127)
    got = op(np.array([[first]], np.int8), np.array([[second]], np.int8))
    assert got.dtype == np.int8
    assert got[0, 0] == expected
    low, high = op.accumulator_bounds()
    assert low[2] <= total <= high[2]


def test_pools():
    x = np.arange(-50, -50 + 2 * 16, dtype=np.int8).reshape(1, 2, 4, 4)
    op = ops.MaxPool(kernel=(2, 2), stride=(2, 2))
    assert op(x).tolist() == [[[[-45, -43], [-37, -35]], [[-29, -27], [-21, -19]]]]
    padded = ops.MaxPool(kernel=(3, 3), stride=(2, 2), padding=(1, 1, 0, 0))
    assert padded(np.full((1, 1, 4, 4), -128, np.int8)).tolist() == [[[[-128] * 2] * 2]]
    average = ops.AveragePool(kernel=(2, 2), stride=(2, 2), input_zero_point=-50,
                              rescale=rescale(0.25, -50))
    # 0, 1, 4, 5 average to 2.5, and half goes up
    assert average(x)[0, 0, 0, 0] == -50 + 3
    everything = ops.GlobalAveragePool(input_zero_point=-50, window=(4, 4),
                                       rescale=rescale(1 / 16, 0))
    assert everything(x).tolist() == [[[[8]], [[24]]]]
    assert everything.output_shape((2, 4, 4)) == (2, 1, 1)
    low, high = everything.accumulator_bounds()
    assert (low, high) == (16 * -78, 16 * 177)
    with pytest.raises(ValueError, match=r"Padding must be less than the kernel"):
        ops.MaxPool(kernel=(2, 2), stride=(2, 2), padding=(2, 0, 0, 0))


@settings(deadline=None, max_examples=80)
@given(st.data())
def test_averages_of_codes_are_the_literal_loop(data):
    small = st.integers(1, 4)
    kernel = data.draw(small), data.draw(small)
    padding = tuple(data.draw(st.integers(0, kernel[k % 2] - 1)) for k in range(4))
    op = ops.CodeAveragePool(kernel=kernel, stride=(data.draw(small), data.draw(small)),
                             padding=padding, low=data.draw(st.sampled_from([-128, -20])))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    x = rng.integers(-128, 128, (2, 3, 6, 5), dtype=np.int8)
    y = op(x)
    assert y.dtype == np.int8
    for image, expected in zip(y.reshape(6, *y.shape[2:]), x.reshape(6, 6, 5).tolist()):
        assert image.tolist() == literal.code_average(op, expected)
    low, high = op.accumulator_bounds()
    assert low <= op.accumulate(x).min() and op.accumulate(x).max() <= high


def test_averages_of_codes_validate():
    with pytest.raises(ValueError, match="Padding must be less than the kernel"):
        ops.CodeAveragePool(kernel=(2, 2), stride=(1, 1), padding=(2, 0, 0, 0))
    with pytest.raises(ValueError, match="Pixels of the kernel must be in 1..65536, not 65792"):
        ops.CodeAveragePool(kernel=(256, 257), stride=(1, 1))
    with pytest.raises(ValueError, match="High must be in 5..127, not 4"):
        ops.CodeAveragePool(kernel=(2, 2), stride=(1, 1), low=5, high=4)


def test_reshape_with_channels_last():
    x = np.arange(48, dtype=np.int8).reshape(2, 3, 4, 2)
    flat = ops.Reshape(shape=(24,), channels_last=True)(x)
    assert flat.tolist() == x.transpose(0, 2, 3, 1).reshape(2, 24).tolist()
    assert (ops.Reshape(shape=(3, 4, 2), channels_last=True)(flat) == x).all()
    y = ops.Reshape(shape=(6, 2, 2), channels_last=True)(x)
    assert (y.transpose(0, 2, 3, 1).ravel() == x.transpose(0, 2, 3, 1).ravel()).all()
    with pytest.raises(TypeError, match="Channels last must be a bool, not 1"):
        ops.Reshape(shape=(24,), channels_last=1)


def test_elementwise():
    x = np.arange(24, dtype=np.int8).reshape(2, 3, 2, 2)
    assert ops.Reshape(shape=(12,))(x).tolist() == x.reshape(2, 12).tolist()
    assert ops.Clamp(low=3, high=9)(x).max() == 9
    assert ops.Concat()(x, x[:, :1]).shape == (2, 4, 2, 2)
    assert ops.Concat().output_shape((3, 2, 2), (1, 2, 2)) == (4, 2, 2)
    y = ops.Rescaling(input_zero_point=1, rescale=rescale([1.0, 2.0, 0.5]))(x)
    assert y[1, :, 0, 0].tolist() == [11, 30, 10]
    with pytest.raises(ValueError, match="differ on axis 1 alone"):
        ops.Concat().output_shape((3, 2, 2), (1, 2, 3))
    with pytest.raises(ValueError, match="12 elements, not shape"):
        ops.Reshape(shape=(12,)).output_shape((3, 2, 3))


def test_running_range_norm_is_within_one_code_of_float():
    rng = np.random.default_rng(3)
    n = 20
    mean, sigma = rng.normal(0, 1, n), rng.uniform(0.1, 2, n)
    gamma, beta = rng.normal(0, 1, n), rng.normal(0, 0.3, n)
    gamma[0] = 0
    op = ops.RangeNorm.from_running(
        mean=mean, sigma=sigma, gamma=gamma, beta=beta, eps=1e-5, input_scale=0.03,
        input_zero_point=11, output_scale=0.02, output_zero_point=-9)
    q = np.arange(-128, 128).astype(np.int8)[:, None].repeat(n, 1)
    y = ((q - 11.0) * 0.03 - mean) / (sigma + 1e-5) * gamma + beta
    expected = np.clip(np.floor(y / 0.02 + 0.5) - 9, -128, 127)
    assert abs(op(q) - expected).max() <= 1
    assert (op(q) != expected).mean() < 1e-2
    assert len(set(op(q)[:, 0])) == 1


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"shift": [70]}, ValueError, "Shift must be in 0..62, not 70"),
    ({"multiplier": [-1]}, ValueError, "Multiplier must be in 0..2147483647, not -1"),
    ({"multiplier": [1.0]}, TypeError, "Multiplier must be an integer array, not float64"),
    ({"multiplier": [1, 2]}, ValueError, "Shift must have 2 entries, not 1"),
    ({"zero_point": 128}, ValueError, "Zero point must be in -128..127, not 128"),
    ({"zero_point": 0.5}, TypeError, "Zero point must be an integer, not 0.5"),
    ({"low": 5, "high": 4}, ValueError, "High must be in 5..127, not 4"),
])
def test_rescale_validates(change, error, message):
    with pytest.raises(error, match=message):
        ops.Rescale(**{"multiplier": [1], "shift": [31], "zero_point": 0, **change})


@pytest.mark.parametrize(("change", "error", "message"), [
    ({"stride": (0, 1)}, ValueError, "Stride must be in 1..65536, not 0"),
    ({"padding": (1, 1)}, ValueError, "Padding must have 4 entries, not 2"),
    ({"weights": np.zeros((4, 3, 3), np.int8)}, ValueError, "Weights must have 4 dimensions"),
    ({"weights": np.full((4, 1, 3, 3), 128)}, ValueError, "Weights must be in -128..127, not 128"),
    ({"bias": np.zeros(3, np.int32)}, ValueError, "Bias must have 4 entries, not 3"),
    ({"bias": np.full(4, 2**31)}, ValueError, "Bias must be in"),
    ({"groups": 3}, ValueError, "Groups must divide 4 output channels, not 3"),
    ({"rescale": 1}, TypeError, "Rescale must be a Rescale, not 1"),
    ({"rescale": rescale([1, 1])}, ValueError, "Rescale must have 1 or 4 multipliers, not 2"),
])
def test_conv2d_validates(change, error, message):
    fields = dict(weights=np.zeros((4, 1, 3, 3), np.int8), bias=np.zeros(4, np.int32),
                  input_zero_point=0, rescale=rescale())
    with pytest.raises(error, match=message):
        ops.Conv2d(**{**fields, **change})


def test_inputs_are_checked_and_fields_are_frozen():
    op = ops.Linear(weights=np.ones((2, 3), np.int8), bias=np.zeros(2, np.int32),
                    input_zero_point=0, rescale=rescale())
    with pytest.raises(TypeError, match="Linear input must be an int8 array, not int64"):
        op(np.zeros((1, 3), np.int64))
    with pytest.raises(ValueError, match=r"Linear must get shape \(3,\), not \(4,\)"):
        op(np.zeros((1, 4), np.int8))
    with pytest.raises(ValueError, match="read-only"):
        op.weights[0, 0] = 2
    with pytest.raises(ValueError, match="Window of 3 must fit the padded input of 2"):
        ops.MaxPool(kernel=(3, 3), stride=(1, 1)).output_shape((1, 2, 2))

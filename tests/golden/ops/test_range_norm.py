"""Integer RangeBN with batch statistics: at most one code from float64 everywhere."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden import ops
from golden.ops import range_norm
from golden.ops.range_norm import RangeNormConfig, range_norm_reference

FLOATS = dict(eps=1e-5, input_scale=0.03, output_scale=0.03, output_zero_point=-20)


def codes(rng, shape, kind):
    if kind == "uniform":
        q = rng.integers(-128, 128, shape)
    elif kind == "normal":
        q = np.floor(rng.normal(rng.uniform(-100, 100), rng.uniform(0.1, 40), shape))
    elif kind == "narrow":
        q = rng.integers(0, 2, shape) + rng.integers(-128, 127)
    elif kind == "sparse":
        q = (rng.random(shape) < 0.01) * rng.integers(1, 255) - 128
    else:
        q = np.full(shape, rng.integers(-128, 128))
        q[0, :, 0, 0] = rng.integers(-128, 128, shape[1])
    return np.clip(q, -128, 127).astype(np.int8)


@settings(deadline=None, max_examples=150)
@given(st.integers(0, 2**32), st.integers(1, 5), st.integers(3, 12), st.integers(6, 12),
       st.sampled_from(["uniform", "normal", "narrow", "sparse", "single"]),
       st.sampled_from(["code", "paper"]), st.floats(-8, -2), st.floats(-3, 0), st.floats(-2, 0))
def test_at_most_one_code_from_float64(seed, n, h, w, kind, constant, eps, scale, out_scale):
    rng = np.random.default_rng(seed)
    channels = 6
    floats = dict(gamma=rng.normal(size=channels), beta=rng.normal(size=channels), eps=10**eps,
                  input_scale=10**scale, output_scale=10**out_scale,
                  output_zero_point=int(rng.integers(-128, 128)), constant=constant)
    q = codes(rng, (n, channels, h, w), kind)
    op = RangeNormConfig.from_floats(count=n * h * w, **floats)
    assert abs(op(q).astype(int) - range_norm_reference(q, **floats)).max() <= 1
    m, bias, shift = op.parameters(*range_norm.statistics(q))
    assert abs(m).max() <= 65535
    assert abs(bias).max() < 2**47 - 2**33
    assert shift.min() >= 0
    assert shift.max() <= 32


def test_share_of_equal_codes():
    rng = np.random.default_rng(5)
    equal = []
    for _ in range(10):
        q = codes(rng, (8, 16, 14, 14), "normal")
        floats = dict(gamma=rng.normal(1, 0.2, 16), beta=rng.normal(0, 0.3, 16), **FLOATS)
        op = RangeNormConfig.from_floats(count=8 * 196, **floats)
        equal.append((op(q) == range_norm_reference(q, **floats)).mean())
    print(f"share of codes equal to float64 RangeBN: {np.mean(equal):.5f}")
    assert np.mean(equal) > 0.999


@pytest.mark.parametrize(("count", "length", "number"),
                         [(17, 2, 9), (32, 2, 16), (33, 3, 11), (49, 4, 13), (1024, 64, 16)])
def test_statistics_stream_chunk_by_chunk(count, length, number):
    assert range_norm.chunking(count) == (length, number)
    q = np.random.default_rng(count).integers(-128, 128, (count, 1), dtype=np.int8)
    total = spread = in_chunk = 0
    low, high = 127, -128
    for index, code in enumerate(q[:, 0].tolist()):
        total, in_chunk = total + code + 128, in_chunk + 1
        low, high = min(low, code), max(high, code)
        if in_chunk == length or index == count - 1:
            spread, in_chunk, low, high = spread + high - low, 0, 127, -128
    assert [value.tolist() for value in range_norm.statistics(q)] == [[total], [spread]]


def test_order_is_n_h_w():
    q = np.random.default_rng(0).integers(-128, 128, (3, 2, 4, 5), dtype=np.int8)
    expected = np.concatenate([q[i, 1].ravel() for i in range(3)])
    assert (range_norm.by_channel(q)[1] == expected).all()


def test_constant_channels_give_beta():
    floats = dict(gamma=[1.0, -2.0], beta=[0.6, -0.4], **FLOATS)
    op = RangeNormConfig.from_floats(count=32, **floats)
    for code in (-128, 0, 127):
        y = op(np.full((2, 2, 4, 4), code, np.int8))
        assert (y[:, 0] == 0).all()
        assert (y[:, 1] == -33).all()
        assert (y == range_norm_reference(np.full((2, 2, 4, 4), code, np.int8), **floats)).all()


def test_extreme_widths_fit():
    big = np.full(1, (1 << 24) - 1)
    op = RangeNormConfig(count=1 << 24, gain=-big, shift=np.array([61]), epsilon=(1 << 28) - 1,
                         beta=np.array([-(1 << 30) + 1]))
    for total in (0, 255 << 24):
        for spread in (0, 1, 4080):
            m, bias, shift = op.parameters([total], [spread])
            assert abs(int(bias[0])) < 1 << 47
            assert 0 <= shift[0] <= 32
            assert abs(m[0]) <= 65535


def literal_parameters(op, total, spread):
    """The module's equations on Python ints, where nothing can wrap."""
    rows = []
    for gain, base, beta, s, d in zip(op.gain.tolist(), op.shift.tolist(), op.beta.tolist(),
                                      total, spread):
        e = (max(d, 1) << 16) + op.epsilon
        normalise = 29 - e.bit_length()
        m = min(((abs(gain) << 21) // (e << normalise) + 1) >> 1, 65535)
        sh = base - normalise
        if d == 0 or gain == 0 or sh > 32:
            m, sh = 0, 16
        sign = -1 if gain < 0 else 1
        t = ((m * s << 4) + (op.count >> 1)) // op.count
        b = ((beta << (sh + 4) >> 16) + sign * (m << 11) - sign * t + 8) >> 4
        rows.append((sign * m, b, sh))
    return [list(column) for column in zip(*rows)]


@given(st.integers(17, 1 << 24), st.integers(0, 4080), st.integers(0, (1 << 28) - 1),
       st.integers(1 << 23, (1 << 24) - 1), st.integers(13, 61),
       st.integers(-(1 << 30) + 1, (1 << 30) - 1), st.data())
def test_parameters_are_the_documented_equations(count, spread, eps, gain, shift, beta, data):
    op = RangeNormConfig(count=count, gain=np.array([gain, -gain, 0]), shift=np.full(3, shift),
                         beta=np.full(3, beta), epsilon=eps)
    total = data.draw(st.integers(0, 255 * count))
    got = op.parameters([total] * 3, [spread] * 3)
    assert [column.tolist() for column in got] == literal_parameters(op, [total] * 3, [spread] * 3)


def test_a_wrong_bit_is_seen():
    rng = np.random.default_rng(6)
    q = codes(rng, (8, 4, 14, 14), "uniform")
    floats = dict(gamma=np.ones(4), beta=np.zeros(4), **FLOATS)
    op = RangeNormConfig.from_floats(count=8 * 196, **floats)
    wrong = RangeNormConfig(count=op.count, gain=op.gain, shift=op.shift, epsilon=op.epsilon,
                            beta=op.beta + (2 << 16))
    assert abs(wrong(q).astype(int) - range_norm_reference(q, **floats)).max() > 1


@pytest.mark.parametrize(("change", "message"), [
    ({"count": 16}, "Range statistics count must be in 17..16777216, not 16"),
    ({"gamma": [1e9, 1.0]}, "Gamma of channel 0 must give at most 65536 output codes"),
    ({"beta": [0.0, 1e6]}, "Beta of channel 1 must be within 16383 output codes"),
    ({"eps": 1e9}, "Eps must be at least 0 and below"),
    ({"eps": -1.0}, "Eps must be at least 0 and below"),
    ({"constant": "exact"}, "Range constant must be 'code' or 'paper'"),
    ({"input_scale": 0.0}, "Input scale must be finite and above 0"),
])
def test_from_floats_validates(change, message):
    with pytest.raises(ValueError, match=message):
        RangeNormConfig.from_floats(**{"count": 64, "gamma": [1.0, 1.0], "beta": [0.0, 0.0],
                                       **FLOATS, **change})


def test_the_op_takes_either_statistics():
    floats = dict(gamma=[1.0, 1.0], beta=[0.0, 0.0], **FLOATS)
    config = RangeNormConfig.from_floats(count=32, low=0, **floats)
    op = ops.RangeNorm(batch=config)
    q = codes(np.random.default_rng(1), (2, 2, 4, 4), "uniform")
    assert (op(q) == config(q)).all()
    assert op.low == 0
    assert op(q).min() == 0
    m, bias, shift = op.parameters(q)
    assert (ops.RangeNorm(multiplier=m, bias=bias, shift=shift, low=0)(q) == op(q)).all()
    with pytest.raises(ValueError, match="either constants or batch"):
        ops.RangeNorm(multiplier=m, batch=config)
    with pytest.raises(ValueError, match="2 channels of 32 values"):
        op(q[:1])
    with pytest.raises(ValueError, match="Gain must be 0 or have a magnitude of 24 bits, not 5"):
        RangeNormConfig(count=32, gain=[5], shift=[20], beta=[0], epsilon=0)

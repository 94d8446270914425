"""RangeBN of the integer training step, both ways, against Python integers and float64."""

import numpy as np
import pytest

from golden.digits import MAX_TERMS
from golden.ops.step import (
    DeviationGradientParameters,
    DeviationInputGradient,
    NormApply,
    NormGradientParameters,
    NormGradientSums,
    NormInputGradient,
    NormParameters,
    NormStatistics,
)
from golden.ops.step.norm_forward import chunk_factor
from tests.golden.ops.step import literal_norm
from tests.golden.ops.step.common import (
    SEED,
    STEP,
    channels,
    cosine,
    limit,
    literal_random,
    literal_top,
    one,
    relative_error,
    run,
    worst,
)

SHAPES = [(4, 3, 3), (2, 5, 5), (4, 8, 8), (17,), (48,)]       # N, H, W; or N alone
EVERY = pytest.mark.parametrize("shape", SHAPES, ids=str)
ADVERSARIAL = 8


def codes(shape, seed=0, n_channels=40):
    """(C, n): first adversarial channels, then of all kinds of spreads."""
    rng, n = np.random.default_rng(seed), int(np.prod(shape))
    q = np.clip(np.floor(rng.normal(rng.uniform(-60, 60, (n_channels, 1)),
                                    rng.uniform(2, 60, (n_channels, 1)), (n_channels, n))),
                -128, 127).astype(int)
    q[0], q[1], q[2] = 0, -128, 127
    q[3, ::2], q[3, 1::2] = -128, 127
    q[4] = 0
    q[4, n // 2] = 1
    q[5], q[5, -1] = -128, 127
    return q


def images(values, shape):
    """(C, n) as (N, C, H, W) or (N, C)."""
    return np.moveaxis(values.reshape(-1, *shape), 0, 1)


def masters(n_channels, seed=0):
    """gamma and beta, 28 fraction bits, with gamma 0 and extremes."""
    rng = np.random.default_rng(seed)
    gamma = rng.normal(0, 1.2, n_channels) * (1 << 28)
    beta = rng.normal(0, 1, n_channels) * (1 << 28)
    gamma, beta = (np.clip(np.floor(v), -(1 << 31), (1 << 31) - 1).astype(int)
                   for v in (gamma, beta))
    gamma[[6, 10]], gamma[7], gamma[9] = 0, -(1 << 31), (1 << 31) - 1
    beta[6], beta[7], beta[8] = (1 << 31) - 1, -(1 << 31), 0
    gamma[11] = 20000       # rounds to nothing
    return gamma, beta


def forward(shape, q, gamma, beta):
    """The statistics and the parameters, each (1, C)."""
    n = q.shape[1]
    stats = run(NormStatistics(count=n), images(q, shape).astype(np.int8))
    return stats, run(NormParameters(count=n), channels(gamma), channels(beta), *stats[:2])


@EVERY
def test_forward_is_the_literal_one(shape):
    q, (gamma, beta) = codes(shape), masters(40)
    n = q.shape[1]
    stats, (sign, bias, m, shift) = forward(shape, q, gamma, beta)
    rows = {"none": [], "relu": [], "relu6": []}
    for c, channel in enumerate(q.tolist()):
        total, spread, largest, at_high, at_low = literal_norm.statistics(channel)
        assert [int(x[0, c]) for x in stats[:3]] == [total, spread, largest]
        assert stats[3][0, :, c].tolist() == at_high and stats[4][0, :, c].tolist() == at_low
        expected = literal_norm.parameters(int(gamma[c]), int(beta[c]), total, spread, n, n)
        assert (sign[0, c], bias[0, c], m[0, c], shift[0, c]) == expected
        y = literal_norm.apply(channel, *expected[:3], expected[3] - 4)
        rows["none"].append(y)
        rows["relu"].append([max(v, 0) for v in y])
        rows["relu6"].append([min(max(v, 0), 96) for v in y])
    for activation, expected in rows.items():
        extra = [one(-4, "int8")] if activation == "relu6" else []
        y, top = run(NormApply(activation=activation), images(q, shape).astype(np.int8), sign,
                     bias, m, shift.astype(np.int32) - 4, *extra)
        np.testing.assert_array_equal(y, images(np.clip(expected, -128, 127), shape))
        assert top[0, 0] == literal_top(np.ravel(expected).tolist())


@EVERY
def test_forward_is_a_code_from_float64(shape):
    q, (gamma, beta) = codes(shape, 1, 200), masters(200, 1)
    _, (sign, bias, m, shift) = forward(shape, q, gamma, beta)
    exact = literal_norm.reference(q, np.floor(gamma / 65536 + 0.5).clip(-32768, 32767) / 4096,
                                   np.floor(beta / 65536 + 0.5).clip(-32768, 32767) / 4096)
    for e in (-5, -3):
        y, _ = run(NormApply(), images(q, shape).astype(np.int8), sign, bias, m,
                   shift.astype(np.int32) + e)
        real = images(exact * 2.0 ** -e, shape)
        wanted = np.clip(np.floor(real + 0.5), -128, 127)
        assert abs(y - wanted).max() <= 1
        different = (y != wanted)
        assert different[:, ADVERSARIAL:].mean() < 4e-3     # 1 where all of a channel is a tie
        assert abs(real - np.floor(real) - 0.5)[different].max(initial=0) < 0.06
        assert relative_error(y, wanted) < 4e-3
    # gamma = 0 and a channel without range give beta's code, but for a tie.
    for c in (0, 1, 2, 6, 10, 11):
        code = ((beta[c] + (1 << 15)) >> 16) / 2.0 ** 9
        assert (abs(y[:, c] - limit(code, -128, 127)) <= 0.5).all()


def test_running_statistics_give_the_same_codes():
    shape = 4, 8, 8
    q, (gamma, beta) = codes(shape), masters(40)
    stats, (sign, bias, m, shift) = forward(shape, q, gamma, beta)
    n = q.shape[1]
    mean = ((stats[0].astype(int) << 16) + (n >> 1)) // n
    spread = stats[1].astype(int) << 12
    op = NormParameters(count=n, running=True)
    found = run(op, channels(gamma), channels(beta), channels(mean[0]), channels(spread[0]))
    for c in range(40):
        expected = literal_norm.parameters(int(gamma[c]), int(beta[c]), int(mean[0, c]),
                                           int(spread[0, c] + 128 >> 8), n, 1 << 16, 4)
        assert tuple(int(x[0, c]) for x in found) == expected
    x = images(q, shape).astype(np.int8)
    y, _ = run(NormApply(), x, sign, bias, m, shift.astype(np.int32) - 4)
    z, _ = run(NormApply(), x, *found[:3], found[3].astype(np.int32) - 4)
    assert abs(y.astype(int) - z).max() <= 1 and (y != z).mean() < 1e-3
    for value in (-(1 << 31), (1 << 31) - 1):
        run(op, channels([value] * 2), channels([value] * 2), channels([value] * 2),
            channels([value, -1 - value]))


def gradient(shape, seed=0, n_channels=40):
    rng = np.random.default_rng(seed + 5)
    n = int(np.prod(shape))
    g = np.floor(rng.normal(0, rng.uniform(10, 9000, (n_channels, 1)), (n_channels, n)))
    g = np.clip(g, -32639, 32639).astype(int)
    g[12], g[13], g[14] = 0, 32639, -32639
    return g


def backward(shape, q, g, stats, norm, activation="none", mask=(), down=0):
    """The sums, the parameters and the gradient of pass 2."""
    n = q.shape[1]
    g16, q8 = images(g, shape).astype(np.int16), images(q, shape).astype(np.int8)
    sums = run(NormGradientSums(count=n, activation=activation), g16, q8, *mask)
    found = run(NormGradientParameters(count=n), *sums, *stats[:2], norm[0])
    op = NormInputGradient(count=n, activation=activation, tensor_id=300)
    return sums, found, run(op, g16, *stats[3:], norm[0], *found[:2], norm[2],
                            norm[3].astype(np.int32) + down, SEED, STEP, *mask)


def deviation_backward(shape, q, g, stats, norm, activation="none", mask=(), down=0):
    """`backward` with the gradient of a deviation."""
    n = q.shape[1]
    g16, q8 = images(g, shape).astype(np.int16), images(q, shape).astype(np.int8)
    sums = run(NormGradientSums(count=n, activation=activation), g16, q8, *mask)
    squares = run(NormStatistics(count=n, squares=True), q8)
    for one_, other in zip(squares[:3], stats):
        np.testing.assert_array_equal(one_, other)
    whole = squares[4][0].astype(int) * 65536 + squares[3][0]
    np.testing.assert_array_equal(whole, (q * q).sum(1))
    found = run(DeviationGradientParameters(count=n), *sums, *stats[:2], *squares[3:])
    op = DeviationInputGradient(count=n, activation=activation, tensor_id=300)
    return sums, found, run(op, g16, q8, norm[0], *found[:3], norm[2],
                            norm[3].astype(np.int32) + down, SEED, STEP, *mask)


KINDS = pytest.mark.parametrize("deviation", [False, True], ids=["extremes", "deviation"])


@EVERY
@KINDS
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_backward_is_the_literal_one(shape, activation, deviation):
    q, g, (gamma, beta) = codes(shape), gradient(shape), masters(40)
    stats, norm = forward(shape, q, gamma, beta)
    rng = np.random.default_rng(1)
    y = rng.integers(-2 if activation == "none" else 0, 128, q.shape)
    y[:, ::3] = 0
    mask = {"none": [], "relu": [y], "relu6": [y]}[activation]
    mask = [images(v, shape).astype(np.int8) for v in mask]
    mask += [one(-4, "int8")] if activation == "relu6" else []
    down = -13
    way = deviation_backward if deviation else backward
    _, found, (g16, g8, top) = way(shape, q, g, stats, norm, activation, mask, down)
    low, high = {"none": (-99, 999), "relu": (0, 999), "relu6": (0, 96)}[activation]
    expected = []
    for c, (codes_, values) in enumerate(zip(q.tolist(), g.tolist())):
        total, spread, _, at_high, at_low = literal_norm.statistics(codes_)
        values = [v if low < code < high else 0 for v, code in zip(values, y[c])]
        sign = int(norm[0][0, c])
        if deviation:
            parameters = literal_norm.deviation_gradients(values, codes_, total, spread)
            z = literal_norm.deviation_z(values, codes_, sign, *parameters[:3])
        else:
            parameters = literal_norm.gradients(values, codes_, sign, total, spread)
            z = literal_norm.z_of(values, sign, *parameters[:2], at_high, at_low,
                                  literal_norm.constant(len(codes_))[0])
        assert tuple(int(x[0, c]) for x in found) == parameters
        expected.append([literal_norm.literal_lanes(v, int(norm[2][0, c]),
                                                    int(norm[3][0, c]) + down) for v in z])
    assert top[0, 0] == literal_top(np.ravel(expected).tolist())
    wanted = images(np.clip(expected, -32639, 32639), shape)
    np.testing.assert_array_equal(g16, wanted)
    order = np.moveaxis(wanted, 1, -1)
    r = np.reshape(literal_random(300, order.size), order.shape)
    np.testing.assert_array_equal(np.moveaxis(g8, 1, -1), np.clip(order + r >> 8, -127, 127))


@EVERY
@KINDS
def test_backward_is_float64s(shape, deviation):
    q, g, (gamma, beta) = codes(shape, 2, 60), gradient(shape, 2, 60), masters(60, 2)
    # Below the smallest spread the gradient is that of a range, which the clamp hides from torch.
    some = [c for c in range(15, 60) if literal_norm.statistics(q[c].tolist())[1] >= 16]
    q, g, gamma, beta = (v[some] for v in (q, g, gamma, beta))
    gamma = np.where(abs(gamma) < 1 << 26, 1 << 27, gamma)
    stats, norm = forward(shape, q, gamma, beta)
    rounded = np.floor(gamma / 65536 + 0.5) / 4096
    _, dq, dgamma = literal_norm.reference(q, rounded, np.zeros(len(q)), g, deviation)
    # The exponent that the rule would find.
    down = int(np.ceil(np.log2(abs(dq).max() / 32639)))
    way = deviation_backward if deviation else backward
    _, found, (g16, g8, _) = way(shape, q, g, stats, norm, down=down)
    exact = images(dq * 2.0 ** -down, shape)
    assert relative_error(g16, exact) < 1e-3 and cosine(g16, exact) > 1 - 1e-6
    inside = abs(exact) < 127 * 256
    assert relative_error((g8 * 256.0)[inside], exact[inside]) < 0.1
    scale = 2.0 ** NormGradientParameters(count=q.shape[1]).gamma_exponent
    assert relative_error(found[-2] * scale, dgamma[None]) < 2e-4
    np.testing.assert_array_equal(found[-1][0], g.sum(1))


@EVERY
@KINDS
def test_channels_without_slope_have_no_gradient(shape, deviation):
    q, g, (gamma, beta) = codes(shape), gradient(shape), masters(40)
    q[[8, 9]] = 3           # constant, beside the extremes of `codes`
    stats, norm = forward(shape, q, gamma, beta)
    way = deviation_backward if deviation else backward
    _, found, (g16, g8, _) = way(shape, q, g, stats, norm, down=-13)
    for c in (0, 1, 2, 6, 8, 9, 10, 11, 12):    # no range, gamma 0, no gradient
        assert (g16[:, c] == 0).all() and (g8[:, c] == 0).all()
    for c in (0, 1, 2, 8, 9, 12):
        assert found[-2][0, c] == 0
    assert (g16[:, 20:] != 0).any() and found[-1][0, 0] == g[0].sum()


@EVERY
def test_the_gradient_of_a_deviation_has_no_part_along_one_or_q(shape):
    """What batch norm's has: weights keep their length, and so does the mean."""
    q, g, (gamma, beta) = codes(shape, 3, 60), gradient(shape, 3, 60), masters(60, 3)
    stats, norm = forward(shape, q, gamma, beta)
    _, _, (g16, _, _) = deviation_backward(shape, q, g, stats, norm, down=-7)
    dq = np.moveaxis(g16, 1, 0).reshape(60, -1).astype(float)
    steady = abs(dq).max(1) < 32639
    assert steady[15:].sum() >= 10
    scale = norm[2][0] * 2.0 ** (10 + 7 - norm[3][0].astype(float))
    length = np.linalg.norm(g - g.mean(1, keepdims=True), axis=1) * scale
    for direction in (np.ones_like(q), q - q.mean(1, keepdims=True)):
        along = abs((dq * direction).sum(1))
        # Every value is rounded to a half, the slope to 15 bits, V to an integer.
        rounding = 0.51 * abs(direction).sum(1)
        variance = ((q - q.mean(1, keepdims=True)) ** 2).sum(1).clip(1)
        slope = (2**-14 + 0.51 / variance) * length * np.linalg.norm(direction, axis=1)
        assert (along <= rounding + slope)[steady].all()


@pytest.mark.parametrize("count", [17, 1000, 1 << 17, (1 << 17) + 1, (1 << 24) - 1, 1 << 24])
def test_the_largest_slopes_fit_their_widths(count):
    sums, squares = (NormGradientSums(count=count).ranges,
                     NormStatistics(count=count, squares=True).ranges[3:])
    bounds = [*sums, (-128 * count, 127 * count), (0, 4080), *squares]
    op = DeviationGradientParameters(count=count)
    assert op.accumulators(bounds) == (None, None)
    most = worst(op, *bounds)
    for g, q in ((32639, 127), (-32639, -128), (32639, -128), (3, 1), (1, 2), (0, 5)):
        for total, square in ((0, q * q * count), (q * count, q * q * count), (q, q * q),
                              (q * (count // 2), q * q * (count // 2))):
            given = [channels([part]) for whole in (g * count, g * q * count) for part in
                     ((whole + 32768) % 65536 - 32768, (whole + 32768) >> 16)]
            low = (square + 32768) % 65536 - 32768
            found = run(op, *given, channels([total]), channels([99], "int16"), channels([low]),
                        channels([(square - low) >> 16]))
            product = g * q * count - (g * count * total + (count >> 1)) // count
            variance = max(square - (total * total + (count >> 1)) // count, count // 32, 1)
            slope, k = literal_norm.slope_of(product, variance)
            assert (found[1][0, 0], found[2][0, 0]) == (slope, k)
            middle = ((total << 10) + (count >> 1)) // count
            mean = ((g * count << 10) + (count >> 1)) // count
            right = min(k + 10, 62)
            assert found[0][0, 0] == mean - (
                ((slope * middle << 7) + (1 << right - 1)) >> right)
            assert abs(product) <= most["Sum of g (q - mean)"].high
            if k and slope:
                assert slope * 2.0 ** -(k + 3) == pytest.approx(product / variance, rel=2**-14)
    with pytest.raises(ValueError, match="squares high must be one of"):
        op.accumulators([*bounds[:7], (0, squares[1][1] + 1)])
    ok = [(-32639, 32639), (-128, 127), (-1, 1), op.ranges[0], op.ranges[1], op.ranges[2],
          *((0, 1),) * 4]
    assert DeviationInputGradient(count=64, tensor_id=0).accumulators(ok) == (None, None)
    ok[3] = -1 << 31, (1 << 31) - 1
    with pytest.raises(ValueError, match="z must fit 32 bits"):
        DeviationInputGradient(count=64, tensor_id=0).accumulators(ok)


@pytest.mark.parametrize("bits", range(20, 39))
def test_a_channel_without_gradient_has_none_whatever_its_variance(bits):
    """All shifts stay below 63, where int64 has no rounding constant."""
    count, nothing = 1 << 24, channels([0])
    square = (1 << bits) - 1
    low = (square + 32768) % 65536 - 32768
    found = run(DeviationGradientParameters(count=count), *[nothing] * 4, channels([-500]),
                channels([100], "int16"), channels([low]), channels([(square - low) >> 16]))
    assert [int(x[0, 0]) for x in found[:2]] == [0, 0] and found[2][0, 0] <= 62


def test_sums_that_no_codes_have_stay_within_the_ranges():
    sums = NormGradientSums(count=100).ranges
    ends = [channels([side[1]]) for side in sums]
    squares = [channels([side[1]]) for side in NormStatistics(count=100, squares=True).ranges[3:]]
    run(DeviationGradientParameters(count=100), *ends, channels([0]), channels([0], "int16"),
        *squares)
    run(NormGradientParameters(count=100), *ends, channels([0]), channels([0], "int16"),
        channels([1], "int8"))


def test_constants_of_every_count():
    for count in [*range(17, 400), 4095, 4096, 65536, MAX_TERMS, (1 << 24) - 1, 1 << 24]:
        *_, ck, xk = literal_norm.constant(count)
        assert chunk_factor(count) == (ck, xk) and 4096 <= ck <= 8192 and 5 <= xk <= 8
        for running in (False, True):
            op = NormParameters(count=count, running=running)
            shifts = op.ranges[3]
            assert -128 <= shifts[0] <= shifts[1] <= 127
            bounds = (-128 * count, 127 * count)
            op.accumulators(((0, 0), (0, 0), (-1 << 31, (1 << 31) - 1) if running else bounds,
                             (0, 4080)))


@pytest.mark.parametrize(("count", "bits"), [((1 << 17) - 1, (33, 40, 41)), (1 << 17, (33, 40, 41)),
                                             ((1 << 17) + 1, (34, 41, 42)),
                                             (1 << 24, (40, 47, 48))])
def test_the_largest_values_fit_their_widths(count, bits):
    """Python integers of the worst case stay within what `widths` says."""
    sums = NormGradientSums(count=count).ranges
    op = NormGradientParameters(count=count)
    bounds = (*sums, (-128 * count, 127 * count), (0, 4080), (-1, 1))
    assert op.accumulators(bounds) == (None, None)
    widths = worst(op, *bounds)
    names = "Sum of g", "Sum of g q", "Sum of g (q - mean)"
    assert {name: width.bits for name, width in widths.items() if "Dividend" not in name} == {
        **dict(zip(names, bits)), "Spread": 13}
    assert all(-(1 << 52) <= w.low and w.high < 1 << 52 for w in widths.values())
    down = 4 + max(0, (count - 1).bit_length() - 17)
    assert op.gamma_exponent == down - chunk_factor(count)[1]
    for g in (32639, -32639):
        for q, total in ((127, -128 * count), (-128, 127 * count), (127, 127 * count - 5)):
            wholes = g * count, g * q * count
            given = [channels([part]) for whole in wholes for part in
                     ((whole + 32768) % 65536 - 32768, (whole + 32768) >> 16)]
            for value, (low, high) in zip(given, sums):
                assert low <= value[0, 0] <= high
            found = run(op, *given, channels([total]), channels([0], "int16"),
                        channels([1], "int8"))
            product = g * q * count - (g * count * total + (count >> 1)) // count
            assert widths["Sum of g (q - mean)"].low <= product
            assert product <= widths["Sum of g (q - mean)"].high
            spike = limit((product << 10) // 16, -(1 << 30), (1 << 30) - 1)
            assert found[1][0, 0] == spike
            gamma = ((product + (1 << down - 1)) >> down) * chunk_factor(count)[0] // 16
            assert found[2][0, 0] == limit(gamma, -(1 << 31), (1 << 31) - 1)
    for name, width in zip(names, bits):        # one bit less would not do
        assert widths[name].high >= 1 << width - 2 or count == (1 << 17) + 1


def test_one_step_beyond_is_refused():
    with pytest.raises(ValueError, match="Count must be in 17..16777216, not 16777217"):
        NormGradientSums(count=(1 << 24) + 1)
    with pytest.raises(ValueError, match="count must be in 17..16777216, not 16777217"):
        NormStatistics(count=(1 << 24) + 1)
    with pytest.raises(ValueError, match="Total must be one of 64 codes, not -8320..8128"):
        NormParameters(count=64).accumulators(((0, 0), (0, 0), (-128 * 65, 127 * 64), (0, 4080)))
    bounds = [*NormGradientSums(count=200).ranges, (0, 0), (0, 4080), (-1, 1)]
    with pytest.raises(ValueError, match="sum_g high must be one of 64 codes"):
        NormGradientParameters(count=64).accumulators(bounds)
    bounds[:4] = NormGradientSums(count=64).ranges
    bounds[5] = 0, 4096
    with pytest.raises(ValueError, match="Spread must fit 13 bits, not 4096"):
        NormGradientParameters(count=64).accumulators(bounds)
    ok = [(-32639, 32639), (0, 4), (0, 4), (-1, 1), (-32639 << 10, 32639 << 10),
          (-1 << 30, 1 << 30), (0, 1), (0, 1), (0, 1), (0, 1)]
    op = NormInputGradient(count=64, tensor_id=0)
    assert op.accumulators(ok) == (None, None)
    ok[5] = -1 << 31, (1 << 31) - 1
    with pytest.raises(ValueError, match="z must fit 32 bits"):
        op.accumulators(ok)
    ok[3] = -2, 2
    with pytest.raises(ValueError, match="Sign must fit 2 bits, not 2"):
        op.accumulators(ok)
    with pytest.raises(ValueError, match="must get 64 codes per channel, not 32"):
        NormStatistics(count=64)(np.zeros((32, 3), np.int8))
    with pytest.raises(ValueError, match="Activation must be none, relu or relu6, not 'gelu'"):
        NormApply(activation="gelu")

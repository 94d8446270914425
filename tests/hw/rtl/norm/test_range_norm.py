# amaranth: UnusedElaboratable=no
"""The RangeBatchNorm unit equals golden.ops.range_norm.RangeNormConfig exactly."""

import random

import numpy as np
import pytest
from amaranth.back import verilog
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.ops.range_norm import RangeNormConfig, by_channel
from hw.rtl.norm.divider import Divider
from hw.rtl.norm.range_norm import RangeBatchNormUnit, range_norm_items
from tests.hw.simulate import run_testbench, simulate

pytestmark = pytest.mark.slow


def make_config(count, rng, n_channels, *, eps=1e-5, gamma=None, output_scale=0.02):
    if gamma is None:
        gamma = rng.normal(0, 1, n_channels)
    return RangeNormConfig.from_floats(
        count=count, gamma=gamma, beta=rng.normal(0, 1, n_channels), eps=eps, input_scale=0.03,
        output_scale=output_scale, output_zero_point=int(rng.integers(-128, 128)))


def rtl(config, q, *, stalls=0.0, seed=0):
    """q: int8 (N, C, ...). Returns what the unit gives, (C, count) int64."""
    channels = by_channel(q)
    codes = [int(code) for channel in channels for _ in range(2) for code in channel]
    results = simulate(RangeBatchNormUnit(), {"parameters": range_norm_items(config), "i": codes},
                       n_outputs=channels.size, stalls=stalls, seed=seed)
    return np.array(results).reshape(channels.shape)


def check(config, q, **kwargs):
    actual, expected = rtl(config, q, **kwargs), by_channel(config(q)).astype(np.int64)
    where = np.argwhere(actual != expected)
    assert not len(where), (f"{len(where)} of {expected.size} codes differ, first at "
                            f"(channel, position) {where[0]}: RTL {actual[tuple(where[0])]}, "
                            f"golden {expected[tuple(where[0])]}")


def codes(rng, count, channels, spread=40, centre=0):
    values = rng.normal(centre, spread, (count, channels))
    return np.clip(np.floor(values + 0.5), -128, 127).astype(np.int8)


@pytest.mark.parametrize("count", [17, 31, 32, 33, 100, 256, 999])
def test_random_codes_of_any_count(count):
    rng = np.random.default_rng(count)
    check(make_config(count, rng, 3), codes(rng, count, 3))


@pytest.mark.parametrize("spread", [0.3, 1.0, 200.0])
def test_tiny_and_full_ranges(spread):
    rng = np.random.default_rng(5)
    check(make_config(80, rng, 4), codes(rng, 80, 4, spread, centre=90))


def test_constant_channels_give_beta():
    rng = np.random.default_rng(6)
    q = np.repeat(np.array([[-128, 0, 127]], np.int8), 40, axis=0)
    config = make_config(40, rng, 3)
    check(config, q)
    assert (np.ptp(rtl(config, q), axis=1) == 0).all()


def test_one_wild_chunk():
    rng = np.random.default_rng(7)
    q = np.zeros((160, 2), np.int8)
    q[30:40] = rng.integers(-128, 128, (10, 2))
    check(make_config(160, rng, 2), q)


def test_extreme_parameters():
    rng = np.random.default_rng(8)
    for gamma, eps, scale in ((0.0, 1e-5, 0.02), (1e-12, 0.0, 1.0), (-100.0, 0.5, 0.02),
                              (5.0, 2.0, 1e-3), (-1.0, 0.0, 0.5)):
        config = make_config(50, rng, 2, gamma=np.full(2, gamma), eps=eps, output_scale=scale)
        check(config, codes(rng, 50, 2, 30))


def test_images_pass_in_order_n_h_w():
    rng = np.random.default_rng(9)
    q = rng.integers(-128, 128, (4, 2, 3, 5)).astype(np.int8)
    check(make_config(60, rng, 2), q)


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), count=st.integers(17, 120),
       stalls=st.sampled_from([0.0, 0.3, 0.7]))
def test_any_channel_under_any_stalls(seed, count, stalls):
    rng = np.random.default_rng(seed)
    q = codes(rng, count, 2, spread=10 ** rng.uniform(-1, 2), centre=rng.uniform(-128, 127))
    check(make_config(count, rng, 2), q, stalls=stalls, seed=seed)


def test_a_wrong_parameter_is_noticed():
    rng = np.random.default_rng(10)
    q = codes(rng, 50, 1)
    config = make_config(50, rng, 1, gamma=np.ones(1))
    items = [item | {"beta": item["beta"] + (1 << 16)} for item in range_norm_items(config)]
    sent = [int(code) for code in q[:, 0]] * 2
    actual = simulate(RangeBatchNormUnit(), {"parameters": items, "i": sent}, n_outputs=50)
    assert actual != list(config(q)[:, 0])


def test_divider():
    rng, dut = random.Random(1), Divider(20, 9)
    cases = [(rng.randrange(1 << 20), rng.randrange(1, 1 << 9)) for _ in range(50)]
    cases += [((1 << 20) - 1, 1), (0, 5), ((1 << 20) - 1, (1 << 9) - 1)]

    async def testbench(ctx):
        for dividend, divisor in cases:
            ctx.set(dut.dividend, dividend)
            ctx.set(dut.divisor, divisor)
            ctx.set(dut.start, 1)
            await ctx.tick()
            ctx.set(dut.start, 0)
            await ctx.tick().repeat(20)
            assert not ctx.get(dut.busy)
            assert ctx.get(dut.quotient) == dividend // divisor

    run_testbench(dut, testbench)


def test_verilog_is_the_same_every_time():
    texts = {verilog.convert(RangeBatchNormUnit(), emit_src=False, strip_internal_attrs=True,
                             name="range_batch_norm") for _ in range(2)}
    assert len(texts) == 1

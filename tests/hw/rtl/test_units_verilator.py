# amaranth: UnusedElaboratable=no
"""Rescaler and RangeBatchNorm on Verilator: many items, and activations of a training run."""

import random

import numpy as np
import pytest

from golden.ops.range_norm import RangeNormConfig, by_channel, range_norm_reference
from hw.rtl.lanes.rescaler import Rescaler
from hw.rtl.norm.range_norm import RangeBatchNormUnit, range_norm_items
from sim.unit import run_stream, run_streams
from sw.train.capture import capture_norms
from tests.hw.rtl.lanes.test_rescaler import golden, random_item
from tests.hw.rtl.norm.test_range_norm import make_config
from tests.sw.trained import digits, trained_digits


def rtl(config, q, *, idle=0.0, backpressure=0.0):
    """q: int8 (N, C, ...). What the unit gives, (C, count) int64."""
    channels = by_channel(q)
    codes = np.repeat(channels[:, None], 2, axis=1).ravel().tolist()
    results = run_streams(RangeBatchNormUnit(), {"parameters": range_norm_items(config),
                                                 "i": codes},
                          {"o": channels.size}, idle=idle, backpressure=backpressure)
    return np.array(results["o"]).reshape(channels.shape)


@pytest.mark.slow
@pytest.mark.parametrize(("idle", "backpressure"), [(0.0, 0.0), (0.5, 0.1), (0.1, 0.5)])
def test_rescaler(idle, backpressure):
    rng = random.Random(f"{idle} {backpressure}")
    items = [random_item(rng) for _ in range(4_000)]
    results = run_stream(Rescaler(), items, idle=idle, backpressure=backpressure)
    assert [result["value"] for result in results] == [golden(item) for item in items]


@pytest.mark.long
@pytest.mark.parametrize(("count", "stalls"), [(4099, 0.0), (1000, 0.3), (17, 0.7)])
def test_range_norm(count, stalls):
    rng = np.random.default_rng(count)
    q = rng.integers(-128, 128, (count, 3)).astype(np.int8)
    config = make_config(count, rng, 3)
    assert (rtl(config, q, idle=stalls, backpressure=stalls) == by_channel(config(q))).all()


@pytest.mark.long
def test_range_norm_on_activations_of_a_training_run():
    batches = capture_norms(trained_digits(), digits().train_images[:11])
    n_codes = n_exact = 0
    for batch in batches:
        n, channels, *image = batch.codes.shape
        config = RangeNormConfig.from_floats(count=n * int(np.prod(image)), **batch.arguments())
        expected = config(batch.codes)
        assert (rtl(config, batch.codes) == by_channel(expected)).all(), batch.name
        difference = expected.astype(int) - range_norm_reference(batch.codes, **batch.arguments())
        assert abs(difference).max() <= 1, batch.name
        n_codes += difference.size
        n_exact += (difference == 0).sum()
    print(f"{n_codes} codes of {len(batches)} tensors: RTL = golden for all; "
          f"{100 * n_exact / n_codes:.3f} % equal float64 exactly, the others within one code")
    assert n_exact / n_codes > 0.99

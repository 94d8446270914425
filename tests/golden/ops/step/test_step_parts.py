"""A batch in parts: what several executors compute together is what one computes of the whole."""

import threading

import numpy as np
import pytest

from golden.ops import step as ops
from golden.ops.primitives import Numpy
from tests.golden.ops.step.common import SEED, STEP, channels, one

CHANNELS = 3


class Parts:
    """Primitives of equal parts of a batch, in threads that meet where they exchange values."""

    def __init__(self, n_parts):
        self.n_parts = n_parts
        self.barrier = threading.Barrier(n_parts, timeout=20)
        self.values = [None] * n_parts

    def exchange(self, which, value, combine):
        self.values[which] = value
        self.barrier.wait()
        result = combine(self.values)
        self.barrier.wait()
        return result

    def run(self, op, *inputs):
        """The outputs of every part, for inputs of which the batched ones are cut."""
        results = [None] * self.n_parts

        def work(which):
            cut = [x.reshape(self.n_parts, -1, *x.shape[1:])[which] if port.batched else x
                   for port, x in zip(op.ports_in, inputs, strict=True)]
            found = op.compute(Part(self, which), *cut)
            results[which] = found if isinstance(found, tuple) else (found,)

        threads = [threading.Thread(target=work, args=(which,)) for which in range(self.n_parts)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return results


class Part(Numpy):
    """One of them."""

    def __init__(self, parts, which):
        self.parts, self.which = parts, which

    def part(self):
        return self.which, self.parts.n_parts

    def all_sum(self, value):
        return self.parts.exchange(self.which, value, sum)

    def all_max(self, value):
        return self.parts.exchange(self.which, value, np.maximum.reduce)


def assert_as_the_whole(n_parts, op, *inputs):
    whole = op(*inputs)
    whole = whole if isinstance(whole, tuple) else (whole,)
    for index, port in enumerate(op.ports_out):
        found = [part[index] for part in Parts(n_parts).run(op, *inputs)]
        if port.batched:
            np.testing.assert_array_equal(np.concatenate(found), whole[index], port.name)
        else:
            for part in found:
                np.testing.assert_array_equal(part, whole[index], port.name)
    return whole


@pytest.mark.parametrize("n_parts", [2, 3])
@pytest.mark.parametrize("size", [(3, 3), (7, 5), (1, 4)])
def test_a_layer(n_parts, size):
    n_images = 12
    count = n_images * size[0] * size[1]
    rng = np.random.default_rng(count)
    q = rng.integers(-9, 9, (n_images, CHANNELS, *size)).astype(np.int8)
    g = rng.integers(-30000, 30000, q.shape).astype(np.int16)
    x = rng.integers(0, 128, q.shape).astype(np.int8)
    ones = channels([1] * CHANNELS)
    total, spread, _, *at = assert_as_the_whole(n_parts, ops.NormStatistics(count=count), q)
    sums = assert_as_the_whole(n_parts, ops.NormGradientSums(count=count, activation="relu"), g, q,
                               x)
    sign = ones.astype(np.int8)
    mean, spike, _, _ = ops.NormGradientParameters(count=count)(*sums, total, spread, sign)
    op = ops.NormInputGradient(count=count, activation="relu", tensor_id=3)
    assert_as_the_whole(n_parts, op, g, *at, sign, mean, spike, ones << 30, ones * 40, SEED, STEP,
                        x)
    *_, low, high = assert_as_the_whole(n_parts, ops.NormStatistics(count=count, squares=True), q)
    taken = ops.DeviationGradientParameters(count=count)(*sums, total, spread, low, high)[:3]
    op = ops.DeviationInputGradient(count=count, activation="relu", tensor_id=3)
    assert_as_the_whole(n_parts, op, g, q, sign, *taken, ones << 30, ones * 40, SEED, STEP, x)
    assert_as_the_whole(n_parts, ops.KernelGradient(
        n_images=n_images, kernel=(3, 3), padding=(1, 1, 1, 1)), x, g)
    assert_as_the_whole(n_parts, ops.BiasGradient(n_images=n_images), g[:, :, 0, 0])
    assert_as_the_whole(n_parts, ops.GradientAddition(tensor_id=2), g, g[::-1], one(-3, "int8"),
                        one(-4, "int8"), one(-3, "int8"), SEED, STEP)
    assert_as_the_whole(n_parts, ops.Dropout(drop=100, tensor_id=4), x, one(0), SEED, STEP)
    with pytest.raises(ValueError, match="must get"):
        ops.NormStatistics(count=count)(q[1:])

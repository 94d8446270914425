"""What the tests of the integer training step share."""

import numpy as np
import torch

from golden.random import counter_bits, initial_state
from sw import executor

SEED, STEP = np.array([[7]], np.int32), np.array([[3]], np.int32)


def one(value, dtype="int32"):
    """A tensor of shape (1,) that is not batched."""
    return np.array([[value]], dtype)


def channels(values, dtype="int32"):
    """A tensor of shape (C,) that is not batched."""
    return np.asarray(values).astype(dtype)[None]


def run(op, *inputs):
    """The outputs by numpy as a tuple; torch's are the same bits, and all lie in their ranges."""
    results = op(*inputs)
    others = executor.execute(op, *(torch.from_numpy(np.array(x)) for x in inputs))
    results, others = ((x if isinstance(x, tuple) else (x,)) for x in (results, others))
    shapes = op.output_shape(*(x.shape[1:] for x in inputs))
    batched = op.output_batched(*(port.batched for port in op.ports_in))
    info = [np.iinfo(x.dtype) for x in inputs]
    ranges = op.output_range([(int(x.min), int(x.max)) for x in info])
    if op.n_outputs == 1:
        shapes, batched, ranges = (shapes,), (batched,), (ranges,)
    for x, y, port, shape, is_batched, (low, high) in zip(
            results, others, op.ports_out, shapes, batched, ranges, strict=True):
        assert x.dtype == port.dtype and str(y.dtype) == f"torch.{port.dtype}"
        np.testing.assert_array_equal(x, y.numpy(), err_msg=port.name)
        assert x.shape == (x.shape[0], *shape) and is_batched == port.batched
        assert port.batched or len(x) == 1
        assert low <= x.min() and x.max() <= high, port.name
    return results


def literal_lanes(x, multiplier, shift, r=None):
    """The lanes on Python integers, with the rounding constant spelt out."""
    if shift > 62:
        multiplier = 0
    shift = min(max(shift, 0), 62)
    left, right = max(31 - shift, 0), max(shift - 31, 0)
    low, high = -(1 << 31), (1 << 31) - 1
    x = min(max(min(max(x, low), high) << left, low), high)
    constant = 1 << 30 + right if r is None else (2 * r + 1) << 22 + right
    return (x * multiplier + constant) >> (31 + right)


def limit(x, low, high):
    """One Python integer within bounds."""
    return max(low, min(high, x))


def literal_random(identity, count):
    """`count` random bytes of a tensor at SEED and STEP, a list."""
    word = initial_state(7, 3, identity) & 0xFFFFFFFF
    word -= (word >> 31) << 32
    return counter_bits(word, np.arange(count, dtype=np.int32)).tolist()


def literal_top(values):
    """The magnitude watch of Python integers."""
    return max(~y if y < 0 else y for y in values)


def relative_error(found, expected):
    """The norm of the difference by that of the expected."""
    found, expected = (np.asarray(x, np.float64).ravel() for x in (found, expected))
    return np.linalg.norm(found - expected) / max(np.linalg.norm(expected), 1e-300)


def cosine(found, expected):
    """Of the angle between two arrays."""
    found, expected = (np.asarray(x, np.float64).ravel() for x in (found, expected))
    return found @ expected / (np.linalg.norm(found) * np.linalg.norm(expected))


def worst(op, *ranges):
    """`widths` for the whole range of the inputs, by name."""
    return {width.name: width for width in op.widths(ranges)}

"""golden.random.counter_bits: the same bits from numpy and torch, and uniform ones."""

import numpy as np
import pytest
import torch

from golden.random import counter_bits

INDEX = np.arange(1 << 18, dtype=np.int32)


def chi_square(values, n_bins):
    counts = np.bincount(values, minlength=n_bins)
    expected = len(values) / n_bins
    return ((counts - expected)**2 / expected).sum()


def assert_uniform(values, n_bins):
    """Within 6 standard deviations of the chi-square distribution's mean, on both sides."""
    freedom = n_bins - 1
    assert abs(chi_square(values, n_bins) - freedom) < 6 * (2 * freedom)**0.5


@pytest.mark.parametrize("seed", [0, 1, -1, 2**31 - 1, -2**31, 12345])
def test_numpy_and_torch_agree(seed):
    index = np.concatenate([INDEX[:1000], np.array([2**31 - 1, -2**31, -1], np.int32)])
    expected = counter_bits(np.int32(seed), index)
    assert expected.dtype == np.int32 and expected.min() >= 0 and expected.max() <= 255
    assert np.array_equal(expected, counter_bits(seed, index))
    found = counter_bits(torch.tensor(seed, dtype=torch.int32), torch.from_numpy(index))
    assert found.dtype == torch.int32 and np.array_equal(expected, found.numpy())


def test_a_worked_number():
    """By Python integers modulo 2**32, element 3 of seed 5."""
    state = (3 * 0x9E3779B1 + 5) % 2**32
    state = (state ^ state >> 15) * 0x85EBCA77 % 2**32
    state = (state ^ state >> 13) * 0xC2B2AE3D
    assert counter_bits(5, INDEX[:4])[3] == state % 2**32 >> 24


@pytest.mark.parametrize("seed", [0, 1, 2, -77, 2**31 - 1])
def test_bits_are_uniform_and_neighbours_independent(seed):
    bits = counter_bits(seed, INDEX)
    assert_uniform(bits, 256)
    for lag in (1, 2, 16, 64, 1024):  # channels, rows, images
        assert_uniform(bits[:-lag] * 256 + bits[lag:], 1 << 16)
    assert_uniform(bits * 256 + counter_bits(seed - 1, INDEX), 1 << 16)  # two calls


def test_the_check_sees_a_hash_that_is_too_weak():
    weak = (INDEX * np.int32(-1640531535) >> 24 & 255).astype(np.int64)
    with pytest.raises(AssertionError):
        assert_uniform(weak[:-1] * 256 + weak[1:], 1 << 16)

"""The LFSR: jump-ahead equals stepping, and the sequence is as long as it can be."""

import numpy as np
import pytest

from golden import random


def stepped(seed, step, tensor_id, count):
    state, states = random.initial_state(seed, step, tensor_id), []
    for _ in range(count):
        states.append(state)
        for _ in range(random.STEPS_PER_ELEMENT):
            state = random.lfsr_step(state)
    return states


def test_any_order_gives_the_stepped_states():
    expected = stepped(1, 2, 3, 300)
    assert random.states_at(1, 2, 3, np.arange(300)).tolist() == expected
    index = np.random.default_rng(0).permutation(300).reshape(3, 100)
    assert random.states_at(1, 2, 3, index).tolist() == [[expected[i] for i in row]
                                                         for row in index]
    sparse = np.array([299, 0, 17, 10**9])
    assert random.states_at(1, 2, 3, sparse)[:3].tolist() == [expected[i] for i in sparse[:3]]


def test_far_indices_agree_between_the_dense_and_the_sparse_way():
    far = 10**11
    dense = random.states_at(9, 0, 0, np.arange(far, far + 20))
    sparse = random.states_at(9, 0, 0, np.array([far + 19, 0, far]))
    assert sparse[0] == dense[19]
    assert sparse[2] == dense[0]


def test_the_sequence_has_maximal_length():
    columns = [random.lfsr_step(1 << bit) for bit in range(64)]

    def moved(n):
        state, powers = 1, columns
        while n:
            if n & 1:
                state = random._multiply(powers, state)
            powers, n = [random._multiply(powers, column) for column in powers], n >> 1
        return state

    period = 2**64 - 1
    assert moved(period) == 1
    assert all(moved(period // prime) != 1 for prime in (3, 5, 17, 257, 641, 65537, 6700417))


@pytest.mark.parametrize("n_bits", [1, 8, 16, 32])
def test_bits_are_uniform_and_streams_differ(n_bits):
    bits = random.random_bits(1, 2, 3, np.arange(1 << 14), n_bits)
    assert bits.dtype == np.int64
    assert bits.min() >= 0
    assert bits.max() < 1 << n_bits
    assert abs(bits.mean() / ((1 << n_bits) - 1) - 0.5) < 0.02
    if n_bits > 1:
        others = [random.random_bits(*key, np.arange(1 << 14), n_bits)
                  for key in ((2, 2, 3), (1, 3, 3), (1, 2, 4))]
        for other in (*others, np.roll(bits, 1)):
            assert abs(np.corrcoef(bits, other)[0, 1]) < 0.05


def test_arguments_are_checked():
    with pytest.raises(ValueError, match="Number of bits must be in 1..32, not 33"):
        random.random_bits(0, 0, 0, [0], 33)
    with pytest.raises(ValueError, match="Index must be in"):
        random.random_bits(0, 0, 0, [-1], 8)
    with pytest.raises(TypeError, match="Index must be integers"):
        random.random_bits(0, 0, 0, [0.5], 8)
    with pytest.raises(TypeError, match="Seed must be an integer"):
        random.random_bits(None, 0, 0, [0], 8)
    assert random.random_bits(0, 0, 0, np.zeros(0, int), 8).shape == (0,)

"""Random bits for stochastic rounding, as a function of the element index.

A 64-bit Fibonacci LFSR, x^64 + x^63 + x^61 + x^60 + 1 (maximal length), moves 32 steps per
element: the state of element i is A^(32 i) s, with s a hash of (seed, step, tensor id). A step is
linear over GF(2), so any power of A maps a state to the XOR of constants selected by its bits; the
jump to any index is a handful of table look-ups, and hardware that visits the elements in tiles
loads the state of the tile's first element. Element i takes the n lowest bits of its state.
"""

from functools import cache
from typing import TypeVar

import numpy as np

from golden import validate

__all__ = ["STEPS_PER_ELEMENT", "counter_bits", "counter_seed", "initial_state", "jump",
           "jump_columns", "lfsr_step", "random_bits", "states_at"]

STATE_WIDTH = 64
TAPS = (64, 63, 61, 60)         # exponents of the polynomial
STEPS_PER_ELEMENT = 32
BITS_MAX = 32
INDEX_MAX = (1 << 40) - 1
_MASK = (1 << STATE_WIDTH) - 1
_DIGIT_WIDTH = 4                # bits of the index taken per jump
_GAMMA = 0x9E3779B97F4A7C15 - (1 << STATE_WIDTH)    # signed, as int64 has it
_Integers = TypeVar("_Integers")        # an array or a tensor
_DENSE = 32                     # longest index span per element for which all states are made


def lfsr_step(state) -> int:
    """One step on a Python int: shift left, the XOR of the tapped bits enters at bit 0."""
    feedback = 0
    for tap in TAPS:
        feedback ^= state >> (tap - 1)
    return (state << 1 | feedback & 1) & _MASK


def initial_state(seed, step, tensor_id) -> int:
    """The state of element 0, never 0: splitmix64 (Steele et al. 2014) over the three numbers."""
    values = [validate.integer(name, value, 0, _MASK) for name, value in
              (("Seed", seed), ("Step", step), ("Tensor id", tensor_id))]
    return _splitmix(values, lambda state: state & _MASK) or 1


def _splitmix(values, wrap):
    """Of integers that `wrap` brings back to 64 bits, or that wrap by themselves."""
    state = 0
    for value in values:
        state = wrap((state ^ value) + _GAMMA)
        for shift, factor in ((30, -0x40A7B892E31B1A47), (27, -0x6B2FB644ECCEEE15)):
            state = wrap((state ^ _logical_shift(state, shift)) * factor)
        state = state ^ _logical_shift(state, 31)
    return state


def _logical_shift(state, shift):
    return state >> shift & (1 << STATE_WIDTH - shift) - 1


def counter_seed(seed: _Integers, step: _Integers, tensor_id) -> _Integers:
    """What `counter_bits` takes for the random bits of a tensor: the low word of the hash.

    seed, step: int64 arrays or tensors, taken as unsigned 32-bit numbers. Returns int64 in int32.
    """
    mask, sign = (1 << 32) - 1, 1 << 31
    word = _splitmix((seed & mask, step & mask, tensor_id), lambda state: state) & mask
    return (word ^ sign) - sign


def _multiply(columns, state):
    """The XOR of the columns that the bits of a Python int select."""
    result, bit = 0, 0
    while state >> bit:
        if state >> bit & 1:
            result ^= columns[bit]
        bit += 1
    return result


@cache
def jump_columns(log2_elements) -> tuple[int, ...]:
    """The images of the 64 state bits under a jump of 2**log2_elements elements, Python ints."""
    if log2_elements == 0:
        columns = []
        for bit in range(STATE_WIDTH):
            state = 1 << bit
            for _ in range(STEPS_PER_ELEMENT):
                state = lfsr_step(state)
            columns.append(state)
        return tuple(columns)
    half = jump_columns(log2_elements - 1)
    return tuple(_multiply(half, column) for column in half)


@cache
def _byte_tables(log2_elements):
    """A jump as 8 tables of 256 words, one per byte of the state: uint64 (8, 256)."""
    columns = np.array(jump_columns(log2_elements), np.uint64).reshape(8, 8)
    tables = np.zeros((8, 256), np.uint64)
    for bit in range(8):
        tables[:, 1 << bit:2 << bit] = tables[:, :1 << bit] ^ columns[:, bit:bit + 1]
    return tables


@cache
def _digit_tables(position):
    """Jumps of d * 16**position elements for d = 0..15: uint64 (16, 8, 256)."""
    result = np.empty((1 << _DIGIT_WIDTH, 8, 256), np.uint64)
    shifts = np.arange(8, dtype=np.uint64)[:, None] * np.uint64(8)
    result[0] = np.arange(256, dtype=np.uint64) << shifts
    for digit in range(1, len(result)):
        result[digit] = jump(result[digit - 1], _byte_tables(position * _DIGIT_WIDTH))
    return result


def jump(states, tables) -> np.ndarray:
    """Applies a jump to uint64 states, any shape. tables: (8, 256) as made for one jump."""
    result = np.zeros_like(states)
    for byte in range(8):
        result ^= tables[byte][states >> np.uint64(8 * byte) & np.uint64(255)]
    return result


def _dense_states(start, count):
    """States of `count` consecutive elements from the state of the first."""
    states = np.array([start], np.uint64)
    log2_elements = 0
    while len(states) < count:
        states = np.concatenate([states, jump(states, _byte_tables(log2_elements))])
        log2_elements += 1
    return states[:count]


def states_at(seed, step, tensor_id, index) -> np.ndarray:
    """LFSR states of elements. index: integers in 0..2**40-1, any shape. Returns uint64."""
    index = np.asarray(index)
    if index.dtype.kind not in "iu":
        raise TypeError(f"Index must be integers, not {index.dtype}")
    if index.size == 0:
        return np.zeros(index.shape, np.uint64)
    low, high = int(index.min()), int(index.max())
    if not 0 <= low <= high <= INDEX_MAX:
        raise ValueError(f"Index must be in 0..{INDEX_MAX}, not {low if low < 0 else high}")
    first = initial_state(seed, step, tensor_id)
    if high - low < _DENSE * index.size:
        for log2_elements in range(low.bit_length()):
            if low >> log2_elements & 1:
                first = _multiply(jump_columns(log2_elements), first)
        return _dense_states(first, high - low + 1)[index.astype(np.int64) - low]
    states = np.full(index.shape, first, np.uint64)
    for position in range(-(-high.bit_length() // _DIGIT_WIDTH)):
        digit = index.astype(np.int64) >> (position * _DIGIT_WIDTH) & 15
        tables, moved = _digit_tables(position), np.zeros_like(states)
        for byte in range(8):
            moved ^= tables[digit, byte, states >> np.uint64(8 * byte) & np.uint64(255)]
        states = moved
    return states


def random_bits(seed, step, tensor_id, index, n_bits) -> np.ndarray:
    """Uniform integers in [0, 2**n_bits) for the elements `index` of a tensor, in any order.

    seed, step, tensor_id: integers in 0..2**64-1
    index: flat element indices, 0..2**40-1, any shape
    n_bits: 1..32
    Returns int64 of the shape of index.
    """
    n_bits = validate.integer("Number of bits", n_bits, 1, BITS_MAX)
    states = states_at(seed, step, tensor_id, index)
    return (states & np.uint64((1 << n_bits) - 1)).astype(np.int64)


_COUNTER_MULTIPLIERS = -1640531535, -2048144777, -1028477379  # the first primes of xxHash32


def counter_bits(seed, index: _Integers) -> _Integers:
    """8 random bits per element from a counter, the same on int32 numpy arrays and torch tensors.

    seed: an int32 scalar or a Python int in that range. index: int32 array of at least one
    dimension; the element's position, modulo 2**32. Returns int32 in [0, 256), shape of index.

    A multiplicative hash in wrapping int32 arithmetic, for software that rounds millions of
    elements per step; the generator above is the one that hardware shares. Not cryptographic.
    """
    first, second, third = _COUNTER_MULTIPLIERS
    state = index * first  # in place from here: memory traffic is what this costs
    state += seed
    for shift, factor in ((15, second), (13, third)):
        high = state >> shift
        high &= (1 << 32 - shift) - 1  # a logical shift
        state ^= high
        state *= factor
    state >>= 24
    state &= 255
    return state

"""Random rescales and tensors as words, for the tests of the instruction-set model."""

import numpy as np

from golden import arith
from golden.ops.rescale import Rescale

ROUNDINGS = list(arith.Rounding)


def random_rescale(rng, channels):
    return Rescale(
        multiplier=rng.integers(1 << 30, 1 << 31, channels), shift=rng.integers(36, 41, channels),
        zero_point=int(rng.integers(-9, 9)), low=-120, high=110,
        rounding=ROUNDINGS[rng.integers(2)])


def rescale_fields(rescale):
    return {"gemmlowp": int(rescale.rounding is arith.Rounding.GEMMLOWP),
            "zero_point": rescale.zero_point, "low": rescale.low, "high": rescale.high}


def put_parameters(machine, first_word, bias, rescale):
    """Parameters of as many channels as there are biases, from a parameter word on."""
    place = machine.parameters[first_word * machine.target.lanes:][:len(bias)]
    place[:, 0] = np.asarray(bias, np.int64) & 0xFFFFFFFF
    place[:, 1], place[:, 2] = rescale.multiplier, rescale.shift


def to_words(x, columns):
    """int8 (C, H, W) as words (H * W * chunks, columns), filled up with noise."""
    channels, height, width = x.shape
    chunks = -(-channels // columns)
    words = np.full((height * width, chunks * columns), 77, np.int8)
    words[:, :channels] = x.reshape(channels, -1).T
    return words.reshape(-1, columns)


def from_words(words, channels, height, width):
    return words.reshape(height * width, -1)[:, :channels].T.reshape(channels, height, width)


def put(machine, bank, base, words):
    machine.banks[bank][base:base + len(words)] = words
    return base + len(words)

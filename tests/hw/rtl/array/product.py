"""A matrix product encoded by hand, small enough for every test of the accelerator at its bus."""

import numpy as np

from golden.ops import Rescale
from hw.compiler.memory.image import from_bus, to_bus
from hw.isa import AddressWindow, Feed, Opcode, encode

__all__ = ["BANK_A", "BANK_B", "BANK_OUT", "HALT", "MATMUL_SLOTS", "Product", "instructions"]

BANK_A, BANK_B, BANK_OUT = 0, 1, 2
HALT = encode(Opcode.HALT)
_PERIODS = 5
_ENDLESS = 0xFFFF
#: Slots of a Product's instruction on a 4 x 4 array: 3 x 2 tiles of 5 periods of 4.
MATMUL_SLOTS = 3 * 2 * _PERIODS * 4


def instructions(commands, *records):
    """Write instructions from the first one on."""
    commands.write(AddressWindow.INSTRUCTIONS << 28, np.array(records))


class Product:
    """(n_pixels, depth) times (n_channels, depth), a in bank 0, b in bank 1, results to bank 2."""

    def __init__(self, target, feeds=(Feed.TRANSPOSING, Feed.TRANSPOSING), *, n_pixels=None,
                 n_channels=None, seed=0):
        self.target, self.feeds = target, feeds
        self.n_pixels = n_pixels or 2 * target.rows + 1
        self.n_channels = n_channels or target.columns + 2
        rng = np.random.default_rng(seed)
        self.depth = _PERIODS * target.columns
        self.a, self.b = (rng.integers(-128, 128, (n, self.depth)).astype(np.int8)
                          for n in (self.n_pixels, self.n_channels))
        self.b = np.maximum(self.b, -127)  # so that packed multipliers can, too
        self.bias = rng.integers(-20000, 20000, self.n_channels)
        self.multiplier = rng.integers(1 << 30, 1 << 31, self.n_channels)
        self.shift = rng.integers(38, 42, self.n_channels)
        self.sums = self.a.astype(np.int64) @ self.b.T.astype(np.int64)
        rescale = Rescale(multiplier=self.multiplier, shift=self.shift, zero_point=-7, low=-100,
                          high=90)
        self.codes = rescale(self.sums + self.bias)
        self.out_step = -(-self.n_channels // target.columns)

    def _words(self, operand, feed, n_lanes):
        """The words of an operand: a lane's next ones in a row, or a step's."""
        columns = self.target.columns
        if feed == Feed.TRANSPOSING:
            return operand.reshape(-1, columns)
        n_tiles = -(-len(operand) // n_lanes)
        words = np.zeros((self.depth, n_tiles, columns), np.int8)
        padded = np.zeros((n_tiles * n_lanes, self.depth), np.int8)
        padded[:len(operand)] = operand
        words[:, :, :n_lanes] = padded.T.reshape(self.depth, n_tiles, n_lanes)
        return words.reshape(-1, columns)

    def _port(self, port, feed, n, n_lanes, unit):
        """Walker fields; ``unit``: addresses per word."""
        n_tiles = -(-n // n_lanes)
        if feed == Feed.TRANSPOSING:
            walk = {"x_step": _PERIODS * unit, "group": 1, "k0_count": _PERIODS, "k0_step": unit}
        else:  # one walk over the whole reduction
            walk = {"x_step": n_tiles * unit, "group": _PERIODS, "k0_count": 1, "fixed": 1,
                    "tile_step": unit}
        walk |= {"feed": feed, "bank": BANK_A if port == "a" else BANK_B, "x_count": _ENDLESS,
                 "k1_count": 1}
        return {f"{port}_{name}": value for name, value in walk.items()}

    def instruction(self, **fields):
        """The MATMUL; ``fields`` change it."""
        target = self.target
        return encode(Opcode.MATMUL, **{
            "slots": target.columns, "period_count": _PERIODS,
            "outer_count": -(-self.n_pixels // target.rows), "inner_count": self.out_step,
            "out_bank": BANK_OUT, "out_step": self.out_step, "out_x_count": _ENDLESS,
            "n_pixels": self.n_pixels, "n_channels": self.n_channels,
            "zero_point": -7, "low": -100, "high": 90,
            **self._port("a", self.feeds[0], self.n_pixels, target.rows, target.columns),
            **self._port("b", self.feeds[1], self.n_channels, target.columns, 1), **fields})

    def load(self, commands, *others):
        """Write operands, parameters, and the program: the product, ``others``, HALT."""
        target = self.target
        for bank, operand, feed, n in ((BANK_A, self.a, self.feeds[0], target.rows),
                                       (BANK_B, self.b, self.feeds[1], target.columns)):
            commands.write((AddressWindow.BANK_0 + bank) << 28,
                           to_bus(self._words(operand, feed, n)))
        rows = np.zeros((self.n_channels, 4), np.int64)
        rows[:, :3] = np.stack([self.bias & 0xFFFFFFFF, self.multiplier, self.shift], 1)
        commands.write(AddressWindow.PARAMETERS << 28, rows)
        instructions(commands, self.instruction(), *others, HALT)

    def read(self, commands, n_words=None):
        """Read the words of the results."""
        n_words = n_words or self.n_pixels * self.out_step
        return commands.read((AddressWindow.BANK_0 + BANK_OUT) << 28,
                             n_words * self.target.columns // 4)

    def clear(self, commands):
        """Overwrite the results."""
        n_words = self.n_pixels * self.out_step
        commands.write((AddressWindow.BANK_0 + BANK_OUT) << 28,
                       [0] * (n_words * self.target.columns // 4))

    def check(self, words):
        """Assert that ``words``, answers to ``read``, are the codes that golden gives."""
        codes = from_bus(words, self.target.columns).reshape(self.n_pixels, -1)
        assert np.array_equal(codes[:, :self.n_channels], self.codes)

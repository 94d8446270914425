"""What lies in external memory: tensors, constants, and the program where it is too long."""

from __future__ import annotations

import hashlib

import numpy as np

from hw.compiler.memory.allocator import Allocator, Buffer

__all__ = ["ExternalMemory"]

_ADDRESSES = 1 << 32  # bytes


class ExternalMemory(Allocator):
    """Hands out places behind each other; none is used twice.

    Members
    -------
    n_words : words handed out so far.
    """

    def __init__(self, word_bytes):
        super().__init__([_ADDRESSES // word_bytes], "external memory")
        self.word_bytes = word_bytes
        self.n_words = 0
        self._constants = {}  # digest: (address, bytes)

    def take(self, n_words, banks=(0,), *, align=1) -> Buffer:
        """The next words."""
        base = -(-self.n_words // align) * align
        if base + n_words > self.depths[0]:
            raise self.no_room(n_words, banks)
        self.n_words = base + n_words
        return Buffer(0, base, n_words)

    def room(self, n_bytes) -> int:
        """The byte address of n_bytes, filled up to whole words."""
        return self.take(-(-n_bytes // self.word_bytes)).base * self.word_bytes

    def constant(self, values: np.ndarray) -> int:
        """The byte address of an array's bytes; the same bytes are kept once."""
        data = np.ascontiguousarray(values).tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._constants:
            self._constants[key] = self.room(len(data)), data
        return self._constants[key][0]

    def content(self) -> np.ndarray:
        """uint8, all of it: the constants in their places, tensors 0."""
        memory = np.zeros(self.n_words * self.word_bytes, np.uint8)
        for address, data in self._constants.values():
            memory[address:address + len(data)] = np.frombuffer(data, np.uint8)
        return memory

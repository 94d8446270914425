"""What lies in external memory: tensors, constants, and the program where it is too long."""

from __future__ import annotations

import hashlib

import numpy as np

__all__ = ["ExternalMemory"]


class ExternalMemory:
    """Hands out places; word-aligned, never reused.

    Members
    -------
    size : bytes handed out so far.
    """

    def __init__(self, word_bytes):
        self.word_bytes = word_bytes
        self.size = 0
        self._constants = {}  # digest: (address, bytes)

    def room(self, n_bytes) -> int:
        """The address of n_bytes, filled up to whole words."""
        address = self.size
        self.size += -(-n_bytes // self.word_bytes) * self.word_bytes
        return address

    def constant(self, values: np.ndarray) -> int:
        """The address of an array's bytes; the same bytes are kept once."""
        data = np.ascontiguousarray(values).tobytes()
        key = hashlib.sha256(data).digest()
        if key not in self._constants:
            self._constants[key] = self.room(len(data)), data
        return self._constants[key][0]

    def content(self) -> np.ndarray:
        """uint8, all of it: the constants in their places, tensors 0."""
        memory = np.zeros(self.size, np.uint8)
        for address, data in self._constants.values():
            memory[address:address + len(data)] = np.frombuffer(data, np.uint8)
        return memory

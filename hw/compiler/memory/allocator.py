"""Room in memories: one interface for all that hands it out.

Three ways: `Lifetimes` in a program whose order is known, places reused; a `Pool`, from
which buffers are taken while a program is written; `ExternalMemory`, which is never full.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Allocator", "Buffer", "NoRoom"]

_LIVE = 1 << 60


class NoRoom(Exception):
    """A buffer does not fit beside those that are live."""


@dataclass(eq=False)
class Buffer:
    """n_words at ``base`` of ``bank``, whose owner may call it ``name``.

    used: when it was used last, as its allocator counts; is_live while it is needed.
    """

    bank: int
    base: int
    n_words: int
    used: int = _LIVE
    name: object = None

    @property
    def end(self) -> int:
        """The first word behind it."""
        return self.base + self.n_words

    @property
    def is_live(self) -> bool:
        """Has it not been given back?"""
        return self.used == _LIVE


class Allocator(ABC):
    """Buffers in banks of ``depths`` words of ``what``; those that are live never overlap.

    Members
    -------
    now : the present moment, as the owner counts.
    """

    def __init__(self, depths: Sequence[int], what: str):
        self.depths, self.what = tuple(depths), what
        self.now = 0

    @abstractmethod
    def take(self, n_words: int, banks: Sequence[int] = (0,), *, align: int = 1) -> Buffer:
        """Room for n_words in one of the banks, preferred ones first; NoRoom where there is none.

        align: the base is a multiple of it.
        """

    def give_back(self, buffer: Buffer) -> None:
        """The buffer's last use is now."""
        buffer.used = self.now

    def no_room(self, n_words: int, banks: Sequence[int]) -> NoRoom:
        """The exception that says what was asked for."""
        depths = ", ".join(str(self.depths[bank]) for bank in banks)
        return NoRoom(f"{n_words} words of {self.what} in {depths}")

"""Room on the chip while a tiled program is written: buffers that come and go, never live twice.

A buffer that was given up may still be read by what runs; whatever is put in its place waits for
that. So the room that has been free for longest is taken first.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Buffer", "NoRoom", "Pool"]

_SETTLED = 2  # turns after which what used a buffer is surely over
_LIVE = 1 << 60


class NoRoom(Exception):
    """A buffer does not fit beside those that are live."""


@dataclass(eq=False)
class Buffer:
    """n_words at ``base`` of ``bank``; used: the turn of its last use, _LIVE while it is needed."""

    bank: int
    base: int
    n_words: int
    used: int = _LIVE

    @property
    def end(self) -> int:
        return self.base + self.n_words


class Pool:
    """Buffers in banks of ``depths`` words of ``what``. turn: counts on with every job."""

    def __init__(self, depths, what):
        self.depths, self.what = tuple(depths), what
        self.buffers: list[Buffer] = []
        self.turn = 0

    def take(self, n_words, order, align=1) -> Buffer:
        """Room for n_words in one of the banks of ``order``, which come first to last.

        Raises NoRoom.
        """
        best = None
        for preference, bank in enumerate(order):
            for base in self._bases(bank, n_words, align):
                used = max((b.used for b in self._within(bank, base, base + n_words)), default=0)
                if used == _LIVE:
                    continue
                rank = max(0, used - self.turn + _SETTLED), preference, base
                if best is None or rank < best[0]:
                    best = rank, bank, base
        if best is None:
            depths = ", ".join(str(self.depths[bank]) for bank in order)
            raise NoRoom(f"{n_words} words of {self.what} in {depths}")
        _, bank, base = best
        buffer = Buffer(bank, base, n_words)
        # What lies under it is forgotten; its parts outside stay.
        for old in self._within(bank, base, buffer.end):
            self.buffers.remove(old)
            for first, end in ((old.base, base), (buffer.end, old.end)):
                if first < end:
                    self.buffers.append(Buffer(bank, first, end - first, old.used))
        self.buffers.append(buffer)
        return buffer

    def give_back(self, buffer):
        """The buffer's last use has been written down."""
        buffer.used = self.turn

    def _within(self, bank, base, end):
        return [b for b in self.buffers if b.bank == bank and b.base < end and b.end > base]

    def _bases(self, bank, n_words, align):
        mine = [b for b in self.buffers if b.bank == bank]
        depth = self.depths[bank]
        bases = {0, depth - n_words, *(b.base for b in mine), *(b.end for b in mine),
                 *(b.base - n_words for b in mine)}
        return sorted({-(-base // align) * align for base in bases if base >= 0
                       and -(-base // align) * align + n_words <= depth})

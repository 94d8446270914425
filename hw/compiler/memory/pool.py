"""Room on the chip while a tiled program is written: buffers that come and go, never live twice.

A buffer that was given up may still be read by what runs; whatever is put in its place waits for
that. So the room that has been free for longest is taken first.
"""

from __future__ import annotations

from hw.compiler.memory.allocator import Allocator, Buffer

__all__ = ["Pool"]

_SETTLED = 2  # turns after which what used a buffer is surely over


class Pool(Allocator):
    """``now`` counts on with every job."""

    def __init__(self, depths, what):
        super().__init__(depths, what)
        self.buffers: list[Buffer] = []

    def take(self, n_words, banks=(0,), *, align=1) -> Buffer:
        """The room that has been free for longest, of the first bank that has such."""
        best = None
        for preference, bank in enumerate(banks):
            for base in self._bases(bank, n_words, align):
                within = self._within(bank, base, base + n_words)
                if any(buffer.is_live for buffer in within):
                    continue
                used = max((buffer.used for buffer in within), default=0)
                rank = max(0, used - self.now + _SETTLED), preference, base
                if best is None or rank < best[0]:
                    best = rank, bank, base
        if best is None:
            raise self.no_room(n_words, banks)
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

    def _within(self, bank, base, end):
        return [b for b in self.buffers if b.bank == bank and b.base < end and b.end > base]

    def _bases(self, bank, n_words, align):
        mine = [b for b in self.buffers if b.bank == bank]
        depth = self.depths[bank]
        bases = {0, depth - n_words, *(b.base for b in mine), *(b.end for b in mine),
                 *(b.base - n_words for b in mine)}
        return sorted({-(-base // align) * align for base in bases if base >= 0
                       and -(-base // align) * align + n_words <= depth})

"""Room in the scratchpad for what lives from one instruction of a known program to another."""

from __future__ import annotations

from dataclasses import dataclass, field

from hw.compiler.memory.allocator import Allocator, Buffer

__all__ = ["Lifetimes"]


@dataclass(eq=False)
class _Bank:
    """(first, last, Buffer), sorted by base."""

    buffers: list = field(default_factory=list)

    def first_fit(self, n_words, live, align, depth) -> int | None:
        """The lowest base beside all that lives at the same time."""
        first, last = live
        base = 0
        for other_first, other_last, other in self.buffers:
            if other_last < first or other_first > last:
                continue
            if base + n_words <= other.base:
                break
            base = max(base, other.end)
            base += -base % align
        return base if base + n_words <= depth else None


class Lifetimes(Allocator):
    """Buffers that live from a first to a last moment; others may lie there before and after."""

    def __init__(self, depths, what):
        super().__init__(depths, what)
        self._banks = [_Bank() for _ in self.depths]

    def find(self, n_words: int, bank: int, live: tuple[int, int], *, align: int = 1) -> int | None:
        """The base that ``take`` gives in one bank; None where there is no room."""
        return self._banks[bank].first_fit(n_words, live, align, self.depths[bank])

    def take(self, n_words, banks=(0,), *, align=1, live=None) -> Buffer:
        """The lowest room of the first bank that has any. live: (first, last), by default now on.
        """
        live = live or (self.now, 1 << 60)
        for bank in banks:
            base = self.find(n_words, bank, live, align=align)
            if base is not None:
                buffer = Buffer(bank, base, n_words)
                entries = self._banks[bank].buffers
                entries.append((*live, buffer))
                entries.sort(key=lambda entry: entry[2].base)
                return buffer
        raise self.no_room(n_words, banks)

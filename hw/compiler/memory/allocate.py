"""Scratchpad allocation: which bank, and where in it, for every tensor and block of weights.

Things alive together never overlap. Port a and port b of a product must read different banks;
other pairs that are read side by side should, the more cycles they share the more. The order in
which things are placed decides, so several are tried.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hw.compiler.memory.lifetimes import Lifetimes
from hw.targets import Target

__all__ = ["Conflicts", "Item", "allocate"]

_ATTEMPTS = 60
_FORBIDDEN = float("inf")


@dataclass(frozen=True, kw_only=True)
class Item:
    """n_words that live from position ``first`` to ``last`` of the program.

    align: the base is a multiple of it.
    """

    name: object
    n_words: int
    first: int
    last: int
    align: int = 1

    @property
    def live(self) -> tuple[int, int]:
        """(first, last)"""
        return self.first, self.last


@dataclass(eq=False)
class Conflicts:
    """Costs of pairs of items in one bank, in cycles."""

    costs: dict = field(default_factory=dict)

    def add(self, one, other, cost) -> None:
        """Never both in a bank where cost is infinite."""
        if one == other:
            return
        for pair in ((one, other), (other, one)):
            mine = self.costs.setdefault(pair[0], {})
            mine[pair[1]] = mine.get(pair[1], 0) + cost

    def forbid(self, one, other) -> None:
        """Never both in one bank."""
        self.add(one, other, _FORBIDDEN)

    def of(self, name) -> dict:
        """{other item: cost}"""
        return self.costs.get(name, {})


def _attempt(items, target, conflicts):
    """(cost, {name: (bank, base)}) or None where something does not fit."""
    room = Lifetimes(target.bank_words, "the scratchpad")
    where, total = {}, 0
    for item in items:
        best = None
        for bank, depth in enumerate(target.bank_words):
            cost = sum(cost for other, cost in conflicts.of(item.name).items()
                       if other in where and where[other][0] == bank)
            if cost == _FORBIDDEN:
                continue
            base = room.find(item.n_words, bank, item.live, align=item.align)
            if base is None:
                continue
            left = depth - base - item.n_words
            if best is None or (cost, left) < best[:2]:
                best = (cost, left, bank)
        if best is None:
            return None
        cost, _, bank = best
        total += cost
        buffer = room.take(item.n_words, [bank], align=item.align, live=item.live)
        where[item.name] = (buffer.bank, buffer.base)
    return total, where


def allocate(items, target: Target, conflicts: Conflicts) -> tuple[float, dict] | None:
    """(cost, {name: (bank, base)}) of the best arrangement found, or None."""
    generator = random.Random(0)
    best = None
    for attempt in range(_ATTEMPTS):
        spread = 0 if attempt == 0 else 0.3 * (1 + attempt % 6)

        def rank(item, spread=spread):
            weight = sum(min(cost, 1e6) for cost in conflicts.of(item.name).values())
            return (-(item.n_words + 1) * (1 + spread * generator.random())
                    - (weight * generator.random() if spread > 1 else 0))

        found = _attempt(sorted(items, key=rank), target, conflicts)
        if found and (best is None or found[0] < best[0]):
            best = found
            if best[0] == 0:
                break
    return best

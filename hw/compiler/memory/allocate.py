"""Scratchpad allocation: which bank, and where in it, for every tensor and block of weights.

Things alive together never overlap. Port a and port b of a product must read different banks;
other pairs that are read side by side should, the more cycles they share the more. The order in
which things are placed decides, so several are tried.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, field

from hw.targets import N_BANKS, Target

__all__ = ["Conflicts", "Item", "allocate"]

_ATTEMPTS = 60
_FORBIDDEN = float("inf")


@dataclass(frozen=True, kw_only=True)
class Item:
    """n_words that live from position ``first`` to ``last`` of the program; even: at even words."""

    name: object
    n_words: int
    first: int
    last: int
    even: bool = False


@dataclass(eq=False)
class Conflicts:
    """Costs of pairs of items in one bank, in cycles."""

    costs: dict = field(default_factory=dict)

    def add(self, one, other, cost):
        """Never both in a bank where cost is infinite."""
        if one == other:
            return
        for pair in ((one, other), (other, one)):
            mine = self.costs.setdefault(pair[0], {})
            mine[pair[1]] = mine.get(pair[1], 0) + cost

    def forbid(self, one, other):
        """Never both in one bank."""
        self.add(one, other, _FORBIDDEN)

    def of(self, name) -> dict:
        """{other item: cost}"""
        return self.costs.get(name, {})


def _first_fit(item, placed, depth):
    """The lowest base in a bank of what is placed, [(base, Item)], or None."""
    base = 0
    for other_base, other in placed:  # sorted by base
        if other.last < item.first or other.first > item.last:
            continue
        if base + item.n_words <= other_base:
            break
        base = max(base, other_base + other.n_words)
        base += item.even and base % 2
    return base if base + item.n_words <= depth else None


def _attempt(items, target, conflicts):
    """(cost, {name: (bank, base)}) or None where something does not fit."""
    banks = [[] for _ in range(N_BANKS)]
    where, total = {}, 0
    for item in items:
        best = None
        for bank, depth in enumerate(target.bank_words):
            cost = sum(cost for other, cost in conflicts.of(item.name).items()
                       if other in where and where[other][0] == bank)
            if cost == _FORBIDDEN:
                continue
            base = _first_fit(item, banks[bank], depth)
            if base is None:
                continue
            left = depth - base - item.n_words
            if best is None or (cost, left) < best[:2]:
                best = (cost, left, bank, base)
        if best is None:
            return None
        cost, _, bank, base = best
        total += cost
        where[item.name] = (bank, base)
        banks[bank].append((base, item))
        banks[bank].sort(key=lambda entry: entry[0])
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

"""Cycles below which a compiled program cannot get, resource by resource, and which is the largest.

Each is the sum of what the program's instructions use of one resource, by their records, over what
that resource gives in a cycle. Nothing is fitted: a run that takes fewer cycles than a floor shows
a wrong record.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

import numpy as np

from hw.compiler.tiling.tile import unrolled
from hw.isa import INSTRUCTIONS, Engine, decode
from hw.targets import N_BANKS

__all__ = ["BANK_WORDS_PER_CYCLE", "Floors", "floors", "floors_of_fields"]

BANK_WORDS_PER_CYCLE = 2  #: an even one and an odd one beside it


@dataclass(frozen=True, kw_only=True)
class Floors:
    """Whole cycles.

    array : slots of the products, one per cycle. lanes : groups of results that pass the rescaler
    lanes, one per cycle. vector : instructions of the vector engine, one after the other, each with
    the lanes for itself. weight_banks : words of weights, read once by each instruction that has
    them, over what all banks give in a cycle. weight_ports : the same words over what those ports
    give together by which the program reads weights. external : bytes of the direction that moves
    more over those of the bus in a cycle; 0 without a bus.
    """

    array: int
    lanes: int
    vector: int
    weight_banks: int
    weight_ports: int
    external: int = 0

    @property
    def bound(self) -> str:
        """The name of the largest; of equal ones the first."""
        values = asdict(self)
        return max(values, key=values.get)

    @property
    def cycles(self) -> int:
        """The largest: what a run takes at least."""
        return max(asdict(self).values())


def floors(image) -> Floors:
    """The floors of one run of an image, with every instruction that it fetches."""
    return floors_of_fields([decode([int(word) for word in record]) for record in unrolled(image)],
                            image.target)


def floors_of_fields(program: Iterable[Mapping], target) -> Floors:
    """The same of decoded instructions."""
    slots = lanes = vector = weights = 0
    ports, moved = dict.fromkeys(Engine, 0), dict.fromkeys(Engine, 0)
    for f in program:
        record = INSTRUCTIONS.get(f["opcode"])
        if record is None:  # the fetch's own
            continue
        cost = record.cost(f, target)
        slots += cost.units * cost.slots
        lanes += cost.units * cost.items
        moved[record.engine] += cost.units * cost.external_bytes
        if record.engine == Engine.VECTOR:
            vector += cost.before + cost.total
        n_words = sum(np.unique(read.words).size
                      for read in record.weight_reads(f, target, needed=True))
        if n_words:
            weights += n_words
            ports[record.engine] = max(ports[record.engine], record.weights_per_cycle)
    return Floors(
        array=math.ceil(slots), lanes=math.ceil(lanes), vector=math.ceil(vector),
        weight_banks=math.ceil(weights / (N_BANKS * BANK_WORDS_PER_CYCLE)),
        weight_ports=math.ceil(weights / max(1, sum(ports.values()))),
        external=(math.ceil(8 * max(moved.values()) / target.bus_bits) if target.bus_bits else 0))

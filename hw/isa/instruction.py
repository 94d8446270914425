"""The form of an instruction's record: everything that is said of it, once.

Hardware, instruction-set model, scheduler, order check, cycle estimate, random programs, C header
and documentation ask the record (`hw.isa.registry.INSTRUCTIONS`). ``f`` is always the decoded
instruction, all fields of its format by name.

An instruction runs unit by unit; a unit is what a chase holds back and what progress is reported
for. Memories are numbered: LocalMemory and EXTERNAL. Banks and external memory are counted in words
of the target, the parameters in channels, the instructions in words of 32 bits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np

from golden.arith import Rounding
from hw.isa.layout import FIELDS, Engine, Field, Format, Opcode

__all__ = ["ENDLESS", "WORD_MASK", "Access", "Cost", "Extent", "Footprint", "Instruction",
           "rounding_of", "throughout", "wrap"]

#: Addresses of words have 16 bits, except those of the array's walkers.
WORD_MASK = 0xFFFF
ENDLESS = 1 << 40  #: a count of 0 in a counter that never equals its end


def wrap(values, width: int) -> np.ndarray:
    """Integers modulo 2^width, signed."""
    half = 1 << width - 1
    return (values + half & (1 << width) - 1) - half


def rounding_of(f) -> Rounding:
    """The rounding of an instruction."""
    return Rounding.GEMMLOWP if f["gemmlowp"] else Rounding.HALF_UP


@dataclass(frozen=True, kw_only=True, eq=False)
class Access:
    """Words of one memory in the order in which counters walk over them.

    words, steps : int arrays that broadcast against each other; steps do not decrease in C order.
    is_early : reads that do not wait for the chase of the first unit.
    is_checked : the hardware ends with ADDRESS where a word lies outside.
    """

    memory: int
    words: np.ndarray
    steps: np.ndarray | int = 0
    is_early: bool = False
    is_checked: bool = True


@dataclass(frozen=True, kw_only=True, eq=False)
class Extent:
    """Words of one memory, each once, with the first and the last unit that touches it."""

    memory: int
    words: np.ndarray
    first: np.ndarray
    last: np.ndarray
    is_early: bool = False


@dataclass(frozen=True, kw_only=True, eq=False)
class Footprint:
    """What an instruction reads and writes.

    progress : int64 (n_units,), reported once the results of each unit are written.
    """

    engine: Engine
    reads: tuple[Extent, ...]
    writes: tuple[Extent, ...]
    progress: np.ndarray

    @property
    def n_units(self) -> int:
        """Units of the instruction."""
        return len(self.progress)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Cycles of an instruction that nothing holds back, and what it uses beside its engine.

    cycles, items, slots, external_bytes : of one unit; items : uses of the rescaler lanes; slots :
    cycles in which the array takes operands; external_bytes : what the bus moves. before : cycles
    before the first unit; after : cycles from the last unit to its results, beside what every
    instruction of the engine takes.
    """

    units: int
    cycles: float
    items: float = 0
    slots: int = 0
    external_bytes: int = 0
    before: float = 0
    after: float = 0

    @property
    def total(self) -> float:
        """Cycles of all units, the lanes included."""
        return self.units * max(self.cycles, self.items)


def throughout(memory: int, words, n_steps: int, **how) -> Access:
    """Words that every step may need."""
    return Access(memory=memory, words=np.reshape(words, (1, -1)),
                  steps=np.array([[0], [n_steps - 1]]), **how)


class Instruction:
    """A record. Subclasses set the attributes and define the methods that raise here.

    Attributes
    ----------
    opcode, engine : of the encoding. doc : one line. unit : what a unit is.
    uses : names of the fields that mean something; those of ``hw.isa.layout.SYNC_FIELDS`` always
        do. Any other one may have any value, and nothing changes.
    nonzero, even : names of counts that must not be 0, and of fields that must be even.
    reads_first : every step has read its words before it writes its own, and steps are in order;
        otherwise the steps of an instruction overlap.
    weights_per_cycle : words that its port for weights gives.
    """

    opcode: Opcode
    engine: Engine
    doc: str
    unit: str
    uses: frozenset[str]
    nonzero: tuple[str, ...] = ()
    even: tuple[str, ...] = ()
    reads_first: bool = False
    weights_per_cycle: int = 0

    @property
    def name(self) -> str:
        """The name of its opcode."""
        return self.opcode.name

    @property
    def format(self) -> Format:
        """How its words are laid out."""
        return Format(min(self.engine, Format.TRANSFER))

    @property
    def fields(self) -> tuple[Field, ...]:
        """All fields of the format, whether they are used or not."""
        return FIELDS[self.format]

    def is_refused(self, f, target) -> bool:
        """Whether the engine refuses the instruction with ErrorCode.FIELD before it begins."""
        return (not all(f[name] for name in self.nonzero)
                or any(f[name] % 2 for name in self.even))

    def n_units(self, f) -> int:
        """Units of an instruction."""
        raise NotImplementedError

    def unit_progress(self, f, target) -> int:
        """Progress that is reported for each unit."""
        raise NotImplementedError

    def steps_per_unit(self, f) -> int:
        """Steps of an Access in a unit."""
        return 1

    def reads(self, f, target, needed: bool = False) -> Iterable[Access]:
        """All words that the hardware reads, or those ``needed``: whose value can matter."""
        raise NotImplementedError

    def weight_reads(self, f, target, needed: bool = False) -> Iterable[Access]:
        """Those of its reads that come by the port for weights; its other operand may be any."""
        return ()

    def writes(self, f, target) -> Iterable[Access]:
        """All words of which a byte is written."""
        raise NotImplementedError

    def check(self, machine, f) -> None:
        """Raise what ``machine.refuse`` raises where the hardware ends with an error on the way."""
        for verb, accesses in (("reads", self.reads(f, machine.target)),
                               ("writes", self.writes(f, machine.target))):
            for access in accesses:
                if access.is_checked:
                    machine.check_words(access.memory, access.words, verb)

    def execute(self, machine, f) -> None:
        """Change a machine's memories; the instruction is not refused and its check passes."""
        raise NotImplementedError

    def product_results(self, f) -> int:
        """Results that are sums of products with weights; fields that are 0 may be missing."""
        return 0

    def written_memory(self, f) -> int:
        """Where results go: LocalMemory or EXTERNAL."""
        return f["out_bank"]

    def cost(self, f, target) -> Cost:
        """What the instruction takes; fields that are given as offsets only may be missing."""
        raise NotImplementedError

    def weight_shares(self, f) -> tuple[float, float]:
        """Of all its cycles those that weights would cost, about: in one bank with the input, and
        in one bank with the operands of a product that runs at the same time.
        """
        return 0, 0

    def footprint(self, f, target, needed: bool = False) -> Footprint:
        """Its reads (all, or those needed) and writes, unit by unit; it is not refused."""
        per_unit = self.steps_per_unit(f)
        return Footprint(
            engine=self.engine,
            reads=tuple(_extent(access, per_unit) for access in self.reads(f, target, needed)),
            writes=tuple(_extent(access, per_unit) for access in self.writes(f, target)),
            progress=np.arange(1, self.n_units(f) + 1) * self.unit_progress(f, target))

    def overwritten(self, f, target) -> dict[int, np.ndarray]:
        """{memory: words} that are written perhaps before they have been read for the last time."""
        found = {}
        reads = [_extent(access, 1) for access in self.reads(f, target, needed=True)]
        for write in (_extent(access, 1) for access in self.writes(f, target)):
            for read in reads:
                if read.memory != write.memory:
                    continue
                words, i, j = np.intersect1d(read.words, write.words, return_indices=True)
                late = words[read.last[i] >= write.first[j] + self.reads_first]
                if late.size:
                    known = found.get(write.memory, late)
                    found[write.memory] = np.union1d(known, late)
        return found


def _extent(access: Access, steps_per_unit: int) -> Extent:
    words, steps = (values.ravel() for values in np.broadcast_arrays(access.words, access.steps))
    order = np.argsort(words, kind="stable")
    words, units = words[order], steps[order] // steps_per_unit
    begins = np.flatnonzero(np.diff(words, prepend=words[:1] - 1))
    ends = np.append(begins[1:], len(words)) - 1 if len(words) else begins
    return Extent(memory=int(access.memory), words=words[begins], first=units[begins],
                  last=units[ends], is_early=access.is_early)

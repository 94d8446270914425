"""Memory and program of one training product: what lies where, which instructions, what is read."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np

from golden.errors import LockstepError
from hw.compiler.memory.image import Block, to_bus
from hw.compiler.scheduling.schedule import Scheduler
from hw.isa import N_PLANES, N_WORDS, Opcode, Window, decode, encode
from hw.targets import Target

__all__ = ["Region", "TrainingProduct", "Workspace", "codes_of", "sums_of"]



@dataclass(frozen=True, kw_only=True)
class Region:
    """``n_words`` words of a bank from ``base`` on."""

    bank: int
    base: int
    n_words: int


@dataclass(frozen=True, kw_only=True, eq=False)
class TrainingProduct:
    """One product of one convolution, for a batch that is resident on the chip.

    instructions: uint32 (n, N_WORDS), HALT at the end; parameters: uint32 (channels, 3) as of an
    Image; blocks: what the banks hold before the run, operands included. regions: the words to
    read after it; ``values`` makes arrays of them. macs: useful ones; a 16-bit gradient counts as
    two of a byte.
    """

    name: str
    target: Target
    instructions: np.ndarray
    parameters: np.ndarray
    blocks: tuple[Block, ...]
    regions: tuple[Region, ...]
    macs: int
    collect: Callable[[list[np.ndarray]], dict[str, np.ndarray]]

    def values(self, words: list[np.ndarray]) -> dict[str, np.ndarray]:
        """Results by name from the words of each region, int8 (n_words, word_bytes)."""
        return self.collect(words)

    def sections(self) -> list[tuple[int, np.ndarray]]:
        """(bus address, uint32 values) of what the host writes before a run."""
        channels = np.zeros((len(self.parameters), 4), "<u4")
        channels[:, :3] = self.parameters
        return [(Window.INSTRUCTIONS << 28, self.instructions.ravel()),
                (Window.PARAMETERS << 28, channels.ravel()),
                *((self.bus_address(block), to_bus(block.words).ravel())
                  for block in self.blocks)]

    def bus_address(self, place: Block | Region) -> int:
        """The bus address of the first word."""
        return ((Window.BANK_0 + place.bank) << 28) + place.base * self.target.word_bytes


@dataclass(eq=False)
class Workspace:
    """The banks of a target while a product is laid out; places are given out once.

    Raises LockstepError where the operands, the results or the program do not fit.
    """

    name: str
    target: Target
    blocks: list[Block] = field(default_factory=list)
    regions: list[Region] = field(default_factory=list)
    records: list[dict] = field(default_factory=list)
    parameters: np.ndarray = field(default_factory=lambda: np.zeros((0, 3), np.int64))

    def __post_init__(self):
        self._free = list(self.target.bank_words)

    def _take(self, n_words, what, avoid=()) -> tuple[int, int]:
        """(bank, base) in the fullest bank that has room."""
        banks = [bank for bank, free in enumerate(self._free)
                 if free >= n_words and bank not in avoid]
        if not banks:
            raise LockstepError(f"Product {self.name}: {what} of {n_words} words do not fit the "
                                f"banks of target {self.target.name}, {self._free} words are free; "
                                "take fewer images")
        bank = min(banks, key=lambda k: self._free[k])
        base = self.target.bank_words[bank] - self._free[bank]
        self._free[bank] -= n_words
        return bank, base

    def put(self, words: np.ndarray, what: str, *, avoid=(), spare=0, port="a") -> Block:
        """Place an operand, int8 (n, word_bytes). avoid: banks that the other port reads. spare:
        words behind it that lanes without a result may read; what they hold does not matter.
        """
        if port == "b" and self.target.packed and (words == -128).any():
            raise LockstepError(f"Product {self.name}: {what} of -128 do not run on target "
                                f"{self.target.name}")
        bank, base = self._take(len(words) + spare, what, avoid)
        self.blocks.append(Block(bank=bank, base=base, words=np.ascontiguousarray(words, np.int8)))
        return self.blocks[-1]

    def reserve(self, n_words: int, what: str) -> Region:
        """A place for results."""
        bank, base = self._take(n_words, what)
        self.regions.append(Region(bank=bank, base=base, n_words=n_words))
        return self.regions[-1]

    def add(self, **fields):
        """The next instruction."""
        self.records.append(fields)

    def finish(self, macs: int, collect) -> TrainingProduct:
        """The program, its waits set."""
        limit = self.target.instruction_words // N_WORDS
        if len(self.records) >= limit:
            raise LockstepError(f"Product {self.name}: {len(self.records) + 1} instructions do not "
                                f"fit the {limit} of target {self.target.name}; take fewer images")
        parameters = self.target.parameter_words * self.target.lanes
        if len(self.parameters) > parameters:
            raise LockstepError(f"Product {self.name}: parameters of {len(self.parameters)} "
                                f"channels do not fit the {parameters} of target "
                                f"{self.target.name}")
        scheduler = Scheduler(self.target, chases=False)
        records = [encode(**scheduler.add(decode(encode(**fields)))) for fields in self.records]
        return TrainingProduct(
            name=self.name, target=self.target,
            instructions=np.array([*records, encode(Opcode.HALT)], "<u4"),
            parameters=(self.parameters & 0xFFFFFFFF).astype("<u4"), blocks=tuple(self.blocks),
            regions=tuple(self.regions), macs=macs, collect=collect)


def codes_of(words: np.ndarray, shape) -> np.ndarray:
    """Words of pixels to int8 (N, C, H, W)."""
    n, channels, height, width = shape
    pixels = words.reshape(n, height, width, -1)[..., :channels]
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2))


def sums_of(words: np.ndarray) -> np.ndarray:
    """Words of four byte planes, the low one first, to int32 (n_words / 4, word_bytes)."""
    planes = words.reshape(N_PLANES, -1, words.shape[-1])
    return np.ascontiguousarray(planes.transpose(1, 2, 0)).view("<i4")[..., 0]

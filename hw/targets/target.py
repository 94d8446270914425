"""Hardware targets as data: the shape of the array and the size of the on-chip memories."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from golden.errors import LockstepError

__all__ = ["N_BANKS", "TARGETS", "Target", "get_target"]

N_BANKS = 4
_COLUMNS = (4, 8, 16)
_BUS_BITS = (0, 64, 128)
#: With 16-byte words 176 of the 208 block RAMs; parameters and instructions take 20 more.
_ECP5_BANKS = (8192, 8192, 4096, 2048)


@dataclass(frozen=True, kw_only=True)
class Target:
    """One configuration of the accelerator.

    ``rows`` x ``columns`` int8 multiply-accumulate units: output pixels on the rows, output
    channels on the columns; a scratchpad word has ``columns`` bytes. ``bank_words``: words in each
    of the scratchpad banks (even numbers). ``parameter_words``: depth of the per-channel parameter
    memory (``lanes`` channels a word). ``instruction_words``: depth of the 32-bit instruction
    memory. ``multiplier``: the vendor hook of the array, ``packed`` for two products per
    multiplier. ``bus_bits``: width of the AXI4 master port, 0 where everything is on the chip.
    ``watchdog``: cycles without progress that end a run, unless the host sets others.
    """

    name: str
    rows: int
    columns: int
    bank_words: tuple[int, int, int, int] = (8192, 8192, 4096, 4096)
    parameter_words: int = 1024
    instruction_words: int = 2048
    multiplier: str = "portable"
    packed: bool = False
    bus_bits: int = 0
    watchdog: int = 1 << 16
    device: str | None = field(default=None)

    def __post_init__(self):
        for kind in ("rows", "columns"):
            value = getattr(self, kind)
            if not isinstance(value, int):
                raise TypeError(f"{kind.capitalize()} must be an integer, not {value!r}")
        if self.columns not in _COLUMNS:
            raise ValueError(f"Columns must be one of {_COLUMNS}, not {self.columns}")
        if not 2 <= self.rows <= self.columns:
            raise ValueError(f"Rows must be in 2..{self.columns} (columns), not {self.rows}")
        if self.bus_bits not in _BUS_BITS:
            raise ValueError(f"Bus bits must be one of {_BUS_BITS}, not {self.bus_bits}")
        if self.bus_bits > 8 * self.word_bytes:
            raise ValueError(f"A bus of {self.bus_bits} bits needs words of at least as many, not "
                             f"{8 * self.word_bytes}")
        if len(self.bank_words) != N_BANKS or any(
                words % 2 or not 2 <= words <= 1 << 16 for words in self.bank_words):
            raise ValueError(f"Bank words must be {N_BANKS} even numbers in 2..65536, not "
                             f"{self.bank_words}")

    @property
    def word_bytes(self) -> int:
        """Bytes of a scratchpad word: one per column."""
        return self.columns

    @property
    def lanes(self) -> int:
        """Results rescaled per cycle."""
        return 4

    @property
    def n_macs(self) -> int:
        """Multiply-accumulates of the array per cycle."""
        return self.rows * self.columns

    @property
    def configuration_id(self) -> int:
        """The 32-bit number that the hardware reports about its shape."""
        return self.rows << 24 | self.columns << 16 | self.lanes << 8 | self.word_bytes


TARGETS = {
    target.name: target
    for target in (
        Target(name="sim-4x4", rows=4, columns=4, bank_words=(16384,) * N_BANKS,
               parameter_words=2048, instruction_words=8192),
        Target(name="sim-8x8", rows=8, columns=8, bank_words=(8192,) * N_BANKS,
               instruction_words=8192),
        Target(name="sim-8x8-axi", rows=8, columns=8, bank_words=(1024,) * N_BANKS,
               parameter_words=256, bus_bits=64),
        Target(name="ecp5-85k", rows=8, columns=16, multiplier="ecp5", device="LFE5U-85F",
               bank_words=_ECP5_BANKS),
        Target(name="ecp5-85k-packed", rows=16, columns=16, multiplier="ecp5", packed=True,
               device="LFE5U-85F", bank_words=_ECP5_BANKS),
        Target(name="zynq-7020", rows=8, columns=16, bus_bits=128, device="xc7z020"),
    )
}


def get_target(name: str) -> Target:
    """Return the target called ``name``; ``array-RxC`` names a free shape."""
    if name in TARGETS:
        return TARGETS[name]
    shape = re.fullmatch(r"array-(\d+)x(\d+)", name)
    if shape is None:
        raise LockstepError(
            f"Unknown target '{name}': known are {', '.join(TARGETS)} and array-ROWSxCOLUMNS"
        )
    rows, columns = int(shape[1]), int(shape[2])
    try:
        return Target(name=name, rows=rows, columns=columns, bank_words=(16384,) * N_BANKS,
                      parameter_words=2048, instruction_words=8192)
    except ValueError as error:
        raise LockstepError(f"Target '{name}': {error}") from error

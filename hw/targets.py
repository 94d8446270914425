"""Hardware targets as data: the shape of the array and the size of the on-chip memories."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from math import gcd

from golden.errors import LockstepError

__all__ = ["BANK_ACTIVATIONS", "BANK_WEIGHTS", "TARGETS", "Target", "get_target"]

BANK_WEIGHTS, BANK_ACTIVATIONS = 0, 1
_LANES_WANTED = 4


@dataclass(frozen=True, kw_only=True)
class Target:
    """One configuration of the accelerator.

    ``rows`` x ``columns`` int8 multiply-accumulate units; ``bank_words`` the depth of the two
    scratchpad banks (weights, activations) in words of ``word_bytes``; ``parameter_words`` the
    depth of the per-channel parameter memory (``lanes`` channels a word); ``instruction_words``
    the depth of the 32-bit instruction memory; ``multiplier`` names the vendor hook of the array.
    """

    name: str
    rows: int
    columns: int
    bank_words: tuple[int, int] = (4096, 4096)
    parameter_words: int = 512
    instruction_words: int = 2048
    multiplier: str = "portable"
    device: str | None = field(default=None)

    def __post_init__(self):
        for kind in ("rows", "columns"):
            value = getattr(self, kind)
            if not isinstance(value, int):
                raise TypeError(f"{kind.capitalize()} must be an integer, not {value!r}")
            if not 2 <= value <= 16:
                raise ValueError(f"{kind.capitalize()} must be in 2..16, not {value}")

    @property
    def word_bytes(self) -> int:
        """Bytes of a scratchpad word: either port can then feed rows or columns."""
        return max(self.rows, self.columns)

    @property
    def lanes(self) -> int:
        """Results rescaled per cycle: the largest of 4, 2, 1 that divides both array sides."""
        return gcd(gcd(self.rows, self.columns), _LANES_WANTED)

    @property
    def n_macs(self) -> int:
        """Multiply-accumulates per cycle at the peak."""
        return self.rows * self.columns

    @property
    def host_word_bytes(self) -> int:
        """Bytes between two scratchpad words in the host's address map (a power of two >= 4)."""
        return max(4, 1 << (self.word_bytes - 1).bit_length())

    @property
    def configuration_id(self) -> int:
        """The 32-bit number that the hardware reports about its shape."""
        return self.rows << 24 | self.columns << 16 | self.lanes << 8 | self.word_bytes


TARGETS = {
    target.name: target
    for target in (
        Target(name="sim-4x4", rows=4, columns=4, bank_words=(16384, 16384), parameter_words=1024),
        Target(name="sim-8x8", rows=8, columns=8, bank_words=(8192, 8192)),
        Target(
            name="ecp5-85k",
            rows=16,
            columns=8,
            bank_words=(8192, 4096),
            multiplier="ecp5",
            device="LFE5U-85F",
        ),
    )
}


def get_target(name: str) -> Target:
    """Return the target called ``name``; ``array-RxC`` names a free shape (2..16 each side)."""
    if name in TARGETS:
        return TARGETS[name]
    shape = re.fullmatch(r"array-(\d+)x(\d+)", name)
    if shape is None:
        raise LockstepError(
            f"Unknown target '{name}': known are {', '.join(TARGETS)} and array-ROWSxCOLUMNS"
        )
    rows, columns = int(shape[1]), int(shape[2])
    try:
        return Target(name=name, rows=rows, columns=columns, bank_words=(16384, 16384),
                      parameter_words=2048)
    except ValueError as error:
        raise LockstepError(f"Target '{name}': {error}") from error

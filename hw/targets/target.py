"""Records of targets: the shape of an accelerator, and the device that it is made for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

__all__ = ["N_BANKS", "Device", "Target"]

N_BANKS = 4
_COLUMNS = (4, 8, 16)
_BUS_BITS = (0, 64, 128)
_LANES = (4, 8)


@dataclass(frozen=True, kw_only=True)
class Device:
    """An FPGA, as the tools know it.

    Arguments
    ---------
    name : of the part. flow : name of the tool flow, one of synthesis.report.FLOWS. part : what
        the flow's tools call it. package, speed_grade : where the flow places and routes.
    available : number of its resources, by their names in a report.
    goals_mhz : the clock that its targets must reach, by their names.
    """

    name: str
    flow: str
    part: str
    available: Mapping[str, int]
    package: str | None = None
    speed_grade: int | None = None
    goals_mhz: Mapping[str, float] = field(default_factory=dict)

    @property
    def places(self) -> bool:
        """Whether its flow places and routes, else only counts resources."""
        return self.package is not None


@dataclass(frozen=True, kw_only=True)
class Target:
    """One configuration of the accelerator.

    Arguments
    ---------
    ``rows`` x ``columns`` int8 multiply-accumulate units: output pixels on the rows, output
    channels on the columns; a scratchpad word has ``columns`` bytes. ``bank_words``: words in each
    of the scratchpad banks (even numbers). ``parameter_words``: depth of the per-channel parameter
    memory (``lanes`` channels a word). ``instruction_words``: depth of the 32-bit instruction
    memory. ``lanes``: results rescaled per cycle, 4 or 8. ``multiplier``: the vendor hook of the
    array, ``packed`` for two products per multiplier. ``bus_bits``: width of the AXI4 master port,
    0 where everything is on the chip. ``watchdog``: cycles without progress that end a run, unless
    the host sets others. ``device``: name of the Device, None where any will do.

    Raises TypeError for sides that are no integers, ValueError for shapes that are not made.
    """

    name: str
    rows: int
    columns: int
    bank_words: tuple[int, int, int, int] = (8192, 8192, 4096, 4096)
    parameter_words: int = 1024
    instruction_words: int = 2048
    lanes: int = 4
    multiplier: str = "portable"
    packed: bool = False
    bus_bits: int = 0
    watchdog: int = 1 << 16
    device: str | None = field(default=None)

    def __post_init__(self) -> None:
        for kind, value in (("rows", self.rows), ("columns", self.columns)):
            if not isinstance(value, int):
                raise TypeError(f"{kind.capitalize()} must be an integer, not {value!r}")
        if self.columns not in _COLUMNS:
            raise ValueError(f"Columns must be one of {_COLUMNS}, not {self.columns}")
        if not 2 <= self.rows <= self.columns:
            raise ValueError(f"Rows must be in 2..{self.columns} (columns), not {self.rows}")
        if self.lanes not in _LANES or self.lanes > self.columns:
            raise ValueError(f"Lanes must be one of {_LANES} and at most {self.columns} (columns), "
                             f"not {self.lanes}")
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
    def n_macs(self) -> int:
        """Multiply-accumulates of the array per cycle."""
        return self.rows * self.columns

    @property
    def configuration_id(self) -> int:
        """The 32-bit number that the hardware reports about its shape."""
        return self.rows << 24 | self.columns << 16 | self.lanes << 8 | self.word_bytes

"""How instructions, registers and memories are numbered and laid out in bits.

An instruction is a record of ``N_WORDS`` 32-bit words, fetched in order and handed to one of four
engines, which run side by side: array, vector, load and store. What an instruction does stands in
its record (`hw.isa.registry`).

``SYNC`` holds the fetch until its waits are over; ``HALT`` ends the program once every engine is
idle. The words up to ``N_COMMON`` mean the same in all of them; what follows depends on the
engine (`Format`). Counts are counts; steps of an outer level are net, that is they include going
back over the inner levels.

Synchronisation: every engine counts the instructions that it has completed, results written, since
the program's start. An instruction begins once ``wait_E`` instructions of each engine E are
completed. With ``chase`` it follows a producer that still runs: its unit i (a row of tiles, an
output line, a pixel, a line of a transfer) begins once instruction number ``chase_number`` of
engine ``chase_engine`` is completed or has reported ``chase_first`` + i * ``chase_step`` units of
progress (output pixels written; words for a load).
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["COMMON_FIELDS", "DEPTHWISE_KERNEL", "EXTERNAL", "FIELDS", "FIELDS_PER_CHANNEL",
           "FORMAT_WORDS", "MAGIC", "MAX_NIBBLE_SHIFT", "N_COMMON", "N_PLANES", "N_WORDS",
           "SYNC_FIELDS", "TABLE_ROW", "TABLE_SIZE", "VERSION", "AddressWindow", "Counter",
           "Engine", "ErrorCode", "Feed", "Field", "Format", "LocalMemory", "Opcode", "Register",
           "field_of", "local_depths"]

VERSION = 3
MAGIC = 0x4C4F434B  # "LOCK"
MAX_NIBBLE_SHIFT = 4  #: a code of 4 bits then has the upper half of a byte
DEPTHWISE_KERNEL = 3  #: rows and columns of DEPTHWISE's window
FIELDS_PER_CHANNEL = 4  #: 32-bit words of a channel: bias, multiplier, shift, one that is not used
N_PLANES = 4  #: byte planes that a ``wide`` product is stored in
TABLE_SIZE = 256  #: bytes of LOOKUP's table, one for every code
TABLE_ROW = 4  #: of them that are loaded in a cycle: a row of the lanes' own memories


class Opcode(enum.IntEnum):
    """Operations; what each does stands in its record."""

    HALT = 0
    SYNC = 1
    MATMUL = 2
    DEPTHWISE = 4
    WINDOW = 5
    LINEAR = 6
    ADD = 7
    MAXPOOL = 8
    MUL = 9
    LOOKUP = 10
    LOAD = 12
    STORE = 13


class Engine(enum.IntEnum):
    """Units that run instructions side by side, each its own in order."""

    ARRAY = 0
    VECTOR = 1
    LOAD = 2
    STORE = 3


class Format(enum.IntEnum):
    """How the words behind the common ones are laid out."""

    ARRAY = 0
    VECTOR = 1
    TRANSFER = 2


class Feed(enum.IntEnum):
    """How a port hands a word to the array."""

    TRANSPOSING = 0  #: a word is one lane's next bytes along the reduction, shifted out in order
    DIRECT = 1  #: a word is one step of the reduction, one byte per lane


class LocalMemory(enum.IntEnum):
    """Where a transfer goes to or comes from on the chip; a store knows banks only."""

    BANK_0 = 0
    BANK_1 = 1
    BANK_2 = 2
    BANK_3 = 3
    PARAMETERS = 4  #: FIELDS_PER_CHANNEL words of 32 bits per channel
    INSTRUCTIONS = 5


EXTERNAL = len(LocalMemory)  #: stands behind the LocalMemory where external memory is meant, too


def local_depths(target) -> list[int]:
    """Depth of each LocalMemory in its own words, which have 32 bits behind the banks."""
    return [*target.bank_words, FIELDS_PER_CHANNEL * target.parameter_words * target.lanes,
            target.instruction_words]


class ErrorCode(enum.IntEnum):
    """Why a run has ended, or NONE."""

    NONE = 0
    OPCODE = 1  #: unknown operation
    START_WHILE_BUSY = 2
    ADDRESS = 3  #: outside a memory, or outside the region the host allowed
    FIELD = 4  #: a count of zero where there must be one, or a value outside its range
    BUS_READ = 5  #: SLVERR or DECERR
    BUS_WRITE = 6
    WATCHDOG = 7  #: no result moved for WATCHDOG cycles, or CYCLE_LIMIT reached
    BANK_CONFLICT = 8  #: both ports of the array read the same bank


class Register(enum.IntEnum):
    """Byte offsets of the control registers (AXI4-Lite, 32 bits each)."""

    MAGIC = 0x00
    VERSION = 0x04
    CONFIGURATION = 0x08
    CONTROL = 0x0C  #: write: bit 0 start, bit 1 stop after one instruction, bit 2 abort
    STATUS = 0x10  #: bit 0 busy, bit 1 done, bit 2 error, bits 15:8 error code
    PROGRAM_ADDRESS = 0x14  #: index of the next instruction to run
    INSTRUCTION_INDEX = 0x18  #: the refused or halting instruction; after a stop the next one
    REGION_BASE = 0x1C  #: external addresses from here on ...
    REGION_LIMIT = 0x20  #: ... and below here are allowed
    WATCHDOG = 0x24  #: cycles without progress that end a run
    CYCLE_LIMIT = 0x28  #: cycles after which a run is ended; 0 for no limit
    FEATURES = 0x2C  #: bus bits in 15:0, bit 16 packed
    COUNTERS = 0x40  #: 64-bit counters, low word first, in the order of `Counter`


class Counter(enum.IntEnum):
    """Performance counters. From ARRAY_BUSY to ARRAY_FETCH they add up to CYCLES."""

    CYCLES = 0
    ARRAY_BUSY = 1  #: a slot of a MATMUL
    ARRAY_DRAIN = 2  #: waiting for the results of the tile before to be read
    ARRAY_CHASE = 3  #: waiting for the progress of a producer
    ARRAY_WAIT_ARRAY = 4  #: waiting for an earlier product's last results
    ARRAY_WAIT_VECTOR = 5
    ARRAY_WAIT_LOAD = 6
    ARRAY_WAIT_STORE = 7
    ARRAY_FETCH = 8  #: no product is there: not fetched yet, being handed over, or none left
    VECTOR_BUSY = 9  #: the vector engine runs an instruction
    LANES_BUSY = 10  #: the rescaler lanes take an item
    LOAD_BYTES = 11
    STORE_BYTES = 12


class AddressWindow(enum.IntEnum):
    """Top four address bits: which memory the host reaches."""

    REGISTERS = 0
    INSTRUCTIONS = 1
    PARAMETERS = 2
    BANK_0 = 4
    BANK_1 = 5
    BANK_2 = 6
    BANK_3 = 7


@dataclass(frozen=True, kw_only=True)
class Field:
    """``width`` bits at ``offset`` of word ``word``; two's complement where ``signed``."""

    name: str
    word: int
    offset: int
    width: int
    signed: bool = False
    doc: str = ""

    @property
    def low(self) -> int:
        """The least value."""
        return -(1 << self.width - 1) if self.signed else 0

    @property
    def high(self) -> int:
        """The largest value."""
        return (1 << self.width - self.signed) - 1


_COMMON = [
    [("opcode", 4, False, "operation"),
     ("gemmlowp", 1, False, "rounding: 0 half up, 1 gemmlowp's two roundings"),
     ("wide", 1, False, "store raw 32-bit sums as four byte planes"),
     ("chase", 1, False, "follow a producer that still runs"),
     ("chase_engine", 2, False, "its engine"),
     ("slots", 8, False, "cycles per period")],
    [("wait_array", 16, False, "products that must be complete"),
     ("wait_vector", 16, False, "vector instructions that must be complete")],
    [("wait_load", 16, False, "loads that must be complete"),
     ("wait_store", 16, False, "stores that must be complete")],
    [("chase_number", 16, False, "which instruction of its engine is followed, from 0"),
     ("chase_step", 16, False, "progress needed more per unit")],
    [("chase_first", 24, False, "progress needed before the first unit")],
    [("zero_point", 8, True, "of the output"), ("low", 8, True, "lower clamp bound"),
     ("high", 8, True, "upper clamp bound")],
    [("out_base", 16, False, "first word of the output"), ("out_bank", 2, False, "its bank")],
    [("out_step", 16, False, "words from one output pixel to the next"),
     ("parameter_base", 16, False, "first word of the per-channel parameters")],
    [("n_channels", 16, False, "output channels end here"),
     ("first_channel", 16, False, "output channels before this one are not written")],
    [("n_pixels", 24, False, "output pixels")],
]
N_COMMON = len(_COMMON)


def _walker(port: str, unit: str) -> list[list[tuple]]:
    words = [
        [("base", 24, True, f"first address ({unit})"), ("bank", 2, False, "scratchpad bank"),
         ("feed", 1, False, "0 transposing, 1 direct"),
         ("bounded", 1, False, "positions outside height x width give pad"),
         ("fixed", 1, False, "tiles add tile_step instead of continuing the slot walk")],
        [("x_step", 24, True, f"address step to the next position ({unit})"),
         ("pad", 8, True, "code supplied outside the bounds")],
        [("y_step", 24, True, "net address step to the next line of positions")],
        [("tile_step", 24, True, "fixed: address step to the next tile")],
        [("x_count", 16, False, "positions in a line"),
         ("group", 16, False, "periods per restart of the slot walk")],
        [("ix", 16, True, "first column"), ("iy", 16, True, "first row")],
        [("width", 16, False, "columns of the tensor"),
         ("height", 16, False, "rows of the tensor")],
        [("ix_step", 8, False, "columns per position"), ("iy_step", 8, False, "rows per line")],
        [("k0_count", 16, False, "steps of level 0"), ("k1_count", 16, False, "of level 1")],
    ]
    for level in range(3):
        words.append([(f"k{level}_step", 24, True, f"net address step of level {level}")])
        words.append([(f"k{level}_dx", 16, True, f"net column step of level {level}"),
                      (f"k{level}_dy", 16, True, f"net row step of level {level}")])
    return [[(f"{port}_{name}", *rest) for name, *rest in word] for word in words]


_ARRAY = [
    [("inner_count", 16, False, "tiles of port b, channels (inner loop)"),
     ("outer_count", 16, False, "tiles of port a, pixels (outer loop)")],
    [("period_count", 16, False, "periods per tile"),
     ("plane_step", 16, False, "wide: words between two byte planes")],
    [("out_x_count", 16, False, "output pixels in a line")],
    [("out_line_step", 24, True, "net words from a line's last pixel to the next line")],
    *_walker("a", "bytes"),
    *_walker("b", "words"),
]
_VECTOR = [
    [("x_base", 16, False, "first word of the input"), ("x_bank", 2, False, "its bank"),
     ("w_bank", 2, False, "bank of the weights; LOOKUP: of the table"),
     ("pad", 8, True, "code outside the input")],
    [("w_base", 16, False, "first word of the weights; LOOKUP: of the table"),
     ("n_chunks", 16, False, "words of channels per pixel; LINEAR: words of outputs")],
    [("width", 16, False, "columns of the input"), ("height", 16, False, "rows of the input")],
    [("out_width", 16, False, "columns of the output; ADD, MUL, LOOKUP: pixels"),
     ("out_height", 16, False, "rows of the output")],
    [("kernel_width", 8, False, "columns of the window"),
     ("kernel_height", 8, False, "rows of the window"),
     ("stride_x", 4, False, "columns from one output to the next"),
     ("stride_y", 4, False, "rows from one output to the next"),
     ("left", 4, False, "padding before the first column"),
     ("top", 4, False, "padding before the first row")],
    [("line_step", 16, False, "words from one input line to the next"),
     ("dilation_x", 4, False, "columns between taps"),
     ("dilation_y", 4, False, "rows between taps"),
     ("same_weights", 1, False, "one weight word serves every tap")],
    [("y_base", 16, False, "first word of the second input"),
     ("y_bank", 2, False, "its bank"),
     ("broadcast", 1, False, "the second input is one pixel, for all of the first")],
    [("n_inputs", 24, False, "inputs, rounded up to an even number")],
    [("multiplier_0", 31, False, "of the first input")],
    [("multiplier_1", 31, False, "of the second input")],
    [("multiplier_2", 31, False, "of the sum or product")],
    [("shift_0", 6, False, "of the first input"),
     ("shift_1", 6, False, "of the second input"),
     ("shift_2", 6, False, "of the sum or product"),
     ("left_shift", 5, False, "bits the inputs are shifted left before rescaling")],
    [("zero_point_0", 8, True, "of the first input"),
     ("zero_point_1", 8, True, "of the second input")],
]
_TRANSFER = [
    [("external_base", 32, False, "first byte in external memory, a multiple of the word")],
    [("external_step", 32, False, "bytes from one line to the next")],
    [("local_base", 16, False, "first word on the chip"),
     ("local_memory", 3, False, "which memory (LocalMemory)"),
     ("nibbles", 1, False, "LOAD to a bank: a word outside holds two words of 4-bit codes"),
     ("nibble_shift", 3, False, "bits that each of them is shifted left, at most 4")],
    [("n_lines", 16, False, "lines"), ("line_words", 16, False, "words in a line")],
    [("local_step", 16, False, "words from one line to the next on the chip")],
]


def _lay_out(words, first) -> tuple[Field, ...]:
    fields = []
    for index, word in enumerate(words, first):
        offset = 0
        for name, width, signed, doc in word:
            fields.append(Field(name=name, word=index, offset=offset, width=width, signed=signed,
                                doc=doc))
            offset += width
        assert offset <= 32, f"instruction word {index} has {offset} bits"
    return tuple(fields)


COMMON_FIELDS = _lay_out(_COMMON, 0)
FIELDS = {
    Format.ARRAY: COMMON_FIELDS + _lay_out(_ARRAY, N_COMMON),
    Format.VECTOR: COMMON_FIELDS + _lay_out(_VECTOR, N_COMMON),
    Format.TRANSFER: COMMON_FIELDS + _lay_out(_TRANSFER, N_COMMON),
}
#: 32-bit words that an instruction of each format has; shorter ones are fetched faster.
FORMAT_WORDS = {format_: 1 + max(field.word for field in fields)
                for format_, fields in FIELDS.items()}
N_WORDS = max(FORMAT_WORDS.values())
#: What an instruction waits for and follows; every instruction of an engine has it.
SYNC_FIELDS = ("chase", "chase_engine", "chase_number", "chase_first", "chase_step",
               *(f"wait_{engine.name.lower()}" for engine in Engine))


def field_of(format_: Format, name: str) -> Field:
    """The field of a format that is called ``name``."""
    return next(field for field in FIELDS[format_] if field.name == name)

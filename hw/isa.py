"""The instruction set: one layout definition for hardware, compiler, C header and documentation.

An instruction is a record of ``N_WORDS`` 32-bit words. Every field lives inside one word, so the
sequencer fetches a word and writes it straight into the field registers. The operations:

``MATMUL``   output-stationary product on the array: tiles of rows x columns accumulators
``ADD``      residual add: two rescaled int8 tensors of one shape, summed and rescaled
``MAXPOOL``  running maximum over the taps of a window, whole words at a time
``HALT``     end of the program

Each array port (``a`` feeds rows, ``b`` feeds columns) has an address walker: a slot walk over
positions (x inside y), a period walk of three levels (k0 innermost) and the advance from tile to
tile. Level steps are net: they include going back over the inner levels.
"""

from __future__ import annotations

import enum
from dataclasses import dataclass

__all__ = ["FIELDS", "N_WORDS", "Field", "Feed", "Opcode", "Register", "ErrorCode", "c_header",
           "decode", "encode", "markdown_table"]

VERSION = 1
MAGIC = 0x4C4F434B  # "LOCK"


class Opcode(enum.IntEnum):
    HALT = 0
    MATMUL = 1
    ADD = 2
    MAXPOOL = 3


class Feed(enum.IntEnum):
    """How a port hands a word to the array."""

    TRANSPOSING = 0  #: a word is one lane's next bytes along the reduction, shifted out in order
    DIRECT = 1  #: a word is one step of the reduction, one byte per lane


class ErrorCode(enum.IntEnum):
    NONE = 0
    OPCODE = 1
    START_WHILE_BUSY = 2


class Register(enum.IntEnum):
    """Byte offsets of the control registers (AXI4-Lite, 32 bits each)."""

    MAGIC = 0x00
    VERSION = 0x04
    CONFIGURATION = 0x08
    CONTROL = 0x0C  #: write: bit 0 start, bit 1 stop after one instruction
    STATUS = 0x10  #: bit 0 busy, bit 1 done, bit 2 error, bits 15:8 error code
    PROGRAM_ADDRESS = 0x14  #: index of the next instruction to run
    INSTRUCTION_INDEX = 0x18  #: the running, refused or halting instruction; after a stop the next
    CYCLES_LOW = 0x20
    CYCLES_HIGH = 0x24
    ARRAY_BUSY_LOW = 0x28
    ARRAY_BUSY_HIGH = 0x2C
    STALL_LOW = 0x30
    STALL_HIGH = 0x34


class Window(enum.IntEnum):
    """Top four address bits: which memory the host reaches."""

    REGISTERS = 0
    INSTRUCTIONS = 1
    PARAMETERS = 2
    BANK_0 = 4
    BANK_1 = 5


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
        return -(1 << self.width - 1) if self.signed else 0

    @property
    def high(self) -> int:
        return (1 << self.width - self.signed) - 1


def _walker(port: str) -> list[list[tuple]]:
    words = [
        [("base", 24, False, "first word address"), ("bank", 1, False, "scratchpad bank"),
         ("feed", 1, False, "0 transposing, 1 direct"),
         ("bounded", 1, False, "positions outside height x width give pad"),
         ("sub", 4, False, "direct feed: first group of lanes in the word")],
        [("x_step", 24, True, "address step to the next position"),
         ("pad", 8, True, "code supplied outside the bounds")],
        [("y_step", 24, True, "address step at the end of a line of positions")],
        [("x_count", 16, False, "positions in a line"),
         ("group", 16, False, "periods per restart of the slot walk (1 when transposing)")],
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


_WORDS = [
    [("opcode", 4, False, "operation"),
     ("swap", 1, False, "0: pixels on rows, channels on columns; 1: the other way round"),
     ("gemmlowp", 1, False, "rounding: 0 half up, 1 gemmlowp's two roundings"),
     ("wide", 1, False, "store raw 32-bit sums as four byte planes"),
     ("slots", 8, False, "cycles per period")],
    [("inner_count", 16, False, "tiles of port a (inner loop)"),
     ("outer_count", 16, False, "tiles of port b (outer loop)")],
    [("period_count", 16, False, "periods per tile"),
     ("emit_periods", 16, False, "MAXPOOL: periods per output word")],
    [("out_base", 24, False, "first word of the output"), ("out_bank", 1, False, "its bank"),
     ("out_byte", 6, False, "byte of the first channel inside its word")],
    [("out_step", 16, False, "words from one output pixel to the next"),
     ("n_channels", 16, False, "output channels")],
    [("n_pixels", 24, False, "output pixels (words for ADD and MAXPOOL)")],
    [("zero_point", 8, True, "of the output"), ("low", 8, True, "lower clamp bound"),
     ("high", 8, True, "upper clamp bound")],
    [("parameter_base", 16, False, "first word of the per-channel parameters")],
    [("plane_step", 24, False, "wide: words between two byte planes")],
    [("multiplier_0", 31, False, "ADD: of the first input")],
    [("multiplier_1", 31, False, "ADD: of the second input")],
    [("multiplier_2", 31, False, "ADD: of the sum")],
    [("shift_0", 6, False, "ADD: of the first input"),
     ("shift_1", 6, False, "ADD: of the second input"), ("shift_2", 6, False, "ADD: of the sum")],
    [("zero_point_0", 8, True, "ADD: of the first input"),
     ("zero_point_1", 8, True, "ADD: of the second input"),
     ("left_shift", 5, False, "ADD: bits the inputs are shifted left before rescaling")],
    *_walker("a"),
    *_walker("b"),
]
N_WORDS = len(_WORDS)


def _lay_out() -> tuple[Field, ...]:
    fields = []
    for index, word in enumerate(_WORDS):
        offset = 0
        for name, width, signed, doc in word:
            fields.append(Field(name=name, word=index, offset=offset, width=width, signed=signed,
                                doc=doc))
            offset += width
        assert offset <= 32, f"instruction word {index} has {offset} bits"
    return tuple(fields)


FIELDS = _lay_out()


def encode(**values: int) -> list[int]:
    """Return the 32-bit words of an instruction; fields not named are 0.

    Raises ValueError for an unknown field or a value that does not fit, naming the field.
    """
    unknown = set(values) - {field.name for field in FIELDS}
    if unknown:
        raise ValueError(f"Unknown instruction field '{min(unknown)}'")
    words = [0] * N_WORDS
    for field in FIELDS:
        value = int(values.get(field.name, 0))
        if not field.low <= value <= field.high:
            raise ValueError(
                f"Instruction field '{field.name}' must be in {field.low}..{field.high}, "
                f"not {value}")
        words[field.word] |= (value & (1 << field.width) - 1) << field.offset
    return words


def decode(words: list[int]) -> dict[str, int]:
    """Return the fields of an instruction's words, the inverse of ``encode``."""
    values = {}
    for field in FIELDS:
        value = words[field.word] >> field.offset & (1 << field.width) - 1
        if field.signed and value > field.high:
            value -= 1 << field.width
        values[field.name] = value
    return values


def c_header() -> str:
    """Return the C header of the registers, address windows, opcodes and instruction fields."""
    lines = ["/* Registers and instructions of the Lockstep accelerator; generated. */",
             "#ifndef LOCKSTEP_ISA_H", "#define LOCKSTEP_ISA_H", "",
             f"#define LOCKSTEP_MAGIC 0x{MAGIC:08X}u", f"#define LOCKSTEP_VERSION {VERSION}u",
             f"#define LOCKSTEP_INSTRUCTION_WORDS {N_WORDS}u", ""]
    for kind, prefix in ((Register, "REG"), (Window, "WINDOW"), (Opcode, "OP"), (Feed, "FEED"),
                         (ErrorCode, "ERROR")):
        lines += [f"#define LOCKSTEP_{prefix}_{item.name} 0x{item.value:X}u" for item in kind]
        lines.append("")
    for field in FIELDS:
        name = f"LOCKSTEP_FIELD_{field.name.upper()}"
        lines.append(f"#define {name}_WORD {field.word}u /* {field.doc} */")
        lines.append(f"#define {name}_OFFSET {field.offset}u")
        lines.append(f"#define {name}_WIDTH {field.width}u")
    return "\n".join([*lines, "", "#endif", ""])


def markdown_table() -> str:
    """Return the table of instruction fields for the documentation."""
    rows = ["| word | bits | field | meaning |", "| --- | --- | --- | --- |"]
    for field in FIELDS:
        bits = f"{field.offset + field.width - 1}:{field.offset}"
        sign = " (signed)" if field.signed else ""
        rows.append(f"| {field.word} | {bits} | `{field.name}` | {field.doc}{sign} |")
    return "\n".join(rows) + "\n"

"""What the layout and the records say, as a C header and as tables for the documentation."""

from __future__ import annotations

from hw.isa.layout import (
    COMMON_FIELDS,
    FIELDS,
    MAGIC,
    N_WORDS,
    SYNC_FIELDS,
    VERSION,
    AddressWindow,
    Counter,
    ErrorCode,
    Feed,
    LocalMemory,
    Opcode,
    Register,
)
from hw.isa.registry import INSTRUCTIONS

__all__ = ["c_header", "markdown_table"]


def _users(field) -> str:
    """Which instructions a field means something to, "" where it does so to all that have it."""
    having = [record for record in INSTRUCTIONS.values() if field in record.fields]
    using = [record for record in having
             if field.name in record.uses or field.name in (*SYNC_FIELDS, "opcode")]
    return "" if len(using) == len(having) else ", ".join(record.name for record in using)


def _groups():
    """[(title, prefix of names in C, fields)]: the common ones, then those of each format."""
    return [("All instructions", "", COMMON_FIELDS)] + [
        (f"{format_.name.capitalize()} format", f"{format_.name}_", fields[len(COMMON_FIELDS):])
        for format_, fields in FIELDS.items()]


def c_header() -> str:
    """Return the C header of the registers, address windows, opcodes and instruction fields."""
    lines = ["/* Registers and instructions of the Lockstep accelerator; generated. */",
             "#ifndef LOCKSTEP_ISA_H", "#define LOCKSTEP_ISA_H", "",
             f"#define LOCKSTEP_MAGIC 0x{MAGIC:08X}u", f"#define LOCKSTEP_VERSION {VERSION}u",
             f"#define LOCKSTEP_INSTRUCTION_WORDS {N_WORDS}u", ""]
    for kind, prefix in ((Register, "REG"), (AddressWindow, "WINDOW"), (Opcode, "OP"),
                         (Feed, "FEED"), (LocalMemory, "LOCAL"), (Counter, "COUNTER"),
                         (ErrorCode, "ERROR")):
        lines += [f"#define LOCKSTEP_{prefix}_{item.name} 0x{item.value:X}u" for item in kind]
        lines.append("")
    for _, prefix, fields in _groups():
        for field in fields:
            name = f"LOCKSTEP_FIELD_{prefix}{field.name.upper()}"
            users = _users(field)
            doc = f"{users}: {field.doc}" if users else field.doc
            lines.append(f"#define {name}_WORD {field.word}u /* {doc} */")
            lines.append(f"#define {name}_OFFSET {field.offset}u")
            lines.append(f"#define {name}_WIDTH {field.width}u")
    return "\n".join([*lines, "", "#endif", ""])


def markdown_table() -> str:
    """Return the tables of instructions and of their fields for the documentation."""
    rows = ["Instructions:", "",
            "| operation | what it computes | unit of a chase | must not be 0 | must be even |",
            "| --- | --- | --- | --- | --- |"]
    rows += [f"| `{record.name}` | {record.doc} | {record.unit} "
             f"| {_names(record.nonzero)} | {_names(record.even)} |"
             for record in INSTRUCTIONS.values()]
    tables = ["\n".join(rows)]
    for title, _, fields in _groups():
        rows = [f"{title}:", "", "| word | bits | field | of | meaning |",
                "| --- | --- | --- | --- | --- |"]
        for field in fields:
            bits = f"{field.offset + field.width - 1}:{field.offset}"
            sign = " (signed)" if field.signed else ""
            rows.append(f"| {field.word} | {bits} | `{field.name}` | {_users(field) or 'all'} "
                        f"| {field.doc}{sign} |")
        tables.append("\n".join(rows))
    return "\n\n".join(tables) + "\n"


def _names(fields) -> str:
    return ", ".join(f"`{name}`" for name in fields)

"""Instructions as 32-bit words."""

from __future__ import annotations

from hw.isa.layout import COMMON_FIELDS, FIELDS, N_WORDS, Field
from hw.isa.registry import FORMAT_OF

__all__ = ["decode", "encode", "fields_of"]


def fields_of(opcode: int) -> tuple[Field, ...]:
    """The fields of an instruction; HALT, SYNC and unknown operations have the common ones."""
    format_ = FORMAT_OF.get(opcode)
    return COMMON_FIELDS if format_ is None else FIELDS[format_]


def encode(opcode: int, **values: int) -> list[int]:
    """Return the N_WORDS 32-bit words of an instruction; fields not named are 0.

    Raises ValueError for an unknown field or a value that does not fit, naming the field.
    """
    values["opcode"] = opcode
    fields = fields_of(opcode)
    unknown = set(values) - {field.name for field in fields}
    if unknown:
        raise ValueError(f"Unknown instruction field '{min(unknown)}'")
    words = [0] * N_WORDS
    for field in fields:
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
    for field in fields_of(words[0] & 0xF):
        value = words[field.word] >> field.offset & (1 << field.width) - 1
        if field.signed and value > field.high:
            value -= 1 << field.width
        values[field.name] = value
    return values

"""All instructions, each one record: what the modules of `hw.isa.instructions` define."""

from __future__ import annotations

import importlib
import inspect
import pkgutil

from hw.isa import instructions
from hw.isa.instruction import Instruction
from hw.isa.layout import Engine, Format, Opcode

__all__ = ["ENGINE_OF", "FORMAT_OF", "INSTRUCTIONS"]


def _records():
    """One of every class with an opcode, in the order of the opcodes."""
    found = {}
    for entry in pkgutil.iter_modules(instructions.__path__, f"{instructions.__name__}."):
        for _, kind in inspect.getmembers(importlib.import_module(entry.name), inspect.isclass):
            opcode = getattr(kind, "opcode", None)
            if issubclass(kind, Instruction) and isinstance(opcode, Opcode):
                if found.setdefault(opcode, kind) is not kind:
                    raise TypeError(f"Opcode {opcode.name} must have one instruction, not "
                                    f"{found[opcode].__name__} and {kind.__name__}")
    return {opcode: found[opcode]() for opcode in sorted(found)}


#: The record of every operation that an engine runs; HALT and SYNC are the fetch's own.
INSTRUCTIONS: dict[Opcode, Instruction] = _records()
ENGINE_OF: dict[Opcode, Engine] = {code: record.engine for code, record in INSTRUCTIONS.items()}
FORMAT_OF: dict[Opcode, Format] = {code: record.format for code, record in INSTRUCTIONS.items()}

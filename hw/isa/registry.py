"""All instructions, each one record."""

from __future__ import annotations

from hw.isa.add import Add
from hw.isa.instruction import Instruction
from hw.isa.layout import Engine, Format, Opcode
from hw.isa.linear import Linear
from hw.isa.lookup import Lookup
from hw.isa.matmul import MatMul
from hw.isa.multiply import Multiply
from hw.isa.transfer import Load, Store
from hw.isa.windows import Depthwise, MaxPool, Window

__all__ = ["ENGINE_OF", "FORMAT_OF", "INSTRUCTIONS"]

#: The record of every operation that an engine runs; HALT and SYNC are the fetch's own.
INSTRUCTIONS: dict[Opcode, Instruction] = {record.opcode: record for record in (
    MatMul(), Depthwise(), Window(), Linear(), Add(), MaxPool(), Multiply(), Lookup(), Load(),
    Store())}
ENGINE_OF: dict[Opcode, Engine] = {code: record.engine for code, record in INSTRUCTIONS.items()}
FORMAT_OF: dict[Opcode, Format] = {code: record.format for code, record in INSTRUCTIONS.items()}

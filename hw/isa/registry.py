"""All instructions, each one record."""

from __future__ import annotations

from hw.isa.add import AddInstruction
from hw.isa.instruction import Instruction
from hw.isa.layout import Engine, Format, Opcode
from hw.isa.linear import LinearInstruction
from hw.isa.lookup import LookupInstruction
from hw.isa.matmul import MatMulInstruction
from hw.isa.multiply import MultiplyInstruction
from hw.isa.transfer import LoadInstruction, StoreInstruction
from hw.isa.windows import DepthwiseInstruction, MaxPoolInstruction, WindowInstruction

__all__ = ["ENGINE_OF", "FORMAT_OF", "INSTRUCTIONS"]

#: The record of every operation that an engine runs; HALT and SYNC are the fetch's own.
INSTRUCTIONS: dict[Opcode, Instruction] = {record.opcode: record for record in (
    MatMulInstruction(), DepthwiseInstruction(), WindowInstruction(), LinearInstruction(),
    AddInstruction(), MaxPoolInstruction(), MultiplyInstruction(), LookupInstruction(),
    LoadInstruction(), StoreInstruction())}
ENGINE_OF: dict[Opcode, Engine] = {code: record.engine for code, record in INSTRUCTIONS.items()}
FORMAT_OF: dict[Opcode, Format] = {code: record.format for code, record in INSTRUCTIONS.items()}

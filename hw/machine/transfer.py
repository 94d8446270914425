"""LOAD and STORE in the instruction-set model (hw.machine)."""

from __future__ import annotations

import numpy as np

from hw.isa import ErrorCode, LocalMemory, Opcode
from hw.machine.addresses import local_depths, local_words, transfer_lines

__all__ = ["run_transfer"]

_FIELDS = 4  # 32-bit words of a channel, the last one not used


def run_transfer(machine, f):
    """Execute a LOAD or STORE; its fields are not refused."""
    target, memory = machine.target, f["local_memory"]
    is_load = f["opcode"] == Opcode.LOAD
    external, local = transfer_lines(f)
    n_bytes, n_local = f["line_words"] * target.word_bytes, local_words(f, target)
    machine.refuse(
        (external < machine.region_base) | (external + n_bytes > machine.region_limit),
        ErrorCode.ADDRESS, f"outside the region {machine.region_base:#x}.."
                           f"{machine.region_limit:#x}")
    machine.refuse(local + n_local > local_depths(target)[memory], ErrorCode.ADDRESS,
                   f"outside {LocalMemory(memory).name}")
    external = external - machine.external_origin
    machine.refuse((external < 0) | (external + n_bytes > len(machine.external)),
                   ErrorCode.BUS_READ if is_load else ErrorCode.BUS_WRITE,
                   "outside the external memory")
    # Line after line: where lines overlap, the last one counts.
    external = (external[:, None] + np.arange(n_bytes)).reshape(-1)
    words = (local[:, None] + np.arange(n_local)).reshape(-1)
    if not is_load:
        machine.external[external] = machine.banks[memory][words].view(np.uint8).reshape(-1)
        return
    content = machine.external[external]
    if f["nibbles"]:
        low, high = content << 4, content & 0xF0  # in the upper half of a byte
        codes = np.stack([low, high], -1).view(np.int8) >> 4 << f["nibble_shift"]
        machine.banks[memory][words] = codes.reshape(-1, target.word_bytes)
        return
    if memory < LocalMemory.PARAMETERS:
        machine.banks[memory][words] = content.view(np.int8).reshape(-1, target.word_bytes)
        return
    content = content.view("<u4")
    if memory == LocalMemory.INSTRUCTIONS:
        machine.instructions[words] = content
    else:
        _load_parameters(machine, words, content)


def _load_parameters(machine, words, content):
    """A channel changes with its last field; the others wait until then, even for a later load."""
    fields = words % _FIELDS
    order = np.arange(len(words))
    columns = []
    for field in range(3):
        values = np.concatenate([machine.staged_parameters[field:field + 1], content])
        newest = np.maximum.accumulate(np.where(fields == field, order + 1, 0))
        columns.append(values[newest])
        machine.staged_parameters[field] = columns[-1][-1]
    ends = fields == 2
    machine.parameters[words[ends] // _FIELDS] = np.stack(columns, 1)[ends]

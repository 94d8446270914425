"""LOAD and STORE on a Machine's memories."""

from __future__ import annotations

import numpy as np

from hw.isa import ErrorCode, LocalMemory, Opcode
from hw.model.faults import Fault
from hw.targets import N_BANKS

__all__ = ["execute", "lines"]


def lines(f):
    """(external address, local address) of every line of a transfer, int64."""
    index = np.arange(f["n_lines"])
    return (f["external_base"] + index * f["external_step"] & 0xFFFFFFFF,
            f["local_base"] + index * f["local_step"] & 0xFFFF)


def execute(machine, f):
    """Run one transfer."""
    word_bytes = machine.target.word_bytes
    is_load = f["opcode"] == Opcode.LOAD
    memory, n_bytes = f["local_memory"], f["line_words"] * word_bytes
    step = 0 if f["n_lines"] == 1 else f["external_step"]
    if (f["n_lines"] == 0 or f["line_words"] == 0 or memory > LocalMemory.INSTRUCTIONS
            or not is_load and memory >= N_BANKS
            or (f["external_base"] | step) % word_bytes):
        raise Fault(ErrorCode.FIELD, f"fields of {Opcode(f['opcode']).name}")
    if memory < N_BANKS:
        local, unit = machine.banks[memory].reshape(-1).view(np.uint8), word_bytes
    else:
        local = (machine.parameters if memory == LocalMemory.PARAMETERS
                 else machine.instructions).reshape(-1).view(np.uint8)
        unit = 4
    for outside, inside in zip(*lines(f)):
        here, there = slice(inside * unit, inside * unit + n_bytes), slice(outside,
                                                                           outside + n_bytes)
        if there.stop > len(machine.external) or here.stop > len(local):
            raise Fault(ErrorCode.ADDRESS, "a line outside its memory")
        if is_load:
            local[here] = machine.external[there]
        else:
            machine.external[there] = local[here]

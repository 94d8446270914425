"""Runs a Program on the instruction-set model: the compiled image, instruction by instruction.

What the hardware would leave in its memories (hw.machine), without cycles and in milliseconds.
Every tensor is read right after the instructions of its node, as on the RTL.
"""

from __future__ import annotations

import numpy as np

from golden.errors import LockstepError
from hw.compiler import Image, compile_program
from hw.isa import N_WORDS, Opcode, decode
from hw.machine import Machine
from hw.targets import Target, get_target

__all__ = ["machine_of", "run", "run_batch"]

_MOST_MORE = 3


def machine_of(image: Image) -> Machine:
    """A Machine whose memories hold the image."""
    size = 0 if image.external is None else len(image.external)
    machine = Machine(image.target, external_bytes=size)
    if size:
        machine.external[:] = image.external
        machine.region_limit = size
    machine.load_program(image.instructions.reshape(-1, N_WORDS))
    machine.parameters[:len(image.parameters)] = image.parameters
    for block in image.blocks:
        machine.banks[block.bank][block.base:block.base + len(block.words)] = block.words
    return machine


def _words(machine, place):
    """The words of a tensor in the machine's memories, int8 (n_words, word_bytes)."""
    if place.external:
        flat = machine.external[place.base:place.base + place.n_words * place.word_bytes]
        return flat.view(np.int8).reshape(-1, place.word_bytes)
    return machine.banks[place.bank][place.base:place.base + place.n_words]


def _fetch(machine, index):
    """The instruction that the ring of the instruction memory holds at ``index``."""
    base = index % machine.n_records * N_WORDS
    return machine.instructions[base:base + N_WORDS]


def run_batch(image: Image, codes: np.ndarray) -> dict[str, np.ndarray]:
    """Tensors, int8 (1, *shape), by the names of their placements, of one run.

    codes: int8 (image.batch, *shape) in the program's layout.
    """
    machine, tensors = machine_of(image), {}

    def read(name):
        place = image.placements[name]
        tensors[name] = place.unpack(_words(machine, place)[None].copy())

    for index, x in enumerate(codes):
        place = image.place(image.input, index)
        _words(machine, place)[...] = place.pack(x[None])[0]
        read(f"{image.input}#{index}" if index else image.input)
    index = 0
    for step in image.steps:
        for _ in range(step.n_instructions):
            machine.execute(_fetch(machine, index))
            index += 1
        read(step.output)
    # Behind the last node's instructions there may be one that brings the next part of the program.
    for more in range(_MOST_MORE):
        words = _fetch(machine, index + more)
        if decode(words.tolist())["opcode"] == Opcode.HALT:
            return tensors
        machine.execute(words)
    raise LockstepError(f"Image of program '{image.program}' does not halt behind instruction "
                        f"{index}")


def run(program, x, *, target: Target | str = "sim-8x8",
        image: Image | None = None) -> dict[str, np.ndarray]:
    """Run ``program`` on the model; return tensors by name, int8.

    x: as golden.program.interpreter.run takes it. image: run this instead of compiling; a batch
    that does not fill its last run is filled up.

    Raises LockstepError for a program that the target cannot run, MachineError for an instruction
    that the hardware would refuse.
    """
    target = get_target(target) if isinstance(target, str) else target
    image = image or compile_program(program, target)
    codes = program.quantize_input(x)
    n_images, batch = len(codes), image.batch
    codes = np.concatenate([codes, codes[:1].repeat(-n_images % batch, axis=0)])
    parts = {name: [] for name in image.placements if "#" not in name}
    for first in range(0, len(codes), batch):
        for name, tensor in run_batch(image, codes[first:first + batch]).items():
            parts[name.partition("#")[0]].append(tensor)
    return {name: np.concatenate(tensors)[:n_images] for name, tensors in parts.items() if tensors}

"""Runs a Program on the instruction-set model: the compiled image, instruction by instruction.

What the hardware would leave in its memories (hw.machine), without cycles and in milliseconds.
Every tensor is read right after the instructions of its node, as on the RTL.
"""

from __future__ import annotations

import numpy as np

from golden.errors import LockstepError
from golden.program.sources import source_codes
from hw.compiler import Image, compile_program
from hw.isa import N_WORDS, Opcode, decode
from hw.machine import Machine
from hw.targets import Target, get_target
from sim.batches import by_tensor, groups_of, joined

__all__ = ["machine_of", "run", "run_batch"]

_MOST_MORE = 3


def machine_of(image: Image) -> Machine:
    """A Machine whose memories hold the image, and noise where the image holds nothing."""
    size = 0 if image.external is None else len(image.external)
    machine = Machine(image.target, external_bytes=size)
    noise = np.random.default_rng(size)
    for bank in machine.banks:
        bank[:] = noise.integers(-128, 128, bank.shape, np.int8)
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


def run_batch(image: Image, codes: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Tensors, (1, *shape), by the names of their placements, of one run.

    codes: of every input, (image.batch, *shape), or (1, *shape) where the images share it.
    """
    machine, tensors = machine_of(image), {}

    def read(name):
        place = image.placements[name]
        tensors[name] = place.unpack(_words(machine, place)[None].copy())

    for tensor in image.inputs:
        for name, x in zip(image.copies(tensor), codes[tensor], strict=True):
            place = image.placements[name]
            _words(machine, place)[...] = place.pack(x[None])[0]
            read(name)
    index = 0
    for step in image.steps:
        for _ in range(step.n_instructions):
            machine.execute(_fetch(machine, index))
            index += 1
        for name in step.outputs:
            read(name)
    # Behind the last node's instructions there may be one that brings the next part of the program.
    for more in range(_MOST_MORE):
        words = _fetch(machine, index + more)
        if decode(words.tolist())["opcode"] == Opcode.HALT:
            return tensors
        machine.execute(words)
    raise LockstepError(f"Image of program '{image.program}' does not halt behind instruction "
                        f"{index}")


def run(program, x, state: dict | None = None, *, target: Target | str = "sim-8x8",
        image: Image | None = None) -> dict[str, np.ndarray]:
    """Run ``program`` on the model; return tensors by name.

    x, state: as golden.program.interpreter.run takes them. image: run this instead of compiling;
    a batch that does not fill its last run is filled up.

    Raises LockstepError for a program that the target cannot run, MachineError for an instruction
    that the hardware would refuse.
    """
    target = get_target(target) if isinstance(target, str) else target
    image = image or compile_program(program, target)
    codes = source_codes(program, x, state)
    groups, n_images = groups_of(program, image, codes)
    return joined(program, [by_tensor(run_batch(image, group)) for group in groups], n_images)

"""Runs compiled images on the instruction-set model, and compares them with golden."""

import numpy as np

from golden.program.interpreter import run
from hw.compiler import compile_program
from hw.compiler.tiling.tile import unrolled
from hw.isa import N_WORDS
from hw.machine import Machine
from hw.machine.hazards import check


def machine_of(image):
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
    if place.external:
        flat = machine.external[place.base:place.base + place.n_words * place.word_bytes]
        return flat.view(np.int8).reshape(-1, place.word_bytes)
    return machine.banks[place.bank][place.base:place.base + place.n_words]


def run_image(image, codes):
    """codes: int8 (batch, *shape), as many as the image computes. Returns the output tensors."""
    machine = machine_of(image)
    for index, x in enumerate(codes):
        place = image.place(image.input, index)
        _words(machine, place)[...] = place.pack(x[None])[0]
    machine.run(max_instructions=10_000)
    places = [image.place(image.output, index) for index in range(len(codes))]
    return np.concatenate([place.unpack(_words(machine, place)[None]) for place in places])


def compile_checked(program, target, batch=1):
    """An image whose waits and chases order all its accesses."""
    image = compile_program(program, target, batch)
    check(unrolled(image), target)
    return image


def assert_as_golden(program, target, codes, batch=1):
    """Compile, run and compare; returns the image."""
    image = compile_checked(program, target, batch)
    expected = run(program, codes)[program.outputs[0]]
    for first in range(0, len(codes), batch):
        part = program.quantize_input(codes)[first:first + batch]
        assert np.array_equal(run_image(image, part), expected[first:first + batch])
    return image

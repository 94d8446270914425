"""Runs compiled images on the instruction-set model, and compares them with golden."""

import numpy as np

from golden.program.interpreter import run
from hw.compiler import compile_program
from hw.compiler.tiling.tile import unrolled
from hw.machine.hazards import check
from sim.batches import by_tensor
from sim.model import run_batch


def run_image(image, codes):
    """codes: int8 (batch, *shape), as many as the image computes. Returns the output tensor."""
    (x,), (y,) = image.inputs, image.outputs
    return by_tensor(run_batch(image, {x: codes}))[y]


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

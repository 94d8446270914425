"""The compiler: a Program and a target become instructions, a memory image and placements."""

from __future__ import annotations

from golden.errors import LockstepError
from golden.program.verify import verify
from hw.compiler.lowering.lower import layouts, lower
from hw.compiler.memory.batch import batches
from hw.compiler.memory.build import assemble
from hw.compiler.memory.image import Block, Image, NodeStep, Placement
from hw.compiler.refusals import CannotRun, DoesNotFit
from hw.compiler.scheduling.order import orders
from hw.compiler.tiling.tile import tile
from hw.targets import Target

__all__ = ["Block", "CannotRun", "DoesNotFit", "Image", "Placement", "NodeStep", "compile_program"]


def compile_program(program, target: Target, batch: int = 1) -> Image:
    """Compile ``program`` for ``target``; ``batch``: images that one run computes,
    unless the program has a batch of its own.

    What does not fit the chip runs from external memory, where the target has one.

    Raises CannotRun for an operator that the accelerator does not have (naming the node),
    DoesNotFit for a program that does not fit (saying how much is needed and how much there is),
    and LockstepError for a program that is not sound.
    """
    verify(program)
    batch = program.batch or batch
    if batch < 1:
        raise LockstepError(f"Program '{program.name}': the batch must hold at least 1 image, "
                            f"not {batch}")
    places = layouts(program, target)
    best = None
    for way in batches(program, batch, places):
        try:
            tasks = {node.name: lower(node, target, places, n_images=way.images_of(node),
                                      by_pixel=way.by_pixel) for node in program.nodes}
        except CannotRun:
            if way.by_pixel:  # image by image it can
                continue
            raise
        refusal = None  # of the last way, which needs the least
        for order in orders(program):
            try:
                found = assemble(program, target, order, tasks, places, way)
            except DoesNotFit as error:
                refusal = refusal or error
                continue
            if best is None or found[0] < best[0]:
                best = found
    if best is None and target.bus_bits:
        return tile(program, target, orders(program)[-1], batch)
    if best is None:
        raise refusal
    return best[1]

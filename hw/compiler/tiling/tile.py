"""Programs from external memory: stripes of rows, groups of channels, transfers beside the work.

Every job computes some rows (and channels) of one node. What it reads is loaded while the job
before runs, what it writes is stored while the next one runs. Jobs of the array come in the
program's order; those of the vector engine as soon as their rows are there, so both work at once.
Small tensors stay on the chip. Buffers and parameters are handed out as the program is written;
who has to wait for whom follows from what each instruction reads and writes (schedule.py).
"""

from __future__ import annotations

import numpy as np

from hw.compiler.lowering.lower import layouts as lay_out
from hw.compiler.memory.allocator import NoRoom
from hw.compiler.memory.build import results, step_of
from hw.compiler.memory.image import Image
from hw.compiler.refusals import DoesNotFit
from hw.compiler.scheduling.estimate import estimate_fields
from hw.compiler.tiling.jobs import Work
from hw.compiler.tiling.plan import Budget
from hw.compiler.tiling.stream import Stream
from hw.isa import N_WORDS
from hw.targets import Target

__all__ = ["tile", "unrolled"]

_LEVELS = 8


def tile(program, target: Target, order, batch=1) -> Image:
    """An image that runs from external memory; nodes in ``order``.

    Raises DoesNotFit where even the smallest pieces do not fit.
    """
    if program.batch is not None or not all(t.batched for t in program.tensors.values()):
        raise DoesNotFit(f"Program '{program.name}' does not fit target {target.name}: a program "
                         "whose images share a tensor does not run in pieces")
    refusal = None
    for level in range(_LEVELS):
        try:
            return _tile(program, target, order, batch, Budget.of(target, level))
        except NoRoom as error:
            refusal = refusal or error
    raise DoesNotFit(f"Program '{program.name}' does not fit target {target.name}, not even in "
                     f"pieces: there is no room for {refusal}")


def _tile(program, target, order, batch, budget):
    layout = lay_out(program, target, by_rows=True)
    one = Work(program, target, order, batch, budget, layout)
    stream = one.write(Stream(program.name, target))
    address = None
    words = stream.finish()
    n_records = target.instruction_words // N_WORDS
    if len(words) > n_records * N_WORDS:
        # Once more, with room for the program itself and the loads that bring it.
        work = Work(program, target, order, batch, budget, layout)
        n_bytes = stream.bytes_in_parts()
        address = work.external.room(n_bytes)
        stream = work.write(Stream(program.name, target, address))
        words = stream.finish()
        one = work
    external = one.external.content()
    if address is not None:
        data = words.view(np.uint8)
        assert len(data) <= n_bytes
        external[address:address + len(data)] = data
    metadata = {"estimated_cycles": estimate_fields(stream.fields, target).cycles}
    if address is not None:
        metadata["instruction_stream"] = {"address": address, "instructions": len(stream.fields)}
    return Image(
        program=program.name, program_sha256=program.sha256, target=target,
        instructions=words[:n_records * N_WORDS], parameters=np.zeros((1, 3), "<u4"), blocks=(),
        placements=one.placements(), steps=_steps(program, one),
        inputs=program.sources, outputs=results(program), batch=batch, external=external,
        metadata=metadata)


def _steps(program, work):
    """Nodes by their last instruction; a step begins where the one before ends.

    Nodes are computed side by side, so a step also holds instructions of later ones.
    """
    steps, first = [], 0
    on_vector = {owner.node.name for owner in work.nodes if not owner.on_array}
    for (image, node), last in sorted(work.last_instructions().items(),
                                      key=lambda entry: entry[1]):
        steps.append(step_of(program, node, first, last + 1 - first, image,
                             node.name in on_vector))
        first = last + 1
    return tuple(steps)


def unrolled(image) -> np.ndarray:
    """uint32 (n, N_WORDS): the instructions of an image in the order in which they are fetched."""
    about = image.metadata.get("instruction_stream")
    if about is None:
        return image.instructions.reshape(-1, N_WORDS)
    first, n = about["address"], about["instructions"]
    return image.external[first:first + 4 * n * N_WORDS].view("<u4").reshape(-1, N_WORDS)

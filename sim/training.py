"""Runs a training product on the simulated accelerator: load, start, await the end, read back."""

from __future__ import annotations

import numpy as np

from hw.compiler.memory.image import from_bus
from hw.compiler.training.memory import TrainingProduct
from hw.isa import Counter, ErrorCode, Register
from sim.commands import Commands, play
from sim.design import build_accelerator
from sim.runner import SimulationError

__all__ = ["run_product"]

_FAILED = 0b100  # of the status
_STALE = 0x4D4D4D4D


def run_product(product: TrainingProduct, *,
                simulator: str = "verilator") -> tuple[dict[str, np.ndarray], dict[str, int]]:
    """(results by name, counters by the names of hw.isa.Counter in lower case).

    The operands are resident when the run starts; counters["cycles"] is from start to done.
    Raises SimulationError where the accelerator stops with an error.
    """
    build = build_accelerator(product.target, simulator=simulator)
    commands = Commands()
    for address, words in product.sections():
        commands.write(address, words)
    word_bytes = product.target.word_bytes
    for region in product.regions:  # no result may be right before it is written
        n_words = region.n_words * word_bytes // 4
        commands.write(product.bus_address(region), np.full(n_words, _STALE, "<u4"))
    commands.write(Register.PROGRAM_ADDRESS, [0])
    commands.run()
    status = commands.read(Register.STATUS)
    index = commands.read(Register.INSTRUCTION_INDEX)
    counters = commands.read(Register.COUNTERS, 2 * len(Counter))
    reads = [commands.read(product.bus_address(region), region.n_words * word_bytes // 4)
             for region in product.regions]
    answers = play(build, commands)
    if (word := int(answers[status][0])) & _FAILED:
        raise SimulationError(f"Product {product.name} stopped with error "
                              f"{ErrorCode(word >> 8 & 0xFF).name} at instruction "
                              f"{int(answers[index][0])}")
    pairs = answers[counters].astype(np.uint64).reshape(-1, 2)
    counts = {counter.name.lower(): int(pairs[counter, 0] | pairs[counter, 1] << np.uint64(32))
              for counter in Counter}
    return product.values([from_bus(answers[read], word_bytes) for read in reads]), counts

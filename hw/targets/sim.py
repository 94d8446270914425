"""Targets for simulation, and free shapes: any device, if it is large enough."""

from hw.targets.target import N_BANKS, Target

__all__ = ["TARGETS", "free_shape"]

TARGETS = (
    Target(name="sim-4x4", rows=4, columns=4, bank_words=(16384,) * N_BANKS,
           parameter_words=2048, instruction_words=8192),
    Target(name="sim-8x8", rows=8, columns=8, bank_words=(8192,) * N_BANKS,
           instruction_words=8192),
    Target(name="sim-8x8-axi", rows=8, columns=8, bank_words=(1024,) * N_BANKS,
           parameter_words=256, bus_bits=64),
)


def free_shape(name: str, rows: int, columns: int, lanes: int = 4) -> Target:
    """A target of any shape, with memories for every test. Raises ValueError as Target does."""
    return Target(name=name, rows=rows, columns=columns, lanes=lanes,
                  bank_words=(16384,) * N_BANKS, parameter_words=8192 // max(1, lanes),
                  instruction_words=8192)

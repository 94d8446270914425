"""Sees what quantization does to each tensor of a training step, for reports and debugging.

The quantizers of sw/ call ``observe`` with the tensor before and after. Outside ``recording`` that
costs one comparison, and a compiled step contains none of it.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import Tensor

__all__ = ["Observation", "is_recording", "observe", "recording"]

_active: list | None = None


@dataclass(frozen=True)
class Observation:
    """One quantized tensor. kind: "W" weight, "A" activation, "E" gradient to the input, "G"
    gradient to the weight. original, quantized: detached float32 tensors of one shape."""

    layer: str
    kind: str
    original: Tensor
    quantized: Tensor


def observe(layer: str, kind: str, original: Tensor, quantized: Tensor) -> None:
    """Record one tensor if a recording is active; layer is the module path of its owner."""
    if _active is not None:
        _active.append(Observation(layer, kind, original.detach(), quantized.detach()))


def is_recording() -> bool:
    """True inside ``recording``; layers then run each quantizer on its own."""
    return _active is not None


@contextlib.contextmanager
def recording() -> Iterator[list[Observation]]:
    """Collect every observation made inside the block, in order of execution. Not reentrant."""
    global _active
    _active = seen = []
    try:
        yield seen
    finally:
        _active = None

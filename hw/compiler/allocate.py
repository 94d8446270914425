"""Scratchpad allocation: weights one after the other, activations by their live intervals."""

from __future__ import annotations

from golden.errors import LockstepError
from golden.ops import Reshape
from hw.compiler.image import Placement
from hw.targets import BANK_ACTIVATIONS, Target

__all__ = ["place_tensors"]


def _stored_shape(shape):
    return tuple(shape) if len(shape) == 3 else (shape[0], 1, 1)


def place_tensors(program, target: Target) -> dict[str, Placement]:
    """Place every tensor in the activation bank; those alive together never overlap.

    First fit over live intervals, in program order. A reshaped tensor shares its source's place.
    Raises LockstepError saying how much is needed and how much there is.
    """
    owner = {name: name for name in program.inputs}
    last_use = {}
    for index, node in enumerate(program.nodes):
        for name in node.inputs:
            last_use[owner[name]] = index
        for name in node.outputs:
            owner[name] = owner[node.inputs[0]] if isinstance(node.op, Reshape) else name
            last_use[owner[name]] = index
    for name in program.outputs:
        last_use[owner[name]] = len(program.nodes)

    placements, live, peak = {}, [], 0

    def place(name, index):
        nonlocal peak
        tensor = program.tensors[name]
        stored = _stored_shape(tensor.shape)
        place_ = Placement(bank=BANK_ACTIVATIONS, base=0, shape=tuple(tensor.shape), stored=stored,
                           word_bytes=target.word_bytes)
        live[:] = [(base, end, until) for base, end, until in live if until >= index]
        base = 0
        for start, end, _ in sorted(live):
            if base + place_.n_words <= start:
                break
            base = max(base, end)
        live.append((base, base + place_.n_words, last_use.get(name, len(program.nodes))))
        peak = max(peak, base + place_.n_words)
        placements[name] = Placement(bank=place_.bank, base=base, shape=place_.shape,
                                     stored=stored, word_bytes=target.word_bytes)

    for name in program.inputs:
        place(name, 0)
    for index, node in enumerate(program.nodes):
        for name in node.outputs:
            if owner[name] == name:
                place(name, index)
            else:
                source = placements[node.inputs[0]]
                placements[name] = Placement(
                    bank=source.bank, base=source.base, shape=tuple(program.tensors[name].shape),
                    stored=source.stored, word_bytes=source.word_bytes)
    available = target.bank_words[BANK_ACTIVATIONS]
    if peak > available:
        raise LockstepError(
            f"Program '{program.name}' does not fit target {target.name}: activations need {peak} "
            f"scratchpad words of {target.word_bytes} bytes, there are {available}")
    return placements

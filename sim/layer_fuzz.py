"""Fuzzing of the compiler: random layers, compiled, run on the instruction-set model, as golden.

A program is either refused for what the accelerator does not have or for what does not fit, or its
image orders all its accesses and every tensor is golden's, bit for bit. Anything else is a finding.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, fields

import numpy as np

from golden import ops
from golden.errors import LockstepError
from golden.program import Program, interpreter
from golden.program.compare import compare
from hw.compiler import CannotRun, DoesNotFit, compile_program
from hw.compiler.tiling.tile import unrolled
from hw.machine.hazards import check
from hw.targets import Target, get_target
from sim import model
from sim.random_layers import LayerMaker, random_target

__all__ = ["LayerFinding", "fuzz_layers", "layer_case"]

_BATCHES = (1, 1, 1, 2, 3)


@dataclass(frozen=True, kw_only=True)
class LayerFinding:
    """What is wrong with program ``number`` of a seed; ``layers``: its operators, as text."""

    number: int
    seed: int
    target: str
    what: str
    layers: str

    def __str__(self):
        return (f"program {self.number} of seed {self.seed} on {self.target}: {self.what}\n"
                f"{self.layers}")


def layer_case(name: str, seed: int, number: int, shrink: bool = True
               ) -> tuple[Program, Target, int, np.ndarray]:
    """(program, target, batch, codes) of one number: what ``fuzz_layers`` runs.

    name: of the target. shrink: targets with external memory may get little memory inside.
    """
    for attempt in range(100):
        rng = np.random.default_rng((seed, number, attempt))
        try:
            program = LayerMaker(rng).program()
        except LockstepError:  # sums that may overflow: golden refuses it, draw another
            continue
        target, batch = get_target(name), int(rng.choice(_BATCHES))
        if shrink:
            target = random_target(target, rng)
        codes = np.clip(rng.normal(0, 50, (batch, *program.input_shape)).round(), -128, 127)
        return program, target, batch, codes.astype(np.int8)
    raise RuntimeError(f"No sound program in 100 draws of number {number}")


def fuzz_layers(target: str, *, seed: int, numbers, rtl: bool = False
                ) -> tuple[list[LayerFinding], Counter[str]]:
    """(findings, Counter of outcomes: "run", or why a program was refused) of some numbers.

    rtl: what runs is simulated as well; the target then keeps its own memories.
    """
    findings, outcomes = [], Counter()
    for number in numbers:
        program, chosen, batch, codes = layer_case(target, seed, number, shrink=not rtl)
        try:
            outcome = _run(program, chosen, batch, codes, rtl)
        except Exception as error:  # whatever it raises is a finding
            outcome = f"{type(error).__name__}: {error}"
            findings.append(LayerFinding(number=number, seed=seed, target=chosen.name,
                                         what=outcome, layers=_describe(program, chosen, batch)))
            outcome = "finding"
        outcomes[outcome] += 1
    return findings, outcomes


def _run(program, target, batch, codes, rtl):
    """The outcome; raises whatever is wrong."""
    try:
        image = compile_program(program, target, batch)
    except (CannotRun, DoesNotFit) as refusal:
        return f"refused, {type(refusal).__name__}"
    check(unrolled(image), target)
    traces = {"golden": interpreter.run(program, codes),
              "model": model.run(program, codes, target=target, image=image)}
    if rtl:
        from sim.rtl import run

        traces["rtl"] = run(program, codes, target=target, image=image)
    differences = compare(traces, program)
    if differences:
        raise AssertionError(str(differences[0]))
    return "run, tiled" if image.external is not None else "run"


def _describe(program, target, batch):
    lines = [f"  batch {batch}, bank words {target.bank_words}, input {program.input_shape}"]
    for node in program.nodes:
        shown = " ".join(f"{field.name}={_shown(getattr(node.op, field.name))}"
                         for field in fields(node.op))
        lines.append(f"  {node.name}({', '.join(node.inputs)}): {shown}")
    return "\n".join(lines)


def _shown(value):
    """A field of an operator, large arrays as their type and shape."""
    if isinstance(value, ops.Rescale):
        return f"{value.n_channels} x {value.rounding.name}({value.low}..{value.high})"
    if isinstance(value, np.ndarray) and value.size > 4:
        return f"{value.dtype}{list(value.shape)}"
    return value

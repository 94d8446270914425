"""Task: an instruction whose operands have names instead of addresses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from fractions import Fraction
from typing import NoReturn, TypeVar

import numpy as np

from golden.arith import Rounding
from hw.compiler.memory.placement import Placement
from hw.compiler.refusals import CannotRun
from hw.isa import ENGINE_OF, FORMAT_OF, INSTRUCTIONS, Engine, Format, Opcode
from hw.targets import Target

__all__ = ["NodeContext", "Task", "Window2d", "parameter_block", "rescale_fields",
           "vector_share"]

_Made = TypeVar("_Made")


@dataclass(frozen=True, kw_only=True)
class Window2d:
    """Kernel, stride, padding (top, left, bottom, right), dilation, and the output's (H, W)."""

    kernel: tuple = (1, 1)
    stride: tuple = (1, 1)
    padding: tuple = (0, 0, 0, 0)
    dilation: tuple = (1, 1)
    output: tuple

    @property
    def n_taps(self) -> int:
        """Positions of the kernel."""
        return self.kernel[0] * self.kernel[1]

    @property
    def n_pixels(self) -> int:
        """Positions of the output."""
        return self.output[0] * self.output[1]


@dataclass(frozen=True, kw_only=True)
class NodeContext:
    """What every instruction of a node has in common.

    inputs, results: Placements, of which only the layout counts here; input_names, output_names:
    of the tensors. channels: (first, end) of the output channels to compute, where these are not
    all. n_images: that the tasks compute, one behind the other in every tensor that has a batch;
    by_pixel: they are the pixels of the placements here.
    tiled: it is a part of a node, and no other engine shall take a part of that. memo: what is
    the same in all parts of a node, by any key.
    """

    target: Target
    node: str
    input_names: tuple[str, ...]
    output_names: tuple[str, ...]
    inputs: tuple[Placement, ...]
    results: tuple[Placement, ...]
    channels: tuple[int, int] | None = None
    n_images: int = 1
    by_pixel: bool = False
    tiled: bool = False
    memo: dict = field(default_factory=dict)

    @property
    def x(self) -> Placement:
        """The first input."""
        return self.inputs[0]

    @property
    def y(self) -> Placement:
        """The first output."""
        return self.results[0]

    def of_input(self, index: int) -> NodeContext:
        """The same with one of the inputs alone."""
        return replace(self, input_names=self.input_names[index:index + 1],
                       inputs=self.inputs[index:index + 1])

    def task(self, opcode: Opcode, fields: dict, weights=None, parameters=None,
             output: int = 0) -> Task:
        """One of its instructions; weights, parameters: as of Task; output: which it writes."""
        return Task(node=self.node, opcode=opcode, inputs=self.input_names,
                    output=self.output_names[output], fields=fields, weights=weights,
                    parameters=parameters)

    def once(self, key: tuple, make: Callable[[], _Made]) -> _Made:
        """What ``make`` gives, made once for all parts of the node."""
        if key not in self.memo:
            self.memo[key] = make()
        return self.memo[key]

    def refuse(self, why: str) -> NoReturn:
        """Raise CannotRun naming the node."""
        raise CannotRun(f"Node '{self.node}': {why}")


@dataclass(frozen=True, kw_only=True, eq=False)
class Task:
    """An instruction of a node.

    fields: all but addresses and banks; where an address is given it is an offset into the
    operand. inputs: tensors read, two of ADD, MUL and a MATMUL without weights of its own; output:
    tensor written. weights: int8 (n, columns);
    parameters: int64 (channels, 3), whole words; both are shared by tasks that hold the same.
    """

    node: str
    opcode: Opcode
    inputs: tuple[str, ...]
    output: str
    fields: dict
    weights: np.ndarray | None = None
    parameters: np.ndarray | None = None

    def bind(self, places, weights, parameter_base) -> dict:
        """All fields. places: Placements by tensor; weights: (bank, base) or None."""
        f = {"opcode": self.opcode, **self.fields}
        x, y = places[self.inputs[0]], places[self.output]
        f["out_bank"], f["out_base"] = y.bank, y.base + f.get("out_base", 0)
        f["parameter_base"] = parameter_base + f.get("parameter_base", 0)
        if FORMAT_OF[self.opcode] == Format.ARRAY:
            f["a_bank"], f["a_base"] = x.bank, x.base * x.word_bytes + f["a_base"]
            if weights is None:  # port b reads a tensor
                second = places[self.inputs[1]]
                weights = second.bank, second.base + f.get("b_base", 0)
            f["b_bank"], f["b_base"] = weights
            return f
        f["x_bank"], f["x_base"] = x.bank, x.base + f.get("x_base", 0)
        if weights:
            f["w_bank"], f["w_base"] = weights
        if len(self.inputs) > 1:
            second = places[self.inputs[1]]
            f["y_bank"], f["y_base"] = second.bank, second.base + f.get("y_base", 0)
        return f


def vector_share(tasks) -> Fraction:
    """The part of a node's sums of products that the vector engine computes, 0..1."""
    results = {engine: sum(INSTRUCTIONS[task.opcode].product_results(task.fields) for task in tasks
                           if ENGINE_OF[task.opcode] == engine)
               for engine in (Engine.ARRAY, Engine.VECTOR)}
    total = sum(results.values())
    return Fraction(results[Engine.VECTOR], total) if total else Fraction(0)


def rescale_fields(rescale) -> dict:
    """Instruction fields of a golden Rescale that hold for all channels."""
    return {"gemmlowp": int(rescale.rounding is Rounding.GEMMLOWP),
            "zero_point": rescale.zero_point, "low": rescale.low, "high": rescale.high}


def parameter_block(bias, rescale, n_channels, columns, first=0) -> np.ndarray:
    """int64 (words * columns, 3): bias, multiplier and shift of channels from ``first`` on.

    Channels in front of ``first`` and behind the last fill up whole words.
    """
    block = np.zeros((-(-(first + n_channels) // columns) * columns, 3), np.int64)
    values = (bias, rescale.multiplier, rescale.shift)
    for column, value in enumerate(values):
        block[first:first + n_channels, column] = np.broadcast_to(value, (n_channels,))
    return block

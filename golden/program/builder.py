"""Collects the nodes and tensors of a Program."""

from collections.abc import Iterable, Sequence

import numpy as np

from golden.errors import LockstepError
from golden.program.program import Program
from golden.program.tensor import Node, Quantization, State, Tensor
from golden.program.verify import Report, verify

__all__ = ["ProgramBuilder"]


class ProgramBuilder:
    """The Program so far; tensors are known by their names.

    Arguments
    ---------
    taken : names that no invented one may be.

    Members
    -------
    nodes : list of `Node`. tensors : dict of name to `Tensor`. inputs : names.
    report : the proof of the Program that `build` gave; None before.
    """

    def __init__(self, taken: Iterable[str] = ()):
        self.nodes, self.tensors, self.inputs = [], {}, []
        self.report: Report | None = None
        self._initial, self._renewed_by = {}, {}
        self._taken, self._counts = set(taken), {}

    def invent(self, wanted: str) -> str:
        """A name for a tensor or node: the wanted one, with a number where taken."""
        name = wanted
        while name in self._taken:
            count = self._counts[wanted] = self._counts.get(wanted, 0) + 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def _tensor(self, name, shape, quantization, batched):
        self.tensors[name] = Tensor(name=name, shape=tuple(map(int, shape)),
                                    quantization=quantization, batched=batched)
        self._taken.add(name)
        return name

    def input(self, name: str, shape: Sequence[int], quantization: Quantization,
              batched: bool = True) -> str:
        """A tensor that comes in; its name."""
        self.inputs.append(name)
        return self._tensor(name, shape, quantization, batched)

    def state(self, name: str, initial: np.ndarray, quantization: Quantization,
              batched: bool = True) -> str:
        """A tensor that the run before has left, the first time `initial`; its name."""
        self._initial[name] = initial
        return self._tensor(name, np.shape(initial), quantization, batched)

    def renew(self, name: str, by: str) -> None:
        """The state `name` holds in the next run what the tensor `by` holds in this one."""
        if name not in self._initial:
            raise LockstepError(f"Tensor {name} must be state to be renewed")
        if name in self._renewed_by:
            raise LockstepError(f"State {name} must be renewed once")
        self._renewed_by[name] = by

    def quantization(self, name: str) -> Quantization:
        """Of a tensor."""
        return self.tensors[name].quantization

    def output_shape(self, op, inputs: Sequence[str]) -> tuple:
        """The shape that an operator makes of tensors; ValueError where they do not fit."""
        return op.output_shape(*(self.tensors[source].shape for source in inputs))

    def node(self, name: str, op, inputs: Sequence[str], quantization=None, *,
             outputs: Sequence[str] | None = None, shape: Sequence[int] | None = None
             ) -> str | tuple[str, ...]:
        """A node and the tensors that it writes. Returns the output's name, or the names.

        quantization: of the output, or a sequence where there are several; by default the first
            input's, for operators that keep it
        outputs: the names of what it writes; by default the node's, numbered where there are
            several ("name/0", "name/1")
        shape: what the output is declared with, if not what the operator makes of the inputs
        Raises ValueError for inputs that do not fit, LockstepError for one that is not there.
        """
        for source in inputs:
            if source not in self.tensors:
                raise LockstepError(f"Node {name} ({op.label}): Input {source} must be written by "
                                    f"an earlier node")
        several = op.n_outputs > 1
        if quantization is None:
            if not op.same_quantization:
                raise LockstepError(f"Node {name} ({op.label}) must be given the quantization of "
                                    f"its output")
            quantization = self.quantization(inputs[0])
        if outputs is None:
            outputs = [f"{name}/{index}" for index in range(op.n_outputs)] if several else [name]
        shapes = self.output_shape(op, inputs) if shape is None else shape
        batched = op.output_batched(*(self.tensors[source].batched for source in inputs))
        if not several:
            shapes, quantization, batched = (shapes,), (quantization,), (batched,)
        for fields in zip(outputs, shapes, quantization, batched, strict=True):
            self._tensor(*fields)
        self.nodes.append(Node(name=name, op=op, inputs=tuple(inputs), outputs=tuple(outputs)))
        return tuple(outputs) if several else outputs[0]

    def build(self, name: str, outputs: Sequence[str] | str, **fields) -> Program:
        """The Program, proven. fields: input_layout, metadata and batch of `Program`.

        Raises LockstepError for a state that nothing renews, an output that is no tensor, and where
        `verify` does.
        """
        outputs = (outputs,) if isinstance(outputs, str) else tuple(outputs)
        for output in outputs:
            if output not in self.tensors:
                raise LockstepError(f"Output {output} must be a tensor of the Program")
        for state in self._initial:
            if state not in self._renewed_by:
                raise LockstepError(f"State {state} must be renewed")
        state = {name: State(renewed_by=self._renewed_by[name], initial=initial)
                 for name, initial in self._initial.items()}
        program = Program(name=name, nodes=tuple(self.nodes), tensors=dict(self.tensors),
                          inputs=tuple(self.inputs), outputs=outputs,
                          state=state, **fields)
        self.report = verify(program)
        return program

"""A Program: named tensors and a list of ops in the order they run. The only thing that passes
between training and hardware. Stored by `golden.program.storage` as JSON and npz, without pickle.
"""

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from golden import validate
from golden.errors import LockstepError
from golden.program import storage
from golden.program.layout import LAYOUTS, shape_in_file, to_file
from golden.program.sources import quantize_inputs
from golden.program.tensor import Node, State, Tensor, check_name, check_names

__all__ = ["Program"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Nodes in execution order.

    name: any text
    nodes: sequence of `Node`; tensors: dict of name to `Tensor`, inputs and state included
    inputs, outputs: names of the tensors that come in and go out, at least one each
    input_layout: "NCHW" (channels first) or "NHWC" (channels last, at any rank), the order of the
        file that the Program came from, of arrays that come in and go out; the tensors of a
        Program are always channels first
    metadata: a dict that JSON can hold; part of the hash
    state: dict of the name of a tensor that no node writes to its `State`
    batch: the only number of images that a run may have, None for any
    """

    name: str
    nodes: tuple
    tensors: dict
    inputs: tuple
    outputs: tuple
    input_layout: str = "NCHW"
    metadata: dict = field(default_factory=dict)
    state: dict = field(default_factory=dict)
    batch: int | None = None

    def __post_init__(self):
        check_name("Program name", self.name)
        object.__setattr__(self, "nodes", tuple(self.nodes))
        for node in self.nodes:
            validate.instance("Node", node, Node)
        for name, tensor in validate.instance("Tensors", self.tensors, dict).items():
            if validate.instance("Tensor", tensor, Tensor).name != name:
                raise ValueError(f"Tensor {tensor.name} must be stored under its name, not {name}")
        for which in ("inputs", "outputs"):
            names = check_names(which.capitalize(), getattr(self, which))
            if not names or len({*names}) != len(names):
                raise ValueError(f"{which.capitalize()} must be one or more different names, "
                                 f"not {names}")
            object.__setattr__(self, which, names)
        for name, state in validate.instance("State", self.state, dict).items():
            validate.instance(f"State {name}", state, State)
            if name in self.inputs:
                raise ValueError(f"State {name} must not be an input as well")
        # By name, as it is read from a file: one hash, one order.
        object.__setattr__(self, "state", dict(sorted(self.state.items())))
        used = {*self.sources, *self.outputs, *(state.renewed_by for state in self.state.values())}
        for name in sorted(used.union(*(node.inputs + node.outputs for node in self.nodes))
                           - set(self.tensors)):
            raise ValueError(f"Tensor {name} must be in tensors")
        if self.input_layout not in LAYOUTS:
            raise ValueError(f"Input layout must be NCHW or NHWC, not {self.input_layout!r}")
        validate.instance("Metadata", self.metadata, dict)
        if self.batch is not None:
            object.__setattr__(self, "batch", validate.integer("Batch", self.batch, 1, 1 << 31))

    @property
    def sources(self) -> tuple:
        """Names of the tensors that no node writes: the inputs, then the state."""
        return (*self.inputs, *self.state)

    @property
    def input(self) -> Tensor:
        """The input `Tensor`. LockstepError where there are several."""
        return self._only("inputs")

    @property
    def output(self) -> Tensor:
        """The output `Tensor`. LockstepError where there are several."""
        return self._only("outputs")

    def _only(self, which):
        names = getattr(self, which)
        if len(names) != 1:
            raise LockstepError(f"Program {self.name} must have 1 of {which} here, "
                                f"not {len(names)} ({', '.join(names)})")
        return self.tensors[names[0]]

    @property
    def input_shape(self) -> tuple:
        """The only input's shape without the batch, in `input_layout`."""
        return self.shape_in_file(self.input.name)

    @property
    def output_shape(self) -> tuple:
        """The only output's shape without the batch, in `input_layout`."""
        return self.shape_in_file(self.output.name)

    def shape_in_file(self, name: str) -> tuple:
        """The shape, without the batch, in which the tensor `name` comes in or goes out."""
        tensor = self.tensors[name]
        return shape_in_file(tensor.shape, self.input_layout) if tensor.batched else tensor.shape

    def quantize_input(self, x) -> np.ndarray:
        """The only input's codes, channels first; see `quantize_inputs`."""
        return quantize_inputs(self, x)[self.input.name]

    def quantize_inputs(self, x) -> dict:
        """Arrays to the codes of every input, channels first, by name.

        x: an array where there is one input, or a dict of arrays by input name. Float (quantized
            by the scale and zero point of an int8 input) or codes of the input's dtype; batch first
            in `input_layout`, or of the tensor's own shape where it is not batched.
        Raises LockstepError for a missing or unknown name, another dtype, shape or batch, or NaN.
        """
        return quantize_inputs(self, x)

    def output_array(self, codes: np.ndarray, name: str | None = None) -> np.ndarray:
        """Codes of an output (default: the only one) as in a trace, to `input_layout`.

        A tensor without a batch axis loses the leading one that it has in a trace.
        """
        tensor = self.tensors[name] if name else self.output
        if not tensor.batched:
            return np.ascontiguousarray(codes[0])
        return np.ascontiguousarray(to_file(codes, self.input_layout))

    @property
    def sha256(self) -> str:
        """Hash of all that the Program holds, hexadecimal."""
        return storage.sha256(self)

    def save(self, directory) -> Path:
        """Writes program.json and tensors.npz into `directory`, the same bytes every time."""
        return storage.save(self, directory)

    @classmethod
    def load(cls, directory) -> "Program":
        """Reads what `save` wrote; LockstepError for anything missing, damaged or altered."""
        return storage.load(directory, cls)

"""A Program: named tensors and a list of ops in the order they run. The only thing that passes
between training and hardware. Stored by `golden.program.storage` as JSON and npz, without pickle.
"""

from dataclasses import dataclass, field

import numpy as np

from golden import arith, validate
from golden.errors import LockstepError
from golden.program.layout import LAYOUTS, from_file, shape_in_file, to_file


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """real = scale * (code - zero_point). dtype: "int8" (the only one so far)."""

    scale: float
    zero_point: int
    dtype: str = "int8"

    def __post_init__(self):
        object.__setattr__(self, "scale", validate.positive("Scale", self.scale))
        if self.dtype != "int8":
            raise ValueError(f"Dtype must be int8, not {self.dtype!r}")
        object.__setattr__(self, "zero_point", validate.integer(
            "Zero point", self.zero_point, arith.INT8_MIN, arith.INT8_MAX))


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A named tensor. shape: without the batch axis, (C, H, W) or (F,)."""

    name: str
    shape: tuple
    quantization: Quantization

    def __post_init__(self):
        _name("Tensor name", self.name)
        object.__setattr__(self, "shape", validate.integers("Shape", self.shape, None, 1,
                                                            arith.INT32_MAX))
        validate.instance("Quantization", self.quantization, Quantization)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One op with the names of the tensors it reads and writes."""

    name: str
    op: object
    inputs: tuple
    outputs: tuple

    def __post_init__(self):
        _name("Node name", self.name)
        if not callable(self.op) or not hasattr(self.op, "output_shape"):
            raise TypeError(f"Op of node {self.name} must be an operator, not {self.op!r}")
        for which in ("inputs", "outputs"):
            object.__setattr__(self, which, _names(f"{which.capitalize()} of node {self.name}",
                                                   getattr(self, which)))


@dataclass(frozen=True, kw_only=True, eq=False)
class Program:
    """Nodes in execution order.

    name: any text
    nodes: sequence of `Node`; tensors: dict of name to `Tensor`, the inputs included
    inputs, outputs: names of the tensors that come in and go out, one each for now
    input_layout: "NCHW" (channels first) or "NHWC" (channels last, at any rank), the order of the
        file that the Program came from, of arrays that come in and go out; the tensors of a
        Program are always channels first
    metadata: a dict that JSON can hold; part of the hash
    """

    name: str
    nodes: tuple
    tensors: dict
    inputs: tuple
    outputs: tuple
    input_layout: str = "NCHW"
    metadata: dict = field(default_factory=dict)

    def __post_init__(self):
        _name("Program name", self.name)
        object.__setattr__(self, "nodes", tuple(self.nodes))
        for node in self.nodes:
            validate.instance("Node", node, Node)
        for name, tensor in validate.instance("Tensors", self.tensors, dict).items():
            if validate.instance("Tensor", tensor, Tensor).name != name:
                raise ValueError(f"Tensor {tensor.name} must be stored under its name, not {name}")
        object.__setattr__(self, "inputs", _names("Inputs", self.inputs))
        object.__setattr__(self, "outputs", _names("Outputs", self.outputs))
        for which in ("inputs", "outputs"):
            if len(getattr(self, which)) != 1:
                raise ValueError(f"Program must have 1 of {which}, not {len(getattr(self, which))}")
        used = {*self.inputs, *self.outputs}.union(*(node.inputs + node.outputs
                                                    for node in self.nodes))
        for name in sorted(used - set(self.tensors)):
            raise ValueError(f"Tensor {name} must be in tensors")
        if self.input_layout not in LAYOUTS:
            raise ValueError(f"Input layout must be NCHW or NHWC, not {self.input_layout!r}")
        validate.instance("Metadata", self.metadata, dict)

    @property
    def input(self):
        """The input `Tensor`."""
        return self.tensors[self.inputs[0]]

    @property
    def output(self):
        """The output `Tensor`."""
        return self.tensors[self.outputs[0]]

    @property
    def input_shape(self):
        """The input's shape without the batch, in `input_layout`."""
        return shape_in_file(self.input.shape, self.input_layout)

    @property
    def output_shape(self):
        """The output's shape without the batch, in `input_layout`."""
        return shape_in_file(self.output.shape, self.input_layout)

    def quantize_input(self, x):
        """Input array to codes, int8, channels first.

        x: float (quantized by the input's scale and zero point) or int8 codes, batch first, in
            `input_layout`
        Raises LockstepError for another dtype or shape, or for NaN.
        """
        x = np.asarray(x)
        if x.dtype.kind != "f" and x.dtype != np.int8:
            raise LockstepError(f"Input of program {self.name} must be float or int8, "
                                f"not {x.dtype}")
        if x.ndim == 0 or x.shape[1:] != self.input_shape:
            wanted = ", ".join(str(size) for size in ("N", *self.input_shape))
            raise LockstepError(f"Input of program {self.name} must have shape ({wanted}) "
                                f"in {self.input_layout}, not {x.shape}")
        if x.dtype != np.int8:
            quantization = self.input.quantization
            try:
                x = arith.quantize(x, quantization.scale, quantization.zero_point).astype(np.int8)
            except ValueError as error:
                raise LockstepError(f"Input of program {self.name}: {error}") from error
        return np.ascontiguousarray(from_file(x, self.input_layout))

    def output_array(self, codes):
        """Codes of the output, (N, C, ...) as in a trace, in `input_layout`."""
        return np.ascontiguousarray(to_file(codes, self.input_layout))

    @property
    def sha256(self):
        """Hash of all that the Program holds, hexadecimal."""
        from golden.program import storage  # storage builds Programs and so imports this module
        return storage.sha256(self)

    def save(self, directory):
        """Writes program.json and tensors.npz into `directory`, the same bytes every time."""
        from golden.program import storage
        return storage.save(self, directory)

    @classmethod
    def load(cls, directory):
        """Reads what `save` wrote; LockstepError for anything missing, damaged or altered."""
        from golden.program import storage
        return storage.load(directory)


def _name(what, value):
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {value!r}")
    if not value:
        raise ValueError(f"{what} must not be empty")


def _names(what, values):
    if isinstance(values, str) or not isinstance(values, (tuple, list)):
        raise TypeError(f"{what} must be a sequence of names, not {values!r}")
    for value in values:
        _name(what, value)
    return tuple(values)

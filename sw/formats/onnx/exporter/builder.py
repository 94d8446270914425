"""A small ONNX graph builder, and int64 values on which `golden.arith` runs symbolically.

ONNX has no arithmetic shift right for signed integers (BitShift takes unsigned ones), so a floor
shift by n is written as a floor division by d = 2**n: (p - Mod(p, d)) / d, where Mod with fmod = 0
takes the sign of the divisor, the difference is an exact multiple of d, and the truncating Div is
exact. Clamping is written with Where, since ONNX Runtime's Clip, Min and Max of int64 are wrong for
some values beyond 32 bits on x86 (microsoft/onnxruntime pull requests 25280 and 32475).
"""

import itertools

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from golden.errors import LockstepError

__all__ = ["GraphBuilder", "TracedValue", "along_channels"]

OPSET = 21
IR_VERSION = 10
INT64_LOW, INT64_HIGH = -(1 << 63), (1 << 63) - 1

ELEMENT_TYPES = {"int8": TensorProto.INT8, "int16": TensorProto.INT16, "int32": TensorProto.INT32,
                 "int64": TensorProto.INT64, "float32": TensorProto.FLOAT}


class GraphBuilder:
    """Collects nodes and constants; every value is a name. The batch dimension is symbolic, "N".

    Arguments
        name: the graph's name.
        taken: names that only who makes the graph gives.
    Attributes
        scope: prefix of the names of the nodes and intermediate values made from now on.
    """

    def __init__(self, name, taken=()):
        self.name, self._taken = name, set(taken)
        self.scope = name
        self.nodes, self.inputs, self.outputs = [], [], []
        self._constants, self._arrays, self._count = {}, {}, {}
        self._writers = {}      # index of the node by the value that it named itself

    def _fresh(self, hint):
        key = f"{self.scope}/{hint}"
        while True:
            index = self._count[key] = self._count.get(key, -1) + 1
            name = f"{key}_{index}" if index else key
            if not {name, f"{name}:0"} & self._taken:
                return name

    def constant(self, value, dtype, hint="constant") -> str:
        """The name of an initializer with this value; equal ones are shared."""
        array = np.ascontiguousarray(np.asarray(value, dtype=dtype)).reshape(np.shape(value))
        key = (str(array.dtype), array.shape, array.tobytes())
        if key not in self._constants:
            name = self._constants[key] = self._fresh(hint)
            self._arrays[name] = array
        return self._constants[key]

    def node(self, op_type, *inputs, output=None, **attributes) -> str:
        """Append one operator with one output and return the output's name."""
        name = self._fresh(op_type)
        if output is None:
            output = f"{name}:0"
            self._writers[output] = len(self.nodes)
        self.nodes.append(helper.make_node(op_type, list(inputs), [output], name=name,
                                           **attributes))
        return output

    def cast(self, value, dtype, output=None) -> str:
        """The name of a value as another type."""
        return self.node("Cast", value, output=output, to=ELEMENT_TYPES[dtype])

    def clip(self, value, low, high, dtype, output=None) -> str:
        """The name of a value of type `dtype` limited to [low, high]."""
        return self.node("Clip", value, self.constant(low, dtype, "low"),
                         self.constant(high, dtype, "high"), output=output)

    def rename(self, value, output) -> None:
        """Give a value that a node made the name `output`; of any other `output` is a copy."""
        index = self._writers.pop(value, None)
        if index is None:
            self.node("Identity", value, output=output)
            return
        self.nodes[index].output[0] = output
        for node in self.nodes[index + 1:]:
            node.input[:] = [output if name == value else name for name in node.input]

    @property
    def initializers(self) -> dict[str, np.ndarray]:
        """dict of name to array, in the order of their making."""
        return dict(self._arrays)

    def declare_input(self, name, dtype, shape, batch="N") -> None:
        """An input of the graph. shape: without the batch axis, whose length is `batch`."""
        self.inputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype],
                                                         [batch, *shape]))

    def declare_output(self, name, dtype, shape, batch="N") -> None:
        """An output of the graph, declared like an input."""
        self.outputs.append(helper.make_tensor_value_info(name, ELEMENT_TYPES[dtype],
                                                          [batch, *shape]))

    def model(self, doc, metadata) -> onnx.ModelProto:
        """The checked onnx.ModelProto; metadata: dict of strings, stored in metadata_props."""
        initializers = [numpy_helper.from_array(array, name)
                        for name, array in self._arrays.items()]
        graph = helper.make_graph(self.nodes, self.name, self.inputs, self.outputs, initializers,
                                  doc_string=doc)
        model = helper.make_model(graph, producer_name="lockstep", ir_version=IR_VERSION,
                                  opset_imports=[helper.make_opsetid("", OPSET)])
        helper.set_model_props(model, {key: str(value) for key, value in metadata.items()})
        onnx.checker.check_model(model, full_check=True)
        return model


class TracedValue:
    """An int64 tensor of the graph that records the integer arithmetic done with it.

    `golden.arith` runs on it unchanged, so the exported rounding is golden's own and is restated
    nowhere. The right operand of every operator is a constant (int or int64 array) or another
    TracedValue. The interval of possible values is tracked: clips that cannot act are left out, and
    a graph that could leave int64 is refused.

    Arguments
        graph: GraphBuilder.
        name: the tensor's name.
        low, high: inclusive bounds of its values, Python ints.
        shape: with the batch axis, whose length may be a text.
    """

    dtype = "torch.int64"  # `golden.arith.as_int64` lets values of this dtype pass

    def __init__(self, graph, name, low, high, shape=()):
        if low < INT64_LOW or high > INT64_HIGH:
            raise LockstepError(f"{graph.scope}: values {low}..{high} do not fit int64")
        self.graph, self.name, self.low, self.high = graph, name, low, high
        self.shape = shape

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    def _apply(self, op_type, other, low, high):
        if isinstance(other, TracedValue):
            name, shape = other.name, other.shape
        else:
            name, shape = self.graph.constant(other, "int64", op_type.lower()), np.shape(other)
        return TracedValue(self.graph, self.graph.node(op_type, self.name, name), low, high,
                     _broadcast(self.shape, shape))

    def __add__(self, other):
        low, high = _bounds(other)
        if low == high == 0:
            return self
        return self._apply("Add", other, self.low + low, self.high + high)

    def __sub__(self, other):
        low, high = _bounds(other)
        if low == high == 0:
            return self
        return self._apply("Sub", other, self.low - high, self.high - low)

    def __mul__(self, other):
        low, high = _bounds(other)
        if low == high == 1:
            return self
        corners = [a * b for a in (self.low, self.high) for b in (low, high)]
        return self._apply("Mul", other, min(corners), max(corners))

    def __lshift__(self, bits):
        return self * _power_of_two(bits)

    def __rshift__(self, bits):
        """Floor shift by a constant of 0..62, or by 63, which gives the sign (0 or -1)."""
        least, most = _bounds(bits)
        if most == 0:
            return self
        if least == 63:
            below = self.graph.node("Less", self.name, self.graph.constant(0, "int64", "zero"))
            negative = TracedValue(self.graph, self.graph.cast(below, "int64"), 0, 1,
                             self.shape)
            return negative * -1
        corners = [a >> b for a in (self.low, self.high) for b in (least, most)]
        divisor = _power_of_two(bits)
        remainder = self._apply("Mod", divisor, 0, (1 << most) - 1)
        multiple = self._apply("Sub", remainder, self.low - remainder.high, self.high)
        return multiple._apply("Div", divisor, min(corners), max(corners))

    def clip(self, low, high) -> "TracedValue":
        """The values limited to [low, high], which are integers."""
        low, high = int(low), int(high)
        if low <= self.low and self.high <= high:
            return self
        name = self.name
        if self.low < low:
            name = self._where("Less", name, low)
        if self.high > high:
            name = self._where("Greater", name, high)
        return TracedValue(self.graph, name, max(low, self.low), min(high, self.high), self.shape)

    def _where(self, comparison, name, bound):
        """`bound` where `name` compares so with it, else `name`."""
        bound = self.graph.constant(bound, "int64", "bound")
        return self.graph.node("Where", self.graph.node(comparison, name, bound), bound, name)

    def sum(self, axes, count) -> "TracedValue":
        """The sum over `axes` (kept, of length 1) of `count` elements."""
        name = self.graph.node("ReduceSum", self.name, self.graph.constant(axes, "int64", "axes"),
                               keepdims=1)
        shape = tuple(1 if axis in axes else size for axis, size in enumerate(self.shape))
        return TracedValue(self.graph, name, self.low * count, self.high * count, shape)

    def store(self, dtype="int8") -> str:
        """The name of the values as an integer type, in which they must lie."""
        limits = np.iinfo(dtype)
        if self.low < limits.min or self.high > limits.max:
            raise LockstepError(f"{self.graph.scope}: values {self.low}..{self.high} do not fit "
                                f"{dtype}")
        return self.graph.cast(self.name, dtype)


def _broadcast(first, second):
    """The shape of both together; a length may be a text."""
    pairs = itertools.zip_longest(reversed(first), reversed(second), fillvalue=1)
    return tuple(b if a == 1 else a for a, b in pairs)[::-1]


def _bounds(operand):
    if isinstance(operand, TracedValue):
        return operand.low, operand.high
    return int(np.min(operand)), int(np.max(operand))


def _power_of_two(bits):
    return np.int64(1) << np.asarray(bits, dtype=np.int64)


def along_channels(values, rank) -> np.ndarray:
    """Per-channel constants (C,) or (1,): int64 that broadcasts over axis 1 of `rank` axes."""
    return np.asarray(values, dtype=np.int64).reshape((1, -1) + (1,) * (rank - 2))

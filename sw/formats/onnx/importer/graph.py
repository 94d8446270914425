"""What an ONNX graph holds, as records, and the parts of it that a program needs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import NoReturn

import numpy as np
import onnx

from golden.errors import LockstepError
from sw.formats.onnx.importer.model_file import TYPE_NAMES, array_of

__all__ = ["NodeInfo", "OnnxGraph", "host_tail", "make_graph", "needed_nodes", "reader_counts",
           "writers_of"]

DOMAINS = ("", "ai.onnx", "com.microsoft")
HOST = ("Softmax", "LogSoftmax", "DequantizeLinear", "QLinearSoftmax")


@dataclass(frozen=True, kw_only=True, eq=False)
class NodeInfo:
    """A node: its kind (the operator, with the domain where that is an unknown one), names of the
    tensors it reads ('' where left out) and writes, attributes as Python values."""

    kind: str
    name: str
    inputs: tuple
    outputs: tuple
    attributes: dict
    proto: object = field(repr=False)

    @property
    def output(self) -> str:
        """The first output's name."""
        return self.outputs[0]

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"Operator {self.kind} (node {self.name!r})"

    def refuse(self, why) -> NoReturn:
        """Raise LockstepError naming the node."""
        raise LockstepError(f"{self.title}: {why}")

    def swapped(self) -> NodeInfo:
        """The node with its two inputs in the other order."""
        return replace(self, inputs=(self.inputs[1], self.inputs[0]))

    def integers(self, name, default=None, length=None) -> list[int]:
        """An attribute of integers as a tuple; LockstepError for another length."""
        values = self.attributes.get(name)
        values = default if values is None else values
        if values is None:
            self.refuse(f"attribute {name} is missing")
        values = tuple(values)
        if length is not None and len(values) != length:
            self.refuse(f"{name} must have {length} entries, not {len(values)}")
        return values


@dataclass(frozen=True, kw_only=True, eq=False)
class OnnxGraph:
    """The graph of a model.

    nodes: NodeInfos in execution order; tensors: dict of name to TensorProto of the constants
    source: name of the one input; source_type: "float32", "int8", "uint8"; source_shape: with the
        batch, which is 1 where the file leaves it open; result: name of the one output
    opset: version of the operators; folder: of the file
    """

    nodes: tuple
    tensors: dict
    source: str
    source_type: str
    source_shape: tuple
    result: str
    opsets: dict
    folder: object

    @property
    def names(self) -> set[str]:
        """The set of all tensors' names."""
        return {self.source, *self.tensors}.union(*(node.outputs for node in self.nodes))

    def constant(self, name) -> np.ndarray:
        """The array of an initializer; LockstepError as `array_of`."""
        return array_of(self.tensors[name], self.folder)


def make_graph(model, folder) -> OnnxGraph:
    """The Graph of an onnx.ModelProto. Raises LockstepError for what no program can be of."""
    graph = model.graph
    if graph.sparse_initializer:
        raise LockstepError("Tensors stored sparsely are not supported")
    tensors = {tensor.name: tensor for tensor in graph.initializer}
    inputs = [value for value in graph.input if value.name not in tensors]
    for what, values in (("input", inputs), ("output", graph.output)):
        if len(values) != 1:
            raise LockstepError(f"The graph must have 1 {what}, not {len(values)}")
    kind, shape = _source(inputs[0])
    nodes = tuple(_node(proto, index) for index, proto in enumerate(graph.node))
    opsets = {entry.domain or "": entry.version for entry in model.opset_import}
    if not opsets:
        raise LockstepError("The model names no version of its operators: it is damaged or cut "
                            "short")
    return OnnxGraph(nodes=nodes, tensors=tensors, source=inputs[0].name, source_type=kind,
                 source_shape=shape, result=graph.output[0].name, opsets=opsets, folder=folder)


def _source(value):
    what = f"Input {value.name!r}"
    if value.type.WhichOneof("value") != "tensor_type":
        raise LockstepError(f"{what} must be a tensor")
    tensor = value.type.tensor_type
    kind = TYPE_NAMES.get(tensor.elem_type, f"of type {tensor.elem_type}")
    if kind not in ("float32", "int8", "uint8"):
        raise LockstepError(f"{what} must be float32, int8 or uint8, not {kind}")
    sizes = [size.dim_value if size.WhichOneof("value") == "dim_value" else size.dim_param or "?"
             for size in tensor.shape.dim]
    if not tensor.HasField("shape") or len(sizes) < 2 or any(
            not isinstance(size, int) or size < 1 for size in sizes[1:]):
        raise LockstepError(f"{what} must have a known shape with a batch in front, not "
                            f"{sizes if tensor.HasField('shape') else 'any'}: only the batch may "
                            f"be left open")
    if np.prod([float(size) for size in sizes[1:]]) > 1 << 26:
        raise LockstepError(f"{what} must have at most {1 << 26} elements, not shape {sizes}")
    batch = sizes[0] if isinstance(sizes[0], int) and sizes[0] > 0 else 1
    return kind, (batch, *sizes[1:])


def _node(proto, index):
    kind = proto.op_type if proto.domain in DOMAINS else f"{proto.domain}.{proto.op_type}"
    try:
        attributes = {entry.name: onnx.helper.get_attribute_value(entry)
                      for entry in proto.attribute}
    except ValueError as error:
        raise LockstepError(f"Operator {kind} (node {proto.name!r}): {error}") from error
    if not any(proto.output):
        raise LockstepError(f"Operator {kind} (node {proto.name!r}) has no output")
    attributes = {name: value.decode("utf-8", "replace") if isinstance(value, bytes) else value
                  for name, value in attributes.items()}
    return NodeInfo(kind=kind, name=proto.name or proto.output[0] or f"node {index}",
                    inputs=tuple(proto.input), outputs=tuple(proto.output), attributes=attributes,
                    proto=proto)


def writers_of(nodes) -> dict[str, NodeInfo]:
    """dict of tensor name to the node that writes it; LockstepError where two write one."""
    writers = {}
    for node in nodes:
        for name in filter(None, node.outputs):
            if name in writers:
                node.refuse(f"tensor {name!r} is written by {writers[name].title} too")
            writers[name] = node
    return writers


def host_tail(graph, writers) -> tuple[str, list[NodeInfo]]:
    """(name of the program's output, the host's NodeInfos behind it in order).

    The host takes the last Softmax, and changes of type around and behind it.
    """
    result, after, seen = graph.result, [], set()

    def is_hosts(node):
        if node is None or not node.inputs or node.inputs[0] in graph.tensors:
            return False
        if node.kind not in ("QuantizeLinear", "Identity"):
            return node.kind in HOST
        below = writers.get(node.inputs[0])
        return below is not None and below.kind in ("Softmax", "LogSoftmax")
    while is_hosts(node := writers.get(result)):
        if result in seen:
            node.refuse(f"reads {node.inputs[0]!r}, which depends on it")
        seen.add(result)
        after.insert(0, node)
        result = node.inputs[0]
    return result, after


def needed_nodes(graph, writers, result) -> list[NodeInfo]:
    """The nodes that `result` depends on, each after those it reads.

    Raises LockstepError for a tensor that nothing writes and for a cycle.
    """
    order, state, stack = [], {}, [(result, None)]
    while stack:
        name, done = stack.pop()
        if done is not None:
            order.append(done)
            state[done.outputs] = "done"
            continue
        if name in graph.tensors or name == graph.source:
            continue
        node = writers.get(name)
        if node is None:
            raise LockstepError(f"Tensor {name!r} is written by no node")
        if node.outputs in state:
            continue
        state[node.outputs] = "open"
        stack.append((name, node))
        for source in filter(None, reversed(node.inputs)):
            below = writers.get(source)
            if below is not None and state.get(below.outputs) == "open":
                node.refuse(f"reads {source!r}, which depends on it")
            stack.append((source, None))
    return order


def reader_counts(nodes, result) -> dict[str, int]:
    """dict of tensor name to how many inputs read it; the program's output has one more."""
    counts = {result: 1}
    for node in nodes:
        for name in filter(None, node.inputs):
            counts[name] = counts.get(name, 0) + 1
    return counts

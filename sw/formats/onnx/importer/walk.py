"""Goes over the nodes of a graph in order; what a node becomes is the business of a subclass."""

import numpy as np

from golden.errors import LockstepError
from sw.formats.onnx.importer.folding import FOLDABLE, Folder
from sw.formats.onnx.importer.graph import host_tail, needed_nodes, reader_counts, writers_of

__all__ = ["Walk", "check_dropout", "normalisation", "per_channel"]

HOST_ONLY = ("Softmax", "LogSoftmax")
MOST_ELEMENTS = 1 << 26     # of an activation


class Walk:
    """The values of a graph, node by node.

    Arguments
        graph: Graph.
    Members
        values: dict of tensor name to what it became: an array for a constant, else an object with
            `shape` (without the batch) that the subclass knows.
        readers: dict of tensor name to the number of its readers.
        after: the host's nodes behind the program. notes: lines for the user.

    A subclass has `converters`, a dict of operator to function(walk, node), and `keeps`, operators
    that it converts although all their operands are constants.
    """

    converters: dict = {}
    keeps: frozenset = frozenset()

    def __init__(self, graph):
        self.graph, self.notes = graph, []
        writers = writers_of(graph.nodes)
        self.result, self.after = host_tail(graph, writers)
        self.nodes = needed_nodes(graph, writers, self.result)
        self.readers = reader_counts(self.nodes, self.result)
        self.values = {}
        self._folder = Folder(graph)

    @classmethod
    def supported(cls) -> list[str]:
        """The operators that can be in a graph, sorted."""
        return sorted({*cls.converters, *HOST_ONLY, "Constant", "ConstantOfShape", "Shape"})

    def unsupported(self) -> list:
        """The nodes that cannot become part of a program, in order."""
        constants = set(self.graph.tensors) | {""}
        found = []
        for node in self.nodes:
            if self._folds(node, constants):
                constants.update(node.outputs)
            elif node.kind not in self.converters:
                found.append(node)
        return found

    def _folds(self, node, constants):
        if node.kind == "Shape":
            return True
        return (node.kind in FOLDABLE and node.kind not in self.keeps
                and all(name in constants for name in node.inputs))

    def run(self) -> object:
        """Convert every node. Returns what the result became."""
        wrong = self.unsupported()
        if wrong:
            if wrong[0].kind in HOST_ONLY:
                wrong[0].refuse("runs on the host and so only at the end of the graph")
            raise LockstepError(f"{wrong[0].title} is not supported; supported are "
                                f"{', '.join(self.supported())}")
        for node in self.nodes:
            try:
                self._convert(node)
            except LockstepError:
                raise
            except (TypeError, ValueError, LookupError, ArithmeticError, AttributeError) as error:
                node.refuse(error)
        return self.value(self.result)

    def _convert(self, node):
        constants = {name for name in node.inputs if not name or self.is_constant(name)}
        if not self._folds(node, constants):
            value = self.converters[node.kind](self, node)
            if value is not None:
                self.values[node.output] = value
            return
        if node.kind == "Shape":
            arrays = [self._shape_of(node)]
        else:
            arrays = self._folder.fold(node, [self.value(name) if name else None
                                              for name in node.inputs])
        self.values.update(zip(filter(None, node.outputs), arrays))

    def _shape_of(self, node):
        value = self.value(node.inputs[0])
        shape = value.shape if self.is_fixed(node.inputs[0]) else (self.batch, *value.shape)
        start, end = node.attributes.get("start", 0), node.attributes.get("end")
        return np.array(shape[start:end], np.int64)

    @property
    def batch(self) -> int:
        """Images at once, as the file says; 1 where it leaves that open."""
        return self.graph.source_shape[0]

    def is_constant(self, name) -> bool:
        """Is the tensor an array?"""
        return name in self.graph.tensors or isinstance(self.values.get(name), np.ndarray)

    def is_fixed(self, name) -> bool:
        """Is the tensor a constant in any form?"""
        return self.is_constant(name)

    def value(self, name) -> object:
        """What a tensor became; an array for an initializer."""
        if name in self.values:
            return self.values[name]
        if name in self.graph.tensors:
            return self.graph.constant(name)
        raise LockstepError(f"Tensor {name!r} is written by no node before it is read")

    def operand(self, node, position) -> object:
        """What an input became; LockstepError where it is left out."""
        if position >= len(node.inputs) or not node.inputs[position]:
            node.refuse(f"input {position} is missing")
        return self.value(node.inputs[position])

    def has(self, node, position) -> bool:
        """Is the input given?"""
        return position < len(node.inputs) and bool(node.inputs[position])

    def constant(self, node, position, what) -> np.ndarray:
        """The array of an input; LockstepError for a computed one."""
        value = self.operand(node, position)
        if not isinstance(value, np.ndarray):
            node.refuse(f"{what} must be a constant of the file")
        return value

    def option(self, node, name, position, default=None) -> list[int] | None:
        """A list of integers that newer versions of an operator take as an input."""
        if name in node.attributes:
            return [int(value) for value in np.atleast_1d(node.attributes[name])]
        if self.has(node, position):
            return [int(value) for value in self.constant(node, position, name).reshape(-1)]
        return default

    def check_size(self, node, shape) -> None:
        """LockstepError for an activation that no memory holds."""
        if np.prod([float(size) for size in shape]) > MOST_ELEMENTS:
            node.refuse(f"activations must have at most {MOST_ELEMENTS} elements, not shape "
                        f"{list(shape)}")

    def bounds(self, node) -> tuple[float, float]:
        """(low, high) of a Clip, infinite where there is none."""
        result = []
        for position, (name, default) in enumerate((("min", -np.inf), ("max", np.inf)), 1):
            value = node.attributes.get(name, default)
            if self.has(node, position):
                value = self.constant(node, position, name).reshape(-1)[0]
            result.append(float(value))
        if np.isnan(result).any() or result[0] > result[1]:
            node.refuse(f"bounds must be in order, not {result}")
        low, high = result
        largest = float(np.finfo(np.float32).max)
        return -np.inf if low <= -largest else low, np.inf if high >= largest else high


def per_channel(node, array, shape) -> np.ndarray:
    """float64 (C,) of a constant that broadcasts over everything but the channels of `shape`."""
    array = np.asarray(array, np.float64)
    if array.size == 1 and array.ndim <= len(shape) + 1:
        return np.full(shape[0], float(array.reshape(-1)[0]))
    aligned = (1,) * (len(shape) + 1 - array.ndim) + array.shape
    if len(aligned) != len(shape) + 1 or aligned[1] != shape[0] or array.size != shape[0]:
        node.refuse(f"constant of shape {list(array.shape)} must have one value, or one for each "
                    f"of the {shape[0]} channels")
    return array.reshape(-1)


def check_dropout(walk, node) -> None:
    """LockstepError for a Dropout that drops; an Identity passes."""
    if walk.has(node, 2) and walk.constant(node, 2, "training_mode").any():
        node.refuse("training_mode must be false")


def normalisation(walk, node, shape) -> tuple[np.ndarray, np.ndarray]:
    """(factor, offset), float64 (C,) each, of a BatchNormalization in evaluation."""
    if node.attributes.get("training_mode", 0):
        node.refuse("training_mode must be 0")
    gamma, beta, mean, variance = (walk.constant(node, i, what).astype(np.float64) for i, what in
                                   enumerate(("scale", "bias", "mean", "variance"), 1))
    if any(values.shape != (shape[0],) for values in (gamma, beta, mean, variance)):
        node.refuse(f"parameters must have {shape[0]} entries")
    epsilon = float(node.attributes.get("epsilon", 1e-5))
    if not (variance + epsilon > 0).all():
        node.refuse("variances must be above 0")
    factor = gamma / np.sqrt(variance + epsilon)
    return factor, beta - mean * factor

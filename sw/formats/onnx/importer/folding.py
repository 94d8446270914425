"""Nodes whose operands are all constants become constants, by onnx's own reference evaluator."""

from math import prod

import numpy as np
import onnx
from onnx import helper
from onnx.reference import ReferenceEvaluator

from sw.formats.onnx.importer.model_file import MOST_ELEMENTS, TYPE_NAMES, TYPES, array_of

__all__ = ["FOLDABLE", "Folder"]

MOST_FOLDED = 1 << 29       # elements of all constants that are computed
FOLDABLE = {"Constant", "ConstantOfShape", "Shape", "Size", "Gather", "Unsqueeze", "Squeeze",
            "Concat", "Cast", "Reshape", "Flatten", "Transpose", "Slice", "Identity", "Add", "Sub",
            "Mul", "Div", "Neg", "Sqrt", "Reciprocal", "Pow", "Floor", "Ceil", "Round", "Abs",
            "Clip", "Min", "Max", "Where", "Equal", "Expand", "Range", "ReduceProd",
            "QuantizeLinear", "DequantizeLinear"}
BROADCAST = {"Add", "Sub", "Mul", "Div", "Pow", "Clip", "Min", "Max", "Where", "Equal"}


class Folder:
    """Evaluates nodes. graph: the Graph they are of."""

    def __init__(self, graph):
        self._graph, self._left = graph, MOST_FOLDED

    def fold(self, node, inputs) -> list[np.ndarray]:
        """The arrays that a node of FOLDABLE writes.

        inputs: arrays, None where one is left out
        Raises LockstepError naming the node where it cannot be computed or is too large.
        """
        if node.kind == "Constant":
            return [self._constant(node)]
        self._check_size(node, inputs)
        feeds = {name: value for name, value in zip(node.inputs, inputs) if name}
        try:
            given = [helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
                for name, value in feeds.items()]
            results = [onnx.ValueInfoProto(name=name) for name in node.outputs if name]
            model = helper.make_model(
                helper.make_graph([node.proto], "constants", given, results),
                opset_imports=[helper.make_opsetid(domain, version)
                               for domain, version in self._graph.opsets.items()])
            with np.errstate(divide="raise", over="raise", invalid="raise"):
                arrays = ReferenceEvaluator(model).run(None, feeds)
        except Exception as error:      # whatever the evaluator meets is the file's fault
            node.refuse(f"cannot be computed from its constants: {' '.join(str(error).split())}")
        arrays = [np.asarray(array) for array in arrays]
        self._left -= sum(array.size for array in arrays)
        if self._left < 0:
            node.refuse(f"constants must have at most {MOST_FOLDED} elements in all")
        return arrays

    def _constant(self, node):
        value = node.attributes.get("value")
        if isinstance(value, onnx.TensorProto):
            return array_of(value, self._graph.folder, node.output)
        for name, dtype in (("value_int", np.int64), ("value_ints", np.int64),
                            ("value_float", np.float32), ("value_floats", np.float32)):
            if name in node.attributes:
                return np.array(node.attributes[name], dtype)
        node.refuse("must hold a tensor, integers or floats")

    def _check_size(self, node, inputs):
        """LockstepError for a result that is too large to be computed."""
        target = node.attributes.get("to")
        if node.kind == "Cast" and TYPE_NAMES.get(target) not in TYPES:
            node.refuse(f"type {TYPE_NAMES.get(target, target)} is not supported; supported are "
                        f"{', '.join(TYPES)}")
        size = _result_size(node, inputs)
        if size > min(MOST_ELEMENTS, self._left):
            node.refuse(f"constants must have at most {MOST_ELEMENTS} elements, not {size:.0f}")


def _result_size(node, inputs):
    """Elements of a result that can be larger than its operands; 0 for other operators."""
    if node.kind == "ConstantOfShape":
        return prod(abs(size) for size in inputs[0].reshape(-1).tolist())
    if node.kind == "Range":
        start, limit, step = (float(value) for value in inputs[:3])
        return abs((limit - start) / step)
    if node.kind == "Concat":
        return sum(value.size for value in inputs)
    shapes = [value.shape for value in inputs if value is not None]
    if node.kind == "Expand":
        shapes[1] = tuple(max(int(size), 1) for size in inputs[1].reshape(-1))
    if node.kind in BROADCAST or node.kind == "Expand":
        return prod(np.broadcast_shapes(*shapes))
    axis = node.attributes.get("axis", 0 if node.kind == "Gather" else 1)
    if node.kind == "Gather":
        return prod(shapes[0]) // max(shapes[0][axis], 1) * prod(shapes[1])
    if node.kind in ("QuantizeLinear", "DequantizeLinear") and prod(shapes[1]) > 1:
        return prod(shapes[0]) // max(shapes[0][axis], 1) * max(shapes[0][axis], shapes[1][0])
    return 0

"""Reads a .tflite file: the flatbuffer of the `tflite` package's schema to a `Graph`.

The file is mapped, not loaded: what nothing refers to is never read. Flatbuffers are not checked
by their Python accessors, so every error that a wrong offset can cause is caught here; and any
number of tables can share one vector, so what is read of vectors is counted.
"""

import mmap
import struct
from importlib import import_module
from math import prod

import numpy as np
import tflite

from golden.errors import LockstepError
from sw.formats.tflite.graph import OperatorInfo, TensorInfo, TfliteGraph
from sw.formats.tflite.registry import KINDS

__all__ = ["read"]

IDENTIFIER = b"TFL3"
MOST_ENTRIES = 1 << 16      # operators, and tensors, of a file
MOST_NUMBERS = 1 << 22      # of all shapes, scales and operands, with the letters of names
DAMAGED = (struct.error, LookupError, ValueError, TypeError, AttributeError, OverflowError,
           MemoryError, RecursionError)

TYPE_NAMES = {value: name.lower() for name, value in vars(tflite.TensorType).items()
              if not name.startswith("_")}
OPERATOR_NAMES = {value: name for name, value in vars(tflite.BuiltinOperator).items()
                  if not name.startswith("_")}


def read(path) -> TfliteGraph:
    """The `Graph` of a file.

    Raises LockstepError for a file that is no TFLite model, is damaged or cut short, or holds
    no graph; OSError where it cannot be opened.
    """
    with open(path, "rb") as file:
        if file.read(8)[4:] != IDENTIFIER:
            raise LockstepError(f"{path} is not a TFLite model: it lacks the identifier "
                                f"{IDENTIFIER.decode()}")
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    try:
        return _graph(_Reader(tflite.Model.GetRootAsModel(content, 0), content))
    except LockstepError as error:
        raise LockstepError(f"{path}: {' '.join(str(error).split())}") from error
    except DAMAGED as error:
        raise LockstepError(f"{path} is damaged or cut short") from error


def _count(what, n_entries):
    if n_entries > MOST_ENTRIES:
        raise LockstepError(f"A model has at most {MOST_ENTRIES} {what}, not {n_entries}")
    return range(n_entries)


def _vector(table, field, dtype=np.int32):
    """A vector of numbers; empty where the field is absent."""
    if getattr(table, f"{field}Length")() == 0:
        return np.zeros(0, dtype)
    return getattr(table, f"{field}AsNumpy")()


class _Reader:
    """Reads vectors of numbers and texts, at most MOST_NUMBERS entries in all.

    model: the root table; content: the mapped file
    """

    def __init__(self, model, content):
        self.model, self.content, self._left = model, content, MOST_NUMBERS

    def _count(self, n_entries):
        self._left -= n_entries
        if self._left < 0:
            raise LockstepError(f"Shapes, scales, operands and names of a model have at most "
                                f"{MOST_NUMBERS} entries in all")

    def numbers(self, table, field, dtype=np.int32) -> np.ndarray:
        """The vector of a field, empty where it is absent."""
        self._count(getattr(table, f"{field}Length")())
        return _vector(table, field, dtype)

    def text(self, value) -> str:
        """The text of a field, empty where it is absent."""
        self._count(len(value or b""))
        return (value or b"").decode("utf-8", "replace")


def _graph(reader):
    model = reader.model
    if model.SubgraphsLength() < 1:
        raise LockstepError("The model holds no graph")
    graph = model.Subgraphs(0)
    tensors = [_tensor(reader, graph.Tensors(i), i)
               for i in _count("tensors", graph.TensorsLength())]
    kinds = [_kind(reader, model.OperatorCodes(i))
             for i in _count("operator codes", model.OperatorCodesLength())]

    def pick(indices):
        # An operand left out has the number -1.
        return tuple(None if i == -1 else tensors[_at(i, tensors)]
                     for i in np.atleast_1d(indices).tolist())

    operators = []
    for i in _count("operators", graph.OperatorsLength()):
        entry = graph.Operators(i)
        kind = kinds[_at(entry.OpcodeIndex(), kinds)]
        operators.append(OperatorInfo(
            kind=kind, inputs=pick(reader.numbers(entry, "Inputs")),
            outputs=pick(reader.numbers(entry, "Outputs")), options=_options(kind, entry)))
        if not operators[-1].outputs or operators[-1].output is None:
            raise LockstepError(f"Operator {i} ({kind}) has no output")
    return TfliteGraph(operators=tuple(operators), inputs=pick(reader.numbers(graph, "Inputs")),
                 outputs=pick(reader.numbers(graph, "Outputs")))


def _at(index, entries):
    """The index; IndexError outside, where a list would count from its end."""
    if not 0 <= index < len(entries):
        raise IndexError(index)
    return index


def _kind(reader, code):
    number = max(code.BuiltinCode(), code.DeprecatedBuiltinCode())
    if number == tflite.BuiltinOperator.CUSTOM:
        return f"CUSTOM {reader.text(code.CustomCode())!r}"
    return OPERATOR_NAMES.get(number, f"number {number}")


def _options(kind, entry):
    """The fields of an operator's options, those of the schema's defaults where it has none."""
    if kind not in KINDS or KINDS[kind].options is None:
        return {}
    name, fields = KINDS[kind].options, KINDS[kind].fields
    table = entry.BuiltinOptions()
    if table is None or entry.BuiltinOptionsType() != getattr(tflite.BuiltinOptions, name):
        raise LockstepError(f"Operator {kind} lacks its {name}")
    options = getattr(import_module(f"tflite.{name}"), name)()
    options.Init(table.Bytes, table.Pos)
    return {field: getattr(options, field)() for field in fields}


def _tensor(reader, entry, index):
    name = reader.text(entry.Name()) or f"tensor {index}"
    shape = tuple(reader.numbers(entry, "Shape").tolist())
    signature = tuple(reader.numbers(entry, "ShapeSignature").tolist()) or shape
    dtype = TYPE_NAMES.get(entry.Type(), f"type {entry.Type()}")
    quantization = entry.Quantization()
    scales, zero_points, axis = np.zeros(0, np.float32), np.zeros(0, np.int64), 0
    if quantization is not None and quantization.ScaleLength():
        scales = reader.numbers(quantization, "Scale", np.float32).copy()
        zero_points = reader.numbers(quantization, "ZeroPoint", np.int64).copy()
        if len(zero_points) == 0:
            zero_points = np.zeros(len(scales), np.int64)
        if len(zero_points) != len(scales):
            raise LockstepError(f"Tensor {name!r} must have a zero point for each of its "
                                f"{len(scales)} scales, not {len(zero_points)}")
        axis = quantization.QuantizedDimension()
    if entry.Sparsity() is not None:
        raise LockstepError(f"Tensor {name!r} is stored sparsely, which is not supported")
    return TensorInfo(index=index, name=name, shape=shape, dtype=dtype,
                      is_dynamic=min(signature[1:], default=1) < 1, scales=scales,
                      zero_points=zero_points, axis=axis,
                      data=_data(reader, entry.Buffer(), name, shape, dtype))


def _data(reader, buffer, name, shape, dtype):
    """The array of a constant, a view of the file; None where the tensor is computed."""
    if buffer >= reader.model.BuffersLength():
        raise IndexError(buffer)
    entry = reader.model.Buffers(buffer)
    data = _vector(entry, "Data", np.uint8)
    if entry.Offset() > 1:      # beside the flatbuffer, in files beyond 2 GiB
        data = np.frombuffer(reader.content, np.uint8, entry.Size(), entry.Offset())
    if data.size == 0:
        return None
    try:
        dtype = np.dtype(dtype)
    except TypeError:
        return data             # a type that numpy lacks; nothing reads it
    if data.size != prod(shape) * dtype.itemsize:
        raise LockstepError(f"Tensor {name!r} must have {prod(shape) * dtype.itemsize} bytes, "
                            f"not {data.size}")
    return data.view(dtype.newbyteorder("<")).reshape(shape)

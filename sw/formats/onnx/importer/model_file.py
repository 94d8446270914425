"""Reads a .onnx file: its structure before its contents, so that no foreign file is taken in.

A ModelProto is a sequence of fields, each a tag and a length or number, and some of them are
messages of fields again. The file is mapped and all fields are walked over first, without the data
of tensors; only a file that consists of them, and not of too many, is given to protobuf: it makes
an object of 200 bytes of an empty message of two. Tensors in files beside the model are read when
they are used.
"""

import mmap
from functools import cache
from pathlib import Path

import numpy as np
import onnx
from google.protobuf.message import DecodeError
from onnx import numpy_helper

from golden.errors import LockstepError

__all__ = ["MOST_ELEMENTS", "TYPES", "TYPE_NAMES", "array_of", "read"]

MOST_BYTES = (1 << 31) - 1          # of a protobuf message
MOST_ENTRIES = 1 << 16              # nodes, and tensors, of a model
MOST_FIELDS = 1 << 20               # of a model, those of its messages included
MOST_NESTED = 64                    # functions that call each other
MOST_ELEMENTS = 1 << 28             # of a constant
FIELDS = range(1, 64)               # their numbers, with some to come
VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
TYPE_NAMES = {value: name.lower().replace("float", "float32") if name == "FLOAT" else name.lower()
              for name, value in onnx.TensorProto.DataType.items()}
TYPES = ("float32", "double", "int8", "uint8", "int32", "int64", "bool", "int4", "uint4")


def read(path) -> onnx.ModelProto:
    """The onnx.ModelProto of a file, functions inlined; external data stays where it is.

    Raises LockstepError for a file that is no ONNX model, is damaged, cut short or too large;
    OSError where it cannot be opened.
    """
    with open(path, "rb") as file:
        size = file.seek(0, 2)
        if size == 0:
            raise LockstepError(f"{path} is not an ONNX model: it is empty")
        if size > MOST_BYTES:
            raise LockstepError(f"{path} must have at most {MOST_BYTES} bytes, not {size}; larger "
                                f"models keep their tensors in files of their own")
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            _check_structure(path, content, size)
            model = onnx.ModelProto()
            try:
                model.ParseFromString(content[:])
            except DecodeError as error:
                raise LockstepError(f"{path} is not an ONNX model, is damaged or cut short"
                                    ) from error
    for what, entries in (("nodes", model.graph.node), ("tensors", model.graph.initializer)):
        if len(entries) > MOST_ENTRIES:
            raise LockstepError(f"{path}: A model has at most {MOST_ENTRIES} {what}, "
                                f"not {len(entries)}")
    return _inlined(path, model)


def _inlined(path, model):
    if not model.functions:
        return model
    from onnx import inliner

    _check_functions(path, model)

    try:
        return inliner.inline_local_functions(model)
    except (RuntimeError, ValueError) as error:
        raise LockstepError(f"{path}: its functions cannot be inlined: {error}") from error


def _check_functions(path, model):
    """LockstepError where inlining has no end or gives too many nodes."""
    functions = {(entry.domain, entry.name, entry.overload): entry for entry in model.functions}
    sizes = {}

    def size(nodes, depth):
        """(number of nodes, levels of calls) behind the nodes."""
        total, levels = 0, 0
        for node in nodes:
            bodies = [graph.node for entry in node.attribute for graph in (entry.g, *entry.graphs)]
            inside = [size(body, depth) for body in bodies]
            key = node.domain, node.op_type, node.overload
            if key in functions:
                if key not in sizes and depth < MOST_NESTED:
                    sizes[key] = size(functions[key].node, depth + 1)
                called, below = sizes.get(key, (0, MOST_NESTED))
                inside.append((called, below + 1))
            total += max(1, sum(number for number, _ in inside))
            levels = max([levels, *(below for _, below in inside)])
        if total > MOST_ENTRIES or levels > MOST_NESTED:
            raise LockstepError(f"{path}: its functions must have at most {MOST_ENTRIES} nodes in "
                                f"all and call each other at most {MOST_NESTED} deep")
        return total, levels
    size(model.graph.node, 0)


@cache
def _messages(descriptor):
    """dict of the numbers of a message's fields that are messages to the descriptors of these."""
    return {field.number: field.message_type for field in descriptor.fields if field.message_type}


def _check_structure(path, content, size):
    """LockstepError unless the bytes are fields of a ModelProto that holds a graph."""
    n_fields, found, waiting = 0, set(), [(onnx.ModelProto.DESCRIPTOR, 0, size)]
    try:
        while waiting:
            descriptor, start, end = waiting.pop()
            found.add(descriptor)
            messages = _messages(descriptor)
            for number, first, last in _fields(content, start, end):
                n_fields += 1
                if n_fields > MOST_FIELDS:
                    raise LockstepError(f"{path}: A model has at most {MOST_FIELDS} fields in all")
                if number in messages:
                    waiting.append((messages[number], first, last))
        if onnx.GraphProto.DESCRIPTOR not in found:
            raise ValueError("no graph")
    except LockstepError:
        raise
    except (ValueError, IndexError) as error:
        raise LockstepError(f"{path} is not an ONNX model, is damaged or cut short") from error


def _fields(content, position, end):
    """(number, start, end) of each field between two positions; ValueError for anything else."""
    while position < end:
        tag, position = _varint(content, position)
        number, kind = tag >> 3, tag & 7
        if number not in FIELDS:
            raise ValueError(f"field {number}")
        start = position
        if kind == VARINT:
            _, position = _varint(content, position)
        elif kind == BYTES:
            length, start = _varint(content, position)
            position = start + length
        elif kind in (FIXED64, FIXED32):
            position += 8 if kind == FIXED64 else 4
        else:
            raise ValueError(f"wire type {kind}")
        if position > end:
            raise ValueError("beyond the end")
        yield number, start, position


def _varint(content, position):
    value = 0
    for shift in range(0, 70, 7):
        byte = content[position]
        position += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, position
    raise ValueError("a number of more than 10 bytes")


def array_of(tensor, folder, name=None) -> np.ndarray:
    """The array of a TensorProto, 4-bit types as int8 or uint8.

    folder: where the model lies, for external data; name: in messages, where it has none itself
    Raises LockstepError naming the tensor: for a type that is not one of TYPES, too many elements,
    and data that is missing or has another size.
    """
    what = f"Tensor {(tensor.name or name)!r}"
    kind = TYPE_NAMES.get(tensor.data_type, f"of type {tensor.data_type}")
    if kind not in TYPES:
        raise LockstepError(f"{what} is {kind}, which is not supported; supported are "
                            f"{', '.join(TYPES)}")
    shape = tuple(tensor.dims)
    count = int(np.prod([float(size) for size in shape]))
    if any(size < 0 for size in shape) or count > MOST_ELEMENTS:
        raise LockstepError(f"{what} must have at most {MOST_ELEMENTS} elements, "
                            f"not shape {list(shape)}")
    try:
        if tensor.data_location == onnx.TensorProto.EXTERNAL:
            return _external(tensor, shape, Path(folder))
        array = numpy_helper.to_array(tensor)
    except LockstepError:
        raise
    except (ValueError, TypeError, AttributeError, OSError, RuntimeError) as error:
        raise LockstepError(f"{what} is damaged: {' '.join(str(error).split())}") from error
    if kind in ("int4", "uint4"):
        array = array.astype(np.uint8 if kind == "uint4" else np.int8)
    return array


def _external(tensor, shape, folder):
    """The array of a tensor in a file of its own, of which only its part is read."""
    what = f"External data of tensor {tensor.name!r}"
    entries = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    path = (folder / location).resolve()
    if not location or not path.is_relative_to(folder.resolve()):
        raise LockstepError(f"{what} must lie in the folder of the model, not in {location!r}")
    dtype = np.dtype(onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type)).newbyteorder("<")
    count = int(np.prod(shape, dtype=np.int64))
    size, offset = count * dtype.itemsize, int(entries.get("offset", 0))
    if not path.is_file():
        raise LockstepError(f"{what} is missing: there is no file {path}")
    present = min(path.stat().st_size - offset, int(entries.get("length", size)))
    if TYPE_NAMES[tensor.data_type] in ("int4", "uint4"):
        raise LockstepError(f"{what} has 4 bits, which is supported inside the model alone")
    if offset < 0 or present != size:
        raise LockstepError(f"{what} must have {size} bytes from {offset} on, "
                            f"not {max(present, 0)} ({path})")
    return np.fromfile(path, dtype, count, offset=offset).reshape(shape)

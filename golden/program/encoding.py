"""Operators and arrays as JSON values, and the hashes of both.

An object becomes the name of its class with its fields, an array a name with the hash of its
contents; the arrays are collected beside them. Nothing is pickled.
"""

import dataclasses
import hashlib
import io
import json
import zipfile
from typing import TypeAlias

import numpy as np

from golden import ops
from golden.arith import Rounding
from golden.ops import range_norm
from golden.ops.step import STEP_OPERATORS

__all__ = ["CLASSES", "Field", "Json", "array_hash", "canonical", "decode", "digest", "encode",
           "npz"]

#: What JSON holds.
Json: TypeAlias = dict | list | str | int | float | None
#: An operator, and what its fields hold.
Field: TypeAlias = (ops.Operator | ops.Rescale | range_norm.RangeNormConfig | np.ndarray | tuple
                    | str | int | float | None)

CLASSES = {kind.__name__: kind for kind in (*ops.OPERATORS, *ops.TRAINING_OPERATORS,
                                            *STEP_OPERATORS, ops.Rescale,
                                            range_norm.RangeNormConfig)}


def canonical(value) -> str:
    """The one JSON text of a value; ValueError for what JSON cannot hold."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True,
                      allow_nan=False)


def digest(data: str | bytes) -> str:
    """sha256, hexadecimal."""
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()


def array_hash(array: np.ndarray) -> str:
    """Hash of the dtype, the shape and the little-endian contents."""
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return digest(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())


def npz(arrays: dict) -> bytes:
    """An uncompressed .npz file of arrays by name, little-endian, with fixed times.

    numpy.savez takes no array that is called as one of its own arguments.
    """
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = io.BytesIO()
            np.lib.format.write_array(member, array.astype(array.dtype.newbyteorder("<")),
                                      version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)),
                             member.getvalue())
    return buffer.getvalue()


def encode(value, arrays: dict) -> Json:
    """A field of an operator, or one itself, as a JSON value; its arrays go to `arrays`."""
    if dataclasses.is_dataclass(value):
        fields = {item.name: encode(getattr(value, item.name), arrays)
                  for item in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays):05d}"
        arrays[name] = value
        return {"array": name, "sha256": array_hash(value)}
    if isinstance(value, Rounding):
        return value.value
    if isinstance(value, (tuple, list)):
        return [encode(item, arrays) for item in value]
    return value


def decode(value, arrays: dict) -> Field:
    """What `encode` was given. KeyError, TypeError or ValueError for anything else."""
    if isinstance(value, list):
        return tuple(decode(item, arrays) for item in value)
    if isinstance(value, dict) and "array" in value:
        array = arrays[value["array"]]
        if array_hash(array) != value["sha256"]:
            raise ValueError(f"array {value['array']} has sha256 {array_hash(array)}, "
                             f"not {value['sha256']}")
        return array
    if isinstance(value, dict):
        fields = {name: decode(item, arrays) for name, item in value["fields"].items()}
        return CLASSES[value["class"]](**fields)
    return value

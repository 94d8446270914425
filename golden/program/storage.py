"""Programs on disk: program.json and tensors.npz, the same bytes for the same Program.

program.json holds the format and its version, the body, the hash of the body and the hash of
tensors.npz; the body names each array with the hash of its contents. Nothing is pickled.
"""

import dataclasses
import hashlib
import io
import json
import os
import shutil
import tempfile
import zipfile
from pathlib import Path

import numpy as np

from golden import ops
from golden.arith import Rounding
from golden.errors import LockstepError
from golden.ops import range_norm
from golden.program import Node, Program, Quantization, Tensor

INVALID = (TypeError, ValueError, AttributeError, IndexError)
FORMAT, VERSION = "lockstep-program", 1
JSON_NAME, NPZ_NAME = "program.json", "tensors.npz"
CLASSES = {kind.__name__: kind for kind in (*ops.OPERATORS, ops.Rescale,
                                            range_norm.RangeNormConfig)}


def _canonical(value):
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True,
                      allow_nan=False)


def _hash(data):
    return hashlib.sha256(data if isinstance(data, bytes) else data.encode()).hexdigest()


def _array_hash(array):
    array = np.ascontiguousarray(array.astype(array.dtype.newbyteorder("<"), copy=False))
    return _hash(f"{array.dtype.str} {array.shape}".encode() + array.tobytes())


def _encode(value, arrays):
    if dataclasses.is_dataclass(value):
        fields = {item.name: _encode(getattr(value, item.name), arrays)
                  for item in dataclasses.fields(value)}
        return {"class": type(value).__name__, "fields": fields}
    if isinstance(value, np.ndarray):
        name = f"a{len(arrays):05d}"
        arrays[name] = value
        return {"array": name, "sha256": _array_hash(value)}
    if isinstance(value, Rounding):
        return value.value
    if isinstance(value, (tuple, list)):
        return [_encode(item, arrays) for item in value]
    return value


def _decode(value, arrays):
    if isinstance(value, list):
        return tuple(_decode(item, arrays) for item in value)
    if isinstance(value, dict) and "array" in value:
        array = arrays[value["array"]]
        if _array_hash(array) != value["sha256"]:
            raise ValueError(f"array {value['array']} has sha256 {_array_hash(array)}, "
                             f"not {value['sha256']}")
        return array
    if isinstance(value, dict):
        fields = {name: _decode(item, arrays) for name, item in value["fields"].items()}
        return CLASSES[value["class"]](**fields)
    return value


def body(program):
    """The Program as JSON values, and its arrays by name: (dict, dict).

    LockstepError for metadata that JSON cannot hold.
    """
    arrays = {}
    try:
        # As it will be read: JSON turns keys into text and tuples into lists.
        metadata = json.loads(json.dumps(program.metadata, allow_nan=False))
    except (TypeError, ValueError) as error:
        raise LockstepError(f"Metadata of program {program.name} must fit JSON: {error}"
                            ) from error
    values = {
        "name": program.name,
        "input_layout": program.input_layout,
        "inputs": list(program.inputs),
        "outputs": list(program.outputs),
        "tensors": {name: {"shape": list(tensor.shape), **dataclasses.asdict(tensor.quantization)}
                    for name, tensor in program.tensors.items()},
        "nodes": [{"name": node.name, "inputs": list(node.inputs), "outputs": list(node.outputs),
                   "op": _encode(node.op, arrays)} for node in program.nodes],
        "metadata": metadata,
    }
    return values, arrays


def sha256(program):
    """Hash of a Program's contents, independent of files."""
    return _hash(_canonical(body(program)[0]))


def _npz(arrays):
    """An uncompressed npz with fixed times, as bytes."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, array in sorted(arrays.items()):
            member = io.BytesIO()
            np.lib.format.write_array(member, array.astype(array.dtype.newbyteorder("<")),
                                      version=(1, 0), allow_pickle=False)
            archive.writestr(zipfile.ZipInfo(f"{name}.npy", (1980, 1, 1, 0, 0, 0)),
                             member.getvalue())
    return buffer.getvalue()


def check_target(directory):
    """LockstepError where `save` would replace anything else than a Program."""
    directory = Path(directory)
    if directory.exists():
        if not directory.is_dir() or {*os.listdir(directory)} - {JSON_NAME, NPZ_NAME}:
            raise LockstepError(f"{directory} is not a Program and must not be overwritten")


def save(program, directory):
    """Writes a Program; a reader never sees a mixture of two.

    An existing Program in `directory` is replaced; LockstepError where it holds anything else.
    """
    directory = Path(directory)
    check_target(directory)
    values, arrays = body(program)
    npz = _npz(arrays)
    document = {"format": FORMAT, "version": VERSION, "sha256": _hash(_canonical(values)),
                "tensors_sha256": _hash(npz), "program": values}
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        (new / NPZ_NAME).write_bytes(npz)
        text = json.dumps(document, sort_keys=True, indent=1, allow_nan=False)
        (new / JSON_NAME).write_text(text + "\n", encoding="utf-8")
        if directory.exists():
            os.rename(directory, old)
        try:
            os.rename(new, directory)
        except OSError:
            if old.exists():
                os.rename(old, directory)
            raise
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return directory


def _read(path):
    try:
        return path.read_bytes()
    except OSError as error:
        raise LockstepError(f"{path} cannot be read: {error.strerror}") from error


def _check_hash(path, recorded, actual):
    if recorded != actual:
        raise LockstepError(f"{path} is altered: its sha256 is {actual}, recorded is {recorded}")


def _finite(text):
    raise ValueError(f"{text} is not a number")


def load(directory):
    """Reads a Program. Raises LockstepError naming the file that is missing, damaged or altered."""
    path, npz_path = Path(directory) / JSON_NAME, Path(directory) / NPZ_NAME
    data = _read(path)
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise LockstepError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise LockstepError(f"{path} is not a Lockstep program")
    if document.get("version") != VERSION:
        raise LockstepError(f"{path} must have format version {VERSION}, "
                            f"not {document.get('version')!r}")
    values = document.get("program")
    try:
        text = _canonical(values)
    except (ValueError, RecursionError) as error:
        raise LockstepError(f"{path} is damaged: {error}") from error
    _check_hash(path, document.get("sha256"), _hash(text))
    npz = _read(npz_path)
    _check_hash(npz_path, document.get("tensors_sha256"), _hash(npz))
    try:
        with np.load(io.BytesIO(npz), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise LockstepError(f"{npz_path} is damaged: {error}") from error
    try:
        return from_body(values, arrays)
    except KeyError as error:
        raise LockstepError(f"{path} lacks {error}") from error
    except INVALID as error:
        raise LockstepError(f"{path} is invalid: {error}") from error


def from_body(values, arrays):
    """The Program of what `body` gave. Raises KeyError or one of `INVALID` for anything else."""
    tensors = {}
    for name, entry in values["tensors"].items():
        quantization = Quantization(scale=entry["scale"], zero_point=entry["zero_point"],
                                    dtype=entry["dtype"])
        tensors[name] = Tensor(name=name, shape=tuple(entry["shape"]), quantization=quantization)
    nodes = [Node(name=entry["name"], op=_decode(entry["op"], arrays),
                  inputs=tuple(entry["inputs"]), outputs=tuple(entry["outputs"]))
             for entry in values["nodes"]]
    return Program(name=values["name"], nodes=tuple(nodes), tensors=tensors,
                   inputs=tuple(values["inputs"]), outputs=tuple(values["outputs"]),
                   input_layout=values["input_layout"], metadata=values["metadata"])

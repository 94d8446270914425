"""Programs on disk: program.json and tensors.npz, the same bytes for the same Program.

program.json holds the format and its version, the body, the hash of the body and the hash of
tensors.npz; the body names each array with the hash of its contents. Nothing is pickled.

Version 1 holds plain Programs (`golden.program.plain`), version 2 all of them. A Program is written
in the lowest version that can express it, so that its bytes and its hash stay what they were.
"""

import dataclasses
import io
import json
import os
import shutil
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import numpy as np

from golden.errors import LockstepError
from golden.program.encoding import canonical, decode, digest, encode, npz
from golden.program.plain import beyond_plain
from golden.program.tensor import Node, Quantization, State, Tensor

__all__ = ["INVALID", "body", "check_target", "fields", "load", "save", "sha256", "version"]

INVALID = (TypeError, ValueError, AttributeError, IndexError)
FORMAT, VERSIONS = "lockstep-program", (1, 2)
JSON_NAME, NPZ_NAME = "program.json", "tensors.npz"

_Made = TypeVar("_Made")        # the class of Programs


def version(program) -> int:
    """The lowest version that can express the Program."""
    return 1 if beyond_plain(program) is None else 2


def _tensor_values(tensor, is_first):
    values = {"shape": list(tensor.shape), **dataclasses.asdict(tensor.quantization)}
    return values if is_first else values | {"batched": tensor.batched}


def body(program) -> tuple[dict, dict]:
    """The Program as JSON values, and its arrays by name.

    LockstepError for metadata that JSON cannot hold.
    """
    arrays, is_first = {}, version(program) == 1
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
        "tensors": {name: _tensor_values(tensor, is_first)
                    for name, tensor in program.tensors.items()},
        "nodes": [{"name": node.name, "inputs": list(node.inputs), "outputs": list(node.outputs),
                   "op": encode(node.op, arrays)} for node in program.nodes],
        "metadata": metadata,
    }
    if not is_first:
        values["batch"] = program.batch
        values["state"] = {name: {"renewed_by": state.renewed_by,
                                  "initial": encode(state.initial, arrays)}
                           for name, state in program.state.items()}
    return values, arrays


def sha256(program) -> str:
    """Hash of a Program's contents, independent of files."""
    return digest(canonical(body(program)[0]))


def check_target(directory) -> None:
    """LockstepError where `save` would replace anything else than a Program."""
    directory = Path(directory)
    if directory.exists():
        if not directory.is_dir() or {*os.listdir(directory)} - {JSON_NAME, NPZ_NAME}:
            raise LockstepError(f"{directory} is not a Program and must not be overwritten")


def save(program, directory) -> Path:
    """Writes a Program; a reader never sees a mixture of two.

    An existing Program in `directory` is replaced; LockstepError where it holds anything else.
    """
    directory = Path(directory)
    check_target(directory)
    values, arrays = body(program)
    data = npz(dict(sorted(arrays.items())))
    document = {"format": FORMAT, "version": version(program), "sha256": digest(canonical(values)),
                "tensors_sha256": digest(data), "program": values}
    directory.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", dir=directory.parent))
    try:
        new, old = temporary / "new", temporary / "old"
        new.mkdir()
        (new / NPZ_NAME).write_bytes(data)
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


def load(directory, make: Callable[..., _Made]) -> _Made:
    """Reads a Program. make: its class, called with the fields by name.

    Raises LockstepError naming the file that is missing, damaged or altered.
    """
    path, npz_path = Path(directory) / JSON_NAME, Path(directory) / NPZ_NAME
    data = _read(path)
    try:
        document = json.loads(data.decode("utf-8"), parse_constant=_finite)
    except (ValueError, RecursionError) as error:
        raise LockstepError(f"{path} is damaged: {error}") from error
    if not isinstance(document, dict) or document.get("format") != FORMAT:
        raise LockstepError(f"{path} is not a Lockstep program")
    recorded = document.get("version")
    if type(recorded) is not int or recorded not in VERSIONS:
        raise LockstepError(f"{path} must have format version {' or '.join(map(str, VERSIONS))}, "
                            f"not {recorded!r}")
    values = document.get("program")
    try:
        text = canonical(values)
    except (ValueError, RecursionError) as error:
        raise LockstepError(f"{path} is damaged: {error}") from error
    _check_hash(path, document.get("sha256"), digest(text))
    data = _read(npz_path)
    _check_hash(npz_path, document.get("tensors_sha256"), digest(data))
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
    except (OSError, ValueError, EOFError, KeyError, zipfile.BadZipFile) as error:
        raise LockstepError(f"{npz_path} is damaged: {error}") from error
    try:
        program = make(**fields(values, arrays))
        if version(program) != recorded:
            raise ValueError(f"it holds a program of version {version(program)}, not {recorded}")
        return program
    except KeyError as error:
        raise LockstepError(f"{path} lacks {error}") from error
    except INVALID as error:
        raise LockstepError(f"{path} is invalid: {error}") from error


def fields(values: dict, arrays: dict) -> dict:
    """The fields of the Program of what `body` gave, by name.

    Raises KeyError or one of `INVALID` for anything else.
    """
    tensors = {}
    for name, entry in values["tensors"].items():
        quantization = Quantization(scale=entry["scale"], zero_point=entry["zero_point"],
                                    dtype=entry["dtype"])
        tensors[name] = Tensor(name=name, shape=tuple(entry["shape"]), quantization=quantization,
                               batched=entry.get("batched", True))
    nodes = tuple(Node(name=entry["name"], op=decode(entry["op"], arrays),
                       inputs=tuple(entry["inputs"]), outputs=tuple(entry["outputs"]))
                  for entry in values["nodes"])
    state = {name: State(renewed_by=entry["renewed_by"], initial=decode(entry["initial"], arrays))
             for name, entry in values.get("state", {}).items()}
    return {"name": values["name"], "nodes": nodes, "tensors": tensors,
            "inputs": tuple(values["inputs"]), "outputs": tuple(values["outputs"]),
            "input_layout": values["input_layout"], "metadata": values["metadata"],
            "state": state, "batch": values.get("batch")}

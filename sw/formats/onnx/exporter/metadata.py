"""What an exported ONNX model says of its Program: hash, quantization, and the Program itself.

`lockstep.program` holds the Program as `golden.program.storage` writes it. An array that the graph
holds as an initializer, as it is or transposed, is named there and stored once; all others are
listed.
"""

import json

import numpy as np

from golden.errors import LockstepError
from golden.program import Program, storage

__all__ = ["PREFIX", "program_metadata", "program_of"]

PREFIX = "lockstep."
FORMS = ("integer", "qdq")


def _key(array):
    return array.dtype.str, array.shape, np.ascontiguousarray(array).tobytes()


def _stored(array, names):
    """Where an array of the Program is: an initializer, or the values themselves."""
    for transposed in (False, True):
        name = names.get(_key(array.T if transposed else array))
        if name is not None:
            return {"initializer": name, "transposed": transposed}
    return {"dtype": str(array.dtype), "shape": list(array.shape),
            "values": array.reshape(-1).tolist()}


def program_metadata(program, form, initializers) -> dict[str, str]:
    """The metadata both exports carry, a dict of strings.

    form: one of FORMS; initializers: dict of name to array, those of the graph
    """
    names = {_key(array): name for name, array in initializers.items()}
    values, arrays = storage.body(program)
    document = {"program": values,
                "arrays": {name: _stored(array, names) for name, array in arrays.items()}}
    metadata = {"program_sha256": program.sha256, "form": form,
                "program": json.dumps(document, sort_keys=True, separators=(",", ":"))}
    for role, tensors in (("input", program.inputs), ("output", program.outputs)):
        for name in tensors:
            quantization = program.tensors[name].quantization
            metadata[f"{role}.{name}.scale"] = repr(float(quantization.scale))
            metadata[f"{role}.{name}.zero_point"] = str(int(quantization.zero_point))
    return {PREFIX + key: value for key, value in metadata.items()}


def _array(entry, initializers):
    if "initializer" in entry:
        array = initializers[entry["initializer"]]
        return array.T if entry["transposed"] else array
    return np.array(entry["values"], dtype=entry["dtype"]).reshape(entry["shape"])


def program_of(metadata, initializers) -> Program:
    """The Program that `program_metadata` described; its hash is that of the metadata.

    metadata: dict of strings; initializers: dict of name to array
    Raises LockstepError where the two do not give the recorded Program.
    """
    recorded = metadata.get(f"{PREFIX}program_sha256")
    try:
        document = json.loads(metadata[f"{PREFIX}program"])
        arrays = {name: _array(entry, initializers)
                  for name, entry in document["arrays"].items()}
        program = Program(**storage.fields(document["program"], arrays))
    except KeyError as error:
        raise LockstepError(f"The program in the metadata lacks {error}") from error
    except (*storage.INVALID, RecursionError, OverflowError) as error:
        raise LockstepError(f"The program in the metadata is invalid: {error}") from error
    if program.sha256 != recorded:
        raise LockstepError(f"The program in the metadata has sha256 {program.sha256}, "
                            f"recorded is {recorded}")
    return program

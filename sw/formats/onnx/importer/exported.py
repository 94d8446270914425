"""Models that Lockstep itself exported: the very Program comes back.

The Program is in the metadata (`sw.formats.onnx.exporter.metadata`). It is taken only if exporting
it again gives the file's graph, node by node and bit by bit: so the graph says the same as the
Program, and a graph that was changed is noticed.
"""

import onnx
from onnx import numpy_helper

from golden.errors import LockstepError
from golden.program import Program
from golden.program.verify import verify
from sw.formats.onnx.exporter.integer import export_integer, export_qdq
from sw.formats.onnx.exporter.metadata import PREFIX, program_of
from sw.formats.onnx.importer.model_file import array_of

__all__ = ["exported_program"]

EXPORTS = {"integer": export_integer, "qdq": export_qdq}


def _serialized(messages):
    return [message.SerializeToString(deterministic=True) for message in messages]


def _difference(graph, again):
    """Where two graphs differ, in words, or None; outputs may be more (a trace)."""
    for what, found, wanted in (("nodes", graph.node, again.node),
                                ("constants", graph.initializer, again.initializer),
                                ("inputs", graph.input, again.input)):
        if len(found) != len(wanted):
            return f"{len(found)} {what} in place of {len(wanted)}"
        for one, other, first, second in zip(found, wanted, _serialized(found),
                                             _serialized(wanted)):
            if first != second:
                return f"{what[:-1]} {one.name!r} in place of {other.name!r}"[:200] \
                    if one.name != other.name else f"another {what[:-1]} {one.name!r}"
    written = {name for node in graph.node for name in node.output}
    missing = {value.name for value in again.output} - {value.name for value in graph.output}
    if missing or not {value.name for value in graph.output} <= written:
        return "other outputs"
    return None


def _inside(graph, folder):
    """The graph with its external data in it, a copy where there is some."""
    if any(tensor.data_location == onnx.TensorProto.EXTERNAL for tensor in graph.initializer):
        tensors = [numpy_helper.from_array(array_of(tensor, folder), tensor.name)
                   for tensor in graph.initializer]
        whole = onnx.GraphProto()
        whole.CopyFrom(graph)
        del whole.initializer[:]
        whole.initializer.extend(tensors)
        return whole
    return graph


def exported_program(model, folder) -> tuple[Program | None, str | None]:
    """(Program, None) of a model of `sw.formats.onnx.exporter.integer`; (None, why) where its graph
    is another one.

    model: onnx.ModelProto; folder: where it lies, for external data
    Returns (None, None) for a model that is not of Lockstep.
    Raises LockstepError for an integer graph that is not what the metadata says: there is no other
    way to read it.
    """
    metadata = {entry.key: entry.value for entry in model.metadata_props}
    form = metadata.get(f"{PREFIX}form")
    if form not in EXPORTS or f"{PREFIX}program" not in metadata:
        return None, None
    graph = _inside(model.graph, folder)
    try:
        arrays = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        program = program_of(metadata, arrays)
        verify(program)
        why = _difference(graph, EXPORTS[form](program).graph)
    except (LockstepError, ValueError, TypeError, AttributeError) as error:
        program, why = None, f"{error}"
    except KeyError as error:   # of the types that ONNX knows
        program, why = None, f"a constant is of unknown type {error}"
    if why is None:
        return program, None
    if form == "integer":
        raise LockstepError(f"The graph is not that of the program in its metadata, so it was "
                            f"changed or written by another version: {why}")
    return None, why

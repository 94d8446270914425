"""Walks the graph: what runs on the host at both ends, and the int8 program between them."""

from dataclasses import replace
from pathlib import Path

from golden.errors import LockstepError
from golden.program import Program
from sw.formats.files import sha256_of
from sw.formats.tflite import layout, pointwise, pools, products, schema, tables, windows
from sw.formats.tflite.builder import Builder
from sw.formats.tflite.graph import OperatorInfo, TensorInfo, TfliteGraph
from sw.formats.tflite.overflow import overflow_notes
from sw.formats.tflite.registry import KINDS, on_host

__all__ = ["import_tflite"]

REGISTERING = layout, pointwise, pools, products, tables    # their operators, by being imported
LAYOUT = "NHWC"

on_host("SOFTMAX", options="SoftmaxOptions", fields=("Beta",))
on_host("DEQUANTIZE")


def import_tflite(path: str | Path) -> Program:
    """The Program of a .tflite file.

    Its tensors have the file's names, and codes equal to those of LiteRT's reference kernels.
    `metadata` says what the host does: "host_input" and "host_output" are lists of operators with
    the quantization of the tensor they write, in order; "notes" are lines for the user.
    Raises LockstepError naming the file and the operator or tensor; OSError for a file that cannot
    be read.
    """
    graph = schema.read(path)
    try:
        return _program(Path(path), graph)
    except (LockstepError, TypeError, ValueError) as error:
        raise LockstepError(f"{path}: {' '.join(str(error).split())}") from error


def _program(path: Path, graph: TfliteGraph) -> Program:
    source, result, before, after = _ends(graph)
    operators = _needed(graph, source, result)
    for operator in operators:
        if operator.kind not in KINDS:
            raise LockstepError(f"{operator.title} is not supported; supported are "
                                f"{', '.join(sorted(KINDS))}")
    builder = Builder(graph.names)
    builder.source(source)
    readers = _readers(operators, result)
    for operator in operators:
        if operator.kind == "PAD" and _is_folded(operator, readers):
            builder.folded_pads[operator.output.index] = operator
            continue
        try:
            _convert(builder, operator)
        except LockstepError:
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            operator.refuse(error)
    metadata = {"source": {"format": "tflite", "file": path.name, "sha256": sha256_of(path)},
                "host_input": before, "host_output": after}
    program = builder.build(path.stem, builder.name(result), input_layout=LAYOUT)
    notes = builder.notes + overflow_notes(program, builder.report)
    return replace(program, metadata={**metadata, "notes": notes})


def _convert(builder: Builder, operator: OperatorInfo) -> None:
    if len(operator.outputs) != 1:
        operator.refuse(f"must have 1 output, not {len(operator.outputs)}")
    convert = KINDS[operator.kind].convert
    if convert is None:
        raise LockstepError(f"{operator.title} runs on the host and so only at the ends of the "
                            f"graph")
    convert(builder, operator)


def _ends(graph: TfliteGraph) -> tuple[TensorInfo, TensorInfo, list, list]:
    """(input, output) TensorInfos of the program, and what the host does before and after."""
    for what, infos in (("input", graph.inputs), ("output", graph.outputs)):
        if len(infos) != 1 or infos[0] is None:
            raise LockstepError(f"The graph must have 1 {what}, not {len(infos)}")
    source, result = graph.inputs[0], graph.outputs[0]
    writers = {info.index: operator for operator in graph.operators for info in operator.outputs
               if info}
    after, seen = [], set()
    while _is_last(writer := writers.get(result.index)):
        if result.index in seen:
            writer.refuse("depends on itself")
        seen.add(result.index)
        after.insert(0, _host_step(writer))
        result = writer.inputs[0]
    readers = [operator for operator in graph.operators if source in operator.inputs]
    before = []
    if source.dtype != "int8" and len(readers) == 1 and readers[0].kind == "QUANTIZE":
        before.append(_host_step(readers[0]) | {"from": source.dtype})
        source = readers[0].output
    if source.index == result.index:
        raise LockstepError("The graph holds no operator for the program")
    return source, result, before, after


def _is_last(operator: OperatorInfo | None) -> bool:
    """Is it the host's, as the last operator?"""
    if operator is None or not operator.inputs or operator.inputs[0] is None:
        return False
    kind = KINDS.get(operator.kind)
    return kind is not None and (kind.convert is None or operator.kind == "QUANTIZE"
                                 and operator.output.dtype != "int8")


def _host_step(operator: OperatorInfo) -> dict:
    step = {"operator": operator.kind, "tensor": operator.name, "dtype": operator.output.dtype}
    if len(operator.output.scales):
        step |= {"scale": operator.output.scale, "zero_point": operator.output.zero_point}
    if operator.kind == "SOFTMAX":
        step["beta"] = float(operator.options["Beta"])
    return step


def _needed(graph: TfliteGraph, source: TensorInfo, result: TensorInfo) -> list[OperatorInfo]:
    """The operators between the program's input and output, in the file's order.

    What computes an operand that counts for nothing is left out.
    """
    wanted, needed = {result.index}, []
    for operator in reversed(graph.operators):
        if not wanted & {info.index for info in operator.outputs if info}:
            continue
        needed.insert(0, operator)
        kind = KINDS.get(operator.kind)
        wanted |= {info.index for info in operator.inputs[:kind and kind.n_operands]
                   if info and info.data is None}
        if source.index in {info.index for info in operator.outputs if info}:
            needed.pop(0)
    return needed


def _readers(operators: list[OperatorInfo], result: TensorInfo) -> dict:
    """The operators that read a tensor, by its number; the program's output has one more."""
    readers = {result.index: [None]}
    for operator in operators:
        for info in operator.inputs:
            if info:
                readers.setdefault(info.index, []).append(operator)
    return readers


def _is_folded(operator: OperatorInfo, readers: dict) -> bool:
    """Is the PAD that of the one convolution behind it?"""
    followers = readers.get(operator.output.index, [])
    if len(followers) != 1 or not followers[0] or not KINDS[followers[0].kind].takes_padding:
        return False
    return (followers[0].options["Padding"] == windows.VALID
            and not windows.paddings(operator)[3].any())

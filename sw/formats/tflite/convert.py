"""Walks the graph: what runs on the host at both ends, and the int8 program between them."""

from pathlib import Path

from golden.errors import LockstepError
from golden.program import Program
from golden.program.verify import verify
from sw.formats.files import sha256_of
from sw.formats.tflite import pointwise, pools, products, schema
from sw.formats.tflite.builder import Builder

CONVERTERS = {
    "FULLY_CONNECTED": products.fully_connected, "ADD": pointwise.add,
    "AVERAGE_POOL_2D": pools.average_pool_2d, "MAX_POOL_2D": pools.max_pool_2d,
    "MEAN": pools.mean, "RESHAPE": pointwise.reshape, "CONCATENATION": pointwise.concatenation,
    "SQUEEZE": pointwise.reshape, "PAD": pointwise.pad, "RELU": pointwise.relu,
    "RELU6": pointwise.relu, "QUANTIZE": pointwise.quantize,
}
PADDED = {"CONV_2D": products.conv_2d, "DEPTHWISE_CONV_2D": products.depthwise_conv_2d}
HOST = ("SOFTMAX", "QUANTIZE", "DEQUANTIZE")
SUPPORTED = sorted({*CONVERTERS, *PADDED, *HOST})
LAYOUT = "NHWC"


def import_tflite(path):
    """The Program of a .tflite file.

    Its tensors have the file's names, and codes equal to those of LiteRT's reference kernels.
    `metadata` says what the host does: "host_input" and "host_output" are lists of operators with
    the quantization of the tensor they write, in order; "notes" are lines for the user.
    Raises LockstepError naming the file and the operator or tensor; OSError for a file that cannot
    be read.
    """
    graph = schema.read(path)
    try:
        program = _program(Path(path), graph)
        verify(program)
    except (LockstepError, TypeError, ValueError) as error:
        raise LockstepError(f"{path}: {' '.join(str(error).split())}") from error
    return program


def _program(path, graph):
    source, result, before, after = _ends(graph)
    operators = _needed(graph, source, result)
    for operator in operators:
        if operator.kind not in SUPPORTED:
            raise LockstepError(f"{operator.title} is not supported; supported are "
                                f"{', '.join(SUPPORTED)}")
    builder = Builder(graph.names)
    builder.declare_info(source)
    readers = _readers(operators, result)
    pads = {}
    for operator in operators:
        if operator.kind == "PAD" and _is_folded(operator, readers):
            pads[operator.output.index] = operator
            continue
        try:
            _convert(builder, operator, pads)
        except LockstepError:
            raise
        except (TypeError, ValueError, LookupError, ArithmeticError) as error:
            operator.refuse(error)
    metadata = {"source": {"format": "tflite", "file": path.name, "sha256": sha256_of(path)},
                "host_input": before, "host_output": after, "notes": builder.notes}
    return Program(name=path.stem, nodes=builder.nodes, tensors=builder.tensors,
                   inputs=(builder.name(source),), outputs=(builder.name(result),),
                   input_layout=LAYOUT, metadata=metadata)


def _convert(builder, operator, pads):
    if len(operator.outputs) != 1:
        operator.refuse(f"must have 1 output, not {len(operator.outputs)}")
    if operator.kind in CONVERTERS:
        return CONVERTERS[operator.kind](builder, operator)
    if operator.kind in PADDED:
        pad = pads.get(operator.inputs[0].index) if operator.inputs[0] else None
        if pad is None:
            x, padding = operator.activation(0, rank=4), None
        else:
            x, padding = pad.activation(0, rank=4), pointwise.spatial(pointwise.paddings(pad))
            builder.notes.append(f"PAD (tensor {pad.name!r}) is part of {operator.kind} "
                                 f"(tensor {operator.name!r})")
        return PADDED[operator.kind](builder, operator, x, padding)
    raise LockstepError(f"{operator.title} runs on the host and so only at the ends of the graph")


def _ends(graph):
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


def _is_last(operator):
    """Is it the host's, as the last operator?"""
    if operator is None or not operator.inputs or operator.inputs[0] is None:
        return False
    return (operator.kind in ("SOFTMAX", "DEQUANTIZE")
            or operator.kind == "QUANTIZE" and operator.output.dtype != "int8")


def _host_step(operator):
    step = {"operator": operator.kind, "tensor": operator.name, "dtype": operator.output.dtype}
    if len(operator.output.scales):
        step |= {"scale": operator.output.scale, "zero_point": operator.output.zero_point}
    if operator.kind == "SOFTMAX":
        step["beta"] = float(operator.options["Beta"])
    return step


def _needed(graph, source, result):
    """The operators between the program's input and output, in the file's order.

    The shape operand of a RESHAPE counts for nothing, so what computes it is left out.
    """
    wanted, needed = {result.index}, []
    for operator in reversed(graph.operators):
        if not wanted & {info.index for info in operator.outputs if info}:
            continue
        needed.insert(0, operator)
        operands = operator.inputs[:1] if operator.kind == "RESHAPE" else operator.inputs
        wanted |= {info.index for info in operands if info and info.data is None}
        if source.index in {info.index for info in operator.outputs if info}:
            needed.pop(0)
    return needed


def _readers(operators, result):
    """The operators that read a tensor, by its number; the program's output has one more."""
    readers = {result.index: [None]}
    for operator in operators:
        for info in operator.inputs:
            if info:
                readers.setdefault(info.index, []).append(operator)
    return readers


def _is_folded(operator, readers):
    """Is the PAD that of the one convolution behind it?"""
    followers = readers.get(operator.output.index, [])
    if len(followers) != 1 or followers[0] is None or followers[0].kind not in PADDED:
        return False
    return (followers[0].options["Padding"] == products.VALID
            and not pointwise.paddings(operator)[3].any())

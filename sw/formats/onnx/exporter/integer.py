"""Export of a `Program` as plain ONNX operators that ONNX Runtime executes to the same bits.

Everything between the int8 input codes and the int8 output codes is integer: ConvInteger and
MatMulInteger give the int32 products, and the requantization is `golden.arith`'s own, recorded in
int64 operators (see `sw.formats.onnx.exporter.builder`).
"""

import onnx

from golden.errors import LockstepError
from golden.ops.primitives import Unsupported
from sw.formats.onnx.exporter.builder import GraphBuilder
from sw.formats.onnx.exporter.metadata import program_metadata
from sw.formats.onnx.exporter.qdq import export_qdq
from sw.formats.onnx.exporter.symbolic import BATCH, Integers, Symbol

__all__ = ["export_integer", "export_qdq"]


def _export(graph, node, inputs):
    """The nodes of one operator, whose results get the names of the Program's tensors."""
    try:
        results = node.op.compute(Integers(graph), *inputs)
    except Unsupported as error:
        raise LockstepError(f"Node {node.name}: {node.op.label} has no ONNX form") from error
    results = results if isinstance(results, tuple) else (results,)
    for result, output in zip(results, node.outputs, strict=True):
        graph.rename(result.name, output)


def _batch(program, tensor):
    """The first dimension of a tensor: a number, or "N"."""
    return program.batch or BATCH if tensor.batched else 1


def export_integer(program, *, trace=False) -> onnx.ModelProto:
    """The integer program as an onnx.ModelProto, checked by onnx.checker.

    program: a `golden.program.Program`. The model's inputs and outputs are codes, channels first,
    with the names of the program's tensors; tensors that are not batched have 1 in place of the
    batch. State is read as further inputs and renewed by further outputs, which whoever runs the
    model passes on; its first values are in the metadata. With trace=True every intermediate tensor
    is an output too. The scales, zero points and the program's sha256 are in the metadata.
    Raises LockstepError naming the node for an operator ONNX has no form for.
    """
    graph = GraphBuilder(program.name, program.tensors)

    def symbol(name):
        tensor = program.tensors[name]
        return Symbol(name, (_batch(program, tensor), *tensor.shape), tensor.quantization.dtype)

    def declare(where, name):
        tensor = program.tensors[name]
        where(name, tensor.quantization.dtype, tensor.shape, _batch(program, tensor))

    for name in program.sources:
        declare(graph.declare_input, name)
    produced = []
    for node in program.nodes:
        graph.scope = node.name
        _export(graph, node, [symbol(name) for name in node.inputs])
        produced.extend(node.outputs)
    renewing = [state.renewed_by for state in program.state.values()]
    for name in produced if trace else dict.fromkeys((*program.outputs, *renewing)):
        if name in produced:
            declare(graph.declare_output, name)
    doc = ("Integer program: int8 codes in, int8 codes out, the same bits as the golden model. "
           "real = scale * (code - zero_point).")
    return graph.model(doc, program_metadata(program, "integer", graph.initializers))

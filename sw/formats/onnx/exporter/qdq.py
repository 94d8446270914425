"""Export of a `Program` as QuantizeLinear / DequantizeLinear pairs around float operators.

This is the form that standard consumers (ONNX Runtime, OpenVINO, TensorRT) read. It is approximate
by nature: float32 scales, rounding half to even, zero point added after rounding. Expect single
codes to differ by one where a value lies near a rounding boundary, and such differences to travel;
the integer export is the exact one.
"""

import onnx

from golden.errors import LockstepError
from golden.ops.operator import INT8
from golden.ops.primitives import Unsupported
from sw.formats.onnx.exporter.builder import GraphBuilder
from sw.formats.onnx.exporter.metadata import program_metadata
from sw.formats.onnx.exporter.real import ACTIVATION_STEPS, Reals, factors
from sw.formats.onnx.exporter.symbolic import BATCH, Symbol

__all__ = ["export_qdq"]


def _round_trip(graph, value, tensor, output=None):
    """A real value through the codes of a tensor of the program and back."""
    quantization = tensor.quantization
    scale = factors(graph, quantization.scale, f"Scale of tensor {tensor.name}", "scale",
                     ACTIVATION_STEPS)
    zero_point = graph.constant(quantization.zero_point, "int8", "zero_point")
    codes = graph.node("QuantizeLinear", value, scale, zero_point, output=f"{tensor.name}_codes")
    return graph.node("DequantizeLinear", codes, scale, zero_point, output=output)


def _clamped(graph, value, op, quantization):
    """The clamp bounds in codes (ReLU, ReLU6) of an operator as a Clip of the real values."""
    limits = op.output_range((INT8,) * (op.n_inputs or 1))
    if limits == INT8:
        return value
    bounds = [(code - quantization.zero_point) * quantization.scale for code in limits]
    return graph.clip(value, *bounds, "float32")


def _real_form(graph, node, real, sources, target):
    """The name of the real value of the node's output before its quantizer.

    real: names of real values by tensor; sources, target: the Program's tensors read and written
    """
    values = [Symbol(real[source.name], (BATCH, *source.shape)) for source in sources]
    try:
        return node.op.compute_real(Reals(graph, sources, target), *values).name
    except Unsupported as error:
        raise LockstepError(f"Node {node.name}: {node.op.label} has no QDQ form") from error


def export_qdq(program) -> onnx.ModelProto:
    """The program as a float-in, float-out onnx.ModelProto with QDQ pairs.

    The input is the real NCHW input, float32; the output is the dequantized output. The scales of
    the weights follow from the program's own factors: S_w = M * S_out / S_in.
    Approximate: see the module's text. Raises LockstepError for an operator without a QDQ form, for
    state and for tensors other than int8, and for scales that are not float32 numbers.
    """
    if program.state:
        raise LockstepError(f"Program {program.name}: state ({', '.join(program.state)}) has no "
                            f"QDQ form")
    for tensor in program.tensors.values():
        if tensor.quantization.dtype != "int8" or not tensor.batched:
            raise LockstepError(f"Tensor {tensor.name} must be int8 with a batch for the QDQ form")
    graph = GraphBuilder(f"{program.name}_qdq")
    real = {}
    for name in program.inputs:
        graph.scope = name
        graph.declare_input(f"{name}_real", "float32", program.tensors[name].shape)
        real[name] = _round_trip(graph, f"{name}_real", program.tensors[name])
    for node in program.nodes:
        graph.scope = node.name
        output, = node.outputs
        sources, target = [program.tensors[name] for name in node.inputs], program.tensors[output]
        value = _real_form(graph, node, real, sources, target)
        value = _clamped(graph, value, node.op, target.quantization)
        final = f"{output}_real" if output in program.outputs else None
        real[output] = _round_trip(graph, value, target, final)
    for name in program.outputs:
        graph.declare_output(real[name], "float32", program.tensors[name].shape)
    doc = ("Float model with quantize-dequantize pairs for standard consumers; approximate, single "
           "codes may differ from the integer program.")
    return graph.model(doc, program_metadata(program, "qdq", graph.initializers))

"""From a .onnx file to a Program, or to a float network that can be quantized."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from golden.errors import LockstepError
from golden.program import Program, Quantization
from sw.formats.files import sha256_of
from sw.formats.onnx.importer import qdq, qlinear
from sw.formats.onnx.importer.exported import exported_program
from sw.formats.onnx.importer.graph import make_graph
from sw.formats.onnx.importer.model_file import read
from sw.formats.onnx.importer.quantized import QuantizedWalk
from sw.formats.onnx.importer.values import Codes, Pending, Product, Real

if TYPE_CHECKING:
    from torch import nn  # taken where a float network is made

__all__ = ["import_network", "import_onnx", "is_quantized", "unsupported_operators"]

QuantizedWalk.converters = {**qdq.CONVERTERS, **qlinear.CONVERTERS}
QUANTIZED = {"QuantizeLinear", "DequantizeLinear", *qlinear.CONVERTERS}

OTHER_FORMS = {"DynamicQuantizeLinear": "quantizes its activations anew in every run",
               "Quant": "is quantized in QONNX form", "BipolarQuant": "is quantized in QONNX form",
               "ConvInteger": "leaves scales to other operators",
               "MatMulInteger": "leaves scales to other operators"}


def is_quantized(graph) -> bool:
    """Does a Graph hold operators of quantization?"""
    return any(node.kind in QUANTIZED for node in graph.nodes)


def import_onnx(path) -> Program:
    """The Program of a quantized .onnx file, in QDQ or QLinear form or as Lockstep exports it.

    Its tensors have the names that their codes have in the file. `metadata` says what the host
    does, as that of `sw.formats.tflite.import_tflite`.
    Raises LockstepError naming the file and the operator or tensor; OSError for a file that cannot
    be read.
    """
    model = read(path)
    try:
        program, why = exported_program(model, Path(path).parent)
        if program is not None:
            return program
        graph = make_graph(model, Path(path).parent)
        if not is_quantized(graph):
            for node in graph.nodes:
                if form := OTHER_FORMS.get(node.kind.rpartition(".")[2]):
                    node.refuse(f"the model {form}; supported are fixed scales in QDQ or QLinear "
                                f"form")
            raise LockstepError("A float model is not converted but quantized: python "
                                f"flows/quantize.py {path} -o PROGRAM")
        walk = QuantizedWalk(graph)
        if why:
            walk.parts.notes.append(f"The program in the metadata is not that of the graph, which "
                                    f"is taken in its place: {why}")
        program = _program(Path(path), walk)
    except (LockstepError, TypeError, ValueError) as error:
        raise LockstepError(f"{path}: {' '.join(str(error).split())}") from error
    return program


def import_network(path) -> nn.Module:
    """The float network of a .onnx file, in evaluation mode, for `sw.ptq.quantize.quantize`.

    Its layers are called after the file's nodes. A last Softmax is left to the host.
    Raises LockstepError naming the file and the operator; OSError for a file that cannot be read.
    """
    from sw.formats.onnx.importer.float_graph import FloatWalk  # with torch, which programs lack

    model = read(path)
    try:
        graph = make_graph(model, Path(path).parent)
        if is_quantized(graph):
            raise LockstepError(f"A quantized model is converted: python flows/convert.py {path} "
                                f"-o PROGRAM")
        walk = FloatWalk(graph)
        walk.run()
        result = walk.close(walk.result)
        if isinstance(result, np.ndarray) or not walk.network.steps:
            raise LockstepError("The graph holds no operator for the network")
        return walk.network.finished(result.name)
    except (LockstepError, TypeError, ValueError) as error:
        raise LockstepError(f"{path}: {' '.join(str(error).split())}") from error


def unsupported_operators(path) -> dict[str, list[str]]:
    """dict of the operators that keep a .onnx file out to the names of their nodes.

    Raises LockstepError for a file that cannot be read as a graph.
    """
    from sw.formats.onnx.importer.float_graph import FloatWalk

    graph = make_graph(read(path), Path(path).parent)
    found = {}
    for node in (QuantizedWalk if is_quantized(graph) else FloatWalk)(graph).unsupported():
        found.setdefault(node.kind, []).append(node.name)
    return found


def _program(path, walk):
    result = _result(walk, walk.run())
    if walk.input is None:
        raise LockstepError("The output does not depend on the input")
    if not walk.parts.nodes:
        raise LockstepError("The graph holds no operator for the program")
    metadata = {"source": {"format": "onnx", "file": path.name, "sha256": sha256_of(path)},
                "host_input": _before(walk), "host_output": [_step(node) for node in walk.after],
                "notes": walk.parts.notes}
    return walk.parts.build(path.stem, result.name, metadata=metadata)


def _before(walk):
    """What the host does in front: floats to codes, or uint8 codes to int8 ones."""
    tensor, kind = walk.input.name, walk.graph.source_type
    step = {"operator": "QuantizeLinear", "tensor": tensor, "from": "float32", "dtype": "int8"}
    if kind == "float32":
        return [step]
    return [step | {"operator": "subtract 128", "from": kind}] if kind == "uint8" else []


def _step(node):
    return {"operator": node.kind, "tensor": node.output, "node": node.name}


def _result(walk, value):
    """The Codes of the program's output."""
    if isinstance(value, Real):
        return value.codes
    if isinstance(value, Codes):
        return value
    if not isinstance(value, Product):
        what = "not quantized" if isinstance(value, Pending) else "no activation"
        raise LockstepError(f"Output {walk.result!r} is {what}; a QuantizeLinear must stand "
                            f"behind it")
    return _unquantized(walk, value)


def _unquantized(walk, value):
    """A last layer without a QuantizeLinear: one scale that holds all that its sums can be."""
    low, high = value.real_range()
    if not low < high:
        raise LockstepError(f"Output {walk.result!r} is not quantized and always 0")
    scale = (high - low) / 255
    quantization = Quantization(scale=scale, zero_point=round(-128 - low / scale))
    value.emit(walk.parts, walk.result, quantization)
    walk.parts.notes.append(
        f"Output {walk.result!r} is not quantized in the file: its scale {scale:.6g} holds the "
        f"largest possible sums, {low:.6g} to {high:.6g}, and is coarser than one from data")
    return Codes(name=walk.result, shape=value.shape, quantization=quantization, offset=0)

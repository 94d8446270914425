"""onnx: which of the onnx package's classification networks can be quantized, how imported
quantized models compare with ONNX Runtime, and what comes back of Lockstep's own exports.

The networks are those of onnx/backend/test/data/light; their weights are all alike, so they say
which graphs run and not how well. The quantized models have the graph of squeezenet with random
weights, quantized by ONNX Runtime.
"""

import argparse
import logging
import sys
import tempfile
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from benchmarks.rows import row
from golden.errors import LockstepError
from golden.program import Program

if TYPE_CHECKING:
    from onnx import ModelProto
    from onnxruntime.quantization import CalibrationDataReader
    from torch import nn

__all__ = ["calibration_reader", "compared", "light_models", "measure", "quantized_light",
           "reference_trace", "runtime_quantization"]

IMAGES = 2          # of which every light network is calibrated and run
COMPARED = 8        # images of which every tensor is compared with ONNX Runtime
MODEL = "squeezenet"


def light_models() -> dict[str, Path]:
    """The files of the onnx package by name, without the prefix light_."""
    import onnx

    folder = Path(onnx.__file__).parent / "backend/test/data/light"
    found = {path.stem.removeprefix("light_"): path for path in sorted(folder.glob("*.onnx"))}
    if not found:
        raise LockstepError(f"The onnx package holds no models in {folder}")
    return found


def random_images(shape, n: int, seed: int = 0) -> np.ndarray:
    """float32 (n, *shape), uniform in 0..1."""
    return np.random.default_rng(seed).random((n, *shape)).astype(np.float32)


def quantized_light(path: Path, n_images: int = IMAGES
                    ) -> "tuple[nn.Module, Program, np.ndarray, dict[str, np.ndarray]]":
    """(network, program, images, trace) of a float model, calibrated on random images."""
    import torch

    from golden.program.interpreter import run
    from sw.formats.onnx.importer import import_network
    from sw.lower.network import lower
    from sw.ptq.quantize import quantize

    network = import_network(path)
    images = random_images(network.input_shape, n_images)
    program = lower(quantize(network, torch.from_numpy(images))[0], name=path.stem)
    return network, program, images, run(program, images)


def light_rows(names, command: str) -> list[dict]:
    """One row per network: the operators that keep it out, or what its program computes."""
    from sw.formats.onnx.importer import unsupported_operators

    rows = []
    for name, path in light_models().items():
        if names and name not in names:
            continue
        found = unsupported_operators(path)
        words = ", ".join(f"{kind} ({len(nodes)} nodes)" for kind, nodes in found.items())
        context = f"{path.name}: " + (f"kept out by {words}" if words else
                                      f"calibrated and run on golden, {IMAGES} random images")
        rows.append(row(f"onnx.light.{name}.unsupported_operators", len(found), "operators",
                        command, context=context))
        if found:
            continue
        network, program, images, trace = quantized_light(path)
        rows.append(row(f"onnx.light.{name}.nodes", len(program.nodes), "nodes", command,
                        context=context))
        rows.append(row(f"onnx.light.{name}.distance", distance(network, program, images, trace),
                        "output codes", command, context=context))
        print(f"{name}: {len(program.nodes)} nodes", flush=True)
    return rows


def distance(network, program, images, trace) -> float:
    """Largest difference of the program's outputs from the float network's, in output codes."""
    import torch

    with torch.no_grad():
        expected = network(torch.from_numpy(images)).double().numpy()
    grid = program.output.quantization
    codes = trace[program.outputs[0]].astype(np.float64)
    return float(np.abs(expected / grid.scale + grid.zero_point - codes).max())


def with_random_weights(path: Path, seed: int = 0) -> "ModelProto":
    """A light model up to its Softmax whose ConstantOfShape weights became random ones, opset 13.

    Its other operators must mean the same in opset 9 and 13, as those of squeezenet do.
    """
    import onnx
    from onnx import helper, numpy_helper

    model, rng = onnx.load(path), np.random.default_rng(seed)
    shapes = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
    kept, made, renamed = [], [], {}
    for node in model.graph.node:
        if node.op_type == "ConstantOfShape":
            shape = [int(size) for size in shapes[node.input[0]]]
            fan_in = int(np.prod(shape[1:])) if len(shape) > 1 else 100
            values = rng.normal(0, (2 / fan_in) ** 0.5, shape).astype(np.float32)
            made.append(numpy_helper.from_array(values, node.output[0]))
        elif node.op_type == "Dropout":
            renamed[node.output[0]] = node.input[0]
        elif node.op_type != "Softmax":
            node.input[:] = [renamed.get(name, name) for name in node.input]
            kept.append(node)
    given = next(value for value in model.graph.input if value.name not in shapes)
    sizes = [size.dim_value for size in given.type.tensor_type.shape.dim]
    source = helper.make_tensor_value_info(given.name, onnx.TensorProto.FLOAT, sizes)
    result = helper.make_tensor_value_info(kept[-1].output[0], onnx.TensorProto.FLOAT, None)
    small = {name for node in kept for name in node.input} & {*shapes}     # biases, as they are
    made += [numpy_helper.from_array(shapes[name], name) for name in sorted(small)]
    graph = helper.make_graph(kept, path.stem, [source], [result], made)
    return helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)])


def runtime_quantization() -> ModuleType:
    """onnxruntime.quantization. Importing it appends a folder to sys.path in which a folder called
    models hides the package of that name; that is taken back."""
    paths = list(sys.path)
    from onnxruntime import quantization

    sys.path[:] = paths
    return quantization


def calibration_reader(name: str, batches) -> "CalibrationDataReader":
    """What quantize_static calibrates on: batches, float32 (N, ...) each, of the input `name`."""
    class Reader(runtime_quantization().CalibrationDataReader):
        def __init__(self):
            self.left = iter(batches)

        def get_next(self):
            batch = next(self.left, None)
            return None if batch is None else {name: batch}
    return Reader()


def statically_quantized(path: Path, folder: Path, form: str) -> Path:
    """What ONNX Runtime's quantize_static makes of it; form: "QDQ" or "QOperator"."""
    import onnx

    quantization = runtime_quantization()
    model = with_random_weights(path)
    source, target = folder / "float.onnx", folder / f"{form}.onnx"
    onnx.save(model, source)
    entry = model.graph.input[0]
    shape = [size.dim_value for size in entry.type.tensor_type.shape.dim][1:]
    reader = calibration_reader(entry.name, random_images(shape, COMPARED, 1)[:, None])
    logging.getLogger().setLevel(logging.ERROR)
    quantization.quantize_static(source, target, reader, quant_format=quantization.QuantFormat[
        form], per_channel=True, activation_type=quantization.QuantType.QInt8,
        weight_type=quantization.QuantType.QInt8)
    return target


def reference_trace(path: Path, program, x) -> dict[str, np.ndarray]:
    """Codes of the Program's tensors as ONNX Runtime computes them, its graph left as it is.

    Real values that stand for codes are put on their grid; tensors that the file lacks are left
    out. x: float32, one image at a time.
    """
    import onnx

    from golden.arith import quantize
    from sw.formats.onnx import runtime as onnx_runtime

    model = onnx.load(path)
    written = {name for node in model.graph.node for name in node.output}
    names = [name for name in program.tensors if name in written]
    del model.graph.output[:]
    model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    runner, source = onnx_runtime.session(model, optimize=False), model.graph.input[0].name
    parts = {name: [] for name in names}
    for image in x:
        for name, values in zip(names, runner.run(names, {source: image[None]})):
            grid = program.tensors[name].quantization
            if values.dtype == np.uint8:
                values = (values ^ 0x80).view(np.int8)
            elif values.dtype != np.int8:
                values = quantize(values, grid.scale, grid.zero_point).astype(np.int8)
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def compared(program, trace, expected) -> dict[str, float]:
    """Share of codes unlike the reference's in percent, the largest difference, top-1 agreement
    in percent."""
    pairs = [(trace[name].astype(np.int16), codes) for name, codes in expected.items()]
    unlike = sum(int((ours != codes).sum()) for ours, codes in pairs)
    total = sum(codes.size for _, codes in pairs)
    output = program.outputs[0]
    ours, theirs = (values[output].reshape(len(values[output]), -1).argmax(1)
                    for values in (trace, expected))
    return {"differing_codes": 100 * unlike / total, "largest_difference": max(
        int(np.abs(ours - codes).max()) for ours, codes in pairs),
        "top1_agreement": 100 * float((ours == theirs).mean())}


UNITS = {"differing_codes": "%", "largest_difference": "codes", "top1_agreement": "%"}


def quantized_rows(command: str) -> list[dict]:
    """Imported QDQ and QLinear models against ONNX Runtime, every tensor."""
    from golden.program.interpreter import run
    from sw.formats.onnx.importer import import_onnx

    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for form in ("QDQ", "QOperator"):
            path = statically_quantized(light_models()[MODEL], Path(folder), form)
            program = import_onnx(path)
            x = random_images(program.input_shape, COMPARED, 2)
            found = compared(program, run(program, x), reference_trace(path, program, x))
            context = (f"{MODEL} with random weights, quantized by ONNX Runtime (static, {form}, "
                       f"int8, per channel), every tensor of {COMPARED} random images, ONNX "
                       f"Runtime without graph optimisations")
            rows += [row(f"onnx.{form.lower()}.{name}", value, UNITS[name], command,
                         context=context) for name, value in found.items()]
            print(f"{form}: {found}", flush=True)
    return rows


def measure(arguments: argparse.Namespace, command: str) -> list[dict]:
    """The light networks (--networks names some), then the quantized ones."""
    from benchmarks import onnx_exports

    names = set(filter(None, (arguments.networks or "").split(",")))
    unknown = names - {*light_models(), "quantized", "exported"}
    if unknown:
        raise LockstepError(f"Unknown network {sorted(unknown)[0]}; known: "
                            f"{', '.join([*light_models(), 'quantized', 'exported'])}")
    rows = light_rows(names, command) if not names or names & {*light_models()} else []
    if not names or "quantized" in names:
        rows += quantized_rows(command)
    if not names or "exported" in names:
        rows += onnx_exports.measure(command)
    return rows

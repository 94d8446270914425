"""ONNX Runtime's static quantization of a float network, for comparison: W8A8 in QDQ form, signed
on both sides, weights per channel, activations by min/max, norms folded before."""

import logging
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor, nn

from golden.errors import LockstepError

if TYPE_CHECKING:
    from onnx import ModelProto

__all__ = ["accuracy", "float_onnx", "logits", "quantized"]

BATCH = 100  # images at once


def float_onnx(model: nn.Module) -> "ModelProto":
    """The folded network as an onnx.ModelProto of float operators, opset 17; its batch is free.

    Raises LockstepError for a layer that the networks of this suite do not have.
    """
    import onnx
    from onnx import helper, numpy_helper

    from sw.layers.graph import trace
    from sw.layers.weighted import QAdd, QConv2d, QGlobalAvgPool2d, QInput, QLinear, four_sides
    from sw.ptq.folding import fold_norms

    _, steps, output = trace(fold_norms(model))
    nodes, constants, names = [], [], {"": "images"}

    def constant(values, name):
        constants.append(numpy_helper.from_array(np.asarray(values), name))
        return name

    def weights(step):
        return [constant(step.module.weight.detach().numpy(), f"{step.name}.weight"),
                constant(step.module.bias.detach().numpy(), f"{step.name}.bias")]

    def activated(step, result):
        kind = getattr(step.module, "activation", None)
        if kind == "relu":
            nodes.append(helper.make_node("Relu", [result], [f"{step.name}.relu"]))
        elif kind == "relu6":
            bounds = [constant(np.float32(bound), f"{step.name}.{bound}") for bound in (0, 6)]
            nodes.append(helper.make_node("Clip", [result, *bounds], [f"{step.name}.relu"]))
        return result if kind is None else f"{step.name}.relu"

    for step in steps:
        module, inputs, attributes = step.module, [names[name] for name in step.inputs], {}
        if isinstance(module, QInput):
            names[step.name] = inputs[0]
            continue
        if isinstance(module, QConv2d):
            kind, inputs = "Conv", inputs + weights(step)
            attributes = {"kernel_shape": list(module.weight.shape[2:]), "group": module.groups,
                          "strides": list(module.stride), "dilations": list(module.dilation),
                          "pads": list(four_sides(module.padding))}
        elif isinstance(module, QLinear):
            kind, inputs, attributes = "Gemm", inputs + weights(step), {"transB": 1}
        elif isinstance(module, QAdd):
            kind = "Add"
        elif isinstance(module, QGlobalAvgPool2d):
            kind = "GlobalAveragePool"
        elif isinstance(module, nn.MaxPool2d) and isinstance(module.kernel_size, int):
            kind = "MaxPool"
            attributes = {"kernel_shape": [module.kernel_size] * 2,
                          "strides": [module.stride] * 2, "pads": [module.padding] * 4}
        elif module is None or isinstance(module, nn.Flatten):
            kind = "Flatten"
        else:
            raise LockstepError(f"Layer {step.name} ({type(module).__name__}) has no form in the "
                                f"float ONNX model of this benchmark")
        nodes.append(helper.make_node(kind, inputs, [step.name], name=step.name, **attributes))
        names[step.name] = activated(step, step.name)
    given = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT,
                                          ["N", *model.input_shape])
    result = helper.make_tensor_value_info(names[output], onnx.TensorProto.FLOAT,
                                           ["N", "classes"])
    graph = helper.make_graph(nodes, type(model).__name__, [given], [result], constants)
    made = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 17)])
    onnx.checker.check_model(made)
    return onnx.shape_inference.infer_shapes(made)


def quantized(model, images: np.ndarray) -> "ModelProto":
    """What quantize_static makes of a float onnx.ModelProto, calibrated on images."""
    import onnx

    from benchmarks.onnx import calibration_reader, runtime_quantization

    quantization = runtime_quantization()
    reader = calibration_reader("images", np.split(images, range(BATCH, len(images), BATCH)))
    level = logging.getLogger().level
    logging.getLogger().setLevel(logging.ERROR)  # its advice to run a preprocessing
    try:
        with tempfile.TemporaryDirectory() as folder:
            source, target = Path(folder) / "float.onnx", Path(folder) / "int8.onnx"
            onnx.save(model, source)
            quantization.quantize_static(
                source, target, reader, quant_format=quantization.QuantFormat.QDQ,
                per_channel=True, activation_type=quantization.QuantType.QInt8,
                weight_type=quantization.QuantType.QInt8)
            return onnx.load(target)
    finally:
        logging.getLogger().setLevel(level)


def logits(model, images: np.ndarray, threads: int) -> np.ndarray:
    """(N, classes) of an onnx.ModelProto in ONNX Runtime.

    Without graph optimisations: they bring in its int8 kernels, which on CPUs without VNNI saturate
    the sum of two products to 16 bits. That costs a VGG-11 points, and is no property of its
    quantization.
    """
    from sw.formats.onnx import runtime as onnx_runtime

    runner = onnx_runtime.session(model, optimize=False, threads=threads)
    parts = np.split(images, range(BATCH, len(images), BATCH))
    return np.concatenate([runner.run(None, {"images": part})[0] for part in parts])


def accuracy(model: nn.Module, images: Tensor, test: tuple[Tensor, Tensor], threads: int) -> float:
    """Test accuracy in percent of the network in ONNX Runtime's W8A8."""
    x, labels = (values.numpy() for values in test)
    found = logits(quantized(float_onnx(model), images.numpy()), x, threads)
    return 100 * float((found.argmax(1) == labels).mean())

"""Brevitas' post-training quantization of a float network, for comparison.

The network is rebuilt of Brevitas' layers with the widths that Lockstep gives every tensor, float
scales, weights per channel, activations per tensor. Two settings: ``plain``, Brevitas' own defaults
(weights by their maximum, activations by the percentile 99.999), and ``all``, its cross-layer
equalisation, ranges of least squared error, GPTQ and bias correction.
"""

import importlib.metadata
import importlib.util
import operator
import warnings

import torch
from torch import Tensor, fx, nn

from golden.errors import LockstepError
from sw.layers.weighted import QAdd, QConv2d, QGlobalAvgPool2d, QInput, QLayer, QLinear

__all__ = ["accuracy", "installed", "plain_network", "version"]

BATCH = 64  # images at once
EQUALISATIONS = 20


def installed() -> bool:
    """Is the package there? It belongs to the extra ``bench``."""
    return importlib.util.find_spec("brevitas") is not None


def version() -> str:
    """The version of the package."""
    return importlib.metadata.version("brevitas")


def plain_network(steps, output: str) -> fx.GraphModule:
    """The steps of a folded float network as layers of torch.nn; ``<layer>_act`` is the activation
    function, or an identity, behind each layer, dots of the names replaced by underlines."""
    graph, modules, values = fx.Graph(), {}, {}

    def call(name, module, *inputs):
        modules[name] = module
        return graph.call_module(name, tuple(inputs))

    values[""] = graph.placeholder("images")
    for step in steps:
        module, name = step.module, step.name.replace(".", "_")
        inputs = [values[source] for source in step.inputs]
        if isinstance(module, QInput):
            value = inputs[0]
        elif isinstance(module, (QConv2d, QLinear)):
            value = call(name, _layer(module), *inputs)
        elif isinstance(module, QAdd):
            value = graph.call_function(operator.add, tuple(inputs))
        elif isinstance(module, QGlobalAvgPool2d):
            value = call(name, nn.AdaptiveAvgPool2d(1), *inputs)
        elif module is None or isinstance(module, nn.Flatten):
            value = graph.call_function(torch.flatten, (inputs[0], 1))
        elif isinstance(module, nn.MaxPool2d):
            value = call(name, module, *inputs)
        else:
            raise LockstepError(f"Layer {step.name} ({type(module).__name__}) has no form in the "
                                f"Brevitas network of this benchmark")
        if isinstance(module, QLayer):
            functions = {None: nn.Identity, "relu": nn.ReLU, "relu6": nn.ReLU6}
            value = call(f"{name}_act", functions[module.activation](), value)
        values[step.name] = value
    graph.output(values[output])
    return fx.GraphModule(modules, graph).eval()


def _layer(module: QConv2d | QLinear) -> nn.Module:
    if isinstance(module, QConv2d):
        outputs, inputs, *kernel = module.weight.shape
        made = nn.Conv2d(inputs * module.groups, outputs, kernel, module.stride, module.padding,
                         module.dilation, module.groups)
    else:
        made = nn.Linear(module.weight.shape[1], module.weight.shape[0])
    made.weight.data, made.bias.data = module.weight.data.clone(), module.bias.data.clone()
    return made


def _quantized_layer(module: nn.Conv2d | nn.Linear, bits: int, least_error: bool) -> nn.Module:
    import brevitas.nn as qnn
    from brevitas.quant import Int8WeightPerChannelFloat, Int8WeightPerChannelFloatMSE

    options = {"weight_bit_width": bits, "weight_quant":
               Int8WeightPerChannelFloatMSE if least_error else Int8WeightPerChannelFloat}
    if isinstance(module, nn.Conv2d):
        made = qnn.QuantConv2d(module.in_channels, module.out_channels, module.kernel_size,
                               stride=module.stride, padding=module.padding,
                               dilation=module.dilation, groups=module.groups, bias=True,
                               **options)
    else:
        made = qnn.QuantLinear(module.in_features, module.out_features, bias=True, **options)
    made.weight.data, made.bias.data = module.weight.data, module.bias.data
    return made


def _quantized_activation(module: nn.Module, bits: int, least_error: bool) -> nn.Module:
    import brevitas.nn as qnn
    from brevitas.quant import Uint8ActPerTensorFloat, Uint8ActPerTensorFloatMSE
    from brevitas.quant.shifted_scaled_int import (
        ShiftedUint8ActPerTensorFloat,
        ShiftedUint8ActPerTensorFloatMSE,
    )

    if isinstance(module, nn.Identity):
        quantizer = ShiftedUint8ActPerTensorFloatMSE if least_error \
            else ShiftedUint8ActPerTensorFloat
        return qnn.QuantIdentity(act_quant=quantizer, bit_width=bits)
    quantizer = Uint8ActPerTensorFloatMSE if least_error else Uint8ActPerTensorFloat
    quantized = qnn.QuantReLU(act_quant=quantizer, bit_width=bits)
    return nn.Sequential(module, quantized) if isinstance(module, nn.ReLU6) else quantized


def quantized(model: nn.Module, images: Tensor, config, *, strong: bool) -> nn.Module:
    """The network in Brevitas, calibrated on images. config: of whose bits every tensor gets as
    many; strong: with all methods, else the defaults."""
    from brevitas.graph.calibrate import bias_correction_mode, calibration_mode
    from brevitas.graph.equalize import EqualizeGraph
    from brevitas.graph.gptq import gptq_mode

    from sw.layers.graph import trace
    from sw.ptq.folding import fold_norms
    from sw.ptq.widths import plan_widths

    _, steps, output = trace(fold_norms(model))
    widths = {name.replace(".", "_"): planned
              for name, planned in plan_widths(steps, output, config).items()}
    network = plain_network(steps, output)
    if strong:
        network = EqualizeGraph(iterations=EQUALISATIONS).apply(network)
    for name, planned in widths.items():
        if hasattr(network, name) and hasattr(getattr(network, name), "weight"):
            layer = getattr(network, name)
            setattr(network, name, _quantized_layer(layer, planned.weight,
                                                    strong and planned.weight < 8))
        activation = getattr(network, f"{name}_act")
        setattr(network, f"{name}_act", _quantized_activation(
            activation, planned.activation, strong and planned.activation < 8))
    network.eval()
    batches = images.split(BATCH)
    with torch.no_grad():
        with calibration_mode(network):
            for batch in batches:
                network(batch)
        network(batches[0])  # the weights' ranges, which calibration leaves alone
        if strong:
            with gptq_mode(network, use_quant_activations=True) as mode:
                for _ in range(mode.num_layers):
                    for batch in batches:
                        mode.model(batch)
                    mode.update()
            with bias_correction_mode(network):
                for batch in batches:
                    network(batch)
    return network


def accuracy(model: nn.Module, images: Tensor, test: tuple[Tensor, Tensor], config, *,
             strong: bool) -> float:
    """Test accuracy in percent of the network in Brevitas."""
    from sw.train.evaluate import accuracy as share
    from sw.train.evaluate import logits_of

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Brevitas' own
        network = quantized(model, images, config, strong=strong)
        return 100 * share(logits_of(network, test[0]), test[1])

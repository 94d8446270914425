"""Finds where a number stopped being finite, by running the failing batch again with hooks."""

import copy
from collections.abc import Callable

import torch
from torch import Tensor, nn

__all__ = ["first_not_finite"]


def _finite(value) -> bool:
    tensors = [value] if isinstance(value, Tensor) else \
        [entry for entry in value if isinstance(entry, Tensor)] if isinstance(value, tuple) else []
    return all(tensor.isfinite().all().item() for tensor in tensors)


def first_not_finite(model: nn.Module, loss_of: Callable[[nn.Module], Tensor]) -> str | None:
    """Words for the first place whose output, or else whose gradient, is not finite, or None.

    model: in the state before the failing step; it is copied. loss_of(copy) must run the failing
    batch through the copy and return the scalar loss. A layer is blamed whose inputs are all
    finite (in the backward pass: the gradients of whose outputs are), the innermost such one.
    """
    model = copy.deepcopy(model).train()
    names = {module: name or type(model).__name__ for name, module in model.named_modules()}
    outputs: list[str] = []
    gradients: list[str] = []

    def after_forward(module, inputs, output):
        if _finite(inputs) and not _finite(output):
            outputs.append(names[module])

    def watch_gradient(tensor: Tensor, name: str) -> None:
        def seen(gradient):
            if not _finite(gradient):
                gradients.append(name)
        tensor.register_hook(seen)

    def before_forward(module, inputs):
        own = []  # a view for each reader of a tensor, so that gradients are seen one by one
        for value in inputs:
            if isinstance(value, Tensor) and value.requires_grad:
                value = value.view_as(value)
                watch_gradient(value, f"the gradient to the input of layer {names[module]}")
            own.append(value)
        return tuple(own)

    for module in model.modules():
        module.register_forward_hook(after_forward)
        module.register_forward_pre_hook(before_forward)
        for name, parameter in module.named_parameters(recurse=False):
            if parameter.requires_grad:
                watch_gradient(parameter, f"the gradient to {name} of layer {names[module]}")
    loss = loss_of(model)
    if outputs:
        return f"the output of layer {outputs[0]}"
    if not _finite(loss):
        return "the loss, of finite network outputs"
    with torch.autograd.set_multithreading_enabled(False):  # hooks in the order of the graph
        loss.backward()
    return gradients[0] if gradients else None

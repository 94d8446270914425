"""The layers of a model in execution order, found by tracing it (torch.fx), each one a leaf.

Tensors of the integer program, and the codes captured from the float simulation, are named by the
module path of the layer that produces them.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import fx, nn

from golden.errors import LockstepError
from sw.layers.graph_layers import PaddedMaxPool2d
from sw.layers.weighted import QLayer

__all__ = ["LayerCall", "evaluating", "trace"]

DROPOUTS = (nn.Dropout, nn.Dropout2d)
PASS_THROUGH = (nn.Identity, *DROPOUTS)  # do nothing in evaluation
CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


@dataclass(frozen=True)
class LayerCall:
    """One layer call: name (unique), module (None for flatten), names of its inputs in the order
    of the arguments (one used twice is there twice), fx node."""

    name: str
    module: nn.Module | None
    inputs: tuple[str, ...]
    node: fx.Node


class _Tracer(fx.Tracer):
    def is_leaf_module(self, module: nn.Module, path: str) -> bool:
        if isinstance(module, (QLayer, PaddedMaxPool2d)):
            return True
        return type(module).__module__.startswith("torch.nn") and not isinstance(module,
                                                                                 CONTAINERS)


@contextlib.contextmanager
def evaluating(model: nn.Module) -> Iterator[nn.Module]:
    """The model in evaluation mode, and back."""
    mode = model.training
    model.eval()
    try:
        yield model
    finally:
        model.train(mode)


def _where(node: fx.Node) -> str:
    stack = list(node.meta.get("nn_module_stack", {}))
    return stack[-1] or "the model's forward" if stack else "the model's forward"


def _is_flatten(node: fx.Node) -> bool:
    if node.target not in (torch.flatten, "flatten"):
        return False
    start = node.args[1] if len(node.args) > 1 else node.kwargs.get("start_dim", 0)
    end = node.args[2] if len(node.args) > 2 else node.kwargs.get("end_dim", -1)
    return start == 1 and end == -1


def trace(model: nn.Module, keep_dropout: bool = False
          ) -> tuple[fx.GraphModule, list[LayerCall], str]:
    """Trace a model: (graph module, steps in execution order, name of the output tensor).

    The placeholder is named ``""``. keep_dropout: dropouts are steps, as in training. Raises
    LockstepError naming the module path of anything that is not a layer of sw/layers/weighted.py, a
    pooling, a flatten or a pass-through.
    """
    try:
        graph = _Tracer().trace(model)
    except (fx.proxy.TraceError, TypeError) as error:
        raise LockstepError(f"Model {type(model).__name__} cannot be traced: its forward depends "
                            f"on values ({str(error).splitlines()[0]})") from None
    names: dict[fx.Node, str] = {}
    steps: list[LayerCall] = []
    output = None
    for node in graph.nodes:
        if node.op == "placeholder":
            names[node] = ""
        elif node.op == "output":
            if not isinstance(node.args[0], fx.Node):
                raise LockstepError(f"Model {type(model).__name__} must return one tensor")
            output = names[node.args[0]]
        elif node.op == "call_module":
            module = model.get_submodule(node.target)
            inputs = tuple(names[argument] for argument in (*node.args, *node.kwargs.values())
                           if isinstance(argument, fx.Node))
            if isinstance(module, PASS_THROUGH) and not (
                    keep_dropout and isinstance(module, DROPOUTS)):
                names[node] = inputs[0]
                continue
            used = {step.name for step in steps}
            repeat = sum(step.module is module for step in steps)
            name = f"{node.target}.{repeat}" if node.target in used else node.target
            names[node] = name
            steps.append(LayerCall(name, module, inputs, node))
        elif node.op in ("call_function", "call_method") and _is_flatten(node):
            inputs = tuple(names[argument] for argument in node.all_input_nodes)
            names[node] = node.name
            steps.append(LayerCall(node.name, None, inputs, node))
        else:
            target = getattr(node.target, "__name__", node.target)
            raise LockstepError(f"Operation {target!r} in {_where(node)} is not supported; use the "
                                f"layers of sw/layers/weighted.py")
    return fx.GraphModule(model, graph), steps, output

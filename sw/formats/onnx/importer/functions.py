"""Functions of one value: float32 to float32, as ONNX Runtime's kernels compute them.

Source: onnx/docs/Operators.md. Sigmoid and Tanh are rounded from double; ONNX Runtime's own
approximations lie a few units in the last place beside that, far less than a code.
"""

from collections.abc import Callable

import numpy as np

from sw.formats.onnx.importer.graph import NodeInfo

__all__ = ["FUNCTIONS", "function_of"]


def _sigmoid(x):
    with np.errstate(over="ignore"):
        return (1 / (1 + np.exp(-x.astype(np.float64)))).astype(np.float32)


def _tanh(x):
    return np.tanh(x.astype(np.float64)).astype(np.float32)


def _leaky_relu(x, alpha=0.01):
    return np.where(x >= 0, x, np.float32(alpha) * x)


def _hard_sigmoid(x, alpha=0.2, beta=0.5):
    return np.clip(np.float32(alpha) * x + np.float32(beta), np.float32(0), np.float32(1))


def _hard_swish(x):
    return x * _hard_sigmoid(x, 1 / 6, 0.5)


FUNCTIONS = {   # by operator, and the attributes that it has
    "Sigmoid": (_sigmoid, ()), "Tanh": (_tanh, ()), "LeakyRelu": (_leaky_relu, ("alpha",)),
    "HardSigmoid": (_hard_sigmoid, ("alpha", "beta")), "HardSwish": (_hard_swish, ()),
}


def function_of(node: NodeInfo, kind: str) -> Callable:
    """The function of float32 arrays that a node of this kind, with its attributes, is."""
    function, names = FUNCTIONS[kind]
    given = {name: node.attributes[name] for name in names if name in node.attributes}
    return lambda x: function(x, **given)

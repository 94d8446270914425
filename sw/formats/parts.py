"""The nodes and tensors of a Program while an importer collects them."""

import numpy as np

from golden.errors import LockstepError
from golden.program import Node, Tensor

MOST_WEIGHTS = 1 << 28      # of a model, those that several layers share counted for each


def check_weights(n_weights):
    """LockstepError for more weights than memory is meant for."""
    if n_weights > MOST_WEIGHTS:
        raise LockstepError(f"The layers of a model have at most {MOST_WEIGHTS} weights in all")


class Parts:
    """The Program so far.

    Arguments
    ---------
    names : those of the model's tensors, which no invented name may be.

    Members
    -------
    nodes, tensors : of the Program. notes : lines for the user.
    """

    def __init__(self, names):
        self.nodes, self.tensors, self.notes = [], {}, []
        self._taken, self._counts, self._n_weights = set(names), {}, 0

    def invent(self, wanted):
        """A name for a tensor that the model lacks: the wanted one, with a number where taken."""
        name = wanted
        while name in self._taken:
            count = self._counts[wanted] = self._counts.get(wanted, 0) + 1
            name = f"{wanted}_{count}"
        self._taken.add(name)
        return name

    def declare(self, name, shape, quantization):
        """A tensor; returns its name."""
        self.tensors[name] = Tensor(name=name, shape=tuple(shape), quantization=quantization)
        return name

    def append(self, op, inputs, output):
        """The node that writes a declared tensor and is called after it."""
        self._n_weights += np.size(getattr(op, "weights", ()))
        check_weights(self._n_weights)
        self.nodes.append(Node(name=output, op=op, inputs=tuple(inputs), outputs=(output,)))

    def put(self, name, op, inputs, quantization):
        """A tensor and the node that writes it; returns its name."""
        self.declare(name, self.output_shape(op, inputs), quantization)
        self.append(op, inputs, name)
        return name

    def put_part(self, wanted, op, inputs, quantization):
        """As `put`, of a tensor that the model lacks, called `wanted` or like it."""
        return self.put(self.invent(wanted), op, inputs, quantization)

    def output_shape(self, op, inputs):
        """The shape that an operator makes of tensors; ValueError where they do not fit."""
        return op.output_shape(*(self.tensors[source].shape for source in inputs))

"""The nodes and tensors of a Program while an importer collects them."""

from golden.program import Node, Tensor


class Parts:
    """The Program so far.

    Members
    -------
    nodes, tensors : of the Program. notes : lines for the user.
    """

    def __init__(self):
        self.nodes, self.tensors, self.notes = [], {}, []

    def declare(self, name, shape, quantization):
        """A tensor; returns its name."""
        self.tensors[name] = Tensor(name=name, shape=tuple(shape), quantization=quantization)
        return name

    def append(self, op, inputs, output):
        """The node that writes a declared tensor and is called after it."""
        self.nodes.append(Node(name=output, op=op, inputs=tuple(inputs), outputs=(output,)))

    def put(self, name, op, inputs, quantization):
        """A tensor and the node that writes it; returns its name."""
        self.declare(name, self.output_shape(op, inputs), quantization)
        self.append(op, inputs, name)
        return name

    def output_shape(self, op, inputs):
        """The shape that an operator makes of tensors; ValueError where they do not fit."""
        return op.output_shape(*(self.tensors[source].shape for source in inputs))

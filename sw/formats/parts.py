"""What importers add to the builder of a Program: notes, and a limit of weights."""

import numpy as np

from golden.errors import LockstepError
from golden.program.builder import ProgramBuilder

__all__ = ["Parts", "check_weights"]

MOST_WEIGHTS = 1 << 28      # of a model, those that several layers share counted for each


def check_weights(n_weights) -> None:
    """LockstepError for more weights than memory is meant for."""
    if n_weights > MOST_WEIGHTS:
        raise LockstepError(f"The layers of a model have at most {MOST_WEIGHTS} weights in all")


class Parts(ProgramBuilder):
    """The Program so far. names: those of the model's tensors; notes: lines for the user."""

    def __init__(self, names):
        super().__init__(names)
        self.notes, self._n_weights = [], 0

    def node(self, name, op, inputs, quantization=None, **fields) -> str:
        """`ProgramBuilder.node`; LockstepError for too many weights in all."""
        self._n_weights += np.size(getattr(op, "weights", ()))
        check_weights(self._n_weights)
        return super().node(name, op, inputs, quantization, **fields)

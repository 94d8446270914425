"""The golden executor: runs a Program op by op and keeps every tensor."""

import numpy as np

from golden.errors import LockstepError
from golden.program.sources import source_codes

__all__ = ["run"]


def run(program, x, state: dict | None = None) -> dict:
    """Runs a Program once.

    x: an array, or a dict of arrays by input name, as `Program.quantize_inputs` takes them
    state: codes by name as `golden.program.sources.renewed_state` gave them; None for the initial
    Returns the trace, a dict of tensor name to array of the tensor's dtype, (N, C, ...), or
    (1, ...) where the tensor is not batched; inputs and state included.
    Raises LockstepError for an input that does not fit, or naming the node that fails.
    """
    trace = source_codes(program, x, state)
    for node in program.nodes:
        try:
            inputs = [trace[name] for name in node.inputs]
        except KeyError as error:
            raise LockstepError(f"Node {node.name} reads tensor {error} before it is written"
                                ) from error
        try:
            results = node.op(*inputs)
        except (TypeError, ValueError) as error:
            raise LockstepError(f"Node {node.name} ({type(node.op).__name__}): {error}") from error
        if isinstance(results, np.ndarray):
            results = (results,)
        trace.update(zip(node.outputs, results, strict=True))
    return trace

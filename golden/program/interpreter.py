"""The golden executor: runs a Program op by op and keeps every tensor."""

import numpy as np

from golden.errors import LockstepError


def run(program, x):
    """Runs a Program. x: float or int8, batch first, in the Program's input layout.

    Returns a dict of tensor name to int8 array, (N, C, H, W) or (N, F), the input included.
    Raises LockstepError for an input that does not fit, or naming the node that fails.
    """
    trace = {program.inputs[0]: program.quantize_input(x)}
    for node in program.nodes:
        try:
            results = node.op(*(trace[name] for name in node.inputs))
        except KeyError as error:
            raise LockstepError(f"Node {node.name} reads tensor {error} before it is written"
                                ) from error
        except (TypeError, ValueError) as error:
            raise LockstepError(f"Node {node.name} ({type(node.op).__name__}): {error}") from error
        if isinstance(results, np.ndarray):
            results = (results,)
        trace.update(zip(node.outputs, results, strict=True))
    return trace

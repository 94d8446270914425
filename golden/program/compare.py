"""Compares the traces of several executors, tensor by tensor, with the golden one as reference."""

from dataclasses import dataclass

import numpy as np

from golden.errors import LockstepError

__all__ = ["Difference", "compare"]

REFERENCE = "golden"


@dataclass(frozen=True, kw_only=True)
class Difference:
    """One tensor of one backend that is not the golden one.

    node, op: the node that writes the tensor and its operator; both "input" for the Program's
        inputs, "state" for its state
    index: position of the first different element, batch first, in C order
    expected, actual: the golden and the backend's value there
    n_different: how many elements differ
    """

    backend: str
    node: str
    op: str
    tensor: str
    index: tuple
    expected: int
    actual: int
    n_different: int

    def __str__(self):
        return (f"{self.backend}: {self.node} ({self.op}) gives tensor {self.tensor} with "
                f"{self.actual}, not {self.expected}, at {self.index}; "
                f"{self.n_different} elements differ")


def compare(traces: dict, program) -> list[Difference]:
    """Differences of all backends, in the order of the nodes: the first one is the culprit.

    traces: dict of backend name to trace; must hold "golden". A backend may leave out tensors that
        it does not keep, or keep those of the first images only, but not so the output.
    Returns a list of `Difference`, empty where all agree. Raises LockstepError for a missing
    reference or output, and for a tensor of another shape or kind.
    """
    if REFERENCE not in traces:
        raise LockstepError(f"Traces must hold {REFERENCE!r}, not only {sorted(traces)}")
    writers = [(name, "input", "input") for name in program.inputs]
    writers += [(name, "state", "state") for name in program.state]
    writers += [(name, node.name, type(node.op).__name__)
                for node in program.nodes for name in node.outputs]
    differences = []
    for tensor, node, op in writers:
        for backend in traces:
            if backend == REFERENCE:
                continue
            if tensor not in traces[backend]:
                if tensor in program.outputs:
                    raise LockstepError(f"Backend {backend} gives no output {tensor}")
                continue
            expected, actual = (np.asarray(traces[name][tensor]) for name in (REFERENCE, backend))
            if tensor not in program.outputs:
                expected = expected[:len(actual)]
            found = _first(expected, actual, f"{tensor} of backend {backend}")
            if found is not None:
                differences.append(Difference(backend=backend, node=node, op=op, tensor=tensor,
                                              **found))
    return differences


def _first(expected, actual, name):
    if actual.dtype.kind not in "iu":
        raise LockstepError(f"Tensor {name} must hold integers, not {actual.dtype}")
    if actual.shape != expected.shape:
        raise LockstepError(f"Tensor {name} must have shape {expected.shape}, not {actual.shape}")
    different = actual != expected
    if not different.any():
        return None
    index = tuple(int(i) for i in np.unravel_index(int(different.argmax()), different.shape))
    return {"index": index, "expected": int(expected[index]), "actual": int(actual[index]),
            "n_different": int(different.sum())}

"""Where a reference kernel's rescale leaves int32, which it does not check.

MultiplyByQuantizedMultiplier (common.cc) shifts the sum left in int32 and so wraps around for large
factors, as FULLY_CONNECTED does where its product is no int32 and every kernel where the zero point
takes the result beyond. A Program saturates, which is the code nearest to the real result.
"""

import numpy as np

from golden import arith
from golden.arith import INT32_MAX, INT32_MIN, Rounding
from golden.ops import Rescale
from golden.program import Program
from golden.program.verify import Report

__all__ = ["leaves_int32", "overflow_notes"]

FLOAT_SLACK = 16    # between a product with a double near 2**31 and that with a multiplier


def leaves_int32(rescale: Rescale, sums: np.ndarray) -> np.ndarray:
    """Does the reference kernel wrap around? bool (C,) for one sum per channel, int64 (C,)."""
    left, _ = arith.split_shift(rescale.shift)
    result = arith.round_shift(sums * rescale.multiplier, rescale.shift) + rescale.zero_point
    if rescale.rounding is Rounding.HALF_UP:
        return (result < INT32_MIN + FLOAT_SLACK) | (result > INT32_MAX - FLOAT_SLACK)
    outside = [(values < INT32_MIN) | (values > INT32_MAX) for values in (sums << left, result)]
    return outside[0] | outside[1]


def overflow_notes(program: Program, report: Report) -> list[str]:
    """A line for each tensor whose sums can leave int32 within what `verify` has proven of them."""
    notes = []
    for node in program.nodes:
        rescale = getattr(node.op, "rescale", None)
        if rescale is None:
            continue
        ranges = report[node.name].input_ranges
        bounds, _ = node.op.accumulators(ranges)
        if bounds is None:      # one code, rescaled by itself
            bounds = np.array(ranges[0])[:, None] - node.op.reads_zero_points[0]
        wraps = leaves_int32(rescale, bounds[0]) | leaves_int32(rescale, bounds[1])
        if wraps.any():
            which = f" of {wraps.sum()} of {len(wraps)} channels" if len(wraps) > 1 else ""
            notes.append(f"Tensor {node.outputs[0]!r}: sums{which} can leave int32 where they are "
                         f"rescaled; the program's codes saturate there, those of the reference "
                         f"kernel wrap around")
    return notes

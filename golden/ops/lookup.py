"""Any function of one code, as a table."""

from dataclasses import dataclass, field

import numpy as np

from golden import arith, validate
from golden.ops.operator import Elementwise
from golden.ops.primitives import ExecutorTensor

__all__ = ["Lookup"]


@dataclass(frozen=True, kw_only=True, eq=False)
class Lookup(Elementwise):
    """y = table[q + 128]: a unary function between any two quantizations.

    table: int8 (256,), the output of codes -128 to 127
    """

    pointwise = True

    table: np.ndarray = field()     # without a default: it replaces the property of the base

    def __post_init__(self):
        length = arith.INT8_MAX - arith.INT8_MIN + 1
        self._put("table", validate.int_array("Table", self.table, np.int8, 1, length=length))

    def output_range(self, input_ranges) -> tuple:
        """The entries of the input's range."""
        (low, high), = input_ranges
        entries = self.table[low - arith.INT8_MIN:high - arith.INT8_MIN + 1]
        return int(entries.min()), int(entries.max())

    def compute(self, p, x) -> ExecutorTensor:
        """Any shape."""
        return p.lookup(x, self.table)

    compute_real = compute

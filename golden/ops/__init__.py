"""The operators of a Program: frozen objects that validate themselves and are their golden model.

`op(*inputs)` maps int8 arrays with a leading batch axis, (N, C, H, W) or (N, F), to int8.
`op.output_shape(*shapes)` maps shapes without the batch axis and raises ValueError where an input
does not fit. Ops that multiply and accumulate also have `accumulate` and `accumulator_bounds`.
"""

from golden.ops.convolution import Conv2d, Linear
from golden.ops.elementwise import Add, Clamp, Concat, Rescaling, Reshape
from golden.ops.norm import RangeNorm
from golden.ops.pooling import AveragePool, CodeAveragePool, GlobalAveragePool, MaxPool
from golden.ops.rescale import Rescale

OPERATORS = (Conv2d, Linear, Add, MaxPool, AveragePool, CodeAveragePool, GlobalAveragePool, Concat,
             Reshape, Clamp, Rescaling, RangeNorm)

__all__ = ["Rescale", "OPERATORS", *(operator.__name__ for operator in OPERATORS)]

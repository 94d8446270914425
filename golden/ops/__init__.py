"""The operators of a Program: frozen records that validate themselves and are their golden model.

`golden.ops.operator` says what a record holds. `op(*inputs)` maps int8 arrays with a leading batch
axis, (N, C, H, W) or (N, F), to int8.
"""

from golden.ops.convolution import Conv2d, Linear
from golden.ops.elementwise import Add, Clamp, Concat, Rescaling, Reshape
from golden.ops.lookup import Lookup
from golden.ops.mul import Mul
from golden.ops.norm import RangeNorm
from golden.ops.operator import Operator
from golden.ops.pooling import AveragePool, CodeAveragePool, GlobalAveragePool, MaxPool
from golden.ops.rescale import Rescale
from golden.ops.training import ConvolutionSums, InputGradient, WeightGradient

OPERATORS = (Conv2d, Linear, Add, Mul, MaxPool, AveragePool, CodeAveragePool, GlobalAveragePool,
             Concat, Reshape, Clamp, Rescaling, Lookup, RangeNorm)

#: What a training step has beside them; whole batches of a Program.
TRAINING_OPERATORS = (ConvolutionSums, InputGradient, WeightGradient)

__all__ = ["OPERATORS", "Operator", "Rescale", "TRAINING_OPERATORS",
           *(operator.__name__ for operator in (*OPERATORS, *TRAINING_OPERATORS))]

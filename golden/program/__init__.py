"""Programs: what they hold, how they are built, stored, proven, run and compared."""

from golden.program.layout import LAYOUTS
from golden.program.program import Program
from golden.program.tensor import DTYPES, Node, Quantization, State, Tensor

__all__ = ["DTYPES", "LAYOUTS", "Node", "Program", "Quantization", "State", "Tensor"]

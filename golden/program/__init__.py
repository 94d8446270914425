"""Programs: what they hold, how they are stored, proven, run and compared."""

from golden.program.program import LAYOUTS, Node, Program, Quantization, Tensor

__all__ = ["LAYOUTS", "Node", "Program", "Quantization", "Tensor"]

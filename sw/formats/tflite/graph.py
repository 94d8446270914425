"""What a .tflite file holds, as frozen records, with the checks that several operators share."""

from dataclasses import dataclass
from math import prod
from typing import NoReturn

import numpy as np

from golden.errors import LockstepError

__all__ = ["OperatorInfo", "TensorInfo", "TfliteGraph", "check_activation"]

MOST_ELEMENTS = 1 << 26     # of an activation


@dataclass(frozen=True, kw_only=True, eq=False)
class TensorInfo:
    """A tensor of the file.

    shape: the batch included; is_dynamic: the file leaves more than the batch open
    dtype: in lower case, as numpy calls it where numpy has it
    scales: float32 (n,), n = 0 without quantization; zero_points: int64 (n,); axis: of the scales
    data: array of a constant, else None
    """

    index: int
    name: str
    shape: tuple
    is_dynamic: bool
    dtype: str
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    data: np.ndarray | None

    @property
    def scale(self) -> float:
        """The scale of a tensor that has one, a Python float of the float32 value."""
        return float(self.scales[0])

    @property
    def zero_point(self) -> int:
        """The zero point of a tensor that has one."""
        return int(self.zero_points[0])

    @property
    def size(self) -> int:
        """Elements, the batch included."""
        return prod(self.shape)


@dataclass(frozen=True, kw_only=True, eq=False)
class OperatorInfo:
    """An operator: its kind as the schema spells it, TensorInfos (None where left out), options
    by the schema's field names. It is called by the name of its first output."""

    kind: str
    inputs: tuple
    outputs: tuple
    options: dict

    @property
    def output(self) -> TensorInfo:
        """The TensorInfo of the first output."""
        return self.outputs[0]

    @property
    def name(self) -> str:
        """The first output's name."""
        return self.output.name

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"Operator {self.kind} (tensor {self.name!r})"

    def refuse(self, why) -> NoReturn:
        """Raise LockstepError naming the operator."""
        raise LockstepError(f"{self.title}: {why}")

    def constant(self, position, what, dtypes, ndim=None) -> np.ndarray:
        """The array of a constant input; LockstepError for a computed one or another type."""
        info = self.inputs[position] if position < len(self.inputs) else None
        if info is None or info.data is None:
            self.refuse(f"{what} must be a constant of the file")
        if info.dtype not in dtypes:
            self.refuse(f"{what} must be {' or '.join(dtypes)}, not {info.dtype} "
                        f"(tensor {info.name!r})")
        if ndim is not None and info.data.ndim != ndim:
            self.refuse(f"{what} must have {ndim} dimensions, not {info.data.ndim}")
        return info.data

    def activation(self, position, rank=None) -> TensorInfo:
        """The TensorInfo of an int8 input that is computed; checked as `check_activation` does."""
        info = self.inputs[position] if position < len(self.inputs) else None
        if info is None:
            self.refuse(f"input {position} is missing")
        if info.data is not None:
            self.refuse(f"input {position} must be computed, not a constant "
                        f"(tensor {info.name!r})")
        check_activation(info)
        if rank is not None and len(info.shape) != rank:
            self.refuse(f"input {position} must have {rank} dimensions, not {len(info.shape)}")
        return info


@dataclass(frozen=True, kw_only=True, eq=False)
class TfliteGraph:
    """The first subgraph. operators: in execution order; inputs, outputs: TensorInfos."""

    operators: tuple
    inputs: tuple
    outputs: tuple

    @property
    def names(self) -> set[str]:
        """The set of the names of all tensors that count."""
        groups = (self.inputs, *((*operator.inputs, *operator.outputs)
                                 for operator in self.operators))
        return {info.name for infos in groups for info in infos if info}


def check_activation(info, is_constant=False) -> None:
    """LockstepError unless the tensor is int8 of one scale and zero point and a known shape.

    is_constant: it may lack the batch
    """
    what = f"Tensor {info.name!r}"
    if info.dtype != "int8":
        raise LockstepError(f"{what} must be int8, not {info.dtype}")
    if info.is_dynamic:
        raise LockstepError(f"{what} must have a known shape, not {list(info.shape)} with "
                            f"dimensions left open")
    if not is_constant and (len(info.shape) < 2 or info.shape[0] != 1 or min(info.shape) < 1):
        raise LockstepError(f"{what} must have a batch of 1 in front of its dimensions, "
                            f"not shape {list(info.shape)}")
    if info.size > MOST_ELEMENTS:
        raise LockstepError(f"{what} must have at most {MOST_ELEMENTS} elements, not {info.size}")
    if len(info.scales) != 1:
        raise LockstepError(f"{what} must have one scale, not {len(info.scales)}: activations are "
                            f"quantized per tensor")
    if not (np.isfinite(info.scales[0]) and info.scales[0] > 0):
        raise LockstepError(f"{what} must have a finite scale above 0, not {info.scales[0]}")
    if not -128 <= info.zero_point <= 127:
        raise LockstepError(f"{what} must have a zero point in -128..127, not {info.zero_point}")

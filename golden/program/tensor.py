"""The parts of a Program: quantizations, tensors, nodes and state."""

from dataclasses import dataclass

import numpy as np

from golden import arith, validate
from golden.ops import Operator

__all__ = ["DTYPES", "Node", "Quantization", "State", "Tensor", "check_name", "check_names"]

DTYPES = ("int8", "int16", "int32")


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """real = scale * (code - zero_point). dtype: of `DTYPES`; zero_point: 0 but for int8."""

    scale: float
    zero_point: int
    dtype: str = "int8"

    def __post_init__(self):
        object.__setattr__(self, "scale", validate.positive("Scale", self.scale))
        if self.dtype not in DTYPES:
            raise ValueError(f"Dtype must be {', '.join(DTYPES[:-1])} or {DTYPES[-1]}, "
                             f"not {self.dtype!r}")
        limits = (arith.INT8_MIN, arith.INT8_MAX) if self.dtype == "int8" else (0, 0)
        what = "Zero point" if self.dtype == "int8" else f"Zero point of {self.dtype}"
        object.__setattr__(self, "zero_point", validate.integer(what, self.zero_point, *limits))

    @property
    def code_range(self) -> tuple[int, int]:
        """The smallest and the largest code of the dtype."""
        limits = np.iinfo(self.dtype)
        return int(limits.min), int(limits.max)


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """A named tensor.

    shape: without the batch axis, (C, H, W), (F,) or any other
    batched: whether there is one such tensor for every image of a run (False: one for all of them,
        as weights, masters and constants of a step are). Arrays of a trace always have a leading
        axis, which has length 1 where the tensor is not batched.
    """

    name: str
    shape: tuple
    quantization: Quantization
    batched: bool = True

    def __post_init__(self):
        check_name("Tensor name", self.name)
        object.__setattr__(self, "shape", validate.integers("Shape", self.shape, None, 1,
                                                            arith.INT32_MAX))
        validate.instance("Quantization", self.quantization, Quantization)
        validate.instance("Batched", self.batched, bool)

    @property
    def dtype(self) -> np.dtype:
        """Of the codes."""
        return np.dtype(self.quantization.dtype)


@dataclass(frozen=True, kw_only=True)
class Node:
    """One op with the names of the tensors it reads and writes."""

    name: str
    op: Operator
    inputs: tuple
    outputs: tuple

    def __post_init__(self):
        check_name("Node name", self.name)
        if not isinstance(self.op, Operator):
            raise TypeError(f"Op of node {self.name} must be an operator, not {self.op!r}")
        for which in ("inputs", "outputs"):
            object.__setattr__(self, which, check_names(
                f"{which.capitalize()} of node {self.name}", getattr(self, which)))


@dataclass(frozen=True, kw_only=True, eq=False)
class State:
    """What a run leaves to the next one in a tensor that it reads.

    renewed_by: name of the tensor whose codes it holds in the next run
    initial: integer codes of the tensor's shape (without the batch axis), those of the first run
    """

    renewed_by: str
    initial: np.ndarray

    def __post_init__(self):
        check_name("Name of the renewing tensor", self.renewed_by)
        initial = np.asarray(self.initial)
        if initial.dtype.name not in DTYPES:
            raise TypeError(f"Initial state must be an array of {', '.join(DTYPES[:-1])} or "
                            f"{DTYPES[-1]}, not {initial.dtype}")
        initial = np.array(initial, dtype=initial.dtype.newbyteorder("="), order="C")
        initial.flags.writeable = False
        object.__setattr__(self, "initial", initial)


def check_name(what: str, value: str) -> None:
    """TypeError or ValueError unless `value` is some text."""
    if not isinstance(value, str):
        raise TypeError(f"{what} must be text, not {value!r}")
    if not value:
        raise ValueError(f"{what} must not be empty")


def check_names(what: str, values: tuple | list) -> tuple:
    """The names as a tuple; TypeError or ValueError where they are no sequence of names."""
    if isinstance(values, str) or not isinstance(values, (tuple, list)):
        raise TypeError(f"{what} must be a sequence of names, not {values!r}")
    for value in values:
        check_name(what, value)
    return tuple(values)

"""Field checks of the frozen op objects: TypeError for a wrong kind, ValueError for a wrong value.

Every message is one sentence of the form "Shift must be in 0..62, not 70".
"""

import math
import numbers
from typing import TypeVar

import numpy as np

__all__ = ["codes", "instance", "int_array", "integer", "integers", "positive"]

_Kind = TypeVar("_Kind")


def integer(name, value, low, high) -> int:
    """Returns `value` as a Python int; it must be an integer in [low, high]."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an integer, not {value!r}")
    if not low <= value <= high:
        raise ValueError(f"{name} must be in {low}..{high}, not {value}")
    return int(value)


def positive(name, value) -> float:
    """Returns `value` as a float; it must be a finite real number above zero."""
    if isinstance(value, (bool, np.bool_)) or not isinstance(value, (numbers.Real, np.floating)):
        raise TypeError(f"{name} must be a real number, not {value!r}")
    if not (math.isfinite(value) and value > 0):
        raise ValueError(f"{name} must be finite and above 0, not {value}")
    return float(value)


def integers(name, values, length, low, high) -> tuple[int, ...]:
    """Returns `values` as a tuple of `length` ints (any length where it is None)."""
    if isinstance(values, str) or not hasattr(values, "__iter__"):
        raise TypeError(f"{name} must be a sequence of integers, not {values!r}")
    values = tuple(integer(name, value, low, high) for value in values)
    if length is not None and len(values) != length:
        raise ValueError(f"{name} must have {length} entries, not {len(values)}")
    return values


def int_array(name, values, dtype, ndim, low=None, high=None, length=None) -> np.ndarray:
    """Returns a read-only copy of an integer array.

    values: anything with an integer dtype, or nested sequences of ints, of `ndim` dimensions
    low, high: inclusive limits of the values, by default those of `dtype`
    length: the required first dimension, where given
    """
    array = np.asarray(values)
    if array.dtype.kind not in "iu":
        raise TypeError(f"{name} must be an integer array, not {array.dtype}")
    if array.ndim != ndim:
        raise ValueError(f"{name} must have {ndim} dimensions, not {array.ndim}")
    if array.size == 0:
        raise ValueError(f"{name} must not be empty")
    if length is not None and array.shape[0] != length:
        raise ValueError(f"{name} must have {length} entries, not {array.shape[0]}")
    limits = np.iinfo(dtype)
    low = limits.min if low is None else low
    high = limits.max if high is None else high
    for value in (int(array.min()), int(array.max())):
        if not low <= value <= high:
            raise ValueError(f"{name} must be in {low}..{high}, not {value}")
    array = np.array(array, dtype=dtype, order="C")
    array.flags.writeable = False
    return array


def codes(name, values, dtype="int8") -> np.ndarray:
    """Returns `values` as an array, which must have that dtype."""
    array = np.asarray(values)
    if array.dtype != dtype:
        raise TypeError(f"{name} must be an {dtype} array, not {array.dtype}")
    return array


def instance(name, value, kind: type[_Kind]) -> _Kind:
    """Returns `value`; it must be an instance of `kind`."""
    if not isinstance(value, kind):
        raise TypeError(f"{name} must be a {kind.__name__}, not {value!r}")
    return value

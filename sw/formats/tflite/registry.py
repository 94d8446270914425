"""What the import knows of each TFLite operator, registered once beside the function that converts
it: its options in the schema, the precision of its kernel, what it reads."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sw.formats.tflite.graph import OperatorInfo

__all__ = ["KINDS", "Kind", "converts", "factor", "on_host"]


@dataclass(frozen=True, kw_only=True)
class Kind:
    """An operator of the schema.

    convert: function of a Builder and an `OperatorInfo`; None where it runs on the host alone
    options: name of its table in the schema, None without one; fields: those that count
    precision: the float type in which the reference kernel computes the factors of its rescales,
        None without one
    n_operands: inputs that the output depends on, None for all
    takes_padding: a PAD in front of it may become its padding
    """

    convert: Callable | None = None
    options: str | None = None
    fields: tuple = ()
    precision: type | None = None
    n_operands: int | None = None
    takes_padding: bool = False


KINDS: dict[str, Kind] = {}


def converts(*names: str, **fields) -> Callable:
    """Decorator of the function that converts operators of these names; fields of their `Kind`."""
    def register(convert):
        KINDS.update(dict.fromkeys(names, Kind(convert=convert, **fields)))
        return convert
    return register


def on_host(name: str, **fields) -> None:
    """Register an operator that only the host runs."""
    KINDS[name] = Kind(**fields)


def factor(operator: OperatorInfo, *scales, over) -> np.ndarray | np.float64:
    """The product of scales over another one, as the operator's kernel computes it.

    scales: float64, scalars or arrays that broadcast; over: float64
    Returns float64 of a value that the kernel's precision holds: one bit there changes codes.
    """
    precision = KINDS[operator.kind].precision
    result = precision(1)
    with np.errstate(over="ignore", under="ignore", divide="ignore"):
        for scale in scales:
            result = result * np.asarray(scale, precision)
        return (result / precision(over)).astype(np.float64)

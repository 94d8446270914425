"""Masters and momenta of the integer training step: from a float network, and their renewal."""

import math

import numpy as np
import torch

from golden.ops import step as ops
from golden.ops.step.update import MASTER_MAX
from sw.integer.tape import RANDOM, RATES, Tape

__all__ = ["UPDATE", "update_vector", "update_weights", "vector", "vector_master", "weight_masters",
           "weights"]

UPDATE = 13                         # role of the random bits of an update, and the one behind it
INT32 = -(1 << 31), (1 << 31) - 1
WEIGHT_PARTS = "", ".momentum", ".exponent", ".grow"


def _float64(real):
    return real.detach().cpu().double().numpy()


def weight_masters(real: torch.Tensor) -> tuple[np.ndarray, int]:
    """(masters int16, exponent of the int8 weights) of float weights: the largest fits 127."""
    values = _float64(real)
    exponent = math.frexp(float(np.abs(values).max(initial=0)) / 127)[1]
    masters = np.floor(values * 2.0 ** (8 - exponent) + 0.5)
    return masters.clip(-MASTER_MAX, MASTER_MAX).astype(np.int16), exponent


def vector_master(real: torch.Tensor, fraction: int) -> np.ndarray:
    """int32 codes of values with so many fraction bits, saturated."""
    return np.floor(_float64(real) * 2.0**fraction + 0.5).clip(*INT32).astype(np.int32)


def weights(tape: Tape, name: str, real: torch.Tensor) -> str:
    """The state of a layer's weights (O, I, ...); the name of the int8 weights."""
    masters, exponent = weight_masters(real)
    initial = masters, np.zeros(masters.shape), [exponent], [0]
    for part, values, dtype in zip(WEIGHT_PARTS, initial, ("int16", "int32", "int8", "int8")):
        tape.integers(f"{name}{part}", values, dtype)
    return tape.operator(f"{name}.codes", ops.WeightCodes(), name)


def update_weights(tape: Tape, name: str, gradient: str, exponent: str, momentum: int) -> None:
    """SGD; gradient: of `KernelGradient`; exponent: of its g16 (int32)."""
    names = tuple(f"{name}{part}" for part in WEIGHT_PARTS)
    op = ops.WeightUpdate(tensor_id=tape.tensor_id(UPDATE), momentum=momentum)
    tape.learn(names, lambda: tape.operator(f"{name}.update", op, *names[:2], gradient, *names[2:],
                                            exponent, *RATES, *RANDOM))


def vector(tape: Tape, name: str, real: torch.Tensor, fraction: int) -> str:
    """The state of one value per channel; its name."""
    values = vector_master(real, fraction)
    tape.integers(f"{name}.momentum", np.zeros(values.shape), "int32")
    return tape.integers(name, values, "int32")


def update_vector(tape: Tape, name: str, gradient: str, exponent: str, offset: int, fraction: int,
                  momentum: int) -> None:
    """SGD without decay; the gradient's exponent is that of the tensor `exponent` plus offset."""
    names = name, f"{name}.momentum"
    op = ops.VectorUpdate(fraction=fraction, momentum=momentum)
    tape.learn(names, lambda: tape.operator(
        f"{name}.update", op, *names, gradient,
        tape.shift(f"{name}.gradient.exponent", (exponent,), offset), *RATES[:2]))

"""Collects the integer training step of a network: nodes, state and its renewal, and the way back.

Every tensor has an exponent of its own, a state (1,) that the exponent rule renews (delayed
scaling). Gradients are collected by the tensor that they belong to; where several layers read it,
they are added two by two.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from golden.errors import LockstepError
from golden.ops import step as ops
from golden.program import Quantization
from golden.program.builder import ProgramBuilder

__all__ = ["ActivationCodes", "CODE_BITS", "GRADIENT_BITS", "Gradient", "RANDOM", "RATES", "Tape",
           "plain"]

CODE_BITS, GRADIENT_BITS = 7, 15    # magnitude bits of what an exponent rule watches
# No module path holds a slash: no layer can have these names.
RANDOM = "host/seed", "host/step"
RATES = tuple(f"host/{name}.{part}" for name in ("rate", "decay")
              for part in ("multiplier", "shift"))
ADDITION = 0x80                     # role of the first addition of gradients


@dataclass(frozen=True, kw_only=True)
class ActivationCodes:
    """An activation: int8 codes, real = code * 2^exponent.

    name, exponent: names of tensors; shape: without the batch; low: the smallest code
    mask: what tells where its gradient counts: ("relu", (y,)), ("relu6", (y, exponent)) or None
    pixels: it is the average of so many, and its gradient is asked for each of them
    learns: something learns from its gradient; not from that of the network's input
    """

    name: str
    exponent: str
    shape: tuple
    low: int = -128
    mask: tuple | None = None
    pixels: int = 1
    learns: bool = True


@dataclass(frozen=True, kw_only=True)
class Gradient:
    """int16 codes of a tensor's gradient, dLoss/d(real value) = code * 2^exponent.

    mask: as of `ActivationCodes`, of another tensor, where readers must apply it; or None
    """

    name: str
    exponent: str
    mask: tuple | None = None


def plain(dtype: str) -> Quantization:
    """Integers that are what they are: what an exponent makes of them is state."""
    return Quantization(scale=1.0, zero_point=0, dtype=dtype)


class Tape(ProgramBuilder):
    """The step so far. settle: exponents move at once and nothing is learnt.

    layer: number of the layer that is being written, from 1 on; it is part of its tensor ids
    """

    def __init__(self, settle: bool):
        super().__init__()
        self.settle, self.layer = settle, 0
        self._backward: list[tuple[ActivationCodes, int, Callable[[Gradient], None]]] = []
        self._gradients: dict[str, list[Gradient]] = {}
        for name in (*RANDOM, *RATES):
            self.input(name, (1,), plain("int32"), batched=False)

    def tensor_id(self, role: int) -> int:
        """Which random bits a tensor of this layer takes; role: 0..255."""
        return self.layer << 8 | role

    # Nodes and state

    def operator(self, name: str, op, *inputs: str, outputs: Sequence[str] | None = None
                 ) -> str | tuple[str, ...]:
        """A node whose outputs have the dtypes of the operator's ports, and by default its name."""
        quantization = [plain(port.dtype) for port in op.ports_out]
        return self.node(name, op, inputs, quantization if op.n_outputs > 1 else quantization[0],
                         outputs=outputs)

    def shift(self, name: str, terms: Sequence[str], offset: int = 0) -> str:
        """The sum of exponents or shifts; a term with a minus before its name is taken off."""
        names = [term.removeprefix("-") for term in terms]
        op = ops.ShiftSum(signs=tuple(-1 if term[0] == "-" else 1 for term in terms),
                          dtypes=tuple(self.quantization(term).dtype for term in names),
                          offset=offset)
        return self.operator(name, op, *names)

    def integers(self, name: str, initial: np.ndarray, dtype: str) -> str:
        """State without a batch axis."""
        return self.state(name, np.asarray(initial, dtype), plain(dtype), batched=False)

    def constant_exponent(self, name: str, value: int) -> str:
        """An exponent that never moves."""
        self.integers(name, [value], "int8")
        self.renew(name, name)
        return name

    def exponent(self, name: str) -> str:
        """A new exponent, with its counter of quiet steps."""
        self.integers(f"{name}.quiet", [0], "int8")
        return self.integers(name, [0], "int8")

    def rule(self, exponent: str, top: str, bits: int) -> None:
        """The exponent follows the watch of its tensor."""
        op = ops.ExponentRule(bits=bits, settle=self.settle)
        quiet = f"{exponent}.quiet"
        renewed = self.operator(f"{exponent}.rule", op, exponent, quiet, top)
        for name, by in zip((exponent, quiet), renewed):
            self.renew(name, by)

    def rescaled(self, name: str, op, x: str, exponent: str, *rest: str, bits: int,
                 outputs: Sequence[str] | None = None) -> tuple[str, str]:
        """What op(x, shift, *rest) makes of x and its exponent: (codes, their exponent).

        op: gives codes and their watch; shift: the new exponent less that of x
        """
        e = self.exponent(f"{name}.exponent")
        shift = self.shift(f"{name}.shift", (e, f"-{exponent}"))
        codes, top = self.operator(name, op, x, shift, *rest, outputs=outputs)
        self.rule(e, top, bits)
        return codes, e

    def learn(self, names: Sequence[str], write: Callable[[], tuple[str, ...]]) -> None:
        """The state `names` is renewed by what `write` adds; while it settles, it stays."""
        for name, by in zip(names, names if self.settle else write(), strict=True):
            self.renew(name, by)

    # The way back

    def on_gradient(self, y: ActivationCodes, write: Callable[[Gradient], None]) -> None:
        """write(gradient) adds what follows from the gradient of y, in the reverse order."""
        self._backward.append((y, self.layer, write))

    def contribute(self, x: ActivationCodes, gradient: Gradient) -> None:
        """A part of the gradient of x, where anything learns from it."""
        if x.learns:
            self._gradients.setdefault(x.name, []).append(gradient)

    def backward(self) -> None:
        """Writes all that was recorded; LockstepError for a layer that nothing reads."""
        for y, layer, write in reversed(self._backward):
            self.layer = layer
            if not y.learns:
                continue
            parts = self._gradients.pop(y.name, [])
            if not parts:
                raise LockstepError(f"Layer {y.name} must be read by a layer that leads to the "
                                    f"last one")
            write(self._total(y, parts))

    def _total(self, y, parts):
        total = parts[0]
        for number, part in enumerate(parts[1:]):
            if total.mask:          # an addition masks its second operand
                total, part = part, total
            total = self._add(y, number, self.masked(total), part)
        return total

    def _add(self, y, number, a, b):
        name = f"{y.name}.gradient" + (f".{number}" if number else "")
        e = self.exponent(f"{name}.exponent")
        activation, mask = b.mask or ("none", ())
        op = ops.GradientAddition(activation=activation,
                                  tensor_id=self.tensor_id(ADDITION + number))
        g, top = self.operator(name, op, a.name, b.name, a.exponent, b.exponent, e, *RANDOM, *mask)
        self.rule(e, top, GRADIENT_BITS)
        return Gradient(name=g, exponent=e)

    def one_mask(self, gradient: Gradient, y: ActivationCodes | None = None) -> Gradient:
        """The gradient of y under the mask of y, with no other; without y under none."""
        if y is None or y.mask is None:
            return gradient if y is not None else self.masked(gradient)
        return replace(self.masked(gradient), mask=y.mask)

    def masked(self, gradient: Gradient) -> Gradient:
        """The gradient with its mask applied."""
        if gradient.mask is None:
            return gradient
        activation, mask = gradient.mask
        name = self.invent(f"{gradient.name}.masked")
        self.operator(name, ops.MaskedGradient(activation=activation), gradient.name, *mask)
        return replace(gradient, name=name, mask=None)

"""What the tensors of a quantized graph become while it is walked over.

Codes are tensors of the Program. A Real is what a DequantizeLinear makes of them. An operator on
Reals gives a `Pending` result, of which a QuantizeLinear makes codes again: only then are its
scale and zero point known.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from golden import arith, ops
from golden.ops import Rescale
from golden.program import Quantization
from sw.lower.integer_form import add_op, product_fields, shift_op

__all__ = ["Codes", "Function", "Gated", "Join", "Mean", "Pending", "Product", "Raw", "Real",
           "Shift", "Sum", "Weights"]


@dataclass(frozen=True, kw_only=True)
class Raw:
    """The float input in front of its QuantizeLinear. shape: without the batch."""

    shape: tuple


@dataclass(frozen=True, kw_only=True)
class Codes:
    """A tensor of the Program.

    offset: what the file's codes have more than the Program's: 128 for uint8, 0 for int8
    quantization: None for an input of codes that nothing has read yet
    """

    name: str
    shape: tuple
    quantization: Quantization | None
    offset: int


@dataclass(frozen=True, kw_only=True)
class Real:
    """The real values of codes."""

    codes: Codes

    @property
    def shape(self) -> tuple:
        """That of the codes, without the batch."""
        return self.codes.shape


@dataclass(frozen=True, kw_only=True, eq=False)
class Weights:
    """Constant codes with their scales.

    codes: integers as in the file; scales: float64 (n,), n = 1 or one for each along `axis`
    zero_points: int64 (n,); name: of the tensor, for messages
    """

    codes: np.ndarray
    scales: np.ndarray
    zero_points: np.ndarray
    axis: int
    name: str

    @property
    def shape(self) -> tuple:
        """That of the codes, as in the file."""
        return self.codes.shape

    def _along(self, values):
        shape = [1] * self.codes.ndim
        if len(values) > 1:
            shape[self.axis] = len(values)
        return values.reshape(shape) if self.codes.ndim else values[0]

    def real(self) -> np.ndarray:
        """The real values, float64."""
        return (self.codes - self._along(self.zero_points)) * self._along(self.scales)

    def transposed(self, order) -> Weights:
        """The same with its axes in another order."""
        axis = list(order).index(self.axis % len(order)) if self.codes.ndim else 0
        return replace(self, codes=self.codes.transpose(order), axis=axis)


@dataclass(frozen=True, kw_only=True, eq=False)
class Pending:
    """A real result that waits for its quantization.

    inputs: Codes; shape: without the batch; low, high: bounds of a clamp in real values
    flat: the shape that it has after a Reshape, else None
    """

    inputs: tuple
    own_shape: tuple
    low: float = -np.inf
    high: float = np.inf
    flat: tuple | None = None

    @property
    def shape(self) -> tuple:
        """Without the batch, after the Reshape if there is one."""
        return self.flat or self.own_shape

    def clamped(self, low, high) -> Pending:
        """The result between two more bounds."""
        low = min(max(self.low, low), high)
        return replace(self, low=low, high=max(low, min(self.high, high)))

    def bounds(self, target) -> tuple[int, int]:
        """(low, high) codes of the clamp in a Quantization."""
        low, high = arith.INT8_MIN, arith.INT8_MAX
        if self.low > -np.inf:
            low = int(arith.quantize(self.low, target.scale, target.zero_point))
        if self.high < np.inf:
            high = int(arith.quantize(self.high, target.scale, target.zero_point))
        return low, max(low, high)

    def rescale(self, factors, target) -> Rescale:
        """The Rescale of real factors, one where all are equal."""
        factors = np.atleast_1d(factors)
        if (factors == factors[0]).all():
            factors = factors[:1]
        low, high = self.bounds(target)
        return Rescale.from_factors(factors, zero_point=target.zero_point, low=low, high=high)

    def emit(self, parts, name, target) -> str:
        """The nodes that write tensor `name` with a Quantization; returns the tensor's name."""
        if not self.flat:
            return self._emit(parts, name, target)
        own = self._emit(parts, parts.invent(f"{name}/codes"), target)
        return parts.node(name, ops.Reshape(shape=self.flat), [own], target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Product(Pending):
    """gain * (weights * x) + offset of a convolution or linear layer.

    codes: int64 (O, ...); unit: float64 (O,), what a product of codes is worth
    gain, offset: float64 (O,); geometry: fields of Conv2d, None for a linear layer
    """

    codes: np.ndarray
    unit: np.ndarray
    gain: np.ndarray
    offset: np.ndarray
    geometry: dict | None

    def affine(self, factor, offset) -> Product:
        """factor * this + offset, (O,) each."""
        return replace(self, gain=self.gain * factor, offset=self.offset * factor + offset)

    def operator(self, target) -> ops.Conv2d | ops.Linear:
        """The Conv2d or Linear that gives codes of a Quantization."""
        source, = self.inputs
        fields, factors = product_fields(self.codes, self.unit * np.abs(self.gain), self.gain,
                                         self.offset, source.quantization, target)
        fields["rescale"] = self.rescale(factors, target)
        return ops.Linear(**fields) if self.geometry is None \
            else ops.Conv2d(**fields, **self.geometry)

    def real_range(self) -> tuple[float, float]:
        """(low, high): bounds of the real result, 0 included."""
        flat = self.codes.reshape(len(self.codes), -1)
        span = np.array([arith.INT8_MIN, arith.INT8_MAX]) - self.inputs[0].quantization.zero_point
        ends = np.maximum(flat * span[0], flat * span[1]), np.minimum(flat * span[0],
                                                                      flat * span[1])
        reach = np.stack([end.sum(axis=1) * self.unit * self.gain + self.offset for end in ends])
        low = min(0.0, max(float(reach.min()), self.low))
        return low, max(0.0, min(float(reach.max()), self.high))

    def _emit(self, parts, name, target):
        if (self.codes[self.gain < 0] == arith.INT8_MIN).any():
            parts.notes.append(f"Tensor {name!r}: weights of {arith.INT8_MIN} whose channel is "
                               f"negated are taken as {arith.INT8_MIN + 1}")
        return parts.node(name, self.operator(target), [self.inputs[0].name], target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Sum(Pending):
    """The sum of two tensors."""

    def _emit(self, parts, name, target):
        first, second = (codes.quantization for codes in self.inputs)
        op = add_op(first, second, target, lambda factor: self.rescale(factor, target))
        return parts.node(name, op, [codes.name for codes in self.inputs], target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Gated(Pending):
    """The product of two tensors, the second one of the first one's shape or (C, 1, 1)."""

    def _emit(self, parts, name, target):
        first, second = (codes.quantization for codes in self.inputs)
        op = ops.Mul(input_zero_points=(first.zero_point, second.zero_point),
                     rescale=self.rescale(first.scale * second.scale / target.scale, target))
        return parts.node(name, op, [codes.name for codes in self.inputs], target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Function(Pending):
    """A function of each value of a tensor.

    function: of a float32 array, to a float32 array
    """

    function: Callable

    def table(self, target) -> np.ndarray:
        """int8 (256,): the code of each code, as DequantizeLinear, the function and QuantizeLinear
        give it in float32, ties to the even one."""
        quantization = self.inputs[0].quantization
        codes = np.arange(arith.INT8_MIN, arith.INT8_MAX + 1) - quantization.zero_point
        values = self.function(codes.astype(np.float32) * np.float32(quantization.scale))
        with np.errstate(over="ignore"):
            rounded = np.rint(values / np.float32(target.scale)) + target.zero_point
        return np.clip(rounded, *self.bounds(target)).astype(np.int8)

    def _emit(self, parts, name, target):
        op = ops.Lookup(table=self.table(target))
        return parts.node(name, op, [self.inputs[0].name], target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Mean(Pending):
    """An average pool. window: WindowGeometry, None for the whole map; counts_padding: zeros
    count."""

    window: object
    counts_padding: bool = True

    def _emit(self, parts, name, target):
        source, = self.inputs
        quantization = source.quantization
        if self.window is None:
            rows, columns = source.shape[1:]
            op = ops.GlobalAveragePool(
                input_zero_point=quantization.zero_point, window=(rows, columns),
                rescale=self.rescale(quantization.scale / (rows * columns * target.scale), target))
            return parts.node(name, op, [source.name], target)
        window = {"kernel": self.window.kernel, "stride": self.window.stride,
                  "padding": self.window.padding}
        if self.counts_padding:
            factor = quantization.scale / (self.window.count * target.scale)
            op = ops.AveragePool(input_zero_point=quantization.zero_point, **window,
                                 rescale=self.rescale(factor, target))
            return parts.node(name, op, [source.name], target)
        if quantization == target:
            low, high = self.bounds(target)
            op = ops.CodeAveragePool(**window, low=low, high=high)
            return parts.node(name, op, [source.name], target)
        part = parts.node(parts.invent(f"{name}/mean"), ops.CodeAveragePool(**window),
                          [source.name], quantization)
        op = ops.Rescaling(input_zero_point=quantization.zero_point,
                           rescale=self.rescale(quantization.scale / target.scale, target))
        return parts.node(name, op, [part], target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Shift(Pending):
    """A tensor as it is, or clamped, with a new quantization."""

    def _emit(self, parts, name, target):
        source, = self.inputs
        quantization = source.quantization
        if quantization == target:
            low, high = self.bounds(target)
            return parts.node(name, ops.Clamp(low=low, high=high), [source.name], target)
        op = ops.Rescaling(input_zero_point=quantization.zero_point,
                           rescale=self.rescale(quantization.scale / target.scale, target))
        return parts.node(name, op, [source.name], target)


@dataclass(frozen=True, kw_only=True, eq=False)
class Join(Pending):
    """Tensors joined along the channels."""

    def _emit(self, parts, name, target):
        names = []
        for index, source in enumerate(self.inputs):
            part = source.name
            if source.quantization != target:
                part = parts.node(parts.invent(f"{name}/{index}"),
                                  shift_op(source.quantization, target), [source.name], target)
            names.append(part)
        low, high = self.bounds(target)
        if (low, high) == (arith.INT8_MIN, arith.INT8_MAX):
            return parts.node(name, ops.Concat(axis=1), names, target)
        joined = parts.node(parts.invent(f"{name}/joined"), ops.Concat(axis=1), names, target)
        return parts.node(name, ops.Clamp(low=low, high=high), [joined], target)

"""Random layers for fuzzing the compiler: Programs of a few operators with odd geometries.

Windows that reach far into the padding or lie wholly in it, strides above the kernel, maps of one
line, numbers of channels around those of a word, batches. What golden takes is drawn, whether the
accelerator has it or not.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from golden import ops
from golden.arith import Rounding, multiplier_and_shift
from golden.program import Program, Quantization
from golden.program.builder import ProgramBuilder
from hw.isa import N_WORDS
from hw.targets import Target

__all__ = ["LayerMaker", "random_target"]

_MOST_CODES = 12_000  # of a tensor
_MOST_MACS = 1_500_000
_DEVIATION = 40.0  # codes, of every tensor
_EDGES = (1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65, 127, 128, 129, 130)


def random_target(target: Target, rng: np.random.Generator) -> Target:
    """The target, or where it has external memory sometimes one with little memory inside."""
    if not target.bus_bits or rng.random() < 0.3:
        return target
    banks = tuple(2 * int(words) for words in rng.integers(100, 500, 4))
    return replace(target, name=f"{target.name}-small", bank_words=banks,
                   parameter_words=int(rng.choice([64, 256])),
                   instruction_words=N_WORDS * int(rng.choice([10, 64])))


def _unit(zero_point):
    return Quantization(scale=1.0, zero_point=zero_point)


class LayerMaker:
    """Draws Programs.

    Arguments
    ---------
    rng : every draw comes from it.
    """

    def __init__(self, rng: np.random.Generator):
        self.rng = rng
        self.layers = {
            ops.Conv2d: self._convolution, ops.Linear: self._linear, ops.Add: self._add,
            ops.Mul: self._mul, ops.MaxPool: self._max_pool, ops.AveragePool: self._average_pool,
            ops.CodeAveragePool: self._code_average_pool, ops.Concat: self._concat,
            ops.GlobalAveragePool: self._global_average_pool, ops.Reshape: self._reshape,
            ops.Clamp: self._clamp, ops.Rescaling: self._rescaling, ops.Lookup: self._lookup,
            ops.RangeNorm: self._range_norm}

    def program(self) -> Program:
        """One to three layers behind each other; half of them read what a convolution wrote.

        Raises LockstepError where the sums may overflow.
        """
        self.builder = ProgramBuilder()
        self.nodes, self.tensors = self.builder.nodes, self.builder.tensors
        self.rounding = list(Rounding)[self._integer(0, len(Rounding) - 1)]
        channels = self._channels()
        x = self.builder.input("input", (channels, *self._size(channels)),
                               _unit(self._zero_point()))
        if self.rng.random() < 0.5:
            x = self._pointwise(x, channels)
        kinds = [ops.Conv2d, ops.Conv2d, ops.Conv2d, *self.layers]
        for _ in range(self.rng.choice([1, 1, 2, 3])):
            x = self.layers[kinds[self.rng.integers(len(kinds))]](x) or x
        if not self.nodes:
            x = self._clamp(x)
        return self.builder.build("layers", x)

    # Draws

    def _integer(self, low, high):
        return int(self.rng.integers(low, high + 1))

    def _pair(self, low, high):
        return self._integer(low, high), self._integer(low, high)

    def _zero_point(self):
        return self._integer(-128, 127) if self.rng.random() < 0.2 else self._integer(-30, 30)

    def _channels(self, most=130):
        if self.rng.random() < 0.6:
            return int(self.rng.choice([n for n in _EDGES if n <= most]))
        return self._integer(1, most)

    def _size(self, channels):
        most = max(1, _MOST_CODES // channels)
        if self.rng.random() < 0.25:
            line = self._integer(1, min(most, 70))
            return (1, line) if self.rng.random() < 0.5 else (line, 1)
        side = min(24, int(most ** 0.5))
        return self._pair(1, max(1, side))

    def _bounds(self):
        low, high = (-128, 127) if self.rng.random() < 0.5 else sorted(self._pair(-128, 127))
        return {"low": low, "high": high}

    # Tensors and nodes

    def _append(self, op, inputs, zero_point):
        name = f"{type(op).__name__.lower()}{len(self.nodes)}"
        return self.builder.node(name, op, inputs, _unit(zero_point), outputs=[f"{name}_out"])

    def _shape(self, name):
        return self.tensors[name].shape

    def _zero_of(self, name):
        return self.tensors[name].quantization.zero_point

    def _rescale(self, factors, zero_point):
        return ops.Rescale.from_factors(factors, zero_point=zero_point, rounding=self.rounding,
                                        **self._bounds())

    def _products(self, x, weights):
        """Fields of an operator with these weights, and its output's zero point."""
        n_outputs, zero_point = len(weights), self._zero_point()
        factor = _DEVIATION / (np.sqrt(max(1, weights[0].size)) * 73.0 * _DEVIATION)
        factors = factor * self.rng.uniform(0.5, 1.5, self.rng.choice([1, n_outputs]))
        bias = self.rng.normal(0, 0.2 * _DEVIATION / factor, n_outputs).astype(np.int32)
        return {"weights": weights, "bias": bias, "input_zero_point": self._zero_of(x),
                "rescale": self._rescale(factors, zero_point)}, zero_point

    def _weights(self, *shape):
        if self.rng.random() < 0.2:  # few bits
            return (self.rng.integers(-7, 8, shape) << self._integer(0, 4)).astype(np.int8)
        return self.rng.integers(-127, 128, shape).astype(np.int8)

    def _image(self, x):
        """A tensor of rank 3: x, or where that is flat the input."""
        return x if len(self._shape(x)) == 3 else "input"

    # Layers; None where the shapes at hand do not allow one

    def _pointwise(self, x, channels):
        fields, zero_point = self._products(x, self._weights(channels, self._shape(x)[0], 1, 1))
        return self._append(ops.Conv2d(**fields), [x], zero_point)

    def _convolution(self, x):
        x = self._image(x)
        channels, *size = self._shape(x)
        kind = self.rng.choice(["dense", "dense", "depthwise", "grouped"])
        groups, outputs = 1, self._channels()
        if kind == "depthwise":
            groups, outputs = channels, channels * self.rng.choice([1, 1, 1, 2])
        elif kind == "grouped":
            groups = int(self.rng.choice([n for n in range(1, 9) if channels % n == 0]))
            outputs = groups * self._integer(1, max(1, 64 // groups))
        kernel, dilation = self._kernel(7), self.rng.choice([(1, 1), (1, 1), self._pair(1, 3)])
        dilation = tuple(int(d) for d in dilation)
        padding = self._padding(size, kernel, dilation)
        stride = self._stride(kernel)
        per_group = channels // groups
        fields, zero_point = self._products(x, self._weights(int(outputs), per_group, *kernel))
        op = ops.Conv2d(stride=stride, padding=padding, dilation=dilation, groups=int(groups),
                        **fields)
        shape = self._shape(x)
        if (op.macs(shape) > _MOST_MACS
                or np.prod(op.output_shape(shape)) > 3 * _MOST_CODES):
            return None
        return self._append(op, [x], zero_point)

    def _kernel(self, most):
        kernel = self._pair(1, 3) if self.rng.random() < 0.5 else self._pair(1, most)
        if self.rng.random() < 0.3:
            return (1, kernel[1]) if self.rng.random() < 0.5 else (kernel[0], 1)
        return kernel

    def _stride(self, kernel):
        if self.rng.random() < 0.3:  # above the kernel
            return tuple(k + self._integer(1, 3) for k in kernel)
        return self._pair(1, 3)

    def _padding(self, size, kernel, dilation):
        """(top, left, bottom, right), sometimes above the kernel; a window always fits."""
        most = self.rng.choice([0, 1, 2, max(kernel), max(kernel) + 4, 18], p=[.3, .2, .2, .1, .15,
                                                                              .05])
        padding = [self._integer(0, int(most)) for _ in range(4)]
        for axis in (0, 1):
            span = (kernel[axis] - 1) * dilation[axis] + 1
            padding[axis] += max(0, span - size[axis] - padding[axis] - padding[axis + 2])
        return tuple(padding)

    def _linear(self, x):
        if len(self._shape(x)) != 1:
            x = self._reshape(x)
        inputs, outputs = self._shape(x)[0], self._channels()
        if inputs * outputs > _MOST_MACS:
            return None
        fields, zero_point = self._products(x, self._weights(outputs, inputs))
        return self._append(ops.Linear(**fields), [x], zero_point)

    def _beside(self, x):
        """Another tensor of x's shape, or x itself."""
        alike = [name for name in self.tensors if self._shape(name) == self._shape(x)]
        return alike[self.rng.integers(len(alike))]

    def _add(self, x):
        inputs, zero_point, left_shift = [x, self._beside(x)], self._zero_point(), 20
        if self.rng.random() < 0.3:
            left_shift = self._integer(0, 20)
        factors = self.rng.uniform(0.2, 1.0, 2)
        op = ops.Add(input_zero_points=tuple(map(self._zero_of, inputs)), left_shift=left_shift,
                     input_rescales=tuple(multiplier_and_shift(float(f)) for f in factors),
                     rescale=self._rescale(1 / 2 ** left_shift, zero_point))
        return self._append(op, inputs, zero_point)

    def _mul(self, x):
        second, shape = self._beside(x), self._shape(x)
        if len(shape) == 3 and self.rng.random() < 0.5:
            second = self._global_average_pool(x)
        inputs, zero_point = [x, second], self._zero_point()
        op = ops.Mul(input_zero_points=tuple(map(self._zero_of, inputs)),
                     rescale=self._rescale(self.rng.uniform(0.005, 0.1), zero_point))
        return self._append(op, inputs, zero_point)

    def _pool(self, x):
        """Geometry of a pool: every window meets a pixel."""
        size = self._shape(x)[1:]
        kernel = tuple(min(k, n) for k, n in zip(self._kernel(7), size))
        padding = tuple(self._integer(0, kernel[k % 2] - 1) if self.rng.random() < 0.5 else 0
                        for k in range(4))
        return {"kernel": kernel, "stride": self._stride(kernel), "padding": padding}

    def _max_pool(self, x):
        x = self._image(x)
        return self._append(ops.MaxPool(**self._pool(x)), [x], self._zero_of(x))

    def _average_pool(self, x):
        x, zero_point = self._image(x), self._zero_point()
        geometry = self._pool(x)
        rescale = self._rescale(2 / np.prod(geometry["kernel"]), zero_point)
        return self._append(ops.AveragePool(input_zero_point=self._zero_of(x), rescale=rescale,
                                            **geometry), [x], zero_point)

    def _code_average_pool(self, x):
        x = self._image(x)
        return self._append(ops.CodeAveragePool(**self._pool(x), **self._bounds()), [x],
                            self._zero_of(x))

    def _global_average_pool(self, x):
        x, zero_point = self._image(x), self._zero_point()
        window = self._shape(x)[1:]
        rescale = self._rescale(1.5 / np.prod(window), zero_point)
        return self._append(ops.GlobalAveragePool(input_zero_point=self._zero_of(x), window=window,
                                                  rescale=rescale), [x], zero_point)

    def _concat(self, x):
        x = self._image(x)
        inputs = [name for name in self.tensors if len(self._shape(name)) == 3
                  and self._shape(name)[1:] == self._shape(x)[1:]
                  and self._zero_of(name) == self._zero_of(x)]
        inputs = [inputs[self.rng.integers(len(inputs))] for _ in range(self._integer(1, 3))]
        return self._append(ops.Concat(), inputs, self._zero_of(x))

    def _reshape(self, x):
        shape = self._shape(x)
        flat = (int(np.prod(shape)),)
        if len(shape) == 1 and self.rng.random() < 0.5:
            flat = (*shape, 1, 1)
        op = ops.Reshape(shape=flat, channels_last=bool(self.rng.random() < 0.5))
        return self._append(op, [x], self._zero_of(x))

    def _clamp(self, x):
        return self._append(ops.Clamp(**self._bounds()), [x], self._zero_of(x))

    def _rescaling(self, x):
        zero_point, n_channels = self._zero_point(), self._shape(x)[0]
        factors = self.rng.uniform(0.3, 2.0, self.rng.choice([1, n_channels]))
        op = ops.Rescaling(input_zero_point=self._zero_of(x),
                           rescale=self._rescale(factors, zero_point))
        return self._append(op, [x], zero_point)

    def _lookup(self, x):
        table = self.rng.integers(-128, 128, 256).astype(np.int8)
        return self._append(ops.Lookup(table=table), [x], self._zero_point())

    def _range_norm(self, x):
        if self.rng.random() < 0.8:  # the accelerator does not have it
            return None
        n_channels = self._shape(x)[0]
        constants = {name: np.full(n_channels, value, np.int64) for name, value in
                     (("multiplier", 1 << 10), ("bias", 1 << 8), ("shift", 10))}
        return self._append(ops.RangeNorm(**constants), [x], self._zero_point())

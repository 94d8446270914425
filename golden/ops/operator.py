"""What an operator is: one record that says everything generally true of it.

Every stage asks the record: `verify` for arity, shapes, zero points, ranges and sums, the compiler
for rows, images and places, every executor for `compute`. No stage keeps a list of operators.

A new operator derives from `Operator` (or `Elementwise`), says how many inputs it has, its output's
shape, the rows it reads and how it computes; the rest has defaults. A class that leaves out one of
these cannot be made.
"""

from abc import ABC, abstractmethod
from functools import cached_property

import numpy as np

from golden import arith, validate
from golden.ops.primitives import NUMPY, ExecutorIntegers, ExecutorTensor, Unsupported

__all__ = ["Accumulating", "Elementwise", "INT8", "Operator", "Rescaled"]

INT8 = arith.INT8_MIN, arith.INT8_MAX


class Operator(ABC):
    """A frozen dataclass that validates itself; calling it is its golden model.

    Shapes are without the batch axis, (C, H, W) or (F,); ranges are (low, high) codes.

    n_inputs: tensors read; None for any number from one on
    n_outputs: tensors written
    input_dtypes, output_dtypes: by input and output; the last one holds for all further ones
    same_quantization: inputs and output share their scale and zero point
    needs_image: it reads rows and columns of (C, H, W), so no reshape may lie between the input's
        stored form and its shape
    in_place: the output is the input's elements where they lie; nothing is computed
    pointwise: every output code is the same function of one input code (see `table`)
    accumulator_name: what its sums are called in messages
    """

    n_inputs = 1
    n_outputs = 1
    input_dtypes = ("int8",)
    output_dtypes = ("int8",)
    same_quantization = False
    needs_image = False
    in_place = False
    pointwise = False
    accumulator_name = "Accumulator"

    def _put(self, name, value):
        """Sets a field of the frozen record, in `__post_init__`."""
        object.__setattr__(self, name, value)

    @property
    def label(self) -> str:
        """The name in messages of stages that cannot run it."""
        return type(self).__name__

    # What it computes

    @abstractmethod
    def compute(self, p, *inputs) -> ExecutorTensor | tuple[ExecutorTensor, ...]:
        """The output (a tuple where there are several) by the primitives `p` of an executor."""

    def compute_real(self, r, *values) -> ExecutorTensor:
        """Its meaning on real values, by the primitives of `sw.formats.onnx.exporter.real`."""
        raise Unsupported(f"{self.label} has no form on real values")

    def __call__(self, *inputs):
        """Arrays with a leading batch axis. Returns an array, or a tuple of them."""
        return self.compute(NUMPY, *self._checked(inputs))

    def _checked(self, inputs):
        """The inputs as arrays; TypeError for another dtype, ValueError for a wrong shape."""
        name, last = f"{type(self).__name__} input", len(self.input_dtypes) - 1
        inputs = [validate.codes(name, x, self.input_dtypes[min(index, last)])
                  for index, x in enumerate(inputs)]
        self.output_shape(*(x.shape[1:] for x in inputs))
        return inputs

    @cached_property
    def table(self) -> np.ndarray | None:
        """int8 (256,): the output of every code, at index code + 128; None unless `pointwise`."""
        if not self.pointwise:
            return None
        table = self(np.arange(arith.INT8_MIN, arith.INT8_MAX + 1, dtype=np.int8)[None])[0]
        table.flags.writeable = False
        return table

    # Shapes

    @abstractmethod
    def output_shape(self, *shapes) -> tuple:
        """The output's shape (a tuple of shapes where there are several outputs).

        Raises ValueError where an input does not fit.
        """

    def output_batched(self, *batched) -> bool | tuple:
        """Whether the output has a batch axis (a tuple where there are several outputs).

        batched: of each input. By default of one kind all, as the output then. Arrays of tensors
        without one have a leading axis of length 1. ValueError for inputs that it cannot take.
        """
        if len({*batched}) != 1:
            raise ValueError("Inputs must all be batched, or none of them")
        return batched[0] if self.n_outputs == 1 else batched[:1] * self.n_outputs

    @abstractmethod
    def input_rows(self, first, end, *shapes) -> tuple | None:
        """The rows of each input that rows `first` to `end` of the output are computed from.

        shapes: of the inputs, (C, H, W) each
        Returns (first, end) per input, empty ones where only padding is read; None where the
        operator reads its inputs as a whole.
        """

    def for_rows(self, first, end, *shapes) -> "Operator":
        """The operator that gives these rows of the output from `input_rows` alone."""
        return self

    def macs(self, *shapes) -> int:
        """Multiplications of one image for inputs of these shapes."""
        return 0

    # What is proven of it

    @property
    def reads_zero_points(self) -> tuple:
        """The zero point that the codes of each input must have; () where any will do."""
        return ()

    @property
    def writes_zero_point(self) -> int | None:
        """The zero point of the output's codes; None where the operator does not set it."""
        return None

    def output_range(self, input_ranges) -> tuple:
        """(low, high) of the output's codes (a tuple of them where there are several outputs).

        By default all that come in.
        """
        return min(low for low, _ in input_ranges), max(high for _, high in input_ranges)

    def accumulators(self, input_ranges) -> tuple:
        """Bounds of every partial sum of both forms, or None.

        Returns (with the zero points subtracted, of raw codes), each (lows, highs), int64 arrays by
        channel. They must fit the accumulators. Raises ValueError for inputs with which it is not
        exact.
        """
        return None, None

    def product_sums(self, input_ranges, *shapes) -> tuple | None:
        """(low, high) of every partial sum of products of which only the inputs' shapes tell the
        number; None where `accumulators` gives them, or there are none. They may be wider than
        int32 where the operator says how they are put together.
        """
        return None


class Elementwise(Operator):
    """Every output element comes from the elements at its own place."""

    def output_shape(self, *shapes) -> tuple:
        """Equal shapes to the same shape."""
        shapes = [tuple(shape) for shape in shapes]
        if len({*shapes}) != 1:
            raise ValueError(f"{type(self).__name__} must get equal shapes, "
                             f"not {' and '.join(map(str, shapes))}")
        return shapes[0]

    def input_rows(self, first, end, *shapes) -> tuple | None:
        """The same rows."""
        return ((first, end),) * len(shapes)


class Rescaled(Operator):
    """An operator that ends in its field `rescale`, a `golden.ops.Rescale`."""

    @property
    def writes_zero_point(self) -> int | None:
        """The rescale's."""
        return self.rescale.zero_point

    def output_range(self, input_ranges) -> tuple:
        """The rescale's bounds."""
        return self.rescale.low, self.rescale.high


class Accumulating(Rescaled):
    """rescale(sums): an operator that is described by `sums`."""

    @abstractmethod
    def sums(self, p, *inputs) -> ExecutorIntegers:
        """The int64 accumulators by the primitives `p`."""

    def compute(self, p, *inputs) -> ExecutorTensor:
        """The rescaled sums."""
        return self.rescale.compute(p, self.sums(p, *inputs))

    def accumulate(self, *inputs) -> np.ndarray:
        """int8 arrays with a batch axis. Returns the accumulators, int64."""
        return self.sums(NUMPY, *self._checked(inputs))

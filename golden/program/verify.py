"""Proofs about a Program before it runs anywhere: shapes, quantizations and accumulator bounds.

Codes are tracked as an interval per tensor: all codes of the dtype for inputs and state, narrowed
by clamp bounds. Per output channel the bounds cover every partial sum in any order, with the bias
first or last, both for products with the zero point subtracted and for products of raw codes with
the folded bias.
"""

from dataclasses import dataclass

import numpy as np

from golden import arith
from golden.errors import LockstepError

__all__ = ["NodeReport", "Report", "verify", "width"]

INT32 = arith.INT32_MIN, arith.INT32_MAX


@dataclass(frozen=True, kw_only=True)
class NodeReport:
    """What is proven of one node.

    input_ranges, output_ranges: (low, high) codes of each input and of each output
    accumulator: (low, high) of every partial sum with the zero point subtracted, None without MACs;
        of the products of a training step, too
    raw_accumulator: the same for raw codes and the folded bias, None where the op has no such form
    macs: multiplications for one image
    """

    node: str
    op: str
    input_ranges: tuple
    output_ranges: tuple
    accumulator: tuple | None = None
    raw_accumulator: tuple | None = None
    macs: int = 0

    @property
    def output_range(self) -> tuple[int, int]:
        """(low, high) codes of the first output."""
        return self.output_ranges[0]

    @property
    def accumulator_width(self) -> int:
        """Bits of a signed accumulator that holds every partial sum of both forms; 0 without."""
        bounds = [*(self.accumulator or ()), *(self.raw_accumulator or ())]
        return max((width(value) for value in bounds), default=0)

    @property
    def exact_float32(self) -> bool:
        """True where every partial sum, zero point subtracted, is an exact float32 integer."""
        return self.accumulator is not None and max(map(abs, self.accumulator)) < 1 << 24


@dataclass(frozen=True, kw_only=True)
class Report:
    """The proof of a Program: one `NodeReport` per node, in order."""

    nodes: tuple

    def __getitem__(self, name: str) -> NodeReport:
        """The report of the node `name`."""
        return next(entry for entry in self.nodes if entry.node == name)

    @property
    def accumulator_width(self) -> int:
        """The widest accumulator that the Program needs, in bits."""
        return max((entry.accumulator_width for entry in self.nodes), default=0)

    @property
    def macs(self) -> int:
        """Multiplications for one image."""
        return sum(entry.macs for entry in self.nodes)


def width(value: int) -> int:
    """Bits of the smallest signed integer that holds `value`."""
    return (value if value >= 0 else ~value).bit_length() + 1


def verify(program) -> Report:
    """Proves a Program or raises LockstepError naming the node and the number that breaks a limit.

    Returns a `Report`.
    """
    ranges = {name: program.tensors[name].quantization.code_range for name in program.sources}
    names, reports = set(), []
    for node in program.nodes:
        try:
            if node.name in names:
                raise ValueError("Node name must be unique")
            names.add(node.name)
            reports.append(_verify_node(program, node, ranges))
        except LockstepError:
            raise
        except (TypeError, ValueError) as error:
            raise LockstepError(f"Node {node.name} ({type(node.op).__name__}): {error}") from error
    for name in program.outputs:
        if name not in ranges or name in program.sources:
            raise LockstepError(f"Output {name} must be written by a node")
    _check_state(program, ranges)
    for name in program.tensors:
        if name not in ranges:
            raise LockstepError(f"Tensor {name} must be an input, state or written by a node")
    return Report(nodes=tuple(reports))


def _check_state(program, ranges):
    """Every state begins with codes of its own and is renewed by a tensor like it."""
    for name, state in program.state.items():
        tensor, source = program.tensors[name], program.tensors[state.renewed_by]
        if state.initial.dtype != tensor.dtype or state.initial.shape != tensor.shape:
            raise LockstepError(f"State {name} must begin as {tensor.dtype} of shape "
                                f"{tensor.shape}, not {state.initial.dtype} of shape "
                                f"{state.initial.shape}")
        if source.name not in ranges:
            raise LockstepError(f"State {name} must be renewed by a tensor that is written, "
                                f"not {source.name}")
        for what in ("shape", "quantization", "batched"):
            if getattr(tensor, what) != getattr(source, what):
                raise LockstepError(f"State {name} and {source.name}, which renews it, must have "
                                    f"one {'batch axis' if what == 'batched' else what}")


def _verify_node(program, node, ranges):
    op = node.op
    for name in node.inputs:
        if name not in ranges:
            raise ValueError(f"Input {name} must be written by an earlier node")
    if op.n_inputs not in (None, len(node.inputs)):
        raise ValueError(f"Node must have {op.n_inputs} inputs, not {len(node.inputs)}")
    if len(node.outputs) != op.n_outputs:
        raise ValueError(f"Node must have {op.n_outputs} output{'s' if op.n_outputs > 1 else ''}, "
                         f"not {len(node.outputs)}")
    inputs = [program.tensors[name] for name in node.inputs]
    outputs = [program.tensors[name] for name in node.outputs]
    _check_outputs(op, inputs, outputs, ranges)
    _check_dtypes(op, inputs, outputs)
    for output in outputs:
        _check_quantization(op, inputs, output)
    input_ranges = tuple(ranges[name] for name in node.inputs)
    accumulator, raw = _check_accumulators(op, input_ranges)
    if accumulator is None:
        accumulator = op.product_sums(input_ranges, *(tensor.shape for tensor in inputs))
    output_ranges = _each(op.output_range(input_ranges), outputs)
    for output, (low, high) in zip(outputs, output_ranges, strict=True):
        lowest, highest = output.quantization.code_range
        if low < lowest or high > highest:
            raise ValueError(f"Output {output.name} must fit {output.dtype}, not {low}..{high}")
        ranges[output.name] = low, high
    return NodeReport(node=node.name, op=type(op).__name__, input_ranges=input_ranges,
                      output_ranges=output_ranges, accumulator=accumulator, raw_accumulator=raw,
                      macs=op.macs(*(tensor.shape for tensor in inputs)))


def _each(value, outputs):
    """What an operator says of its output, for each of the outputs: as it is where there is one."""
    return (value,) if len(outputs) == 1 else tuple(value)


def _check_dtypes(op, inputs, outputs):
    for what, tensors, dtypes in (("Input", inputs, op.input_dtypes),
                                  ("Output", outputs, op.output_dtypes)):
        for index, tensor in enumerate(tensors):
            wanted = dtypes[min(index, len(dtypes) - 1)]
            if tensor.quantization.dtype != wanted:
                raise ValueError(f"{what} {tensor.name} must be {wanted}, "
                                 f"not {tensor.quantization.dtype}")


def _check_outputs(op, inputs, outputs, ranges):
    """Names, shapes and batch axes of what a node writes."""
    shapes = _each(op.output_shape(*(tensor.shape for tensor in inputs)), outputs)
    batched = _each(op.output_batched(*(tensor.batched for tensor in inputs)), outputs)
    for output, shape, has_batch in zip(outputs, shapes, batched, strict=True):
        if output.name in ranges or sum(other.name == output.name for other in outputs) > 1:
            raise ValueError(f"Output {output.name} must be written once")
        if tuple(shape) != output.shape:
            raise ValueError(f"Output {output.name} must have shape {tuple(shape)}, "
                             f"not {output.shape}")
        if output.batched != has_batch:
            raise ValueError(f"Output {output.name} must {'' if has_batch else 'not '}be batched")


def _check_quantization(op, inputs, output):
    for tensor, zero_point in zip(inputs, op.reads_zero_points):
        if tensor.quantization.zero_point != zero_point:
            raise ValueError(f"Input zero point must be {tensor.quantization.zero_point} as in "
                             f"tensor {tensor.name}, not {zero_point}")
    zero_point = op.writes_zero_point
    if zero_point is not None and zero_point != output.quantization.zero_point:
        raise ValueError(f"Output zero point must be {output.quantization.zero_point} as in "
                         f"tensor {output.name}, not {zero_point}")
    if op.same_quantization:
        for tensor in inputs:
            if tensor.quantization != output.quantization:
                raise ValueError(f"Tensors {tensor.name} and {output.name} must share their scale "
                                 f"and zero point")


def _check_accumulators(op, input_ranges):
    """The bounds of both forms as (low, high) ints or None; ValueError beyond int32."""
    bounds, raw = op.accumulators(input_ranges)
    name = op.accumulator_name
    return (bounds and _int32(name, *bounds), raw and _int32(f"{name} of raw codes", *raw))


def _int32(what, lows, highs):
    for values, channel in ((lows, int(np.argmin(lows))), (highs, int(np.argmax(highs)))):
        value = int(values[channel])
        if not INT32[0] <= value <= INT32[1]:
            raise ValueError(f"{what} of channel {channel} must fit int32, not {value}")
    return int(lows.min()), int(highs.max())

"""The walk over a quantized graph: where codes and real values meet.

Codes become tensors of the Program under their names in the file, uint8 ones less 128.
"""

import numpy as np

from golden.errors import LockstepError
from golden.program import Quantization
from sw.formats.onnx.importer.model_file import TYPE_NAMES
from sw.formats.onnx.importer.values import Codes, Pending, Raw, Real, Shift, Weights
from sw.formats.onnx.importer.walk import Walk
from sw.formats.parts import Parts

__all__ = ["QuantizedWalk"]

OFFSETS = {np.dtype(np.int8): 0, np.dtype(np.uint8): 128}


class QuantizedWalk(Walk):
    """Builds the Parts of a Program."""

    keeps = frozenset({"DequantizeLinear"})

    def __init__(self, graph):
        super().__init__(graph)
        self.parts, self.input = Parts(graph.names), None
        shape = graph.source_shape[1:]
        if len(shape) not in (1, 3):
            raise LockstepError(f"Input {graph.source!r} must have 2 or 4 dimensions, "
                                f"not {len(shape) + 1}")
        offset = {"int8": 0, "uint8": 128}.get(graph.source_type)
        self.values[graph.source] = Raw(shape=shape) if offset is None else Codes(
            name=graph.source, shape=shape, quantization=None, offset=offset)

    def constant(self, node, position, what) -> np.ndarray:
        value = self.operand(node, position)
        if isinstance(value, Weights):
            return value.real()
        return super().constant(node, position, what)

    def is_fixed(self, name) -> bool:
        """Is the tensor a constant, quantized or not?"""
        return self.is_constant(name) or isinstance(self.values.get(name), Weights)

    def parameters(self, node, scale, zero_point, what,
                   offset=128) -> tuple[np.ndarray, np.ndarray, np.dtype]:
        """(scales, zero points, dtype of the codes) of a quantization, float64 and int64 (n,).

        scale, zero_point: positions of the inputs; what: they belong to
        offset: that of OFFSETS which the codes have where the zero point is left out
        """
        scales = self.constant(node, scale, f"scale of {what}")
        if scales.dtype not in (np.float32, np.float64):
            node.refuse(f"scale of {what} must be float32, not {scales.dtype}")
        scales = np.atleast_1d(scales).astype(np.float64).reshape(-1)
        if not (np.isfinite(scales) & (scales > 0)).all():
            node.refuse(f"scale of {what} must be finite and above 0")
        if not self.has(node, zero_point):
            kind = node.attributes.get("output_dtype", 0) if node.kind == "QuantizeLinear" else 0
            name = TYPE_NAMES.get(kind, kind) if kind else "uint8" if offset else "int8"
            if name not in ("int8", "uint8"):
                node.refuse(f"{what} must be int8 or uint8, not {name}")
            return scales, np.zeros(len(scales), np.int64), np.dtype(name)
        points = self.constant(node, zero_point, f"zero point of {what}")
        flat = np.atleast_1d(points).astype(np.int64).reshape(-1)
        if len(flat) == 1:
            flat = np.repeat(flat, len(scales))
        if len(flat) != len(scales):
            node.refuse(f"{what} must have a zero point for each of its {len(scales)} scales, "
                        f"not {len(flat)}")
        return scales, flat, points.dtype

    def quantization(self, node, scale, zero_point, what, codes=None) -> tuple[Quantization, int]:
        """(Quantization, offset) of an activation, which has one scale.

        codes: Codes of its type, which it has where the zero point is left out
        """
        scales, points, dtype = self.parameters(node, scale, zero_point, what,
                                                getattr(codes, "offset", 128))
        if dtype not in OFFSETS:
            node.refuse(f"{what} must be int8 or uint8, not {dtype}")
        if len(scales) != 1:
            node.refuse(f"{what} must have one scale, not {len(scales)}: activations are "
                        f"quantized per tensor")
        offset = OFFSETS[dtype]
        return Quantization(scale=float(scales[0]), zero_point=int(points[0]) - offset), offset

    def real_of(self, node, name, quantization, offset) -> Real:
        """The Real of codes by name; their quantization must be this one."""
        codes = self.value(name)
        if not isinstance(codes, Codes) or codes.offset != offset:
            node.refuse(f"tensor {name!r} must be codes of this type")
        if codes.quantization is None:
            codes = self._declare_input(name, codes.shape, quantization, offset)
            self.values[name] = codes
        if codes.quantization != quantization:
            node.refuse(f"tensor {name!r} must be read with the scale and zero point that it was "
                        f"written with, {codes.quantization}, not {quantization}")
        return Real(codes=codes)

    def _declare_input(self, name, shape, quantization, offset):
        self.parts.input(name, shape, quantization)
        self.input = Codes(name=name, shape=shape, quantization=quantization, offset=offset)
        return self.input

    def emit(self, node, value, quantization, offset) -> Codes:
        """The Codes that a value becomes with a Quantization, named after the node's output."""
        name, is_raw = node.output, isinstance(value, Raw)
        if is_raw:
            if self.input is None:
                return self._declare_input(name, value.shape, quantization, offset)
            value = Real(codes=self.input)
        if isinstance(value, Real):
            if value.codes.quantization == quantization and value.codes.offset == offset:
                return value.codes
            if is_raw:
                self.parts.notes.append(f"Tensor {name!r}, another quantization of the input, is "
                                        f"made from the codes of {self.input.name!r}")
            value = Shift(inputs=(value.codes,), own_shape=value.shape)
        if not isinstance(value, Pending):
            node.refuse("must quantize a real activation")
        self.check_size(node, value.shape)
        value.emit(self.parts, name, quantization)
        return Codes(name=name, shape=value.shape, quantization=quantization, offset=offset)

    def real(self, node, position=0) -> Real:
        """The Real that an input is."""
        value = self.operand(node, position)
        if not isinstance(value, Real):
            kind = {"Raw": "the float input", "ndarray": "a constant", "Codes": "codes",
                    "Weights": "a constant"}.get(type(value).__name__, "not quantized")
            node.refuse(f"input {position} ({node.inputs[position]!r}) must come from a "
                        f"QuantizeLinear and DequantizeLinear, but is {kind}")
        return value

    def coded(self, node, position, scale, zero_point) -> Codes:
        """The Codes that an input is; scale, zero_point: positions of its quantization."""
        what = f"tensor {node.inputs[position]!r}"
        quantization, offset = self.quantization(node, scale, zero_point, what,
                                                 self.operand(node, position))
        return self.real_of(node, node.inputs[position], quantization, offset).codes

    def on_codes(self, node, make) -> Codes | Real:
        """A node on one or several tensors that keeps their quantization, of codes or real.

        make(*codes): the operator, None where it changes nothing
        """
        values = [self.operand(node, position) for position in range(
            len(node.inputs) if node.kind == "Concat" else 1)]
        if not all(isinstance(value, Codes) and value.quantization for value in values):
            values = [self.real(node, position) for position in range(len(values))]
        codes = [value.codes if isinstance(value, Real) else value for value in values]
        op = make(*codes)
        if op is None:
            return values[0]
        first = codes[0]
        name = self.parts.node(node.output, op, [item.name for item in codes], first.quantization)
        made = Codes(name=name, shape=self.parts.tensors[name].shape, offset=first.offset,
                     quantization=first.quantization)
        self.check_size(node, made.shape)
        return Real(codes=made) if isinstance(values[0], Real) else made

    def weights(self, node, position, ndim) -> Weights:
        """The Weights of an input: int8 codes with zero point 0, one scale or one per output."""
        value = self.operand(node, position)
        if not isinstance(value, Weights):
            node.refuse(f"weights (input {position}, {node.inputs[position]!r}) must be quantized "
                        f"constants")
        return self.checked(node, value, ndim)

    def checked(self, node, value, ndim) -> Weights:
        """Weights as int8 with zero point 0; LockstepError naming the tensor otherwise."""
        what = f"(tensor {value.name!r})"
        if value.codes.dtype not in OFFSETS:
            node.refuse(f"weights must be int8 or uint8, not {value.codes.dtype} {what}")
        if value.codes.ndim != ndim:
            node.refuse(f"weights must have {ndim} dimensions, not {value.codes.ndim} {what}")
        offset = OFFSETS[value.codes.dtype]
        if (value.zero_points != offset).any():
            wrong = int(value.zero_points[value.zero_points != offset][0])
            node.refuse(f"weights must have zero point {offset}, not {wrong} {what}")
        return Weights(codes=value.codes.astype(np.int64) - offset, scales=value.scales,
                       zero_points=value.zero_points - offset, axis=value.axis, name=value.name)

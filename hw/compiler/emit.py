"""Instruction emission: products on the array, residual adds, maximum pooling."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from golden.arith import INT8_MIN, Rounding
from golden.errors import LockstepError
from hw.compiler.image import Placement
from hw.isa import N_WORDS, Feed, Opcode, encode
from hw.targets import BANK_WEIGHTS, Target
from hw.vector import ADD_PASSES

__all__ = ["Emitter", "Window2d"]

_ADDRESS_MASK = (1 << 24) - 1


@dataclass(frozen=True, kw_only=True)
class Window2d:
    """Kernel, stride, padding (top, left, bottom, right), dilation, and the output's (H, W)."""

    kernel: tuple = (1, 1)
    stride: tuple = (1, 1)
    padding: tuple = (0, 0, 0, 0)
    dilation: tuple = (1, 1)
    output: tuple

    @property
    def n_taps(self) -> int:
        return self.kernel[0] * self.kernel[1]

    @property
    def n_pixels(self) -> int:
        return self.output[0] * self.output[1]


@dataclass(kw_only=True)
class Emitter:
    """Collects instructions, weights and parameters of a program for one target."""

    target: Target
    program: str
    instructions: list = field(default_factory=list)
    weights: list = field(default_factory=list)
    n_weight_words: int = 0
    parameters: list = field(default_factory=list)

    def add_weights(self, words: np.ndarray) -> int:
        """words: int8 (n, word_bytes). Returns the address of the first."""
        base = self.n_weight_words
        self.weights.append(np.ascontiguousarray(words, np.int8))
        self.n_weight_words += len(words)
        return base

    def add_parameters(self, bias, multiplier, shift) -> int:
        """int64 (C,) each. Returns the parameter word of the first channel."""
        lanes = self.target.lanes
        base = len(self.parameters) // lanes
        rows = np.stack(np.broadcast_arrays(bias, multiplier, shift), axis=1).astype(np.int64)
        self.parameters += rows.tolist()
        self.parameters += [[0, 0, 0]] * (-len(rows) % lanes)
        return base

    def _emit(self, **fields):
        try:
            self.instructions.append(encode(**fields))
        except ValueError as error:
            raise LockstepError(f"Program '{self.program}': {error}") from error

    def halt(self):
        self._emit(opcode=Opcode.HALT)

    def _image_walk(self, port, x: Placement, window: Window2d, chunk, taps_first=False,
                    n_chunks=1, pad=0):
        """Walker fields that read every output pixel's window of a tensor."""
        _, height, width = x.stored
        step = x.n_chunks
        (kh, kw), (sy, sx), (dy, dx) = window.kernel, window.stride, window.dilation
        top, left = window.padding[:2]
        line, span_x, span_y = width * step, (kw - 1) * dx, (kh - 1) * dy
        base = x.base + chunk - (top * width + left) * step
        levels = {
            "chunk": (n_chunks, 1 - (0 if not taps_first else span_y * line + span_x * step),
                      -span_x if taps_first else 0, -span_y if taps_first else 0),
            "kx": (kw, dx * step - (0 if taps_first else n_chunks - 1), dx, 0),
            "ky": (kh, dy * line - span_x * step - (0 if taps_first else n_chunks - 1),
                   -span_x, dy),
        }
        order = ("kx", "ky", "chunk") if taps_first else ("chunk", "kx", "ky")
        fields = {
            "base": base & _ADDRESS_MASK, "bank": x.bank, "feed": Feed.TRANSPOSING, "bounded": 1,
            "pad": pad, "x_step": sx * step, "x_count": window.output[1],
            "y_step": sy * line - (window.output[1] - 1) * sx * step,
            "ix": -left, "iy": -top, "ix_step": sx, "iy_step": sy,
            "width": width, "height": height, "group": 1,
        }
        for level, name in enumerate(order):
            count, address, ix, iy = levels[name]
            if level < 2:
                fields[f"k{level}_count"] = count
            fields |= {f"k{level}_step": address, f"k{level}_dx": ix, f"k{level}_dy": iy}
        return {f"{port}_{name}": value for name, value in fields.items()}

    def product(self, *, x: Placement, window: Window2d, weights: np.ndarray, input_zero_point,
                parameters, rescale, y: Placement, first_chunk=0, out_channel=0,
                same_for_all_taps=False):
        """One MATMUL: for every output pixel and channel the sum of weights times codes.

        weights: int8 (O, I, kh, kw), I input channels from chunk ``first_chunk`` on; with
        ``same_for_all_taps`` kh = kw = 1 and every tap uses them. parameters: (bias, multiplier,
        shift), int64 (O,) each, the zero point's share already in the bias.
        """
        target, word_bytes = self.target, self.target.word_bytes
        n_outputs, n_inputs = weights.shape[:2]
        n_chunks = -(-n_inputs // word_bytes)
        packed = np.zeros((n_outputs, weights.shape[2] * weights.shape[3], n_chunks * word_bytes),
                          np.int8)
        packed[:, :, :n_inputs] = weights.reshape(n_outputs, n_inputs, -1).transpose(0, 2, 1)
        packed = packed.reshape(n_outputs, -1, word_bytes)
        n_periods = window.n_taps * n_chunks
        base = self.add_weights(packed.reshape(-1, word_bytes))
        parameter_base = self.add_parameters(*parameters)
        out_byte = out_channel % word_bytes
        swap = self._choose_swap(window.n_pixels, n_outputs, n_periods, out_byte)
        weight_port, pixel_port = ("a", "b") if swap else ("b", "a")
        weight_walk = {
            "base": base, "bank": BANK_WEIGHTS, "feed": Feed.TRANSPOSING, "group": 1,
            "x_count": 0xFFFF, "x_step": packed.shape[1],
            "k0_count": n_periods, "k0_step": 0 if same_for_all_taps else 1, "k1_count": 1,
        }
        tiles = {"a": -(-(n_outputs if swap else window.n_pixels) // target.rows),
                 "b": -(-(window.n_pixels if swap else n_outputs) // target.columns)}
        self._emit(
            opcode=Opcode.MATMUL, swap=swap, gemmlowp=rescale.rounding is Rounding.GEMMLOWP,
            slots=word_bytes, inner_count=tiles["a"], outer_count=tiles["b"],
            period_count=n_periods, out_base=y.base + out_channel // word_bytes, out_bank=y.bank,
            out_byte=out_byte, out_step=y.n_chunks, n_channels=n_outputs,
            n_pixels=window.n_pixels, zero_point=rescale.zero_point, low=rescale.low,
            high=rescale.high, parameter_base=parameter_base,
            **{f"{weight_port}_{name}": value for name, value in weight_walk.items()},
            **self._image_walk(pixel_port, x, window, first_chunk, n_chunks=n_chunks,
                               pad=input_zero_point))

    def _choose_swap(self, n_pixels, n_channels, n_periods, out_byte) -> int:
        """Pixels on rows (0) or on columns (1): whichever needs fewer cycles."""
        target = self.target
        lanes, slots = target.lanes, n_periods * target.word_bytes
        costs = []
        for on_rows, on_columns, beats in ((n_pixels, n_channels, 1),
                                           (n_channels, n_pixels, lanes)):
            n_tiles = -(-on_rows // target.rows) * -(-on_columns // target.columns)
            drain = target.rows * max(2, target.columns * beats // lanes)
            costs.append(n_tiles * max(slots, drain))
        if out_byte % lanes:
            return 1
        return int(costs[1] < costs[0])

    def add(self, *, op, inputs: tuple[Placement, Placement], y: Placement):
        """One ADD over two tensors of the same layout."""
        rescale = op.rescale
        walks = {}
        for port, x in zip("ab", inputs):
            walks |= {f"{port}_base": x.base, f"{port}_bank": x.bank, f"{port}_x_count": 1,
                      f"{port}_group": 1, f"{port}_k0_count": y.n_words, f"{port}_k0_step": 1,
                      f"{port}_k1_count": 1}
        (m0, s0), (m1, s1) = op.input_rescales
        self._emit(
            opcode=Opcode.ADD, gemmlowp=rescale.rounding is Rounding.GEMMLOWP,
            slots=ADD_PASSES * self.target.word_bytes // self.target.lanes,
            inner_count=1, outer_count=1, period_count=y.n_words, out_base=y.base,
            out_bank=y.bank, n_pixels=y.n_words, zero_point=rescale.zero_point, low=rescale.low,
            high=rescale.high, multiplier_0=m0, multiplier_1=m1,
            multiplier_2=rescale.multiplier[0], shift_0=s0, shift_1=s1, shift_2=rescale.shift[0],
            zero_point_0=op.input_zero_points[0], zero_point_1=op.input_zero_points[1],
            left_shift=op.left_shift, **walks)

    def max_pool(self, *, x: Placement, window: Window2d, y: Placement):
        """One MAXPOOL; padding is the smallest code, so it never wins."""
        self._emit(
            opcode=Opcode.MAXPOOL, slots=1, inner_count=window.n_pixels, outer_count=1,
            period_count=window.n_taps * x.n_chunks, emit_periods=window.n_taps,
            out_base=y.base, out_bank=y.bank, n_pixels=y.n_words,
            **self._image_walk("a", x, window, 0, taps_first=True, n_chunks=x.n_chunks,
                               pad=INT8_MIN))

    def check_capacity(self):
        """Raise LockstepError where weights, parameters or instructions exceed the target."""
        target = self.target
        for what, needed, available in (
                (f"weights need {{}} scratchpad words of {target.word_bytes} bytes",
                 self.n_weight_words, target.bank_words[BANK_WEIGHTS]),
                ("per-channel parameters need {} channels", len(self.parameters),
                 target.parameter_words * target.lanes),
                ("instructions need {} words", len(self.instructions) * N_WORDS,
                 target.instruction_words)):
            if needed > available:
                raise LockstepError(f"Program '{self.program}' does not fit target {target.name}: "
                                    f"{what.format(needed)}, there are {available}")

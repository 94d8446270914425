"""The heavy operators of integer training and its evaluation on a CPU: fused loops in C++.

A product is columns, a matrix product and a loop over its sums. Where the processor multiplies int8
into int32 (VNNI) that is `torch._int_mm`, elsewhere float32 with at most 1,024 products a sum,
which it holds exactly. What is not here, or would not be exact, runs by `golden.ops` itself.
`tests/sw/integer/test_passes.py` compares every one with golden in every bit.
"""

import ctypes
import math
import platform
import subprocess
from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from golden import arith
from golden.digits import MAX_TERMS
from golden.errors import LockstepError
from golden.ops import Add, Conv2d, range_norm, windows
from golden.ops import step as ops
from golden.ops.primitives import NUMPY
from golden.ops.step.activation import six
from golden.ops.step.addition import CODE_LIMIT, GRADIENT_LIMIT
from golden.ops.step.base import parts_of
from golden.ops.step.convolution import pixel_factor
from golden.random import counter_seed
from sw.executor import TORCH, Torch

__all__ = ["FusedPasses", "SOURCE", "build", "build_facts"]

SOURCE = Path(__file__).with_suffix(".cpp")
COMMAND = ["g++", "-O3", "-march=native", "-shared", "-fPIC", "-fopenmp"]
LIBRARY = "passes.so"
EXACT_TERMS = 1024              # products of int8 codes that float32 sums exactly
BLOCK_BYTES = 1 << 23           # of float columns at a time: they stay in the cache
BLOCK_PIXELS = 1 << 13          # of int8 columns at a time: enough for several threads
ROW_MAX = 512                   # columns of 16-bit gradients times codes that int32 sums
NO_LIMIT = (1 << 31) - 1
#: By their definition on numpy, which takes a fifth of torch's time for an operation on a channel.
FEW_NUMBERS = (ops.ExponentRule, ops.ShiftSum, ops.NormParameters, ops.NormGradientParameters,
               ops.DeviationGradientParameters, ops.RunningStatistics, ops.VectorUpdate)
_POINTER = ctypes.c_void_p


def build_facts() -> tuple:
    """What decides the library: its source, the command and the processor."""
    flags = ""
    if Path("/proc/cpuinfo").is_file():
        flags = next((line for line in Path("/proc/cpuinfo").read_text().splitlines()
                      if line.startswith(("flags", "Features"))), "")
    return SOURCE.read_text(), tuple(COMMAND), platform.machine(), flags


def build(folder: Path) -> None:
    """Compiles the library into a folder; LockstepError where that fails."""
    try:
        subprocess.run([*COMMAND, "-o", str(folder / LIBRARY), str(SOURCE)], check=True,
                       capture_output=True, text=True)
    except FileNotFoundError:
        raise LockstepError("The passes of integer training need g++, which is not there") from None
    except subprocess.CalledProcessError as error:
        reason = (error.stderr.strip() or f"g++ ended with {error.returncode}").splitlines()[0]
        raise LockstepError(f"The passes of integer training do not compile: {reason}") from error
    if not (folder / LIBRARY).is_file():
        raise LockstepError("The passes of integer training do not compile: g++ wrote nothing")


def _pointer(x):
    return _POINTER(x.data_ptr()) if x is not None else _POINTER()


@cache
def _int_mm_is_exact() -> bool:
    """Whether products of int8 are exact here: without VNNI 16-bit sums of pairs may saturate."""
    flags = build_facts()[-1].split()
    if not {"avx512_vnni", "avx_vnni", "amx_int8"} & {*flags}:
        return False
    # Codes are made unsigned by adding 128: 255 times 127 twice leaves 16 bits.
    ends = torch.tensor([127, -128, 126, 1], dtype=torch.int8)
    generator = torch.Generator().manual_seed(0)
    for rows, depth, columns in ((32, 64, 32), (5, 7, 3), (16, 144, 300)):
        a, b = (ends[torch.randint(0, 4, shape, generator=generator)]
                for shape in ((rows, depth), (depth, columns)))
        for left, right in ((a, b), (torch.full_like(a, 127), torch.full_like(b, 127)),
                            (torch.full_like(a, 127), torch.full_like(b, -128))):
            if not torch.equal(_int8_product(left, right), (left.double() @ right.double()).int()):
                return False
    return True


def _int8_product(a, b, out=None):
    """int32 (M, N) of int8 a (M, K) times b (K, N), in out where it is given.

    Axes of length 1 are padded: with their strides, which mean nothing, oneDNN takes a matrix for
    another one.
    """
    (rows, depth), columns = a.shape, b.shape[1]
    if min(rows, depth, columns) > 1:
        return torch._int_mm(a, b) if out is None else torch._int_mm(a, b, out=out)
    pad = [max(2 - length, 0) for length in (rows, depth, columns)]
    a, b = (torch.nn.functional.pad(x, (0, right, 0, below)).contiguous()
            for x, right, below in ((a, pad[1], pad[0]), (b, pad[2], pad[1])))
    return torch._int_mm(a, b)[:rows, :columns].contiguous()


class FusedPasses:
    """What `build` has made; called with an operator and its inputs.

    folder: of the library; int8: whether products are of int8 (by default where that is exact)
    """

    def __init__(self, folder: Path, int8: bool | None = None):
        self._int8 = _int_mm_is_exact() if int8 is None else int8
        self._kind = "int" if self._int8 else "float"
        self._code, self._sum = (torch.int8, torch.int32) if self._int8 else (torch.float32,) * 2
        self._primitives, self._memory = TORCH, {}
        self._terms = MAX_TERMS if self._int8 else EXACT_TERMS
        try:
            self._library = ctypes.CDLL(str(folder / LIBRARY))
        except OSError as error:
            raise LockstepError(f"The passes of integer training cannot be loaded: {error}"
                                ) from error
        self._kinds = {
            ops.PreNormCodes: self._pre_norm, ops.NormStatistics: self._statistics,
            ops.NormApply: self._norm_apply, ops.ResidualAddition: self._residual_addition,
            ops.NormGradientSums: self._norm_sums, ops.NormInputGradient: self._norm_gradient,
            ops.DeviationInputGradient: self._deviation_gradient,
            ops.CodesGradient: self._codes_gradient, ops.KernelGradient: self._kernel_gradient,
            ops.GradientAddition: self._gradient_addition,
            Add: self._add, Conv2d: self._conv2d}

    def __call__(self, op, inputs: list[torch.Tensor], primitives: Torch = TORCH
                 ) -> tuple[torch.Tensor, ...] | None:
        """The outputs, as of `op.compute`; None where the operator runs by its own definition.

        primitives: of the executor, which say what part of a batch the inputs are
        """
        if inputs[0].is_cuda:
            return None
        if isinstance(op, FEW_NUMBERS):
            return self._by_numpy(op, inputs)
        kind = self._kinds.get(type(op))
        if kind is None:
            return None
        self._primitives = primitives
        return kind(op, *(x.contiguous() for x in inputs))

    @property
    def kind(self) -> str:
        """How products are made, "int" or "float"; processes with the same exchange alike."""
        return self._kind

    @staticmethod
    def _by_numpy(op, inputs) -> tuple[torch.Tensor, ...]:
        results = op.compute(NUMPY, *(x.numpy() for x in inputs))
        results = results if isinstance(results, tuple) else (results,)
        return tuple(torch.from_numpy(np.ascontiguousarray(value)) for value in results)

    def _first(self, x) -> int:
        """The number of the first image of a part in the batch."""
        return self._primitives.part()[0] * len(x)

    def _n_images(self, x) -> int:
        """Of the whole batch."""
        return self._primitives.part()[1] * len(x)

    def _watched(self, top):
        """The watch over all parts."""
        return self._primitives.all_max(top)

    def _call(self, name, *arguments):
        threads = torch.get_num_threads()
        getattr(self._library, name)(*(
            _pointer(x) if x is None or torch.is_tensor(x) else
            ctypes.c_int64(x) for x in arguments), ctypes.c_int(threads))

    @staticmethod
    def _sizes(x) -> tuple[int, int, int]:
        return x.shape[0], x.shape[1], x[0, 0].numel()

    # Products

    @staticmethod
    def _geometry(x, op, kernel, size) -> tuple[int, ...]:
        """The arguments of columns and from_columns behind the tensors, for x of (C, H, W)."""
        return (*x, *kernel, *op.stride, *op.padding[:2], *size)

    def _blocks(self, n_images, n_rows, n_pixels):
        """(images at a time, how many of them lie side by side in a matrix) for each part."""
        group = max(1, (BLOCK_PIXELS if self._int8 else EXACT_TERMS) // n_pixels)
        step = group if self._int8 else \
            max(1, BLOCK_BYTES // (4 * n_rows * n_pixels * group)) * group
        first = 0
        while first < n_images:
            size = min(step, n_images - first)
            if size > group:
                size -= size % group
            yield slice(first, first + size), min(group, size)
            first += size

    def _scratch(self, name, shape, dtype):
        """Memory that the next call by this name takes again: new pages cost more than a pass."""
        size = math.prod(shape)
        if name not in self._memory or self._memory[name].numel() < size:
            with torch.inference_mode(False):       # or it would serve inference alone
                self._memory[name] = torch.empty(size, dtype=dtype)
        return self._memory[name][:size].view(shape)

    def _products(self, a, b):
        """The sums of a (B, M, K) times b (B, K, N), until the next ones; of int8 B is 1."""
        sums = self._scratch("sums", (len(a), a.shape[1], b.shape[2]), self._sum)
        if self._int8:
            return _int8_product(a[0], b[0], sums[0])[None]
        return torch.bmm(a, b, out=sums)

    def _matrices(self, matrix, like):
        """Codes (M, K) for `_products` with `like`."""
        return matrix.to(self._code).expand(len(like), -1, -1)

    def _columns(self, x, op, kernel, size, group):
        """(N / G, C kh kw, G OH OW) of int8 x (N, C, H, W)."""
        found = self._scratch("columns", (len(x) // group, x.shape[1] * kernel[0] * kernel[1],
                                          group * size[0] * size[1]), self._code)
        self._call(f"columns_{self._kind}", x, found, len(x), group,
                   *self._geometry(x.shape[1:], op, kernel, size))
        return found

    @staticmethod
    def _is_depthwise(op, x, weights) -> bool:
        """One kernel for each channel, with sums and rows that int32 holds."""
        return x.ndim == 4 and op.groups == x.shape[1] == len(weights) and weights.shape[1] == 1 \
            and weights[0].numel() <= EXACT_TERMS

    def _depthwise(self, op, x, weights):
        """int32 sums of a kernel for each channel."""
        kernel = tuple(weights.shape[2:])
        size = windows.output_size(tuple(x.shape[2:]), kernel, op.stride, op.padding)
        sums = torch.empty((*x.shape[:2], *size), dtype=torch.int32)
        self._call("depthwise_sums", x, weights, sums, len(x),
                   *self._geometry(x.shape[1:], op, kernel, size))
        return sums

    def _convolution(self, op, x, weights, finish):
        """int8 codes; finish(kind, sums, codes, group) makes them of the sums of some images."""
        n_outputs, _, *kernel = weights.shape
        size = windows.output_size(tuple(x.shape[2:]), tuple(kernel), op.stride, op.padding)
        y = torch.empty((len(x), n_outputs, *size), dtype=torch.int8)
        matrix, n_pixels = weights.reshape(n_outputs, -1), size[0] * size[1]
        for part, group in self._blocks(len(x), matrix.shape[1], n_pixels):
            columns = self._columns(x[part], op, kernel, size, group)
            sums = self._products(self._matrices(matrix, columns), columns)
            finish(self._kind, sums, y[part], group)
        return y

    def _has_columns(self, op, x, weights) -> bool:
        return op.groups == 1 and x.ndim == 4 and weights[0].numel() <= self._terms

    def _pre_norm(self, op, x, weights, shift):
        def finish(kind, sums, q, group):
            self._call(f"pre_norm_{kind}", sums, shift, q, len(q), group, *self._sizes(q)[1:])

        weights = weights[0]
        if self._is_depthwise(op, x, weights):
            sums = self._depthwise(op, x, weights)
            q = torch.empty(sums.shape, dtype=torch.int8)
            finish("int", sums, q, 1)
            return (q,)
        if not self._has_columns(op, x, weights):
            return None
        return (self._convolution(op, x, weights, finish),)

    def _conv2d(self, op, x):
        """Of an inference Program."""
        rescale = op.rescale
        if op.dilation != (1, 1) or op.input_zero_point \
                or rescale.rounding != arith.Rounding.HALF_UP:
            return None
        weights, bias = (torch.from_numpy(values.copy()) for values in (op.weights, op.bias))
        multiplier, shift = (torch.from_numpy(np.broadcast_to(values, len(bias)).copy())
                             for values in (rescale.multiplier, rescale.shift))

        def finish(kind, sums, y, group):
            self._call(f"rescale_{kind}", sums, bias, multiplier, shift, rescale.zero_point,
                       rescale.low, rescale.high, y, len(y), group, *self._sizes(y)[1:])

        if self._is_depthwise(op, x, weights):
            sums = self._depthwise(op, x, weights)
            y = torch.empty(sums.shape, dtype=torch.int8)
            finish("int", sums, y, 1)
            return (y,)
        if not self._has_columns(op, x, weights):
            return None
        return (self._convolution(op, x, weights, finish),)

    def _codes_gradient(self, op, g8, weights, shift, seed, step):
        if op.size is None or op.width != 16:
            return None
        weights = weights[0]
        g = torch.empty((len(g8), weights.shape[1] * op.groups, *op.size), dtype=torch.int16)
        top = torch.zeros((1, 1), dtype=torch.int32)
        multiplier, log2 = pixel_factor(op.pixels)
        factors = multiplier, int(shift) + log2, self._seed(op.tensor_id, seed, step)

        def finish(kind, sums, first, part, group):
            self._call(f"gradient_codes_{kind}", sums, *factors, self._first(g8) + first, part, top,
                       len(part), group, *self._sizes(part)[1:])

        if self._is_depthwise(op, g8, weights):
            sums = torch.empty(g.shape, dtype=torch.int32)
            self._call("depthwise_from", g8, weights, sums, len(g8), *self._geometry(
                g.shape[1:], op, weights.shape[2:], g8.shape[2:]))
            finish("int", sums, 0, g, 1)
        elif op.groups != 1 or weights[:, 0].numel() > self._terms:
            return None
        else:
            products = self._turned if self._can_turn(op, weights) else self._scattered
            for part, group, sums in products(op, g8, weights):
                finish(self._kind, sums, part.start, g[part], group)
        return g, self._watched(top)

    @staticmethod
    def _can_turn(op, weights) -> bool:
        """Whether the gradient is a convolution of the same kind by the turned kernel."""
        reach = (length - 1 - before for length, before in zip(weights.shape[2:], op.padding))
        return op.stride == (1, 1) and min(reach) >= 0

    def _turned(self, op, g8, weights):
        """Sums of the codes' gradients, as a convolution of g8: (images, group, sums) by part."""
        kernel = tuple(weights.shape[2:])
        window = replace(op, padding=tuple(length - 1 - before for length, before in
                                           zip(kernel, op.padding)) * 2)
        matrix = weights.flip(2, 3).transpose(0, 1).reshape(weights.shape[1], -1).contiguous()
        n_pixels = op.size[0] * op.size[1]
        for part, group in self._blocks(len(g8), matrix.shape[1], n_pixels):
            columns = self._columns(g8[part], window, kernel, op.size, group)
            yield part, group, self._products(self._matrices(matrix, columns), columns)

    def _scattered(self, op, g8, weights):
        """The same by columns that are added where they come from."""
        n_outputs, channels, *kernel = weights.shape
        size = tuple(g8.shape[2:])
        n_rows, n_pixels = channels * kernel[0] * kernel[1], size[0] * size[1]
        matrix = weights.reshape(n_outputs, n_rows).t().contiguous()
        geometry = self._geometry((channels, *op.size), op, kernel, size)
        for part, group in self._blocks(len(g8), n_rows, n_pixels):
            n = len(g8[part])
            gradient = self._scratch("rows", (n // group, n_outputs, group * n_pixels), self._code)
            self._call(f"rows_{self._kind}", g8[part], gradient, n, group, n_outputs, n_pixels)
            columns = self._products(self._matrices(matrix, gradient), gradient)
            sums = self._scratch("scattered", (n, channels, *op.size), self._sum)
            self._call(f"from_columns_{self._kind}", columns, sums, n, group, *geometry)
            yield part, 1, sums

    def _kernel_gradient(self, op, x, g16):
        n_pixels = g16[0, 0].numel()
        if self._n_images(g16) != op.n_images:
            return None
        if x.ndim == 4 and op.groups == x.shape[1] == g16.shape[1] and g16.shape[3] <= ROW_MAX:
            sums = torch.empty((x.shape[1], 1, *op.kernel), dtype=torch.int64)
            self._call("depthwise_kernel", x, g16, sums, len(x), *self._geometry(
                x.shape[1:], op, op.kernel, g16.shape[2:]))
            return (self._of_the_batch(sums)[None],)
        if op.groups != 1 or x.ndim != 4 or n_pixels > self._terms:
            return None
        n, n_outputs, *size = g16.shape
        n_rows = x.shape[1] * op.kernel[0] * op.kernel[1]
        total = torch.zeros((2 * n_outputs, n_rows), dtype=torch.int64)
        for part, group in self._blocks(n, n_rows, n_pixels):
            n_images = len(x[part])
            digits = self._scratch("rows", (n_images // group, 2 * n_outputs, group * n_pixels),
                                   self._code)
            self._call(f"digits_{self._kind}", g16[part], digits, n_images, group, n_outputs,
                       n_pixels)
            columns = self._columns(x[part], op, op.kernel, size, group)
            sums = self._products(digits, columns.transpose(1, 2))
            total += sums.double().sum(0).long()
        low, high = total.chunk(2)
        dw = self._of_the_batch((high << 8) + low)
        return (dw.reshape(1, n_outputs, x.shape[1], *op.kernel),)

    def _of_the_batch(self, sums):
        """Gradients of weights from the sums of a part."""
        return arith.saturate(arith.round_shift(self._primitives.all_sum(sums), 8), 32).int()

    # Norms

    def _statistics(self, op, q):
        n, c, p = self._sizes(q)
        if self._n_images(q) * p != op.count:
            return None
        length, chunks = range_norm.chunking(op.count)
        sums = torch.empty((2, c, 1), dtype=torch.int64)
        ends = torch.empty((2, c, chunks), dtype=torch.int64)
        self._call("statistics", q, *sums, *ends, self._first(q), n, c, p, length, chunks)
        sums, ends = self._primitives.all_sum(sums), self._primitives.all_max(ends)
        results = op.of_ends(self._primitives, *ends, *sums)
        return tuple(self._primitives.codes(value, port.dtype)
                     for value, port in zip(results, op.ports_out, strict=True))

    def _norm_apply(self, op, q, sign, bias, multiplier, shift, *exponent):
        limit = six(int(exponent[0])) if exponent else NO_LIMIT
        y, top = torch.empty_like(q), torch.empty((1, 1), dtype=torch.int32)
        self._call("norm_apply", q, sign, bias, multiplier, shift, op.low, limit, y, top,
                   *self._sizes(q))
        return y, self._watched(top)

    def _mask(self, op, mask):
        """The arguments for a mask: (y or None, limit)."""
        if not mask:
            return None, NO_LIMIT
        return mask[0], six(int(mask[1])) if op.activation == "relu6" else NO_LIMIT

    def _norm_sums(self, op, g, q, *mask):
        n, c, p = self._sizes(g)
        if self._n_images(g) * p != op.count:
            return None
        sums = torch.empty((2, 1, c), dtype=torch.int64)
        self._call("norm_sums", g, q, *self._mask(op, mask), *sums, n, c, p)
        sums = self._primitives.all_sum(sums)
        return tuple(part.int() for total in sums for part in parts_of(total))

    def _norm_gradient(self, op, g, at_high, at_low, sign, mean, spike, multiplier, shift, seed,
                       step, *mask):
        n, c, p = self._sizes(g)
        if self._n_images(g) * p != op.count:
            return None
        g16, g8 = torch.empty_like(g), torch.empty(g.shape, dtype=torch.int8)
        top = torch.empty((1, 1), dtype=torch.int32)
        self._call("norm_gradient", g, at_high, at_low, sign, mean, spike, multiplier, shift,
                   self._seed(op.tensor_id, seed, step), *self._mask(op, mask), g16, g8, top,
                   self._first(g), n, c, p, range_norm.chunking(op.count)[0])
        return g16, g8, self._watched(top)

    def _deviation_gradient(self, op, g, q, sign, centre, slope, slope_shift, multiplier, shift,
                            seed, step, *mask):
        n, c, p = self._sizes(g)
        if self._n_images(g) * p != op.count:
            return None
        g16, g8 = torch.empty_like(g), torch.empty(g.shape, dtype=torch.int8)
        top = torch.empty((1, 1), dtype=torch.int32)
        self._call("deviation_gradient", g, q, sign, centre, slope, slope_shift, multiplier, shift,
                   self._seed(op.tensor_id, seed, step), *self._mask(op, mask), g16, g8, top,
                   self._first(g), n, c, p)
        return g16, g8, self._watched(top)

    # Additions

    @staticmethod
    def _seed(identity, seed, step) -> int:
        return int(counter_seed(seed.long(), step.long(), identity)) & 0xFFFFFFFF

    @staticmethod
    def _alignment(exponents, limit) -> tuple[int, ...]:
        """left and right shift of a, of b, and the shift of the lanes."""
        e_a, e_b, e_y = (int(e) for e in exponents)
        unit = max(min(e_a, e_b), max(e_a, e_b) - limit)
        shifts = [arith.clamp(value, 0, most) for e in (e_a, e_b)
                  for value, most in ((e - unit, limit), (unit - e, 62))]
        return *shifts, 30 + e_y - unit

    def _residual_addition(self, op, a, b, *exponents):
        y, top = torch.empty_like(a), torch.empty((1, 1), dtype=torch.int32)
        self._call("residual_add", a, b, *self._alignment(exponents, CODE_LIMIT),
                   op.ranges[0][0], y, top, len(a), a[0].numel())
        return y, self._watched(top)

    def _add(self, op, a, b):
        """Of an inference Program: a table of all pairs of codes."""
        if a.shape != b.shape:
            return None
        codes = torch.arange(-128, 128, dtype=torch.int8)
        table = op.compute(TORCH, *(x.contiguous() for x in torch.meshgrid(
            codes, codes, indexing="ij")))
        y = torch.empty_like(a)
        self._call("lookup_pairs", a, b, table, y, a.numel())
        return (y,)

    def _gradient_addition(self, op, a, b, e_a, e_b, e_y, seed, step, *mask):
        g, top = torch.empty_like(a), torch.empty((1, 1), dtype=torch.int32)
        self._call("gradient_add", a, b, *self._mask(op, mask),
                   *self._alignment((e_a, e_b, e_y), GRADIENT_LIMIT),
                   self._seed(op.tensor_id, seed, step), g, top, self._first(a), *self._sizes(a))
        return g, self._watched(top)

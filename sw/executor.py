"""The torch executor: a `Program` on CPU or CUDA with exact integer arithmetic.

On CUDA products go through `torch._int_mm` (int8 x int8 -> int32) where it is exact, else, and on
a CPU, whose `_int_mm` is exact on some processors only, through float matrix products: float32 up
to 1024 addends, where no sum passes 2^24, float64 beyond. Convolutions are never handed to a
convolution kernel, which may use Winograd or FFT forms; their patches are matrix-multiplied.
What each operator does with the products is its own `compute`, and rounding, clamping and zero
points are `golden.arith`'s functions, both applied to tensors.
"""

import math
from functools import cache

import numpy as np
import torch

from golden import arith
from golden.errors import LockstepError
from golden.ops import Operator
from golden.ops.primitives import Primitives, Unsupported
from golden.ops.windows import placed
from golden.program.sources import source_codes
from golden.random import counter_bits

__all__ = ["Torch", "execute", "int_matmul", "patches", "run"]

PATCH_LIMIT = 1 << 26  # elements of one patch matrix; larger convolutions go image by image
FLOAT32_DEPTH = 2**24 // 128**2  # addends, products of int8 codes, that float32 sums exactly
CUDA_MIN_ROWS, CUDA_MULTIPLE = 17, 8  # what cuBLASLt asks of torch._int_mm


def _exact_float(x, depth):
    """The float dtype that sums this many products of int8 codes without rounding, beside x."""
    is_float32 = depth <= FLOAT32_DEPTH and not x.is_cuda  # where float32 may mean TF32
    return torch.float32 if is_float32 else torch.float64


def int_matmul(a, b) -> torch.Tensor:
    """Exact product of int8 matrices a (M, K) and b (K, N): int32 (M, N).

    Pads to the shapes CUDA asks for. Sums must fit int32 (`golden.program.verify` proves it).
    """
    (rows, depth), columns = a.shape, b.shape[1]
    if not (a.is_cuda and _int_mm_is_exact()):
        dtype = _exact_float(a, depth)
        return (a.to(dtype) @ b.to(dtype)).to(torch.int32)
    pad_depth, pad_columns = -depth % CUDA_MULTIPLE, -columns % CUDA_MULTIPLE
    pad_rows = max(CUDA_MIN_ROWS - rows, 0)
    a = torch.nn.functional.pad(a, (0, pad_depth, 0, pad_rows))
    b = torch.nn.functional.pad(b, (0, pad_columns, 0, pad_depth))
    return torch._int_mm(a.contiguous(), b.contiguous())[:rows, :columns]


@cache
def _int_mm_is_exact():
    """Whether this GPU's kernel keeps every bit: 16-bit intermediate sums would saturate."""
    codes = torch.full((32, 64), -128, dtype=torch.int8, device="cuda")
    try:
        product = torch._int_mm(codes, codes.t().contiguous())
        mixed = torch._int_mm(codes, torch.full_like(codes, 127).t().contiguous())
    except RuntimeError:
        return False
    return bool((product == 64 * 128 * 128).all() and (mixed == -64 * 128 * 127).all())


def patches(x, kernel, stride, padding, dilation, fill) -> torch.Tensor:
    """Sliding windows of x (N, C, H, W): a view (N, C, OH, OW, kh, kw); the padding is `fill`."""
    top, left, bottom, right = padding
    x = torch.nn.functional.pad(x, (left, right, top, bottom), value=fill).contiguous()
    n, c, height, width = x.shape
    (kh, kw), (sh, sw), (dh, dw) = kernel, stride, dilation
    out_height = (height - dh * (kh - 1) - 1) // sh + 1
    out_width = (width - dw * (kw - 1) - 1) // sw + 1
    strides = x.stride()
    return x.as_strided((n, c, out_height, out_width, kh, kw),
                        (strides[0], strides[1], strides[2] * sh, strides[3] * sw,
                         strides[2] * dh, strides[3] * dw))


def _convolve(x, weights, stride, padding, dilation, groups, fill):
    """int64 sums (N, O, OH, OW) of raw int8 codes x times int8 weights (O, I/g, kh, kw)."""
    windows = patches(x, weights.shape[2:], stride, padding, dilation, fill)
    n, channels, height, width = windows.shape[:4]
    outputs, depth = weights.shape[0], weights[0].numel()
    if groups == 1:
        rows = windows.permute(0, 2, 3, 1, 4, 5).reshape(-1, depth)
        sums = int_matmul(rows, weights.reshape(outputs, depth).t())
        return sums.reshape(n, height, width, outputs).permute(0, 3, 1, 2).long()
    rows = windows.reshape(n, groups, channels // groups, height, width, *weights.shape[2:])
    rows = rows.permute(1, 0, 3, 4, 2, 5, 6).reshape(groups, -1, depth)
    kernels = weights.reshape(groups, outputs // groups, depth).transpose(1, 2)
    dtype = _exact_float(x, depth)
    sums = torch.bmm(rows.to(dtype), kernels.to(dtype)).long()
    sums = sums.reshape(groups, n, height, width, outputs // groups)
    return sums.permute(1, 0, 4, 2, 3).reshape(n, outputs, height, width)


def _long_products(a, b):
    """int64 (G, K, M): sums over L of int8 a (G, L, K) times b (G, L, M), L of any length.

    The sums of blocks are exact floats, and blocks are added as integers.
    """
    length = a.shape[1]
    if a.is_cuda:
        return torch.bmm(a.transpose(1, 2).double(), b.double()).long()
    pad = -length % min(FLOAT32_DEPTH, length)
    a, b = (torch.nn.functional.pad(x, (0, 0, 0, pad)) if pad else x for x in (a, b))
    blocks = (length + pad) // min(FLOAT32_DEPTH, length)
    a, b = (x.reshape(len(x) * blocks, -1, x.shape[2]).float() for x in (a, b))
    sums = torch.bmm(a.transpose(1, 2), b).double()
    return sums.reshape(-1, blocks, *sums.shape[1:]).sum(1).long()


def _on(array, like):
    """A numpy array as a tensor beside `like`; copied, since the program's arrays are frozen. A
    tensor as it is."""
    if isinstance(array, torch.Tensor):
        return array
    return torch.from_numpy(np.array(array)).to(like.device)


class Torch(Primitives):
    """The primitives on tensors; constants go to the device of the tensor beside them."""

    def batch(self, x) -> int:
        return x.shape[0]

    def integers(self, x) -> torch.Tensor:
        return x.long()

    def codes(self, value, dtype="int8") -> torch.Tensor:
        return value.to(getattr(torch, dtype))

    def constant(self, values, like) -> torch.Tensor:
        return _on(values, like)

    def per_channel(self, values, like, axis=1) -> int | torch.Tensor:
        if len(values) == 1:
            return int(values[0])
        shape = [1] * like.ndim
        shape[axis] = len(values)
        return _on(values, like).reshape(shape)

    def convolution(self, x, weights, bias, zero_point, *, stride, padding, dilation, groups
                    ) -> torch.Tensor:
        per_image = max(x.shape[1:].numel() * math.prod(weights.shape[2:]), 1)
        kernels = _on(weights, x)
        parts = [_convolve(part, kernels, stride, padding, dilation, groups, zero_point)
                 for part in x.split(max(PATCH_LIMIT // per_image, 1))]
        sums = torch.cat(parts) if len(parts) > 1 else parts[0]
        if bias is None and zero_point == 0:
            return sums
        return sums + _on(_folded(weights, bias, zero_point), x).reshape(1, -1, 1, 1)

    def linear(self, x, weights, bias, zero_point) -> torch.Tensor:
        sums = int_matmul(x, _on(weights, x).t()).long()
        if bias is None and zero_point == 0:
            return sums
        return sums + _on(_folded(weights, bias, zero_point), x)

    def kernel_sums(self, x, gradients, kernel, *, stride, padding, groups) -> list[torch.Tensor]:
        per_image = max(gradients[0][0, 0].numel() * x.shape[1] * math.prod(kernel), 1)
        step = max(PATCH_LIMIT // per_image, 1)
        parts = [self._kernel_sums(part, given, kernel, stride, padding, groups) for part, *given in
                 zip(x.split(step), *(gradient.split(step) for gradient in gradients))]
        return [sum(sums) for sums in zip(*parts)]

    @staticmethod
    def _kernel_sums(x, gradients, kernel, stride, padding, groups) -> list[torch.Tensor]:
        columns = patches(x, kernel, stride, padding, (1, 1), 0)
        n, _, *size = columns.shape[:4]
        columns = columns.unflatten(1, (groups, -1)).permute(1, 0, 3, 4, 2, 5, 6)
        columns = columns.reshape(groups, n * size[0] * size[1], -1)
        rows = torch.cat([gradient.unflatten(1, (groups, -1)).permute(1, 0, 3, 4, 2)
                          .reshape(groups, columns.shape[1], -1) for gradient in gradients], 2)
        sums = _long_products(columns, rows)        # (groups, I / groups * kh * kw, digits * O / g)
        parts = sums.chunk(len(gradients), 2)
        return [part.transpose(1, 2).reshape(1, -1, x.shape[1] // groups, *kernel)
                for part in parts]

    def window_max(self, x, kernel, stride, padding) -> torch.Tensor:
        return patches(x, kernel, stride, padding, (1, 1), arith.INT8_MIN).amax(dim=(4, 5))

    def window_sum(self, x, zero_point, kernel, stride, padding) -> torch.Tensor:
        windows = patches(x, kernel, stride, padding, (1, 1), zero_point)
        return (windows.long() - zero_point).sum(dim=(4, 5))

    def sum(self, value, axes) -> torch.Tensor:
        return value.sum(dim=tuple(axes), keepdim=True)

    def max(self, x, axis) -> torch.Tensor:
        return x.amax(dim=axis, keepdim=True)

    def min(self, x, axis) -> torch.Tensor:
        return x.amin(dim=axis, keepdim=True)

    def clip(self, x, low, high) -> torch.Tensor:
        return x.clamp(low, high)

    def lookup(self, x, table) -> torch.Tensor:
        return _on(table, x)[x.long() - arith.INT8_MIN]

    def concat(self, inputs, axis) -> torch.Tensor:
        return torch.cat(inputs, dim=axis)

    def reshape(self, x, shape) -> torch.Tensor:
        return x.reshape(x.shape[0], *shape)

    def transpose(self, x, axes) -> torch.Tensor:
        return x.permute(axes).contiguous()

    def split(self, x, length) -> tuple[torch.Tensor, ...]:
        return x.split(length, dim=1)

    def host(self, value) -> np.ndarray:
        return value.cpu().numpy()

    def flip(self, x, axes) -> torch.Tensor:
        return x.flip(axes)

    def place(self, x, size, offset, stride) -> torch.Tensor:
        result = x.new_zeros((*x.shape[:2], *size))
        result[placed(x.shape, offset, stride)] = x
        return result

    def counter_bits(self, seed, shape, like, first=0) -> torch.Tensor:
        index = torch.arange(first, first + math.prod(shape), device=like.device).int()
        return counter_bits(seed.reshape(-1).int(), index).long().reshape(shape)


def _folded(weights, bias, zero_point):
    """The bias of products of raw codes: int64 (O,)."""
    bias = np.int64(0) if bias is None else bias
    return bias - zero_point * weights.reshape(len(weights), -1).sum(axis=1, dtype=np.int64)


TORCH = Torch()


def execute(op, *inputs) -> torch.Tensor | tuple:
    """One golden operator on int8 tensors (N, ...): an int8 tensor, or a tuple of them."""
    if not isinstance(op, Operator):
        raise LockstepError(f"The torch executor has no {type(op).__name__}")
    try:
        return op.compute(TORCH, *inputs)
    except Unsupported as error:
        raise LockstepError(f"The torch executor has no {op.label}: {error}") from error


def _device(name):
    """The torch.device called `name`; LockstepError for one that is unknown or not there."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise LockstepError(f"Device must be cpu, cuda or cuda:N, not {name}") from None
    if device.type not in ("cpu", "cuda"):
        raise LockstepError(f"Device must be cpu, cuda or cuda:N, not {name}")
    if device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise LockstepError(f"Device {name} is not available: torch sees "
                            f"{torch.cuda.device_count()} CUDA devices")
    return device


def run(program, x, device="cpu", state=None) -> dict[str, np.ndarray]:
    """Execute the program on a torch device.

    program: a `golden.program.Program`; x and state: as of `golden.program.interpreter.run`;
    device: "cpu", "cuda" or "cuda:N". Returns the trace, dict of numpy arrays by tensor name,
    inputs and state included. Raises LockstepError for a device that is not there.
    """
    device = _device(device)
    with torch.inference_mode():
        trace = {name: torch.from_numpy(np.array(codes)).to(device)
                 for name, codes in source_codes(program, x, state).items()}
        for node in program.nodes:
            results = execute(node.op, *(trace[name] for name in node.inputs))
            results = results if isinstance(results, tuple) else (results,)
            trace.update(zip(node.outputs, results, strict=True))
    return {name: tensor.cpu().numpy() for name, tensor in trace.items()}

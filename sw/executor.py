"""The torch executor: a `Program` on CPU or CUDA with exact integer arithmetic.

On CUDA products go through `torch._int_mm` (int8 x int8 -> int32) where it is exact, else, and on
a CPU, whose `_int_mm` is several times slower, through float matrix products: float32 up to 1024
addends, where no sum passes 2^24, float64 beyond. Convolutions are never handed to a convolution
kernel, which may use Winograd or FFT forms; their patches are matrix-multiplied.
Rounding, clamping and zero points are `golden.arith`'s own functions applied to int64 tensors.
"""

from functools import cache, singledispatch

import numpy as np
import torch

from golden import arith, ops
from golden.errors import LockstepError
from golden.ops import range_norm

PATCH_LIMIT = 1 << 26  # elements of one patch matrix; larger convolutions go image by image
FLOAT32_DEPTH = 2**24 // 128**2  # addends, products of int8 codes, that float32 sums exactly
CUDA_MIN_ROWS, CUDA_MULTIPLE = 17, 8  # what cuBLASLt asks of torch._int_mm


def _exact_float(x, depth):
    """The float dtype that sums this many products of int8 codes without rounding, beside x."""
    is_float32 = depth <= FLOAT32_DEPTH and not x.is_cuda  # where float32 may mean TF32
    return torch.float32 if is_float32 else torch.float64


def int_matmul(a, b):
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


def patches(x, kernel, stride, padding, dilation, fill):
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


def _on(array, like):
    """A numpy array as a tensor beside `like`; copied, since the program's arrays are frozen."""
    return torch.from_numpy(np.array(array)).to(like.device)


def _rescale(rescale, acc):
    """A `golden.ops.Rescale` along axis 1 of an int64 accumulator: an int8 tensor."""
    multiplier, shift = (_on(values, acc).reshape((1, -1) + (1,) * (acc.ndim - 2))
                         for values in (rescale.multiplier, rescale.shift))
    return arith.requantize(acc, multiplier, shift, rescale.zero_point, rescale.low, rescale.high,
                            rescale.rounding).to(torch.int8)


@singledispatch
def execute(op, *inputs):
    """One golden operator on int8 tensors (N, ...): an int8 tensor, or a tuple of them."""
    raise LockstepError(f"The torch executor has no {type(op).__name__}")


@execute.register
def _(op: ops.Conv2d, x):
    weights, bias = _on(op.weights, x), _on(op.folded_bias(), x).reshape(1, -1, 1, 1)
    per_image = max(x.shape[1:].numel() * weights[0, 0].numel(), 1)
    sums = [_convolve(part, weights, op.stride, op.padding, op.dilation, op.groups,
                      op.input_zero_point)
            for part in x.split(max(PATCH_LIMIT // per_image, 1))]
    return _rescale(op.rescale, torch.cat(sums) + bias)


@execute.register
def _(op: ops.Linear, x):
    acc = int_matmul(x, _on(op.weights, x).t()).long() + _on(op.folded_bias(), x)
    return _rescale(op.rescale, acc)


@execute.register
def _(op: ops.Add, *inputs):
    terms = [arith.requantize((x.long() - zero_point) << op.left_shift, multiplier, shift, 0,
                              arith.INT32_MIN, arith.INT32_MAX, op.rescale.rounding)
             for x, zero_point, (multiplier, shift)
             in zip(inputs, op.input_zero_points, op.input_rescales, strict=True)]
    return _rescale(op.rescale, terms[0] + terms[1])


@execute.register
def _(op: ops.MaxPool, x):
    windows = patches(x, op.kernel, op.stride, op.padding, (1, 1), torch.iinfo(x.dtype).min)
    return windows.amax(dim=(4, 5))


@execute.register
def _(op: ops.AveragePool, x):
    windows = patches(x, op.kernel, op.stride, op.padding, (1, 1), op.input_zero_point)
    return _rescale(op.rescale, (windows.long() - op.input_zero_point).sum(dim=(4, 5)))


@execute.register
def _(op: ops.CodeAveragePool, x):
    sums = patches(x, op.kernel, op.stride, op.padding, (1, 1), 0).long().sum(dim=(4, 5))
    multiplier, shift = (_on(values, x) for values in op.factors(x.shape[2:]))
    return arith.requantize(sums, multiplier, shift, 0, op.low, op.high).to(torch.int8)


@execute.register
def _(op: ops.GlobalAveragePool, x):
    total = (x.long() - op.input_zero_point).sum(dim=(2, 3), keepdim=True)
    return _rescale(op.rescale, total)


@execute.register
def _(op: ops.Concat, *inputs):
    return torch.cat(inputs, dim=op.axis)


@execute.register
def _(op: ops.Reshape, x):
    if not op.channels_last:
        return x.reshape(x.shape[0], *op.shape)
    x = x.movedim(1, -1).reshape(x.shape[0], *op.shape[1:], op.shape[0])
    return x.movedim(-1, 1).contiguous()


@execute.register
def _(op: ops.Clamp, x):
    return x.clamp(op.low, op.high)


@execute.register
def _(op: ops.Rescaling, x):
    return _rescale(op.rescale, x.long() - op.input_zero_point)


@execute.register
def _(op: ops.RangeNorm, q):
    if op.batch:
        total, spread = (values.cpu().numpy() for values in _range_statistics(q))
        parameters = op.batch.parameters(total, spread)
    else:
        parameters = op.multiplier, op.bias, op.shift
    multiplier, bias, shift = (_on(values, q).reshape((1, -1) + (1,) * (q.ndim - 2))
                               for values in parameters)
    y = arith.round_shift(q.long() * multiplier + bias, shift)
    return arith.clamp(y, op.low, op.high).to(torch.int8)


def _range_statistics(q):
    """`golden.ops.range_norm.statistics` on tensors: int64 (C,) sums and spreads."""
    flat = q.transpose(0, 1).reshape(q.shape[1], -1).long()
    length, _ = range_norm.chunking(flat.shape[1])
    spread = sum(chunk.amax(dim=1) - chunk.amin(dim=1) for chunk in flat.split(length, dim=1))
    return (flat + range_norm.CODE_OFFSET).sum(dim=1), spread


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


def run(program, x, device="cpu"):
    """Execute the program on a torch device.

    program: a `golden.program.Program`; x: what `program.quantize_input` takes, batch first;
    device: "cpu", "cuda" or "cuda:N". Returns the trace, dict of numpy arrays by tensor name, the
    input's codes included. Raises LockstepError for a device that is not there.
    """
    device = _device(device)
    with torch.inference_mode():
        codes = np.array(program.quantize_input(x))
        trace = {program.inputs[0]: torch.from_numpy(codes).to(device)}
        for node in program.nodes:
            results = execute(node.op, *(trace[name] for name in node.inputs))
            results = results if isinstance(results, tuple) else (results,)
            trace.update(zip(node.outputs, results, strict=True))
    return {name: tensor.cpu().numpy() for name, tensor in trace.items()}

"""Tensor functions behind ``sw/layers/fused.py``: plain torch operations, run as they are or
compiled.

All take and return values as (N, S, C): images, positions, channels, in any memory layout. Each
function is one pass structure that Inductor turns into a few loops. Scalars and per-channel vectors
that the elementwise passes use are returned too: what is an output is computed once, what is not
is computed again for every vector of elements.

Monotone steps carry extremes along: the quantizer does not decrease, the affine map rises or falls
with the sign of its factor, so the range of each intermediate tensor follows exactly from the
minimum and maximum of each (image, channel), which are taken once.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from golden.random import counter_bits
from sw.layers.norms import EPSILON, SMALLEST_VARIANCE
from sw.quantize.gradients import GRADIENT16_HIGH
from sw.quantize.quantizers import EIGHT_BIT, affine_parameters

__all__ = ["Chunking", "EPSILON", "NormState", "Passes", "activate", "batch_range", "clip", "grid",
           "norm_backward", "norm_forward", "norm_gradient", "norm_output", "norm_statistics",
           "norm_sums", "positions", "quantize_backward", "quantize_forward", "split", "steps"]

_CODE_LOW, _CODE_HIGH = EIGHT_BIT.activation.code_bounds


class Chunking(NamedTuple):
    """constant: from a mean range to a deviation. number: of chunks. images: whole ones per chunk,
    where chunks are, else None."""

    constant: float
    number: int
    images: int | None


class NormState(NamedTuple):
    """What the forward pass leaves to the backward one.

    grid, out_grid: scale, smallest and largest step of the quantizers in front and behind, scalars.
    mean, sigma, factor, beta: (C,). at_low, at_high: places of the extremes, as norm_statistics
    gives them.
    """

    grid: tuple[Tensor, Tensor, Tensor]
    mean: Tensor
    sigma: Tensor
    factor: Tensor
    beta: Tensor
    at_low: Tensor
    at_high: Tensor
    out_grid: tuple[Tensor, Tensor, Tensor]


class Passes(NamedTuple):
    """activation: behind the norm, None, "relu" or "relu6". mask: the gradient of clipped values is
    zero. quantize: the gradient that enters the norm is rounded to 8 bits. deviation: the scale's
    gradient is that of a standard deviation."""

    activation: str | None
    mask: bool
    quantize: bool
    deviation: bool


def grid(low: Tensor, high: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Scale, smallest and largest multiple of it, of the int8 grid over a range: scalars."""
    scale, zero_point = affine_parameters(low, high)
    return scale, _CODE_LOW - zero_point, _CODE_HIGH - zero_point


def batch_range(lowest: Tensor, highest: Tensor, average: bool) -> tuple[Tensor, Tensor]:
    """The batch's range from the images' extremes (N,): their means (batch_mean) or extremes."""
    return (lowest.mean(), highest.mean()) if average else (lowest.amin(), highest.amax())


def steps(x: Tensor, scale: Tensor) -> Tensor:
    """x in steps of the scale, rounded half up, not yet clipped."""
    return torch.div(x, scale).add_(0.5).floor_()


def clip(x: Tensor, low: Tensor, high: Tensor) -> Tensor:
    """x limited to [low, high], scalars."""
    return torch.minimum(torch.maximum(x, low), high)


def activate(x: Tensor, activation: str | None) -> Tensor:
    """The activation function: "relu", "relu6" or None for the identity."""
    if activation == "relu":
        return torch.relu(x)
    return torch.clamp(x, 0, 6) if activation == "relu6" else x


def _passes(x: Tensor, activation: str | None, out_grid, mask: bool) -> Tensor | None:
    """Where the gradient passes the activation and, with mask, the quantizer behind it."""
    keep = None
    if activation is not None:
        keep = x > 0 if activation == "relu" else (x > 0) & (x < 6)
    if mask:
        scale, low, high = out_grid
        codes = steps(activate(x, activation), scale)
        inside = (codes >= low) & (codes <= high)
        keep = inside if keep is None else keep & inside
    return keep


def positions(values: Tensor) -> Tensor:
    """Index of each position inside its image, float32 (1, S, 1): exact below 2**24."""
    index = torch.arange(values.shape[1], device=values.device, dtype=torch.float32)
    return index.view(1, -1, 1)


def _random(gradient: Tensor, seed: Tensor | None) -> Tensor | int:
    """Bits in [0, 256) by the counter hash; without a seed the half that rounds to nearest."""
    if seed is None:
        return 128
    index = torch.arange(gradient.numel(), dtype=torch.int32, device=gradient.device)
    return counter_bits(seed, index.view(gradient.shape))


def _codes16(gradient: Tensor) -> tuple[Tensor, Tensor]:
    scale = (gradient.abs().amax() / GRADIENT16_HIGH).clamp_min(1e-38)
    return steps(gradient, scale).clamp_(-GRADIENT16_HIGH, GRADIENT16_HIGH), scale


def _codes8(codes16: Tensor, gradient: Tensor, seed: Tensor) -> Tensor:
    return torch.add(codes16, _random(gradient, seed)).mul_(1 / 256).floor_()


def split(gradient: Tensor, seed: Tensor, want8: bool
          ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
    """``sw.quantize.gradients.split_gradient`` with counter bits: (g16, g8 or None, scale, scale of
    g8)."""
    codes, scale = _codes16(gradient)
    scale8 = scale * 256
    g8 = _codes8(codes, gradient, seed) * scale8 if want8 else None
    return codes * scale, g8, scale, scale8


def _chunk_extremes(codes: Tensor, chunks: int):
    """Extremes of the chunks in (N, S) order and where they stand first: each (C, number).

    The chunks of ``sw.layers.range_norm.chunk_ranges``. Positions are flat, n * S + s.
    """
    values = codes.permute(2, 0, 1).flatten(1)
    count = values.shape[1]
    length = -(-count // chunks)
    number = -(-count // length)
    if number * length > count:
        values = torch.cat([values, values[:, -1:].expand(-1, number * length - count)], dim=1)
    values = values.reshape(values.shape[0], number, length)
    (high, at_high), (low, at_low) = values.max(dim=2), values.min(dim=2)
    offset = torch.arange(number, device=codes.device) * length
    return high, low, at_high + offset, at_low + offset


def _image_chunk_extremes(codes: Tensor, highest: Tensor, lowest: Tensor, images: int):
    """The same where a chunk is ``images`` whole images, from each image's extremes (N, C).

    Positions are (N, C) float32 inside the image, S where the image holds no first extreme.
    """
    n, size, channels = codes.shape
    index, none = positions(codes), float(size)
    order = torch.arange(images, device=codes.device, dtype=torch.float32).view(1, -1, 1)

    def first(best: Tensor, extremes: Tensor) -> Tensor:
        place = torch.where(codes == extremes.unsqueeze(1), index, none).amin(1)
        holds = torch.where(extremes.view(-1, images, channels) == best, order, float(images))
        chosen = order == holds.amin(1, keepdim=True)
        return torch.where(chosen.expand(-1, images, -1).reshape(n, channels), place, none)

    high = highest.view(-1, images, channels).amax(1, keepdim=True)
    low = lowest.view(-1, images, channels).amin(1, keepdim=True)
    return (high.squeeze(1).t(), low.squeeze(1).t(), first(high, highest), first(low, lowest))


def norm_statistics(x: Tensor, chunks: int, images: int | None, average: bool
                    ) -> tuple[Tensor, ...]:
    """Input quantizer and RangeBN's statistics. x: (N, S, C); images: per chunk, if compiled.

    Returns lowest, highest (N, C) in steps, at_low, at_high, the batch's range low, high, the grid
    (three scalars), mean and range (C,).
    """
    lowest, highest = (x.amin(1), x.amax(1)) if images else torch.aminmax(x, dim=1)
    low, high = batch_range(lowest.amin(1), highest.amax(1), average)
    scale, first, last = grid(low, high)
    lowest, highest = (clip(steps(v, scale), first, last) for v in (lowest, highest))
    codes = clip(steps(x, scale), first, last)
    if images:
        mean = codes.sum(1).sum(0) * scale / (x.shape[0] * x.shape[1])
        found = _image_chunk_extremes(codes, highest, lowest, images)
    else:  # the same sum, in the same order, as RangeBatchNorm takes
        mean = (codes * scale).permute(2, 0, 1).flatten(1).mean(1)
        found = _chunk_extremes(codes, chunks)
    top, bottom, at_high, at_low = found
    span = (top.contiguous() * scale - bottom.contiguous() * scale).mean(1)
    return lowest, highest, at_low, at_high, low, high, scale, first, last, mean, span


def norm_output(x, lowest, highest, scale, first, last, mean, span, gamma, beta, constant,
                activation, average) -> tuple[Tensor, ...]:
    """RangeBN's affine map, activation and output quantizer.

    Returns the output (N, S, C), sigma and factor (C,), the output's range low, high, its grid.
    """
    sigma = span * constant
    factor = torch.where(sigma > 0, gamma / (sigma + EPSILON), 0.0)

    def output(codes: Tensor) -> Tensor:
        return activate((codes * scale).sub_(mean).mul_(factor).add_(beta), activation)

    ends = output(lowest), output(highest)
    low, high = batch_range(torch.minimum(*ends).amin(1), torch.maximum(*ends).amax(1), average)
    out_grid = grid(low, high)
    y = output(clip(steps(x, scale), first, last))
    y = clip(steps(y, out_grid[0]), *out_grid[1:]) * out_grid[0]
    return y, sigma, factor, low, high, *out_grid


def norm_forward(x, gamma, beta, chunks, images, constant, activation, average
                 ) -> tuple[Tensor, ...]:
    """Both phases: the eleven results of ``norm_statistics``, then those of ``norm_output``."""
    found = norm_statistics(x, chunks, images, average)
    lowest, highest, _, _, _, _, *rest = found
    return *found, *norm_output(x, lowest, highest, *rest, gamma, beta, constant, activation,
                                average)


def norm_sums(gradient, x, state: NormState, seed, passes: Passes
              ) -> tuple[Tensor, ...]:
    """The gradient entering RangeBN, in steps (N, S, C), its step, and its sums (C,).

    The sums are those of g and of g * (x - mean), x quantized; with passes.deviation also that of
    (x - mean)^2.
    """
    scale, first, last = state.grid
    centred = clip(steps(x, scale), first, last) * scale - state.mean
    keep = _passes(centred * state.factor + state.beta, passes.activation, state.out_grid,
                   passes.mask)
    if keep is not None:
        gradient = torch.where(keep, gradient, 0.0)
    if passes.quantize:
        codes16, scale16 = _codes16(gradient)
        codes, step = _codes8(codes16, gradient, seed), scale16 * 256
    else:
        codes, step = gradient, torch.ones_like(scale)
    total, moment = (value.sum(1).sum(0) * step for value in (codes, codes * centred))
    squares = [centred.square().sum(1).sum(0)] if passes.deviation else []
    return codes, step, total, moment, *squares


def norm_gradient(codes, step, sums, x, state: NormState, chunking: Chunking, passes: Passes
                  ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The gradient to x (N, S, C), and the coefficients it was made with.

    g * factor - mean(g * factor), and the range's gradient to the first extremes of each chunk, or
    to all values. sums: of ``norm_sums``, (C,) each.
    """
    total, moment, *squares = sums
    scale, first, last = state.grid
    factor, extremes = state.factor, (state.at_high, state.at_low)
    inverse = torch.where(state.sigma > 0, 1 / (state.sigma + EPSILON), 0.0)
    slope, offset = step * factor, total * factor / (x.shape[0] * x.shape[1])
    result = codes * slope - offset
    if passes.deviation:
        floor = SMALLEST_VARIANCE * x.shape[0] * x.shape[1]
        to_range = -moment * factor * state.sigma * inverse / squares[0].clamp_min(floor)
        centred = clip(steps(x, scale), first, last) * scale - state.mean
        result = result + centred * to_range
        return _masked(result, x, state.grid, passes.mask), to_range, slope, offset
    to_range = -moment * factor * inverse * (chunking.constant / chunking.number)
    if chunking.images:
        index = positions(x)
        for places, share in zip(extremes, (to_range, -to_range)):
            result = result + torch.where(index == places.unsqueeze(1), share, 0.0)
    else:
        channel = torch.arange(x.shape[2], device=x.device).view(-1, 1).expand_as(extremes[0])
        for places, share in zip(extremes, (to_range, -to_range)):
            where = places // x.shape[1], places % x.shape[1], channel
            result = result.index_put(where, share.view(-1, 1).expand_as(places), accumulate=True)
    return _masked(result, x, state.grid, passes.mask), to_range, slope, offset


def _masked(gradient, x, grid_, mask: bool) -> Tensor:
    """The gradient where x lies on the grid."""
    if not mask:
        return gradient
    scale, first, last = grid_
    unclipped = steps(x, scale)
    return torch.where((unclipped >= first) & (unclipped <= last), gradient, 0.0)


def norm_backward(gradient, x, state: NormState, seeds, chunking: Chunking, passes: Passes,
                  copies: str | None) -> tuple[Tensor | None, ...]:
    """Both phases and, with copies "16" or "16+8", the bifurcation of the result.

    Returns the gradient to x or its copies (g16, g8), the sums, and what the passes share.
    """
    codes, step, *sums = norm_sums(gradient, x, state, seeds[0], passes)
    result, *shared = norm_gradient(codes, step, sums, x, state, chunking, passes)
    if copies is None:
        return result, None, *sums, step, *shared
    g16, g8, *scales = split(result, seeds[1], copies == "16+8")
    return g16, g8, *sums, step, *shared, *scales


def quantize_forward(x, other, activation, average) -> tuple[Tensor, ...]:
    """Sum of one or two tensors, activation, quantizer: (y, low, high, three of the grid)."""
    y = activate(x if other is None else x + other, activation)
    low, high = batch_range(y.amin(1).amin(1), y.amax(1).amax(1), average)
    scale, first, last = grid(low, high)
    return clip(steps(y, scale), first, last) * scale, low, high, scale, first, last


def quantize_backward(gradient, x, other, out_grid, activation, mask) -> Tensor:
    """The gradient to each summand of ``quantize_forward``; needs an activation or mask."""
    keep = _passes(x if other is None else x + other, activation, out_grid, mask)
    return torch.where(keep, gradient, 0.0)

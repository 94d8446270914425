"""How the window of a convolution becomes periods of contiguous bytes.

A period fetches for every pixel ``slots`` bytes from one address. In the usual layout that is a
part of one tap's channels. A dense input is read across taps: a kernel line, or several with what
lies between them, whatever needs the fewest cycles; bytes that are not wanted meet weights of 0.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.compiler.lowering.task import Window2d
from hw.compiler.memory.placement import Dense, Placement

__all__ = ["ReductionLayout", "dense_reduction", "tap_reduction"]


@dataclass(frozen=True, kw_only=True, eq=False)
class ReductionLayout:
    """slots and period_count; the walker fields of port a without port prefix; and where weights
    go: index int (periods, slots), into the flattened (C, kh, kw) of the weights, -1 for none.
    dense: the layout that it reads, None for the usual one.
    """

    slots: int
    period_count: int
    walker: dict
    index: np.ndarray
    dense: Dense | None = None

    @property
    def steps(self) -> int:
        """Cycles of a tile."""
        return self.slots * self.period_count


def split(n_bytes, target):
    """(periods, slots) that fetch n_bytes with the fewest cycles."""
    n_periods = -(-n_bytes // target.columns)
    return n_periods, max(target.rows, 2, -(-n_bytes // n_periods))


def tap_reduction(target, x: Placement, window: Window2d, channels=None) -> ReductionLayout:
    """The taps of a tensor in the usual layout; channels: (first, last + 1), by default all."""
    total, height, width = x.stored
    first, end = channels or (0, total)
    n_split, slots = split(end - first, target)
    (kh, kw), (sy, sx), (dy, dx) = window.kernel, window.stride, window.dilation
    top, left = window.padding[:2]
    pixel = x.n_chunks * x.word_bytes
    line, back = width * pixel, (n_split - 1) * slots
    walker = {
        "base": first - top * line - left * pixel, "bounded": 1, "group": 1,
        "x_step": sx * pixel, "x_count": window.output[1],
        "y_step": sy * line - (window.output[1] - 1) * sx * pixel,
        "ix": -left, "iy": -top, "ix_step": sx, "iy_step": sy, "width": width, "height": height,
        "k0_count": n_split, "k0_step": slots, "k1_count": kw, "k1_step": dx * pixel - back,
        "k1_dx": dx, "k2_step": dy * line - (kw - 1) * dx * pixel - back,
        "k2_dx": -(kw - 1) * dx, "k2_dy": dy,
    }
    channel = np.arange(n_split * slots)
    channel = np.where(channel < end - first, channel, -1).reshape(n_split, slots)
    taps = np.arange(kh * kw)[:, None, None]
    index = np.where(channel >= 0, channel * kh * kw + taps, -1)
    return ReductionLayout(slots=slots, period_count=kh * kw * n_split, walker=walker,
                 index=index.reshape(-1, slots))


def dense_reduction(target, stored, window: Window2d, fill,
                    by_rows=False) -> ReductionLayout | None:
    """The best reduction of a dense input of (C, H, W), or None where there is none.

    by_rows: only those whose lines are the rows of the image.
    """
    candidates = [reduction for transposed in ((False,) if by_rows else (False, True))
              for merged in range(1, window.kernel[transposed] + 1)
              if (reduction := _dense(target, stored, window, fill, transposed, merged))]
    return min(candidates, key=lambda reduction: reduction.steps, default=None)


def _dense(target, stored, window, fill, transposed, merged):
    """Lines are rows of the image, or where ``transposed`` columns; ``merged`` of them a fetch."""
    channels = stored[0]
    outer, inner = (1, 0) if transposed else (0, 1)
    kernel, stride, dilation = window.kernel, window.stride, window.dilation
    size, out = stored[1:], window.output
    before = window.padding[:2]
    # What is really read behind the last pixel; bottom and right padding may reach less far.
    after = [max(0, (out[k] - 1) * stride[k] + (kernel[k] - 1) * dilation[k] + 1
                 - size[k] - before[k]) for k in (0, 1)]
    pitch = (size[inner] + max(before[inner], after[inner])) * channels
    run = ((kernel[inner] - 1) * dilation[inner] + 1) * channels
    if merged > 1 and dilation[outer] * pitch < run:
        return None  # lines would share bytes, and their weights could not be added
    n_fetches = -(-kernel[outer] // merged)
    line_step = dilation[outer] * pitch
    n_split, slots = split((merged - 1) * line_step + run, target)
    index = np.full((n_fetches, n_split * slots), -1)
    for k_outer in range(kernel[outer]):
        for k_inner in range(kernel[inner]):
            at = k_outer % merged * line_step + k_inner * dilation[inner] * channels
            tap = k_inner * kernel[1] + k_outer if transposed else k_outer * kernel[1] + k_inner
            index[k_outer // merged, at:at + channels] = (
                np.arange(channels) * kernel[0] * kernel[1] + tap)
    steps = {outer: pitch, inner: channels}
    x_step, y_step = stride[1] * steps[1], stride[0] * steps[0]
    fetch_step = merged * line_step
    walker = {
        "base": 0, "bounded": 1, "group": 1, "x_step": x_step, "x_count": out[1],
        "y_step": y_step - (out[1] - 1) * x_step, "ix_step": 1, "iy_step": 1,
        "width": out[1], "height": out[0],  # the border is there; these bound the pixels alone
        "k0_count": n_split, "k0_step": slots, "k1_count": n_fetches,
        "k1_step": fetch_step - (n_split - 1) * slots,
    }
    last = ((out[0] - 1) * y_step + (out[1] - 1) * x_step
            + (n_fetches - 1) * fetch_step + n_split * slots)
    pixels = ((before[0] + size[0] - 1) * steps[0] + (before[1] + size[1] - 1) * steps[1]
              + channels)
    dense = Dense(y_step=steps[0], x_step=steps[1], top=before[0], left=before[1],
                  n_bytes=max(last, pixels), fill=fill)
    return ReductionLayout(slots=slots, period_count=n_split * n_fetches, walker=walker,
                 index=index.reshape(-1, slots), dense=dense)

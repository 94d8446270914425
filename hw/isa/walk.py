"""Where the ports of the array read: the closed form of what hw.rtl.array.walker counts."""

from __future__ import annotations

import numpy as np

from hw.isa.instruction import ENDLESS, wrap
from hw.isa.layout import Feed

__all__ = ["pixel_words", "port_lanes", "reduction_steps", "walk"]

_WALK_WIDTH, _POSITION_WIDTH = 24, 16


def port_lanes(port: str, target) -> int:
    """Lanes that port "a" or "b" feeds."""
    return target.rows if port == "a" else target.columns


def reduction_steps(f, target) -> int:
    """Slots of a period in which a product can differ from zero."""
    direct = f["a_feed"] == Feed.DIRECT and f["b_feed"] == Feed.DIRECT
    return f["slots"] if direct else min(f["slots"], target.columns)


def walk(f, port: str, target, tiles) -> tuple[np.ndarray, np.ndarray]:
    """Where a port of a MATMUL reads in some of its own tiles.

    tiles : int64 (T,), numbers of tiles: pixels for port a, channels for b.
    Returns address (bytes for a, words for b) and inside, (T, period_count, slots that name a
    word) each; where inside is False nothing is read and `pad` takes its place.
    """
    def field(name):
        return f[f"{port}_{name}"]

    n_named = f["slots"] if field("feed") == Feed.DIRECT else port_lanes(port, target)
    group = field("group") or ENDLESS
    restarts, periods = np.divmod(np.arange(f["period_count"]), group)
    position = periods[:, None] * n_named + np.arange(n_named)
    tiles = np.asarray(tiles, np.int64)[:, None, None]
    if field("fixed"):
        base = field("base") + tiles * field("tile_step")
        position = np.broadcast_to(position, (len(tiles), *position.shape))
    else:
        base = field("base")
        position = position + tiles * ((f["period_count"] - 1) % group + 1) * n_named
    x_count = field("x_count") or ENDLESS
    line, x = np.divmod(position, x_count)
    line_step = (x_count - 1) * field("x_step") + field("y_step")

    # Every restart of the slot walk makes one step of the period walk.
    k0_count, k1_count = field("k0_count") or ENDLESS, field("k1_count") or ENDLESS
    k0_ends = restarts // k0_count
    k1_ends = k0_ends // k1_count
    n_steps = restarts - k0_ends, k0_ends - k1_ends, k1_ends

    def tap(name, width):
        total = sum(n * field(f"k{level}_{name}") for level, n in enumerate(n_steps))
        return wrap(total, width)[:, None]

    address = wrap(base + line * line_step + x * field("x_step") + tap("step", _WALK_WIDTH),
                   _WALK_WIDTH)
    if not field("bounded"):
        return address, np.ones(address.shape, bool)
    ix = wrap(field("ix") + x * field("ix_step"), _POSITION_WIDTH) + tap("dx", _POSITION_WIDTH)
    iy = wrap(field("iy") + line * field("iy_step"), _POSITION_WIDTH) + tap("dy", _POSITION_WIDTH)
    return address, ((0 <= ix) & (ix < field("width")) & (0 <= iy) & (iy < field("height")))


def pixel_words(f, n_pixels: int) -> np.ndarray:
    """int64 (n_pixels,): first word of each output pixel of a MATMUL, before it wraps."""
    x_count = f["out_x_count"] or ENDLESS
    line, x = np.divmod(np.arange(n_pixels), x_count)
    line_step = (x_count - 1) * f["out_step"] + f["out_line_step"]
    return f["out_base"] + line * line_step + x * f["out_step"]

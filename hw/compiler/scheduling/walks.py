"""Addresses of the array's ports as whole arrays: the closed form of what hw.rtl.array.walker
counts."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hw.isa import Feed

__all__ = ["Walk", "pixel_addresses", "port_walk", "wrap"]

_ENDLESS = 1 << 40  # a count of 0 never matches a counter


@dataclass(frozen=True, kw_only=True)
class Walk:
    """Every word that a port names: address, and whether it lies inside the bounds.

    address, inside: (tiles, periods, names); names: slots of direct feed, else lanes.
    """

    address: np.ndarray
    inside: np.ndarray
    direct: bool


def wrap(values, width):
    """Integers as two's complement of ``width`` bits."""
    half = 1 << width - 1
    return (values + half & (1 << width) - 1) - half


def port_walk(fields, port, lanes, tiles) -> Walk:
    """What port ``a`` or ``b`` with ``lanes`` lanes names in its tiles, an int array."""
    f = {name[2:]: value for name, value in fields.items() if name.startswith(port + "_")}
    periods, direct = fields["period_count"], f["feed"] == Feed.DIRECT
    names = fields["slots"] if direct else lanes
    group, x_count = f["group"] or _ENDLESS, f["x_count"] or _ENDLESS
    k0_count, k1_count = f["k0_count"] or _ENDLESS, f["k1_count"] or _ENDLESS

    period = np.arange(periods)
    index = (period % group * names)[:, None] + np.arange(names)
    per_tile = ((periods - 1) % group + 1) * names
    tiles = np.asarray(tiles, np.int64)[:, None, None]
    index = index + (0 if f["fixed"] else tiles * per_tile)
    line, x = np.divmod(index, x_count)
    line_step = 0 if x_count == _ENDLESS else f["x_step"] * (x_count - 1) + f["y_step"]
    address = f["base"] + line * line_step + x * f["x_step"] + f["fixed"] * tiles * f["tile_step"]

    steps = period // group
    inner, outer = steps // k0_count, steps // k0_count // k1_count
    counts = np.stack([steps - inner, inner - outer, outer], axis=-1)
    tap, dx, dy = (counts @ np.array([f[f"k{k}_{name}"] for k in range(3)])
                   for name in ("step", "dx", "dy"))
    ix = wrap(f["ix"] + x * f["ix_step"], 16) + wrap(dx, 16)[:, None]
    iy = wrap(f["iy"] + line * f["iy_step"], 16) + wrap(dy, 16)[:, None]
    inside = (ix >= 0) & (ix < f["width"]) & (iy >= 0) & (iy < f["height"])
    shape = (tiles.size, periods, names)
    return Walk(address=np.broadcast_to(wrap(address + tap[:, None], 24), shape),
                inside=np.broadcast_to(inside | (not f["bounded"]), shape), direct=direct)


def pixel_addresses(fields, n_pixels) -> np.ndarray:
    """The output word of the first ``n_pixels`` pixels of a MATMUL, first channel tile."""
    line, x = np.divmod(np.arange(n_pixels), fields["out_x_count"] or _ENDLESS)
    net = fields["out_step"] * ((fields["out_x_count"] or 1) - 1) + fields["out_line_step"]
    return fields["out_base"] + line * net + x * fields["out_step"] & 0xFFFF

"""The three products of a convolution's training step, as instructions for the array.

    y  = conv(x, w)         rows: output pixels          columns: output channels
    dx = conv_T(dy, w)      rows: input pixels           columns: input channels
    dw = x (*) dy           rows: input channels of one tap   columns: output channels

Weights lie once, for y and dx alike: word (tap, input channel, chunk of output channels), a byte
per output channel. Port b takes them direct for y, a word per step of the reduction, and
transposing for dx, a word per lane. dw comes out in the same order. x, dy and results lie pixel by
pixel, images one after the other; an x of few channels lies dense (hw.compiler.memory.placement).

The zero point of dy and w is 0, that of x any. Padding supplies x's zero point.
"""

from __future__ import annotations

import numpy as np

from golden import digits
from golden.errors import LockstepError
from hw.compiler.lowering.task import parameter_block, rescale_fields
from hw.compiler.training.layout import (
    ENDLESS,
    Convolution,
    checked,
    cover_of,
    pixel_words,
    port_fields,
    straight,
    weight_words,
)
from hw.compiler.training.memory import TrainingProduct, Workspace, codes_of, sums_of
from hw.isa import N_PLANES, Feed, Opcode
from hw.targets import Target

__all__ = ["Convolution", "forward", "input_gradient", "weight_gradient"]

_SLOTS_MAX = 255


def forward(target: Target, c: Convolution, x, weights, bias, rescale, *,
            zero_point: int) -> TrainingProduct:
    """``values``: y int8 (N, O, OH, OW) = rescale(conv(x - zero_point, weights) + bias).

    x: int8 (N, I, H, W); weights: int8 (O, I, kh, kw); bias: integers (O,); rescale: golden
    Rescale of one or O channels.
    """
    columns, (out_height, out_width) = target.columns, c.output
    work = Workspace(name=f"{c.name}.forward", target=target)
    cover, place = cover_of(target, c, zero_point)
    x_words = place.pack(checked(x, (c.in_channels, c.height, c.width)))
    x_block = work.put(x_words.reshape(-1, columns), "activations", spare=1)
    w_block = work.put(weight_words(weights, c, columns), "weights", avoid=[x_block.bank],
                       port="b")
    chunks, n_pixels = -(-c.out_channels // columns), out_height * out_width
    y = work.reserve(len(x) * n_pixels * chunks, "results")
    folded = np.asarray(bias, np.int64) - zero_point * weights.astype(np.int64).sum((1, 2, 3))
    work.parameters = parameter_block(folded, rescale, c.out_channels, columns)
    base = x_block.base * columns + cover.walker["base"]
    for image in range(len(x)):
        work.add(
            opcode=Opcode.MATMUL, slots=cover.slots, period_count=cover.period_count,
            outer_count=-(-n_pixels // target.rows), inner_count=chunks, n_pixels=n_pixels,
            n_channels=c.out_channels, out_bank=y.bank, out_base=y.base + image * n_pixels * chunks,
            out_step=chunks, out_line_step=chunks, out_x_count=ENDLESS, **rescale_fields(rescale),
            **port_fields("a", **cover.walker | {"base": base + image * x_words[0].size},
                          pad=zero_point, feed=Feed.TRANSPOSING, bank=x_block.bank),
            **port_fields("b", **straight(chunks), base=w_block.base, bank=w_block.bank,
                          feed=Feed.DIRECT, group=cover.period_count, fixed=1, tile_step=1))
    shape = len(x), c.out_channels, out_height, out_width
    return work.finish(len(x) * c.macs, lambda words: {"y": codes_of(words[0], shape)})


def input_gradient(target: Target, c: Convolution, dy, weights, rescale=None) -> TrainingProduct:
    """``values``: dx (N, I, H, W): int8 = rescale(sums), or without rescale the int32 sums.

    dy: int8 (N, O, OH, OW). rescale: golden Rescale of one or I channels. A stride of s is s * s
    products, each of the input pixels whose coordinates leave the same remainders: these see the
    same taps, every s-th one. No zero is inserted into dy. Pixels that no tap reaches get the code
    of 0, from the vector engine and at the same time.
    """
    columns = target.columns
    work = Workspace(name=f"{c.name}.input_gradient", target=target)
    dy_block = work.put(pixel_words(dy, (c.out_channels, *c.output), target), "gradients")
    chunks, tiles = -(-c.out_channels // columns), -(-c.in_channels // columns)
    w_block = work.put(weight_words(weights, c, columns), "weights", avoid=[dy_block.bank],
                       spare=columns * chunks, port="b")
    n_words = len(dy) * c.height * c.width * tiles
    planes = 1 if rescale else N_PLANES
    region = work.reserve(planes * n_words, "results")
    common = {"opcode": Opcode.MATMUL, "slots": columns, "inner_count": tiles,
              "n_channels": c.in_channels, "out_bank": region.bank, "wide": int(not rescale),
              "plane_step": 0 if rescale else n_words}
    zero = 0
    if rescale:
        common |= rescale_fields(rescale)
        work.parameters = parameter_block(np.zeros(c.in_channels, np.int64), rescale,
                                          c.in_channels, columns)
        if rescale.low > rescale.zero_point or rescale.high < rescale.zero_point:
            raise LockstepError(f"Product {work.name}: the clamp bounds leave the zero point out")
        zero = rescale.zero_point
    for plane in range(planes):
        _fill_untouched(work, c, len(dy), tiles, (region.bank, region.base + plane * n_words),
                        zero)
    for image in range(len(dy)):
        for py in range(c.stride[0]):
            for px in range(c.stride[1]):
                fields = _phase(c, target, (py, px), chunks, tiles)
                if fields is None:
                    continue
                fields["a_base"] += (dy_block.base
                                     + image * c.output[0] * c.output[1] * chunks) * columns
                fields["b_base"] += w_block.base
                fields["out_base"] += region.base + image * c.height * c.width * tiles
                work.add(**common, **fields, a_bank=dy_block.bank, b_bank=w_block.bank)
    shape = len(dy), c.in_channels, c.height, c.width

    def collect(words):
        return {"dx": codes_of(words[0] if rescale else sums_of(words[0]), shape)}
    return work.finish(len(dy) * c.macs, collect)


def _taps(c, phase, k) -> tuple[int, int, int]:
    """(first tap, number of taps, output coordinate of the first tap) of a phase, axis k."""
    first = (phase[k] + c.padding[k]) % c.stride[k]
    n_taps = len(range(first, c.kernel[k], c.stride[k]))
    return first, n_taps, (phase[k] + c.padding[k] - first) // c.stride[k]


def _phase(c: Convolution, target, phase, chunks, tiles) -> dict | None:
    """Fields of the input pixels of one phase, addresses from the operands' beginnings; None
    where it has no tap or no pixel.
    """
    (ky, n_ky, oy), (kx, n_kx, ox) = _taps(c, phase, 0), _taps(c, phase, 1)
    (sy, sx), (py, px) = c.stride, phase
    n_lines, n_x = len(range(py, c.height, sy)), len(range(px, c.width, sx))
    if not (n_ky and n_kx and n_lines and n_x):
        return None
    out_height, out_width = c.output
    pixel = chunks * target.columns  # bytes of dy
    line = out_width * pixel
    back = (chunks - 1) * target.columns
    tap = c.in_channels * chunks  # words of the weights
    levels = {"k0_count": chunks, "k1_count": n_kx}
    return {
        "period_count": n_ky * n_kx * chunks, "outer_count": -(-n_lines * n_x // target.rows),
        "n_pixels": n_lines * n_x, "out_base": (py * c.width + px) * tiles, "out_step": sx * tiles,
        "out_x_count": n_x, "out_line_step": (sy * c.width - (n_x - 1) * sx) * tiles,
        **port_fields("a", base=oy * line + ox * pixel, bounded=1, width=out_width,
                      height=out_height, ix=ox, iy=oy, ix_step=1, iy_step=1, x_step=pixel,
                      x_count=n_x, y_step=line - (n_x - 1) * pixel, group=1,
                      feed=Feed.TRANSPOSING, **levels, k0_step=target.columns,
                      k1_step=-pixel - back, k1_dx=-1,
                      k2_step=-line + (n_kx - 1) * pixel - back, k2_dx=n_kx - 1, k2_dy=-1),
        **port_fields("b", **straight(chunks), base=(ky * c.kernel[1] + kx) * tap, group=1,
                      feed=Feed.TRANSPOSING, fixed=1, tile_step=target.columns * chunks, **levels,
                      k0_step=1, k1_step=sx * tap - chunks + 1,
                      k2_step=(sy * c.kernel[1] - (n_kx - 1) * sx) * tap - chunks + 1),
    }


def _fill_untouched(work, c, n_images, tiles, place, zero):
    """Whole rows and columns of dx without a tap, written as maxima of padding."""
    rows, columns = ([p for p in range(c.stride[k]) if not _taps(c, (p, p), k)[1]] for k in (0, 1))
    if not (rows or columns):
        return
    (sy, sx), (bank, base) = c.stride, place
    if c.height % sy or c.width % sx:
        raise LockstepError(f"Product {work.name}: a stride of {c.stride} with pixels that no tap "
                            f"reaches must divide the input's {c.height}x{c.width}")
    lines = [(p * c.width, sy * c.width, c.width, c.height // sy) for p in rows]
    lines += [(p, sx, 1, c.height * c.width // sx) for p in columns]
    for first, step, n_pixels, count in lines:
        work.add(opcode=Opcode.MAXPOOL, out_bank=bank, out_base=base + first * tiles,
                 out_step=step * tiles, n_chunks=n_pixels * tiles, out_width=n_images * count,
                 out_height=1, kernel_width=1, kernel_height=1, stride_x=1, stride_y=1,
                 dilation_x=1, dilation_y=1, n_channels=n_pixels * tiles * work.target.columns,
                 x_bank=bank, pad=zero)


def weight_gradient(target: Target, c: Convolution, x, dy, *, zero_point: int) -> TrainingProduct:
    """``values``: dw int64 (O, I, kh, kw) of x - zero_point, and db int64 (O,) = sum(dy), exact.

    x: int8 (N, I, H, W). dy: (N, O, OH, OW); int8 is one pass, anything wider is taken as 16 bits,
    clamped to golden.digits' range and run as two passes, low digits first, that the host puts
    together in 64 bits. db is a product with ones on port a, and the host takes zero_point * db
    off dw. Raises LockstepError for more pixels than an int32 sum can take.
    """
    columns, rows, (out_height, out_width) = target.columns, target.rows, c.output
    parts = [dy] if dy.dtype == np.int8 else list(digits.split(dy))
    work = Workspace(name=f"{c.name}.weight_gradient" + ("_16bit" if len(parts) > 1 else ""),
                     target=target)
    n_pixels, chunks = out_height * out_width, -(-c.out_channels // columns)
    if len(x) * n_pixels > digits.MAX_TERMS:
        raise LockstepError(f"Product {work.name}: {len(x) * n_pixels} pixels are more than the "
                            f"{digits.MAX_TERMS} of an exact 32-bit sum; take fewer images")
    if len(x) != len(dy):
        raise LockstepError(f"Product {work.name}: {len(x)} images do not fit {len(dy)} gradients")
    cover, place = cover_of(target, c, zero_point)
    x_words = place.pack(checked(x, (c.in_channels, c.height, c.width)))
    x_block = work.put(x_words.reshape(-1, columns), "activations", spare=2)
    slots = max((d for d in range(2, _SLOTS_MAX + 1) if n_pixels % d == 0), default=0)
    if not slots:
        raise LockstepError(f"Product {work.name}: {n_pixels} pixels have no divisor in "
                            f"2..{_SLOTS_MAX}")
    group = n_pixels // slots
    lines = _dense_lines(c, cover) if cover.dense else _tap_lines(c, target)
    for part in parts:
        dy_block = work.put(pixel_words(part, (c.out_channels, out_height, out_width), target),
                            "gradients", avoid=[x_block.bank], port="b")
        b = port_fields("b", **straight(chunks), base=dy_block.base, bank=dy_block.bank,
                        feed=Feed.DIRECT, group=group * len(x), fixed=1, tile_step=1)

        def add(n_results, a, b=b):
            region = work.reserve(N_PLANES * n_results * chunks, "results")
            work.add(
                opcode=Opcode.MATMUL, wide=1, slots=slots, period_count=group * len(x),
                outer_count=-(-n_results // rows), inner_count=chunks, n_pixels=n_results,
                n_channels=c.out_channels, out_bank=region.bank, out_base=region.base,
                out_step=chunks, out_line_step=chunks, out_x_count=ENDLESS,
                plane_step=n_results * chunks, **b,
                **port_fields("a", **{
                    "feed": Feed.DIRECT, "bank": x_block.bank, "pad": zero_point, "group": group,
                    "x_count": out_width, "fixed": 1, "tile_step": rows, "k0_count": len(x),
                    "k0_step": x_words[0].size} | a))

        for n_results, a in lines:
            add(n_results, a | {"base": a["base"] + x_block.base * columns})
        add(1, {"bounded": 1, "pad": 1})  # width 0: everything is padding

    def collect(words):
        sums = [_weight_sums(words[k:k + len(lines) + 1], c)
                for k in range(0, len(words), len(lines) + 1)]
        dw, db = sums[0] if len(sums) == 1 else map(digits.combine, *sums)
        return {"dw": dw - zero_point * db[:, None, None, None], "db": db}
    return work.finish(len(parts) * len(x) * c.macs, collect)


def _tap_lines(c: Convolution, target) -> list[tuple[int, dict]]:
    """(results, fields of port a) of each tap: its input channels."""
    (sy, sx), (top, left) = c.stride, c.padding[:2]
    pixel = -(-c.in_channels // target.columns) * target.columns
    line = c.width * pixel
    return [(c.in_channels, {
        "base": (ky - top) * line + (kx - left) * pixel, "bounded": 1, "ix": kx - left,
        "iy": ky - top, "ix_step": sx, "iy_step": sy, "width": c.width, "height": c.height,
        "x_step": sx * pixel, "y_step": sy * line - (c.output[1] - 1) * sx * pixel,
    }) for ky in range(c.kernel[0]) for kx in range(c.kernel[1])]


def _dense_lines(c: Convolution, cover) -> list[tuple[int, dict]]:
    """The same of each line of the kernel: what lies side by side, its border included."""
    dense, (sy, sx) = cover.dense, c.stride
    return [(c.kernel[1] * c.in_channels, {
        "base": ky * dense.y_step, "x_step": sx * dense.x_step,
        "y_step": sy * dense.y_step - (c.output[1] - 1) * sx * dense.x_step,
    }) for ky in range(c.kernel[0])]


def _weight_sums(words, c: Convolution) -> tuple[np.ndarray, np.ndarray]:
    """(dw, db), int64, of the regions of one pass."""
    parts = [sums_of(part).astype(np.int64) for part in words]
    n_columns = c.out_channels
    db = parts[-1].reshape(-1)[:n_columns]
    dw = np.concatenate([part.reshape(-1) for part in parts[:-1]])
    dw = dw.reshape(*c.kernel, c.in_channels, -1)[..., :n_columns]
    return dw.transpose(3, 2, 0, 1), db

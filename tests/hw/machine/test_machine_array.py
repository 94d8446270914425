"""MATMUL of the instruction-set model: a convolution, and a walk slot by slot."""

import numpy as np
import pytest

from golden.ops.convolution import Conv2d
from hw.isa import FIELDS, Feed, Format, Opcode, encode
from hw.machine import Machine
from hw.targets import get_target
from tests.hw.machine.machine_data import (
    from_words,
    put,
    put_parameters,
    random_rescale,
    rescale_fields,
    to_words,
)

SMALL = get_target("sim-4x4")


def convolution_fields(target, x_shape, op, output, b_feed):
    """Walker fields of a convolution over whole words of channels."""
    _, height, width = x_shape
    kernel_height, kernel_width = op.kernel
    stride_y, stride_x = op.stride
    dilation_y, dilation_x = op.dilation
    top, left = op.padding[:2]
    word = target.columns
    chunks = -(-x_shape[0] // word)
    pixel, line = chunks * word, width * chunks * word
    n_channels, out_height, out_width = output
    out_chunks = -(-n_channels // word)
    periods = kernel_height * kernel_width * chunks
    fields = {
        "opcode": Opcode.MATMUL, "slots": word, "period_count": periods,
        "inner_count": out_chunks, "outer_count": -(-out_height * out_width // target.rows),
        "n_channels": n_channels, "n_pixels": out_height * out_width, "out_step": out_chunks,
        "out_x_count": out_width, "out_line_step": out_chunks, "a_bank": 0, "b_bank": 1,
        "a_bounded": 1, "a_pad": op.input_zero_point, "a_x_count": out_width,
        "a_x_step": stride_x * pixel, "a_y_step": stride_y * line - (out_width - 1)
        * stride_x * pixel, "a_base": -top * line - left * pixel, "a_ix": -left, "a_iy": -top,
        "a_ix_step": stride_x, "a_iy_step": stride_y, "a_width": width, "a_height": height,
        "a_group": 1, "a_k0_count": chunks, "a_k0_step": word, "a_k1_count": kernel_width,
        "a_k1_step": dilation_x * pixel - (chunks - 1) * word, "a_k1_dx": dilation_x,
        "a_k2_step": dilation_y * line - (kernel_width - 1) * dilation_x * pixel
        - (chunks - 1) * word, "a_k2_dx": -(kernel_width - 1) * dilation_x,
        "a_k2_dy": dilation_y, "b_feed": b_feed, "b_x_step": 1}
    if b_feed == Feed.TRANSPOSING:  # a word of each channel's own, channels a tile apart
        fields |= {"b_x_step": periods, "b_group": 1, "b_k0_step": 1, "b_x_count": 0}
    return fields


def weight_words(op, columns, feed):
    """Weights of a convolution: (tile, period, slot) words of channels, or (channel, period)."""
    n_channels, n_inputs, *kernel = op.weights.shape
    tiles, chunks = -(-n_channels // columns), -(-n_inputs // columns)
    w = np.zeros((tiles * columns, *kernel, chunks * columns), np.int8)
    w[:n_channels, ..., :n_inputs] = op.weights.transpose(0, 2, 3, 1)
    if feed == Feed.DIRECT:
        w = w.reshape(tiles, columns, -1).transpose(0, 2, 1)
    return np.ascontiguousarray(w).reshape(-1, columns)


@pytest.mark.parametrize("seed", range(12))
def test_product_is_a_convolution(seed):
    rng = np.random.default_rng(seed)
    target = get_target(["sim-4x4", "sim-8x8", "ecp5-85k"][seed % 3])
    channels, outputs = rng.integers(1, 25, 2)
    kernel, stride = rng.integers(1, 4, 2), rng.integers(1, 3, 2)
    dilation = rng.integers(1, 3, 2)
    op = Conv2d(
        weights=rng.integers(-128, 128, (outputs, channels, *kernel)).astype(np.int8),
        bias=rng.integers(-5000, 5000, outputs).astype(np.int32),
        input_zero_point=int(rng.integers(-128, 128)), stride=tuple(map(int, stride)),
        dilation=tuple(map(int, dilation)), padding=tuple(map(int, rng.integers(0, 2, 4))),
        rescale=random_rescale(rng, outputs))
    x = rng.integers(-128, 128, (channels, *rng.integers(6, 10, 2))).astype(np.int8)
    want = op(x[None])[0]
    feed = Feed(seed // 3 % 2)
    fields = convolution_fields(target, x.shape, op, want.shape, feed)
    out_step = fields["out_step"] + 2  # behind and between other words
    fields |= rescale_fields(op.rescale) | {
        "out_bank": 2, "out_base": 5, "parameter_base": 3, "out_step": out_step,
        "out_line_step": out_step, "a_base": fields["a_base"] + 9 * target.columns, "b_base": 7}
    machine = Machine(target)
    machine.banks[2][:] = 99
    put(machine, 0, 9, to_words(x, target.columns))
    put(machine, 1, 7, weight_words(op, target.columns, feed))
    put_parameters(machine, 3, op.folded_bias(), op.rescale)
    machine.execute(encode(**fields))
    n_pixels = want.shape[1] * want.shape[2]
    got = machine.banks[2][5:5 + n_pixels * out_step].reshape(n_pixels, -1, target.columns)
    results = got[:, :out_step - 2].reshape(-1, target.columns)
    assert np.array_equal(from_words(results, *want.shape), want)
    assert (got[:, out_step - 2:] == 99).all() and (machine.banks[2][:5] == 99).all()
    rest = got[:, :out_step - 2].reshape(n_pixels, -1)[:, outputs:]
    assert (rest == 99).all(), "channels beyond the last are not written"

    machine.execute(encode(**fields | {"wide": 1, "plane_step": 500, "out_bank": 3,
                                       "first_channel": 1}))
    planes = np.stack([machine.banks[3][5 + 500 * q:][:n_pixels * out_step] for q in range(4)])
    planes = planes.reshape(4, n_pixels, out_step, -1)[:, :, :out_step - 2]
    planes = planes.reshape(4, n_pixels, -1)[:, :, :outputs].astype(np.int64)
    sums = sum((planes[q] if q == 3 else planes[q] & 255) << 8 * q for q in range(4))
    raw = op.accumulate(x[None])[0].reshape(outputs, -1).T - op.folded_bias()
    assert np.array_equal(sums[:, 1:], raw[:, 1:])
    assert not planes[:, :, 0].any()


class Walker:
    """hw.rtl.array.walker, counter by counter."""

    def __init__(self, f, port):
        self.f = {name[2:]: value for name, value in f.items() if name.startswith(port + "_")}
        self.start = self._first()
        self._restart()

    def _first(self):
        return {"address": self.f["base"], "x": 0, "ix": self.f["ix"], "iy": self.f["iy"]}

    def _restart(self):
        self.here = dict(self.start)
        self.tap, self.k0, self.k1, self.group = [0, 0, 0], 0, 0, 0

    def name(self):
        """(address, inside) of the present position; goes on to the next."""
        f, here = self.f, self.here
        address = here["address"] + self.tap[0]
        ix, iy = here["ix"] + self.tap[1], here["iy"] + self.tap[2]
        inside = not f["bounded"] or (0 <= ix < f["width"] and 0 <= iy < f["height"])
        if here["x"] + 1 == f["x_count"]:
            self.here = {"address": here["address"] + f["y_step"], "x": 0, "ix": f["ix"],
                         "iy": here["iy"] + f["iy_step"]}
        else:
            self.here = {"address": here["address"] + f["x_step"], "x": here["x"] + 1,
                         "ix": here["ix"] + f["ix_step"], "iy": here["iy"]}
        return address, inside

    def end_period(self):
        f = self.f
        self.after = self.here
        self.group += 1
        if self.group != f["group"]:
            return
        self.group, self.here = 0, dict(self.start)
        level = 2
        if self.k0 + 1 != f["k0_count"]:
            self.k0, level = self.k0 + 1, 0
        else:
            self.k0 = 0
            if self.k1 + 1 != f["k1_count"]:
                self.k1, level = self.k1 + 1, 1
            else:
                self.k1 = 0
        for n, what in enumerate(("step", "dx", "dy")):
            self.tap[n] += f[f"k{level}_{what}"]

    def end_tile(self, advance, rewind):
        if rewind:
            self.start = self._first()
        elif advance and self.f["fixed"]:
            self.start = self.start | {"address": self.start["address"] + self.f["tile_step"]}
        elif advance:
            self.start = dict(self.after)
        self._restart()


def slot_by_slot(machine, f):
    """Sums int (pixels, channels) of a MATMUL, one slot and one multiplication after the other."""
    target = machine.target
    lanes = {"a": target.rows, "b": target.columns}
    walkers = {port: Walker(f, port) for port in "ab"}
    sums = np.zeros((f["outer_count"] * target.rows, f["inner_count"] * target.columns), np.int64)
    reads = {"a": set(), "b": set()}

    def period(port):
        """(slots, lanes) values."""
        words = []
        direct = f[f"{port}_feed"] == Feed.DIRECT
        for _ in range(f["slots"] if direct else lanes[port]):
            address, inside = walkers[port].name()
            first = address if port == "a" else address * target.columns
            if inside:
                reads[port].add(first)
                content = np.append(machine.banks[f[f"{port}_bank"]].reshape(-1),
                                    np.zeros(target.columns, np.int8))
                words.append(content[first:first + target.columns])
            else:
                words.append(np.full(target.columns, f[f"{port}_pad"]))
        walkers[port].end_period()
        if direct:
            return np.array(words)[:, :lanes[port]].astype(np.int64)
        values = np.zeros((f["slots"], lanes[port]), np.int64)
        for lane, word in enumerate(words):
            n = min(f["slots"], target.columns)
            values[:n, lane] = word[:n]
        return values

    for tile in range(f["outer_count"]):
        for channel_tile in range(f["inner_count"]):
            total = 0
            for _ in range(f["period_count"]):
                total = total + period("a").T @ period("b")
            sums[tile * target.rows:][:target.rows,
                 channel_tile * target.columns:][:, :target.columns] = total
            last = channel_tile == f["inner_count"] - 1
            walkers["a"].end_tile(last, False)
            walkers["b"].end_tile(True, last)
    return sums


def random_product(rng, target):
    """Fields of a MATMUL whose walks stay inside the first 3000 words or bytes."""
    f = {field.name: 0 for field in FIELDS[Format.ARRAY]}
    feeds = rng.integers(0, 2, 2)
    low = 2 if feeds.all() else (target.columns if not feeds[1] else target.rows)
    f |= {"opcode": int(Opcode.MATMUL), "slots": int(rng.integers(low, 2 * target.columns)),
          "wide": 1, "period_count": int(rng.integers(1, 9)), "inner_count": 2, "outer_count": 3,
          "out_bank": 2, "out_step": 2, "plane_step": 100, "n_pixels": 3 * target.rows,
          "n_channels": 2 * target.columns}
    for port, feed in zip("ab", feeds):
        values = {
            "base": rng.integers(1500, 1600), "bank": "ab".index(port), "feed": feed,
            "bounded": rng.integers(0, 4) > 0, "fixed": rng.integers(0, 2),
            "pad": rng.integers(-128, 128), "x_step": rng.integers(-4, 9),
            "y_step": rng.integers(-9, 9), "tile_step": rng.integers(-99, 99),
            "x_count": rng.integers(0, 7), "group": rng.integers(0, 4),
            "ix": rng.integers(-2, 3), "iy": rng.integers(-2, 3), "width": rng.integers(3, 12),
            "height": rng.integers(3, 12), "ix_step": rng.integers(0, 3),
            "iy_step": rng.integers(0, 3), "k0_count": rng.integers(0, 4),
            "k1_count": rng.integers(0, 4)}
        for level in range(3):
            values |= {f"k{level}_step": rng.integers(-30, 30),
                       f"k{level}_dx": rng.integers(-3, 4), f"k{level}_dy": rng.integers(-3, 4)}
        f |= {f"{port}_{name}": int(value) for name, value in values.items()}
    return f


def raw_sums(machine, f):
    """What a wide MATMUL with the places of random_product has written."""
    target = machine.target
    n = 3 * target.rows
    planes = np.stack([machine.banks[2][100 * q:][:2 * n] for q in range(4)], -1)
    return planes.copy().view("<i4").reshape(n, 2 * target.columns)


@pytest.mark.parametrize("seed", range(40))
def test_walks_equal_their_counters(seed):
    rng = np.random.default_rng(seed)
    machine = Machine(SMALL)
    for bank in machine.banks:
        bank[:] = rng.integers(-128, 128, bank.shape)
    f = random_product(rng, SMALL)
    want = slot_by_slot(machine, f)
    machine.execute(encode(**f))
    assert np.array_equal(raw_sums(machine, f), want)


def test_sums_wrap_at_32_bits():
    machine = Machine(SMALL)
    machine.banks[0][:], machine.banks[1][:] = -128, -128
    f = random_product(np.random.default_rng(0), SMALL)
    f |= {f"{port}_{name}": 0 for port in "ab" for name in (
        "x_step", "y_step", "tile_step", "k0_step", "k1_step", "k2_step", "bounded")}
    f |= {"a_feed": 1, "b_feed": 1, "slots": 255, "period_count": 600}
    machine.execute(encode(**f))
    assert (raw_sums(machine, f) == (255 * 600 << 14) - (1 << 32)).all()

"""What the vector engine must compute, in numpy.

    memories = Memories(target, seed)
    expected = model(memories, fields)  # a copy of the memories, as they must be afterwards
"""

import numpy as np

from golden import arith
from hw.isa import FIELDS, Format, Opcode

WORD_MASK = 0xFFFF
BY_PIXELS = (Opcode.ADD, Opcode.MUL, Opcode.LOOKUP)  # no window, a unit is a pixel
BY_WORDS = (Opcode.MAXPOOL, Opcode.LOOKUP)  # whole words are written, whatever the channels


class Memories:
    """Four banks of random codes, and parameters of random channels."""

    def __init__(self, target, seed=0, n_parameters=256):
        rng = np.random.default_rng(seed)
        self.target = target
        self.banks = [rng.integers(-128, 128, (words, target.columns)).astype(np.int8)
                      for words in target.bank_words]
        self.bias = rng.integers(-20000, 20000, n_parameters)
        self.multiplier = rng.integers(1 << 30, 1 << 31, n_parameters)
        self.shift = rng.integers(36, 42, n_parameters)

    def copy(self):
        other = Memories.__new__(Memories)
        vars(other).update(vars(self), banks=[bank.copy() for bank in self.banks])
        return other


def all_fields(opcode, **values):
    """The values of all fields of a vector instruction, 0 where not given."""
    return {f.name: 0 for f in FIELDS[Format.VECTOR]} | values | {"opcode": opcode}


def rounding_of(f):
    return arith.Rounding.GEMMLOWP if f["gemmlowp"] else arith.Rounding.HALF_UP


def _line_and_size(f):
    """Output lines and pixels per line."""
    if f["opcode"] in BY_PIXELS:
        return f["out_width"], 1
    if f["opcode"] == Opcode.LINEAR:
        return 1, 1
    return f["out_height"], f["out_width"]


def _window(memories, f, oy, ox, chunk):
    """The codes of one output: (kernel rows, kernel columns, channels)."""
    depthwise = f["opcode"] == Opcode.DEPTHWISE
    height, width = (3, 3) if depthwise else (f["kernel_height"], f["kernel_width"])
    dy, dx = (1, 1) if depthwise else (f["dilation_y"], f["dilation_x"])
    window = np.full((height, width, memories.target.columns), f["pad"], np.int64)
    for ky in range(height):
        for kx in range(width):
            iy = oy * f["stride_y"] - f["top"] + ky * dy
            ix = ox * f["stride_x"] - f["left"] + kx * dx
            if 0 <= iy < f["height"] and 0 <= ix < f["width"]:
                address = f["x_base"] + iy * f["line_step"] + ix * f["n_chunks"] + chunk
                window[ky, kx] = memories.banks[f["x_bank"]][address & WORD_MASK]
    return window


def reads_per_unit(f, columns):
    """How many words each unit reads through port v."""
    n_lines, _ = _line_and_size(f)
    if f["opcode"] in BY_PIXELS:
        return [(1 + (f["opcode"] != Opcode.LOOKUP)) * f["n_chunks"]] * n_lines
    if f["opcode"] == Opcode.LINEAR:
        return [f["n_chunks"] * -(-f["n_inputs"] // columns)]
    counts = []
    for oy in range(n_lines):
        if f["opcode"] == Opcode.DEPTHWISE:
            xs = [c - f["left"] for c in range((f["out_width"] - 1) * f["stride_x"] + 3)]
            ys = [oy * f["stride_y"] - f["top"] + k for k in range(3)]
        else:
            xs = [o * f["stride_x"] - f["left"] + k * f["dilation_x"]
                  for o in range(f["out_width"]) for k in range(f["kernel_width"])]
            ys = [oy * f["stride_y"] - f["top"] + k * f["dilation_y"]
                  for k in range(f["kernel_height"])]
        counts.append(f["n_chunks"] * sum(0 <= x < f["width"] for x in xs)
                      * sum(0 <= y < f["height"] for y in ys))
    return counts


def model(memories, f):
    """The memories after the instruction."""
    result = memories.copy()
    columns, banks = memories.target.columns, memories.banks
    n_lines, n_pixels = _line_and_size(f)
    out = result.banks[f["out_bank"]]
    for line in range(n_lines):
        for pixel in range(n_pixels):
            for chunk in range(f["n_chunks"]):
                position = line * n_pixels + pixel
                address = (f["out_base"] + position * f["out_step"] + chunk) & WORD_MASK
                channel = chunk * columns + np.arange(columns)
                written = (f["first_channel"] <= channel) & (channel < f["n_channels"])
                if f["opcode"] == Opcode.MAXPOOL:
                    out[address] = _window(memories, f, line, pixel, chunk).max((0, 1))
                    continue
                if f["opcode"] == Opcode.LOOKUP:
                    out[address] = _lookup(banks, f, line * f["n_chunks"] + chunk)
                    continue
                if f["opcode"] == Opcode.ADD:
                    value = _add(banks, f, line * f["n_chunks"] + chunk)
                elif f["opcode"] == Opcode.MUL:
                    value = _mul(banks, f, line, chunk)
                else:
                    sums = _sums(memories, f, line, pixel, chunk)
                    index = (f["parameter_base"] * memories.target.lanes + channel) % len(
                        memories.bias)
                    value = arith.requantize(
                        sums + memories.bias[index], memories.multiplier[index],
                        memories.shift[index], f["zero_point"], f["low"], f["high"],
                        rounding_of(f))
                out[address] = np.where(written, value, out[address])
    return result


def _sums(memories, f, line, pixel, chunk):
    weights = memories.banks[f["w_bank"]].astype(np.int64)
    if f["opcode"] == Opcode.LINEAR:
        k = np.arange(f["n_inputs"])
        x = memories.banks[f["x_bank"]].astype(np.int64).reshape(-1)
        x = x[f["x_base"] * memories.target.columns + k]
        first = f["w_base"] + chunk * f["n_inputs"]
        return x @ weights[first:first + f["n_inputs"]]
    window = _window(memories, f, line, pixel, chunk)
    taps = window.reshape(-1, memories.target.columns)
    first = f["w_base"] + chunk * len(taps)
    if f["same_weights"] and f["opcode"] == Opcode.WINDOW:
        return taps.sum(0) * weights[f["w_base"]]
    return (taps * weights[first:first + len(taps)]).sum(0)


def _add(banks, f, index):
    terms = []
    for which, bank, base in (0, "x_bank", "x_base"), (1, "y_bank", "y_base"):
        code = banks[f[bank]][(f[base] + index) & WORD_MASK].astype(np.int64)
        terms.append(arith.requantize(
            (code - f[f"zero_point_{which}"]) << f["left_shift"], f[f"multiplier_{which}"],
            f[f"shift_{which}"], 0, arith.INT32_MIN, arith.INT32_MAX, rounding_of(f)))
    return arith.requantize(sum(terms), f["multiplier_2"], f["shift_2"], f["zero_point"],
                            f["low"], f["high"], rounding_of(f))


def _mul(banks, f, pixel, chunk):
    index = pixel * f["n_chunks"] + chunk
    product = 1
    for which, name, at in (0, "x", index), (1, "y", chunk if f["broadcast"] else index):
        code = banks[f[f"{name}_bank"]][(f[f"{name}_base"] + at) & WORD_MASK].astype(np.int64)
        product = product * (code - f[f"zero_point_{which}"])
    return arith.requantize(product, f["multiplier_2"], f["shift_2"], f["zero_point"], f["low"],
                            f["high"], rounding_of(f))


def _lookup(banks, f, index):
    columns = banks[0].shape[1]
    table = banks[f["w_bank"]][f["w_base"]:f["w_base"] + 256 // columns].reshape(256)
    codes = banks[f["x_bank"]][(f["x_base"] + index) & WORD_MASK]
    return table[codes.astype(np.int64) + 128]


def random_instruction(rng, opcode, columns):
    """Fields of an instruction on banks of 512 words, outputs in bank 2, inputs in others."""
    n_chunks = rng.randint(1, 3)
    f = all_fields(
        opcode, n_chunks=n_chunks, gemmlowp=rng.randint(0, 1), zero_point=rng.randint(-128, 127),
        low=rng.randint(-128, 0), high=rng.randint(0, 127), pad=rng.randint(-128, 127),
        n_channels=rng.randint(1, n_chunks * columns), out_base=rng.randint(0, 99), out_bank=2,
        out_step=n_chunks + rng.randint(0, 2), parameter_base=rng.randint(0, 40),
        x_base=rng.randint(60, 200), w_base=rng.randint(0, 99), y_base=rng.randint(0, 400),
        **{f"{port}_bank": rng.choice((0, 1, 3)) for port in "xwy"})
    f["first_channel"] = rng.choice((0, rng.randint(0, n_chunks * columns)))
    if opcode == Opcode.ADD:
        f |= {"out_width": rng.randint(1, 6), "left_shift": rng.randint(16, 22)}
        for k in range(3):
            f |= {f"multiplier_{k}": rng.randint(0, (1 << 31) - 1),
                  f"shift_{k}": rng.randint(30, 34) + 18 * (k == 2)}
        return f | {f"zero_point_{k}": rng.randint(-128, 127) for k in range(2)}
    if opcode == Opcode.MUL:
        f |= {"out_width": rng.randint(1, 9), "broadcast": rng.randint(0, 1),
              "multiplier_2": rng.randint(0, (1 << 31) - 1), "shift_2": rng.randint(32, 44)}
        return f | {f"zero_point_{k}": rng.randint(-128, 127) for k in range(2)}
    if opcode == Opcode.LOOKUP:
        return f | {"out_width": rng.randint(1, 12)}
    if opcode == Opcode.LINEAR:
        return f | {"n_inputs": 2 * rng.randint(1, 20), "w_base": f["w_base"] & ~1}
    f |= {"width": rng.randint(1, 6), "height": rng.randint(1, 5),
          "left": rng.randint(0, 2), "top": rng.randint(0, 2),
          "out_width": rng.randint(1, 5), "out_height": rng.randint(1, 4)}
    f["line_step"] = f["width"] * n_chunks + rng.randint(0, 5)
    names = ("kernel_width", "kernel_height", "stride_x", "stride_y", "dilation_x", "dilation_y")
    if opcode == Opcode.DEPTHWISE:
        return f | {name: rng.randint(1, 2) if "stride" in name else 9 for name in names}
    return f | {name: rng.randint(1, 3) for name in names} | {
        "same_weights": int(rng.random() < 0.2)}

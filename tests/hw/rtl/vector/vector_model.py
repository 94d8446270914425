"""Memories for the vector engine, and what the records say that they are afterwards.

    memories = Memories(target, seed)
    expected = model(memories, fields)  # a copy of the memories, as they must be afterwards
"""

import numpy as np

from hw.isa import DEPTHWISE_KERNEL, FIELDS, INSTRUCTIONS, Format, Opcode, encode
from hw.machine import Machine

BY_PIXELS = (Opcode.ADD, Opcode.MUL, Opcode.LOOKUP)  # no window, a unit is a pixel


class Memories:
    """Four banks of random codes, and parameters of random channels, by default 64 words."""

    def __init__(self, target, seed=0, n_parameters=None):
        rng, n_parameters = np.random.default_rng(seed), n_parameters or 64 * target.lanes
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


def reads_per_unit(f, columns):
    """How many words each unit reads through port v."""
    n_units = INSTRUCTIONS[f["opcode"]].n_units(f)
    if f["opcode"] in BY_PIXELS:
        return [(1 + (f["opcode"] != Opcode.LOOKUP)) * f["n_chunks"]] * n_units
    if f["opcode"] == Opcode.LINEAR:
        return [f["n_chunks"] * -(-f["n_inputs"] // columns)]
    counts = []
    for oy in range(n_units):
        if f["opcode"] == Opcode.DEPTHWISE:
            n_columns = (f["out_width"] - 1) * f["stride_x"] + DEPTHWISE_KERNEL
            xs = [c - f["left"] for c in range(n_columns)]
            ys = [oy * f["stride_y"] - f["top"] + k for k in range(DEPTHWISE_KERNEL)]
        else:
            xs = [o * f["stride_x"] - f["left"] + k * f["dilation_x"]
                  for o in range(f["out_width"]) for k in range(f["kernel_width"])]
            ys = [oy * f["stride_y"] - f["top"] + k * f["dilation_y"]
                  for k in range(f["kernel_height"])]
        counts.append(f["n_chunks"] * sum(0 <= x < f["width"] for x in xs)
                      * sum(0 <= y < f["height"] for y in ys))
    return counts


def model(memories, f):
    """The memories after the instruction, as its record says (hw.isa)."""
    result = memories.copy()
    machine = Machine(memories.target)
    machine.banks = result.banks
    machine.parameters[:len(memories.bias)] = np.stack(
        [memories.bias & 0xFFFF_FFFF, memories.multiplier, memories.shift], 1)
    machine.execute(encode(**f))
    return result


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

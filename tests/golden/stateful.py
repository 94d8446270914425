"""Programs with several inputs and outputs, state and wide codes, and operators made for them."""

from dataclasses import dataclass

import numpy as np

from golden import arith, ops
from golden.program import Node, Program, Quantization, State, Tensor

N_CHANNELS = 5
BATCH = 3


class _Toy(ops.Operator):
    """No rows of an image are read."""

    def input_rows(self, first, end, *shapes):
        return None


@dataclass(frozen=True, kw_only=True, eq=False)
class Weigh(_Toy):
    """int8 (N, C) times the high byte of int16 masters (1, C): int8 (N, C)."""

    n_inputs, input_dtypes = 2, ("int8", "int16")

    def output_shape(self, x, masters):
        if x != masters:
            raise ValueError(f"Weigh must get equal shapes, not {x} and {masters}")
        return x

    def output_batched(self, x, masters):
        if not x or masters:
            raise ValueError("Weigh must get images and one array of masters")
        return True

    def output_range(self, input_ranges):
        return -128, 127

    def compute(self, p, x, masters):
        return p.codes(arith.clamp(p.integers(x) * (p.integers(masters) >> 8) >> 7, -128, 127))


@dataclass(frozen=True, kw_only=True, eq=False)
class Gradient(_Toy):
    """int8 (N, C) and targets int8 (N, C): the int32 sums of the differences, (1, C)."""

    n_inputs, output_dtypes = 2, ("int32",)

    def output_shape(self, y, target):
        return y

    def output_batched(self, y, target):
        return False

    def output_range(self, input_ranges):
        return arith.INT32_MIN, arith.INT32_MAX

    def compute(self, p, y, target):
        return p.codes(p.sum(p.integers(y) - p.integers(target), [0]), "int32")


@dataclass(frozen=True, kw_only=True, eq=False)
class Update(_Toy):
    """Masters int16, momenta int32, sums int32 (C,) and a rate int32 (1,): both renewed."""

    n_inputs, n_outputs = 4, 2
    input_dtypes, output_dtypes = ("int16", "int32"), ("int16", "int32")
    largest: int = 32639

    def output_shape(self, masters, momenta, sums, rate):
        return masters, momenta

    def output_range(self, input_ranges):
        return (-self.largest, self.largest), (arith.INT32_MIN, arith.INT32_MAX)

    def compute(self, p, masters, momenta, sums, rate):
        momenta = (p.integers(momenta) * 15 >> 4) + p.integers(sums) * p.integers(rate)
        momenta = arith.clamp(momenta, arith.INT32_MIN, arith.INT32_MAX)
        masters = arith.clamp(p.integers(masters) - (momenta >> 4), -self.largest, self.largest)
        return p.codes(masters, "int16"), p.codes(momenta, "int32")


OPERATORS = (Weigh, Gradient, Update)


def tensor(name, shape, dtype="int8", batched=True, scale=0.5, zero_point=0):
    quantization = Quantization(scale=scale, zero_point=zero_point, dtype=dtype)
    return Tensor(name=name, shape=shape, quantization=quantization, batched=batched)


def step_program(**changes):
    """A training step: masters and momenta are state, the rate is an input; batches of 3."""
    wide = dict(batched=False, shape=(N_CHANNELS,))
    tensors = [tensor("x", (N_CHANNELS,)), tensor("target", (N_CHANNELS,)),
               tensor("rate", (1,), "int32", batched=False), tensor("y", (N_CHANNELS,)),
               tensor("masters", dtype="int16", **wide), tensor("momenta", dtype="int32", **wide),
               tensor("masters_next", dtype="int16", **wide),
               tensor("momenta_next", dtype="int32", **wide), tensor("sums", dtype="int32", **wide)]
    nodes = (Node(name="weigh", op=Weigh(), inputs=("x", "masters"), outputs=("y",)),
             Node(name="gradient", op=Gradient(), inputs=("y", "target"), outputs=("sums",)),
             Node(name="update", op=Update(), inputs=("masters", "momenta", "sums", "rate"),
                  outputs=("masters_next", "momenta_next")))
    masters = np.linspace(-30000, 30000, N_CHANNELS).astype(np.int16)
    fields = dict(name="step", nodes=nodes, tensors={entry.name: entry for entry in tensors},
                  inputs=("x", "target", "rate"), outputs=("y", "sums"), batch=BATCH,
                  state={"momenta": State(renewed_by="momenta_next",
                                          initial=np.zeros(N_CHANNELS, np.int32)),
                         "masters": State(renewed_by="masters_next", initial=masters)})
    return Program(**{**fields, **changes})


def step_inputs(seed=0):
    rng = np.random.default_rng(seed)
    x, target = rng.integers(-128, 128, (2, BATCH, N_CHANNELS)).astype(np.int8)
    return {"x": x, "target": target, "rate": np.array([3], np.int32)}


def literal_step(masters, momenta, x, target, rate):
    """The step in Python's integers: (y, sums, masters, momenta), all lists."""
    y = [[max(-128, min(127, int(v) * (m >> 8) >> 7)) for v, m in zip(row, masters)] for row in x]
    sums = [sum(row[c] - int(t[c]) for row, t in zip(y, target)) for c in range(len(masters))]
    momenta = [max(-2**31, min(2**31 - 1, (v * 15 >> 4) + s * rate)) for v, s in zip(momenta, sums)]
    masters = [max(-32639, min(32639, m - (v >> 4))) for m, v in zip(masters, momenta)]
    return y, sums, masters, momenta


def streaming_program(layout="NCHW"):
    """int8 alone: images x and a bias are added to a memory of its own, which is also an output."""
    half = dict(input_rescales=((1 << 30, 31),) * 2)

    def add(zero_points, zero_point):
        rescale = ops.Rescale.from_factors(2.0 ** -20, zero_point=zero_point)
        return ops.Add(input_zero_points=zero_points, rescale=rescale, **half)

    shape = (2, 3, 4)
    tensors = [tensor("x", shape, zero_point=3), tensor("bias", shape, zero_point=-1),
               tensor("both", shape), tensor("memory", shape, zero_point=7),
               tensor("mixed", shape, zero_point=7), tensor("limited", shape, zero_point=7)]
    nodes = (Node(name="join", op=add((3, -1), 0), inputs=("x", "bias"), outputs=("both",)),
             Node(name="mix", op=add((0, 7), 7), inputs=("both", "memory"), outputs=("mixed",)),
             Node(name="limit", op=ops.Clamp(low=-100, high=90), inputs=("mixed",),
                  outputs=("limited",)))
    initial = np.arange(-12, 12, dtype=np.int8).reshape(shape)
    return Program(name="stream", nodes=nodes, tensors={entry.name: entry for entry in tensors},
                   inputs=("x", "bias"), outputs=("limited", "both"), input_layout=layout,
                   state={"memory": State(renewed_by="mixed", initial=initial)})


def streaming_inputs(layout="NCHW", n_images=2, seed=0):
    shape = (n_images, 2, 3, 4) if layout == "NCHW" else (n_images, 3, 4, 2)
    x, bias = np.random.default_rng(seed).integers(-128, 128, (2, *shape)).astype(np.int8)
    return {"x": x, "bias": bias}

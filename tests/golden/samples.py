"""A small residual Program with every kind of int8 tensor."""

from dataclasses import replace

import numpy as np

from golden import ops
from golden.program import Node, Program, Quantization, Tensor


def residual_program(seed=0, metadata=None, layout="NCHW"):
    """3 x 8 x 8 to 5 logits: convolutions, norm, add, pools, concat, reshape, linear."""
    rng = np.random.default_rng(seed)
    zero_points = {"x": 3, "a": -128, "n": -5, "b": 4, "s": -7, "m": -7, "c": -7, "g": 0, "f": 0,
                   "y": 11}
    shapes = {"x": (3, 8, 8), "a": (6, 8, 8), "n": (6, 8, 8), "b": (6, 8, 8), "s": (6, 8, 8),
              "m": (6, 4, 4), "c": (12, 4, 4), "g": (12, 1, 1), "f": (12,), "y": (5,)}
    scales = {"s": 0.05, "m": 0.05, "c": 0.05, "g": 0.02, "f": 0.02}
    tensors = {name: Tensor(name=name, shape=shapes[name], quantization=Quantization(
        scale=scales.get(name, 0.03), zero_point=zero_points[name])) for name in shapes}

    def rescale(factors, out, **fields):
        return ops.Rescale.from_factors(factors, zero_point=zero_points[out], **fields)

    def conv(source, out, **fields):
        channels = shapes[source][0] // fields.get("groups", 1)
        return ops.Conv2d(weights=rng.integers(-127, 128, (6, channels, 3, 3), dtype=np.int8),
                          bias=rng.integers(-500, 500, 6), input_zero_point=zero_points[source],
                          padding=(1, 1, 1, 1), rescale=rescale(rng.uniform(1, 2, 6) * 1e-3, out),
                          **fields)

    norm = ops.RangeNorm.from_running(
        mean=rng.normal(0, 1, 6), sigma=rng.uniform(0.5, 2, 6), gamma=rng.normal(1, 1, 6),
        beta=rng.normal(0, 1, 6), eps=1e-5, input_scale=0.03, input_zero_point=-128,
        output_scale=0.03, output_zero_point=-5)
    add = ops.Add(input_zero_points=(-128, 4), input_rescales=((1 << 30, 31), (1 << 30, 31)),
                  rescale=rescale(0.03 / 0.05 * 2 / 2**20, "s", low=-7))
    linear = ops.Linear(weights=rng.integers(-127, 128, (5, 12), dtype=np.int8),
                        bias=rng.integers(-500, 500, 5), input_zero_point=0,
                        rescale=rescale(0.004, "y", rounding="gemmlowp"))
    steps = [("conv1", conv("x", "a"), "x", "a"), ("norm", norm, "a", "n"),
             ("conv2", conv("n", "b", groups=6), "n", "b"), ("add", add, "ab", "s"),
             ("pool", ops.MaxPool(kernel=(2, 2), stride=(2, 2)), "s", "m"),
             ("join", ops.Concat(), "mm", "c"),
             ("mean", ops.GlobalAveragePool(input_zero_point=-7, window=(4, 4),
                                            rescale=rescale(0.05 / 0.02 / 16, "g")), "c", "g"),
             ("flat", ops.Reshape(shape=(12,)), "g", "f"), ("logits", linear, "f", "y")]
    nodes = tuple(Node(name=name, op=op, inputs=tuple(sources), outputs=(out,))
                  for name, op, sources, out in steps)
    return Program(name="residual", nodes=nodes, tensors=tensors, inputs=("x",), outputs=("y",),
                   input_layout=layout, metadata=metadata or {})


def replace_op(program, name, op):
    """The program with the op of one node replaced."""
    nodes = tuple(Node(name=node.name, op=op if node.name == name else node.op,
                       inputs=node.inputs, outputs=node.outputs) for node in program.nodes)
    return replace(program, nodes=nodes)

"""Examples of every operator, and Programs of one node around them."""

import numpy as np

from golden import ops
from golden.program import Node, Program, Quantization, Tensor

RNG = np.random.default_rng(0)


def _rescale(factors=0.02, zero_point=-3, **fields):
    return ops.Rescale.from_factors(factors, zero_point=zero_point, **fields)


def _conv(channels, outputs, kernel=(3, 3), groups=1, **fields):
    weights = RNG.integers(-127, 128, (outputs, channels // groups, *kernel), dtype=np.int8)
    return ops.Conv2d(weights=weights, bias=RNG.integers(-500, 500, outputs), input_zero_point=5,
                      groups=groups, rescale=_rescale(RNG.uniform(1e-3, 2e-3, outputs)), **fields)


def _norm():
    return ops.RangeNorm.from_running(
        mean=RNG.normal(0, 1, 3), sigma=RNG.uniform(0.5, 2, 3), gamma=RNG.normal(1, 1, 3),
        beta=RNG.normal(0, 1, 3), eps=1e-5, input_scale=0.03, input_zero_point=5,
        output_scale=0.03, output_zero_point=-5, low=-90)


IMAGE = (3, 9, 6)
# By class: an operator and the shapes of its inputs. A new operator has one here.
EXAMPLES = [
    (_conv(3, 4, padding=(1, 2, 0, 1), stride=(2, 1)), [IMAGE]),
    (_conv(3, 3, kernel=(5, 1), padding=(9, 0, 7, 0), dilation=(2, 1), groups=3), [IMAGE]),
    (_conv(3, 2, kernel=(1, 1), stride=(3, 2), padding=(4, 1, 3, 0)), [IMAGE]),
    (ops.Linear(weights=RNG.integers(-127, 128, (4, 20), dtype=np.int8), bias=np.arange(4),
                input_zero_point=5, rescale=_rescale()), [(20,)]),
    (ops.Add(input_zero_points=(5, -7), input_rescales=((1 << 30, 31),) * 2,
             rescale=_rescale(3 / 2**20, low=-100)), [IMAGE, IMAGE]),
    (ops.Mul(input_zero_points=(5, -7), rescale=_rescale(high=100)), [IMAGE, IMAGE]),
    (ops.Mul(input_zero_points=(5, -7), rescale=_rescale(rounding="gemmlowp")),
     [IMAGE, (3, 1, 1)]),
    (ops.Mul(input_zero_points=(5, -7), rescale=_rescale()), [(11,), (11,)]),
    (ops.MaxPool(kernel=(3, 2), stride=(2, 1), padding=(2, 0, 1, 1)), [IMAGE]),
    (ops.AveragePool(kernel=(2, 3), stride=(1, 2), padding=(1, 1, 0, 2), input_zero_point=5,
                     rescale=_rescale(1 / 6)), [IMAGE]),
    (ops.CodeAveragePool(kernel=(3, 3), stride=(2, 2), padding=(1, 1, 1, 1), low=-20), [IMAGE]),
    (ops.GlobalAveragePool(input_zero_point=5, window=IMAGE[1:], rescale=_rescale(1 / 40)),
     [IMAGE]),
    (ops.Concat(), [IMAGE, (2, 9, 6), IMAGE]),
    (ops.Concat(axis=2), [IMAGE, (3, 2, 6)]),
    (ops.Concat(axis=3), [IMAGE, (3, 9, 1)]),
    (ops.Reshape(shape=(6, 27)), [IMAGE]),
    (ops.Reshape(shape=(6, 27), channels_last=True), [IMAGE]),
    (ops.Clamp(low=-30, high=50), [IMAGE]),
    (ops.Rescaling(input_zero_point=5, rescale=_rescale(0.4, high=70)), [IMAGE]),
    (ops.Rescaling(input_zero_point=5, rescale=_rescale([0.4, 1.5, 0.7])), [IMAGE]),
    (ops.Lookup(table=RNG.integers(-100, 90, 256, dtype=np.int8)), [IMAGE]),
    (_norm(), [IMAGE]),
    (_norm(), [(3,)]),
]


def names():
    """A readable name of each example."""
    return [f"{type(op).__name__}-{'-'.join('x'.join(map(str, s)) for s in shapes)}"
            for op, shapes in EXAMPLES]


def inputs(shapes, n_images=3, low=-128, high=127, seed=1):
    """Random codes of the whole range."""
    rng = np.random.default_rng(seed)
    return [rng.integers(low, high + 1, (n_images, *shape)).astype(np.int8) for shape in shapes]


def program(op, shapes):
    """A Program of the operator alone, each of its inputs an input of its own."""
    reads = op.reads_zero_points or (5,) * len(shapes)
    writes = 5 if op.writes_zero_point is None else op.writes_zero_point
    names = tuple(f"x{index}" for index in range(len(shapes)))
    scale = 0.03 if op.same_quantization else 0.02
    tensors = [Tensor(name=name, shape=shape, quantization=Quantization(scale=0.03, zero_point=z))
               for name, shape, z in zip(names, shapes, reads)]
    tensors.append(Tensor(name="y", shape=op.output_shape(*shapes),
                          quantization=Quantization(scale=scale, zero_point=writes)))
    return Program(name="one", nodes=(Node(name="node", op=op, inputs=names, outputs=("y",)),),
                   tensors={tensor.name: tensor for tensor in tensors}, inputs=names,
                   outputs=("y",))

"""The vector engine's instructions of the instruction-set model against golden operations."""

import numpy as np
import pytest

from golden.ops.convolution import Conv2d, Linear
from golden.ops.elementwise import Add
from golden.ops.pooling import AveragePool, MaxPool
from golden.ops.rescale import Rescale
from hw.isa import Opcode, encode
from hw.machine import Machine
from hw.targets import get_target
from tests.hw.machine.machine_data import (
    ROUNDINGS,
    from_words,
    put,
    put_parameters,
    random_rescale,
    rescale_fields,
    to_words,
)

SMALL = get_target("sim-4x4")


def window_fields(op, x_shape, output, columns, **fields):
    chunks = -(-x_shape[0] // columns)
    return {
        "x_bank": 0, "x_base": 11, "n_chunks": chunks, "width": x_shape[2], "height": x_shape[1],
        "out_width": output[2], "out_height": output[1], "kernel_height": op.kernel[0],
        "kernel_width": op.kernel[1], "stride_y": op.stride[0], "stride_x": op.stride[1],
        "dilation_x": 1, "dilation_y": 1, "top": op.padding[0], "left": op.padding[1],
        "line_step": x_shape[2] * chunks, "out_bank": 2, "out_base": 4, "out_step": chunks,
        "n_channels": x_shape[0], "parameter_base": 2, "w_bank": 1, "w_base": 6} | fields


def run_window(target, x, fields, output):
    machine = Machine(target)
    put(machine, 0, 11, to_words(x, target.columns))
    return machine, lambda: from_words(
        machine.banks[2][4:4 + output[1] * output[2] * fields["n_chunks"]], *output)


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("opcode", [Opcode.DEPTHWISE, Opcode.WINDOW])
def test_depthwise_equals_golden(opcode, seed):
    rng = np.random.default_rng(seed)
    target = get_target(["sim-4x4", "ecp5-85k"][seed % 2])
    channels = int(rng.integers(1, 20))
    kernel = (3, 3) if opcode == Opcode.DEPTHWISE else tuple(map(int, rng.integers(1, 5, 2)))
    dilation = (1, 1) if opcode == Opcode.DEPTHWISE else tuple(map(int, rng.integers(1, 3, 2)))
    op = Conv2d(
        weights=rng.integers(-128, 128, (channels, 1, *kernel)).astype(np.int8),
        bias=rng.integers(-5000, 5000, channels).astype(np.int32), groups=channels,
        input_zero_point=int(rng.integers(-128, 128)), dilation=dilation,
        stride=tuple(map(int, rng.integers(1, 4, 2))),
        padding=tuple(map(int, rng.integers(0, min(kernel), 4))),
        rescale=random_rescale(rng, channels))
    x = rng.integers(-128, 128, (channels, *rng.integers(8, 12, 2))).astype(np.int8)
    want = op(x[None])[0]
    fields = window_fields(op, x.shape, want.shape, target.columns, opcode=opcode,
                           pad=op.input_zero_point, dilation_y=dilation[0],
                           dilation_x=dilation[1], **rescale_fields(op.rescale))
    machine, result = run_window(target, x, fields, want.shape)
    weights = np.zeros((fields["n_chunks"] * target.columns, kernel[0] * kernel[1]), np.int8)
    weights[:channels] = op.weights.reshape(channels, -1)
    weights = weights.reshape(fields["n_chunks"], target.columns, -1).transpose(0, 2, 1)
    put(machine, 1, 6, weights.reshape(-1, target.columns))
    put_parameters(machine, 2, op.folded_bias(), op.rescale)
    machine.execute(encode(**fields))
    assert np.array_equal(result(), want)
    machine.banks[1][6] ^= 1
    machine.execute(encode(**fields))
    assert not np.array_equal(result(), want)


@pytest.mark.parametrize("seed", range(4))
def test_pooling_equals_golden(seed):
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (int(rng.integers(1, 12)), 9, 10)).astype(np.int8)
    shape = {"kernel": (3, 2), "stride": (2, 3), "padding": (1, 1, 2, 0)}
    op = MaxPool(**shape)
    want = op(x[None])[0]
    fields = window_fields(op, x.shape, want.shape, 4, opcode=Opcode.MAXPOOL, pad=-128)
    machine, result = run_window(SMALL, x, fields, want.shape)
    machine.execute(encode(**fields))
    assert np.array_equal(result(), want)

    rescale = random_rescale(rng, 1)
    op = AveragePool(**shape, input_zero_point=13, rescale=rescale)
    want = op(x[None])[0]
    fields |= {"opcode": Opcode.WINDOW, "same_weights": 1, "pad": 13, **rescale_fields(rescale)}
    machine.banks[1][6] = 1
    put_parameters(machine, 2, np.full(len(x), -6 * 13), rescale)
    machine.execute(encode(**fields))
    assert np.array_equal(result(), want)


@pytest.mark.parametrize("seed", range(4))
def test_linear_equals_golden(seed):
    rng = np.random.default_rng(seed)
    target = get_target(["sim-4x4", "ecp5-85k"][seed % 2])
    n_inputs, outputs = 2 * int(rng.integers(1, 50)), int(rng.integers(1, 40))
    op = Linear(weights=rng.integers(-128, 128, (outputs, n_inputs)).astype(np.int8),
                bias=rng.integers(-5000, 5000, outputs).astype(np.int32), input_zero_point=-7,
                rescale=random_rescale(rng, outputs))
    x = rng.integers(-128, 128, n_inputs).astype(np.int8)
    chunks = -(-outputs // target.columns)
    weights = np.zeros((chunks * target.columns, n_inputs), np.int8)
    weights[:outputs] = op.weights
    weights = weights.reshape(chunks, target.columns, n_inputs).transpose(0, 2, 1)
    machine = Machine(target)
    put(machine, 0, 3, to_words(x[:, None, None], target.columns))
    put(machine, 1, 8, weights.reshape(-1, target.columns))
    put_parameters(machine, 1, op.folded_bias(), op.rescale)
    machine.execute(encode(
        Opcode.LINEAR, x_base=3, w_bank=1, w_base=8, n_chunks=chunks, n_inputs=n_inputs,
        n_channels=outputs, parameter_base=1, out_bank=1, out_base=1000,
        **rescale_fields(op.rescale)))
    want = op(x[None])[0]
    assert np.array_equal(machine.banks[1][1000:1000 + chunks].reshape(-1)[:outputs], want)


@pytest.mark.parametrize("seed", range(4))
def test_add_equals_golden(seed):
    rng = np.random.default_rng(seed)
    pairs = [(int(rng.integers(1 << 30, 1 << 31)), 32) for _ in range(2)]
    op = Add(input_zero_points=(-9, 20), left_shift=20, input_rescales=pairs,
             rescale=Rescale(multiplier=1 << 30, shift=49, zero_point=4,
                             rounding=ROUNDINGS[seed % 2]))
    x, y = rng.integers(-128, 128, (2, 6, 3, 5)).astype(np.int8)
    machine = Machine(SMALL)
    put(machine, 0, 2, to_words(x, 4))
    put(machine, 0, 100, to_words(y, 4))
    machine.execute(encode(
        Opcode.ADD, x_base=2, y_base=100, n_chunks=2, out_width=15, out_base=100, out_step=2,
        n_channels=6, multiplier_0=pairs[0][0], shift_0=32, multiplier_1=pairs[1][0], shift_1=32,
        multiplier_2=1 << 30, shift_2=49, left_shift=20, zero_point_0=-9, zero_point_1=20,
        **rescale_fields(op.rescale)))  # in place of y
    want = op(x[None], y[None])[0]
    assert np.array_equal(from_words(machine.banks[0][100:130], 6, 3, 5), want)

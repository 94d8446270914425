"""The model of the vector engine's tests agrees with golden."""

import numpy as np
import pytest

from golden import ops
from hw.isa import Opcode
from hw.targets import Target
from tests.hw.rtl.vector.vector_model import Memories, all_fields, model

TARGET = Target(name="model", rows=2, columns=4, bank_words=(512,) * 4)
X_BASE, W_BASE, Y_BASE, OUT_BASE = 100, 8, 40, 20
HEIGHT, WIDTH, CHANNELS = 6, 5, 4
ZERO_POINT, LOW, HIGH = 3, -100, 120


def fields(opcode, **changes):
    """One chunk of four channels, an image of 6 x 5, outputs in bank 2."""
    return all_fields(opcode, **{
        "x_bank": 0, "w_bank": 1, "y_bank": 3, "out_bank": 2, "x_base": X_BASE, "w_base": W_BASE,
        "y_base": Y_BASE, "out_base": OUT_BASE, "out_step": 1, "n_chunks": 1,
        "n_channels": CHANNELS, "width": WIDTH, "height": HEIGHT, "line_step": WIDTH,
        "out_width": WIDTH, "out_height": 3, "kernel_width": 3, "kernel_height": 3,
        "stride_x": 1, "stride_y": 2, "left": 1, "top": 1, "dilation_x": 1, "dilation_y": 1,
        "pad": -7, "zero_point": ZERO_POINT, "low": LOW, "high": HIGH} | changes)


def image(bank, base):
    """NCHW."""
    return bank[base:base + HEIGHT * WIDTH].reshape(1, HEIGHT, WIDTH, 4).transpose(0, 3, 1, 2)


def outputs(memories, f, n_pixels=15):
    return model(memories, f).banks[f["out_bank"]][OUT_BASE:OUT_BASE + n_pixels]


def pixels(y):
    return y[0].transpose(1, 2, 0).reshape(-1, 4)


def rescale(memories):
    return ops.Rescale(multiplier=memories.multiplier[:4].copy(), shift=memories.shift[:4].copy(),
                       zero_point=ZERO_POINT, low=LOW, high=HIGH)


@pytest.mark.parametrize("opcode", [Opcode.DEPTHWISE, Opcode.WINDOW])
def test_depthwise(opcode):
    memories = Memories(TARGET)
    weights = np.maximum(memories.banks[1][W_BASE:W_BASE + 9], -127)
    memories.banks[1][W_BASE:W_BASE + 9] = weights
    op = ops.Conv2d(weights=weights.T.reshape(4, 1, 3, 3), bias=memories.bias[:4].copy(),
                    input_zero_point=-7, stride=(2, 1), padding=(1, 1, 1, 1), groups=4,
                    rescale=rescale(memories))
    # Golden subtracts the zero point from the input, the compiler folds it into the bias.
    memories.bias[:4] += 7 * weights.astype(np.int64).sum(0)
    assert (outputs(memories, fields(opcode)) == pixels(op(image(memories.banks[0], X_BASE)))).all()


def test_linear():
    memories = Memories(TARGET)
    weights = np.maximum(memories.banks[1][W_BASE:W_BASE + 8], -127)
    memories.banks[1][W_BASE:W_BASE + 8] = weights
    op = ops.Linear(weights=weights.T.copy(), bias=memories.bias[:4].copy(), input_zero_point=0,
                    rescale=rescale(memories))
    x = memories.banks[0].reshape(-1)[4 * X_BASE:][:8].reshape(1, 8)
    assert (outputs(memories, fields(Opcode.LINEAR, n_inputs=8), 1) == op(x)).all()


def test_maximum():
    memories = Memories(TARGET)
    op = ops.MaxPool(kernel=(3, 3), stride=(2, 1), padding=(1, 1, 1, 1))
    mine = outputs(memories, fields(Opcode.MAXPOOL, pad=-128))
    assert (mine == pixels(op(image(memories.banks[0], X_BASE)))).all()


def test_add():
    memories = Memories(TARGET)
    terms = ((1 << 30) + 99, 31), (1 << 30, 33)
    op = ops.Add(input_zero_points=(5, -9), left_shift=20, input_rescales=terms,
                 rescale=ops.Rescale(multiplier=np.array([1 << 30]), shift=np.array([50]),
                                     zero_point=ZERO_POINT, low=LOW, high=HIGH))
    f = fields(Opcode.ADD, out_width=30, left_shift=20, zero_point_0=5, zero_point_1=-9,
               multiplier_0=terms[0][0], shift_0=31, multiplier_1=1 << 30, shift_1=33,
               multiplier_2=1 << 30, shift_2=50)
    y = op(image(memories.banks[0], X_BASE), image(memories.banks[3], Y_BASE))
    assert (outputs(memories, f, 30) == pixels(y)).all()

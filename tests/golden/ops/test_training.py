"""The training products against torch's own differentiation; what they refuse; storage."""

import numpy as np
import pytest

from benchmarks.training_products import Convolution, operands, reference
from golden import digits, ops
from golden.program import Program, Quantization
from golden.program.builder import ProgramBuilder

ZERO = -100


def conv(channels, size, kernel, stride=(1, 1), padding=None):
    return Convolution(
        name="conv", in_channels=channels[0], out_channels=channels[1], height=size[0],
        width=size[1], kernel=kernel, stride=stride,
        padding=padding or (kernel[0] // 2, kernel[1] // 2) * 2)


SHAPES = [
    conv((4, 8), (6, 5), (3, 3)),
    conv((8, 4), (6, 8), (3, 3), (2, 2)),
    conv((8, 4), (6, 6), (3, 3), (2, 2), (0, 0, 1, 1)),
    conv((4, 4), (6, 8), (1, 1), (2, 2)),
    conv((4, 6), (7, 5), (3, 3), (2, 2)),  # output channels and edges that fill no tile
    conv((4, 4), (9, 6), (2, 5), (3, 2), (1, 2, 0, 1)),
    conv((4, 4), (4, 6), (1, 3), (1, 3), (0, 1, 0, 1)),
    conv((3, 4), (5, 6), (3, 3)),  # few channels
    conv((3, 5), (6, 7), (3, 3), (2, 2)),
]


def shape_name(c):
    return (f"{c.in_channels}-{c.out_channels} {c.height}x{c.width} {c.kernel} {c.stride} "
            f"{c.padding}")


def window(c):
    return {"stride": c.stride, "padding": c.padding}


@pytest.mark.parametrize("c", SHAPES, ids=shape_name)
def test_products_are_torchs(c):
    data = operands(c, 3)
    x, w, dy, dy16 = data["x"], data["w"], data["dy"], data["dy16"].astype(np.int16)
    y, dx, dw = reference(c, x, w, dy, ZERO)
    sums = ops.ConvolutionSums(input_zero_point=ZERO, **window(c))(x, w[None])
    assert sums.dtype == np.int32
    assert np.array_equal(sums - ZERO * w.astype(np.int64).sum((1, 2, 3)).reshape(-1, 1, 1), y)
    gradient = ops.InputGradient(size=(c.height, c.width), **window(c))
    assert np.array_equal(gradient(dy, w[None]), dx)
    rescale = ops.Rescale.from_factors([1e-3] * c.in_channels, zero_point=3)
    scaled = ops.InputGradient(size=(c.height, c.width), rescale=rescale, **window(c))
    assert np.array_equal(scaled(dy, w[None]), rescale(dx))
    for n_digits, given in ((1, dy), (2, dy16)):
        op = ops.WeightGradient(kernel=c.kernel, input_zero_point=ZERO, n_digits=n_digits,
                                **window(c))
        found = op(x, given)
        got = op.gradients(found[::2], found[1::2])
        assert np.array_equal(got[0], reference(c, x, w, given, ZERO)[2])
        assert np.array_equal(got[1], given.sum((0, 2, 3), dtype=np.int64))


def test_parts_of_the_taps_are_those_of_all():
    c = SHAPES[0]
    data = operands(c, 2)
    whole = ops.WeightGradient(kernel=c.kernel, input_zero_point=ZERO, **window(c))
    dw, db = whole(data["x"], data["dy"])
    parts = [ops.WeightGradient(kernel=c.kernel, input_zero_point=ZERO, taps=taps, **window(c))
             for taps in ((0, 4), (4, 9))]
    first, sums = parts[0](data["x"], data["dy"])
    second = parts[1](data["x"], data["dy"])
    assert np.array_equal(np.concatenate([first, second], axis=3), dw.reshape(1, 8, 4, 9))
    assert np.array_equal(sums, db) and parts[1].n_outputs == 1
    shapes = data["x"].shape[1:], data["dy"].shape[1:]
    assert sum(part.macs(*shapes) for part in parts) == whole.macs(*shapes) == c.macs


def test_sixteen_bits_are_clamped_and_exact_at_the_extremes():
    c = conv((4, 4), (16, 16), (3, 3))
    x = np.full((2, 4, 16, 16), -128, np.int8)
    op = ops.WeightGradient(kernel=c.kernel, input_zero_point=127, n_digits=2, **window(c))
    for value, used in ((-(1 << 15), -(1 << 15)), (32767, 32639)):
        found = op(x, np.full((2, 4, 16, 16), value, np.int16))
        dw, _ = op.gradients(found[::2], found[1::2])
        right = reference(c, x, operands(c, 1)["w"], np.full((2, 4, 16, 16), used), 127)[2]
        assert np.array_equal(dw, right)
    assert abs(dw).max() > 1 << 31  # 32-bit sums would have overflowed


def test_what_does_not_fit_is_refused():
    op = ops.WeightGradient(kernel=(1, 1), input_zero_point=0)
    many = np.zeros((2, 1, 256, 256), np.int8)
    assert 2 * 256 * 256 == digits.MAX_TERMS + 1
    with pytest.raises(ValueError, match="131072 terms are more than the 131071"):
        op(many, many)
    with pytest.raises(ValueError, match=r"a gradient of \(4, 4\), not shape \(4, 4, 3\)"):
        op.output_shape((4, 4, 4), (4, 4, 3))
    with pytest.raises(ValueError, match=r"a gradient of shape \(4, 4, 4\), not \(3, 4, 4\)"):
        ops.InputGradient(size=(4, 4)).output_shape((3, 4, 4), (4, 4, 1, 1))
    with pytest.raises(ValueError, match="must hold its zero point"):
        ops.InputGradient(size=(4, 4), rescale=ops.Rescale(
            multiplier=[1], shift=[0], zero_point=3, low=4))
    with pytest.raises(ValueError, match="must get 4 input channels, not shape"):
        ops.ConvolutionSums(input_zero_point=0).output_shape((3, 4, 4), (4, 4, 1, 1))
    with pytest.raises(ValueError, match="End of the taps must be in 3..4, not 2"):
        ops.WeightGradient(kernel=(2, 2), input_zero_point=0, taps=(2, 2))
    with pytest.raises(ValueError, match="must get images and one array of weights"):
        ops.ConvolutionSums(input_zero_point=0).output_batched(True, True)


def test_a_step_of_products_survives_saving(tmp_path):
    build, to = ProgramBuilder(), {}
    for name, dtype in (("int8", "int8"), ("int32", "int32")):
        to[name] = Quantization(scale=1.0, zero_point=0, dtype=dtype)
    x, dy = build.input("x", (4, 5, 5), to["int8"]), build.input("dy", (6, 5, 5), to["int8"])
    w = build.input("w", (6, 4, 3, 3), to["int8"], batched=False)
    pad = {"padding": (1, 1, 1, 1)}
    sums = build.node("sums", ops.ConvolutionSums(input_zero_point=0, **pad), [x, w], to["int32"])
    dx = build.node("dx", ops.InputGradient(size=(5, 5), **pad), [dy, w], to["int32"])
    dw = build.node("dw", ops.WeightGradient(kernel=(3, 3), input_zero_point=0, **pad), [x, dy],
                    [to["int32"]] * 2)
    program = build.build("step", [sums, dx, *dw], batch=2)
    program.save(tmp_path)
    assert Program.load(tmp_path).sha256 == program.sha256

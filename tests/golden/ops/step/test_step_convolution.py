"""Products of the integer training step against Python integers and against torch in float64."""

import itertools

import numpy as np
import pytest
import torch
from torch.nn import functional

from golden.digits import MAX_TERMS
from golden.ops.step import BiasGradient, CodesGradient, KernelGradient, PreNormCodes
from golden.ops.step.convolution import pixel_factor
from tests.golden.ops.step.common import (
    SEED,
    STEP,
    channels,
    cosine,
    limit,
    literal_lanes,
    literal_random,
    literal_top,
    one,
    relative_error,
    run,
)

# in, out, groups, kernel, stride, padding (top, left, bottom, right), (H, W)
CASES = [
    (3, 4, 1, (3, 3), (1, 1), (1, 1, 1, 1), (4, 5)),
    (4, 6, 2, (3, 3), (2, 2), (1, 1, 1, 1), (5, 6)),
    (4, 4, 4, (3, 3), (1, 1), (1, 1, 1, 1), (4, 4)),    # depthwise
    (3, 6, 3, (2, 3), (2, 1), (0, 2, 1, 0), (6, 5)),    # two outputs for each channel
    (4, 2, 1, (1, 1), (2, 2), (0, 0, 0, 0), (5, 4)),    # pixels that no window reaches
    (2, 3, 1, (1, 1), (1, 1), (2, 1, 0, 3), (2, 2)),    # padding beyond the kernel
]
EVERY = pytest.mark.parametrize("case", CASES)
N = 2


def operands(case, seed=0):
    inputs, outputs, groups, kernel, stride, padding, size = case
    rng = np.random.default_rng(seed)
    x = rng.integers(-128, 128, (N, inputs, *size)).astype(np.int8)
    w = rng.integers(-127, 128, (1, outputs, inputs // groups, *kernel)).astype(np.int8)
    fields = {"stride": stride, "padding": padding, "groups": groups}
    shape = PreNormCodes(**fields).output_shape(x.shape[1:], w.shape[1:], (outputs,))
    g = rng.integers(-32639, 32640, (N, *shape)).astype(np.int16)
    return x, w, g, fields


def literal_terms(case, x, w, g):
    """Every product of a convolution: (image, output, pixel), (image, input, pixel), weight."""
    inputs, outputs, groups, kernel, stride, padding, size = case
    per, per_out = inputs // groups, outputs // groups
    places = itertools.product(range(N), range(outputs), range(g.shape[2]), range(g.shape[3]),
                               range(per), range(kernel[0]), range(kernel[1]))
    for n, o, r, c, i, a, b in places:
        row, column = r * stride[0] + a - padding[0], c * stride[1] + b - padding[1]
        if 0 <= row < size[0] and 0 <= column < size[1]:
            yield (n, o, r, c), (n, o // per_out * per + i, row, column), (0, o, i, a, b)


@EVERY
def test_products_are_the_literal_ones(case):
    x, w, g, fields = operands(case)
    g8 = (g >> 9).astype(np.int8)
    acc, dx = np.zeros(g.shape, int), np.zeros(x.shape, int)
    dw = np.zeros(w.shape, int)
    for y, source, weight in literal_terms(case, x, w, g):
        acc[y] += int(w[weight]) * int(x[source])
        dx[source] += int(w[weight]) * int(g8[y])
        dw[weight] += limit(int(g[y]), -32639, 32639) * int(x[source])
    shift = np.arange(g.shape[1]) + 6
    q, = run(PreNormCodes(**fields), x, w, channels(shift))
    expected = [[[limit(literal_lanes(int(v), 1 << 30, 30 + int(s)), -128, 127)
                  for v in plane.ravel()] for plane, s in zip(image, shift)] for image in acc]
    np.testing.assert_array_equal(q, np.reshape(expected, q.shape))
    found, = run(KernelGradient(n_images=N, kernel=case[3], **fields), x, g)
    np.testing.assert_array_equal(found, (dw + 128) >> 8)
    for width, most, down in ((8, 127, 7), (16, 32639, -2)):
        op = CodesGradient(size=case[6], width=width, tensor_id=258, **fields)
        found, top = run(op, g8, w, one(down), SEED, STEP)
        order = dx.transpose(0, 2, 3, 1)
        y = [literal_lanes(int(v), 1 << 30, 30 + down, r) for v, r in
             zip(order.ravel(), literal_random(258, dx.size))]
        assert top[0, 0] == literal_top(y)
        expected = np.reshape([limit(v, -most, most) for v in y], order.shape)
        np.testing.assert_array_equal(found, expected.transpose(0, 3, 1, 2))


@EVERY
def test_products_are_torchs_in_float64(case):
    x, w, g, fields = operands(case, 1)
    top, left, bottom, right = case[5]
    tx, tw = (torch.from_numpy(v.astype(np.float64)).requires_grad_() for v in (x, w[0]))
    y = functional.conv2d(functional.pad(tx, (left, right, top, bottom)), tw, stride=case[4],
                          groups=case[2])
    g8 = np.clip((g.astype(int) + 128) >> 8, -127, 127).astype(np.int8)
    y.backward(torch.from_numpy(g8 * 256.0), retain_graph=True)
    op = CodesGradient(size=case[6], tensor_id=0, **fields)
    dx, _ = run(op, g8, w, one(3), SEED, STEP)
    assert relative_error(dx * 8.0, tx.grad.numpy() / 256) < 2e-3
    assert cosine(dx, tx.grad.numpy()) > 0.99999
    tw.grad = None
    y.backward(torch.from_numpy(g.astype(np.float64)))
    dw, = run(KernelGradient(n_images=N, kernel=case[3], **fields), x, g)
    np.testing.assert_array_equal(dw, np.floor(tw.grad.numpy()[None] / 256 + 0.5))
    q, = run(PreNormCodes(**fields), x, w, channels([12] * w.shape[1]))
    assert abs(q - np.clip(y.detach().numpy() / 4096, -128, 127)).max() <= 0.5


def test_vectors_are_images_of_one_pixel():
    rng = np.random.default_rng(0)
    x, w = rng.integers(-128, 128, (3, 7)).astype(np.int8), rng.integers(-127, 128, (1, 5, 7))
    w, g = w.astype(np.int8), rng.integers(-32639, 32640, (3, 5)).astype(np.int16)
    q, = run(PreNormCodes(), x, w, channels([9] * 5))
    np.testing.assert_array_equal(
        q, PreNormCodes()(x[..., None, None], w[..., None, None], channels([9] * 5))[..., 0, 0])
    dw, = run(KernelGradient(n_images=3), x, g)
    np.testing.assert_array_equal(dw[0], (g.T.astype(int) @ x + 128) >> 8)
    dx, _ = run(CodesGradient(tensor_id=2, pixels=6), (g >> 8).astype(np.int8), w, one(-5), SEED,
                STEP)
    exact = (g >> 8).astype(float) @ w[0] / 6 * 32
    inside = abs(exact) < 32639
    assert inside.any() and abs(dx - exact)[inside].max() <= 1
    total, = run(BiasGradient(n_images=3), g)
    np.testing.assert_array_equal(total[0], g.sum(0, dtype=int))


def test_pixel_factors():
    assert [pixel_factor(1 << p) for p in range(17)] == [(1 << 30, 30 + p) for p in range(17)]
    for pixels in (3, 5, 7, 49, 65535):
        multiplier, shift = pixel_factor(pixels)
        assert 1 << 30 <= multiplier < 1 << 31
        assert abs(multiplier / 2.0 ** shift * pixels - 1) < 2.0 ** -30


@pytest.mark.parametrize("value", [0, 1, -128, 127])
def test_constant_tensors(value):
    case = CASES[0]
    _, w, g, fields = operands(case)
    x = np.full((N, 3, 4, 5), value, np.int8)
    for e in (-40, 0, 31, 90):
        q, = run(PreNormCodes(**fields), x, w, channels([e] * 4))
        assert (q == 0).all() or value and e < 32
    extreme = np.where(g > 0, 32767, -32768).astype(np.int16)
    dw, = run(KernelGradient(n_images=N, kernel=(3, 3), **fields), x, extreme)
    assert (dw == 0).all() or value
    zero, top = run(CodesGradient(size=(4, 5), tensor_id=0, **fields), np.zeros_like(g, np.int8),
                    w, one(0), SEED, STEP)
    assert (zero == 0).all() and top[0, 0] == 0


def test_the_longest_sums_fit_and_one_term_more_is_refused():
    x = np.full((1, MAX_TERMS), -128, np.int8)
    w = np.full((1, 1, MAX_TERMS), -128, np.int8)
    q, = run(PreNormCodes(), x, w, channels([25]))
    assert q[0, 0] == 64
    with pytest.raises(ValueError, match="PreNormCodes: 131072 terms are more than the 131071"):
        PreNormCodes().output_shape((MAX_TERMS + 1,), (1, MAX_TERMS + 1), (1,))
    with pytest.raises(ValueError, match="CodesGradient: 131072 terms are more than"):
        CodesGradient(tensor_id=0).output_shape((MAX_TERMS + 1,), (MAX_TERMS + 1, 1), (1,), (1,),
                                                (1,))
    with pytest.raises(ValueError, match="KernelGradient: 33554432 terms are more than 16777216"):
        KernelGradient(n_images=(1 << 24)).output_shape((1, 1, 2), (1, 1, 2))
    with pytest.raises(ValueError, match="Images must be in 1..65795, not 65796"):
        BiasGradient(n_images=65796)
    assert BiasGradient(n_images=65795).ranges[0][1] < 1 << 31


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="must get 2 images, not 3"):
        KernelGradient(n_images=2)(np.zeros((3, 4), np.int8), np.zeros((3, 5), np.int16))
    with pytest.raises(ValueError, match=r"must get x of shape \(6, 4, 4\), not \(5, 4, 4\)"):
        PreNormCodes(groups=2).output_shape((5, 4, 4), (2, 3, 1, 1), (2,))
    with pytest.raises(ValueError, match="with 3 dividing O"):
        PreNormCodes(groups=3).output_shape((6, 4, 4), (2, 2, 1, 1), (2,))
    with pytest.raises(ValueError, match="Width must be 8 or 16, not 12"):
        CodesGradient(width=12, tensor_id=0)
    with pytest.raises(ValueError, match="Pixels must be in 1..65536"):
        CodesGradient(pixels=1 << 17, tensor_id=0)
    with pytest.raises(ValueError, match="PreNormCodes must get weights without a batch"):
        PreNormCodes().output_batched(True, True, False)

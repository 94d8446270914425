"""Training products on the instruction-set model and the RTL, against torch's differentiation."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.training_products import (
    PRODUCTS,
    cases,
    compare,
    layers,
    operands,
    reference,
    rescale,
)
from cli.rtl_backend import SimulationFailure
from golden import digits
from golden.errors import LockstepError
from hw.compiler.training import products as training
from hw.compiler.training.products import Convolution
from hw.isa import N_WORDS, Opcode, decode, encode
from hw.machine import Machine
from hw.machine.hazards import check
from hw.targets import Target, get_target

ECP5 = get_target("ecp5-85k")
SMALL, WIDE = get_target("sim-4x4"), get_target("array-4x16")


def run_on_model(product):
    """Results by name. Memories hold noise before; the waits are checked."""
    machine, rng = Machine(product.target), np.random.default_rng(5)
    for bank in machine.banks:
        bank[:] = rng.integers(-128, 128, bank.shape)
    machine.load_program(product.instructions)
    machine.parameters[:len(product.parameters)] = product.parameters
    for block in product.blocks:
        machine.banks[block.bank][block.base:block.base + len(block.words)] = block.words
    check(product.instructions.tolist(), product.target)
    machine.run()
    return product.values([machine.banks[region.bank][region.base:region.base + region.n_words]
                           for region in product.regions])


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
    conv((3, 4), (5, 6), (3, 3)),  # dense input
    conv((3, 5), (6, 7), (3, 3), (2, 2)),
]


def shape_name(c):
    return (f"{c.in_channels}-{c.out_channels} {c.height}x{c.width} {c.kernel} {c.stride} "
            f"{c.padding}")


@pytest.mark.parametrize("c", SHAPES, ids=shape_name)
@pytest.mark.parametrize("n_images", [1, 3])
def test_every_product_is_torchs(c, n_images):
    kinds = []
    target = WIDE if c.in_channels == 3 else SMALL
    for kind, product, expected in cases(target, c, n_images):
        compare(product, run_on_model(product), expected)
        kinds.append(kind)
        assert product.macs == n_images * c.macs * (2 if kind.endswith("16bit") else 1)
    assert set(PRODUCTS) - set(kinds) <= {"input_gradient"}


@pytest.mark.parametrize("channels, target", [((4, 8), SMALL), ((3, 5), WIDE)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_the_input_gradient_as_raw_sums(kernel, stride, channels, target):
    c = conv(channels, (4, 6), (kernel, kernel), (stride, stride))
    data = operands(c, 2)
    product = training.input_gradient(target, c, data["dy"], data["w"])
    dx = reference(c, data["x"], data["w"], data["dy"], 0)[1]
    result = run_on_model(product)["dx"]
    assert result.dtype == np.int32 and np.array_equal(result, dx)


def test_stride_two_multiplies_no_inserted_zeros():
    c = conv((8, 8), (8, 8), (3, 3), (2, 2))
    data = operands(c, 1)
    product = training.input_gradient(SMALL, c, data["dy"], data["w"], rescale(72, 0))
    records = [decode([int(word) for word in record]) for record in product.instructions]
    products = [f for f in records if f["opcode"] == Opcode.MATMUL]
    steps = sum(f["slots"] * f["period_count"] * f["outer_count"] * f["inner_count"]
                for f in products)
    assert len(products) == 4 and steps * SMALL.n_macs == product.macs


def test_weights_lie_once_for_both_products():
    c = conv((8, 8), (4, 4), (3, 3))
    data = operands(c, 1)
    y = training.forward(SMALL, c, data["x"], data["w"], data["bias"], rescale(72, 0),
                         zero_point=3)
    dx = training.input_gradient(SMALL, c, data["dy"], data["w"], rescale(72, 0))
    assert np.array_equal(y.blocks[1].words, dx.blocks[1].words)
    assert len(y.blocks) == len(dx.blocks) == 2


def test_sixteen_bits_are_clamped_and_exact_at_the_extremes():
    c = conv((4, 4), (16, 16), (3, 3))
    x = np.full((2, 4, 16, 16), -128, np.int8)
    for value, used in ((-(1 << 15), -(1 << 15)), (32767, 32639)):
        dy = np.full((2, 4, 16, 16), value, np.int16)
        product = training.weight_gradient(SMALL, c, x, dy, zero_point=127)
        dw = run_on_model(product)["dw"]
        right = reference(c, x, operands(c, 1)["w"], np.full(dy.shape, used), 127)[2]
        assert np.array_equal(dw, right)
    assert abs(dw).max() > 1 << 31  # 32-bit sums would have overflowed


@pytest.mark.parametrize("kind, field, value", [
    ("input_gradient", "a_k1_dx", 1), ("input_gradient", "out_step", 3),
    ("forward", "a_pad", 0), ("weight_gradient", "a_pad", 1),
    ("weight_gradient_16bit", "b_tile_step", 0), ("weight_gradient_16bit", "a_k0_step", 0)])
def test_a_planted_fault_is_seen(kind, field, value):
    c = conv((4, 8), (6, 6), (3, 3), (2, 2))
    product, expected = next((p, e) for k, p, e in cases(SMALL, c, 2) if k == kind)
    records = [decode([int(word) for word in record]) for record in product.instructions]
    for f in records:
        if f["opcode"] == Opcode.MATMUL:
            f[field] = value
    wrong = replace(product, instructions=np.array([encode(**f) for f in records], "<u4"))
    with pytest.raises(SimulationFailure, match=f"conv.{kind} on sim-4x4: .* differ from torch's"):
        compare(wrong, run_on_model(wrong), expected)


def test_an_untouched_pixel_must_be_filled():
    c = conv((4, 4), (4, 4), (1, 1), (2, 2))
    product, expected = next((p, e) for k, p, e in cases(SMALL, c, 1) if k == "input_gradient")
    opcodes = product.instructions[:, 0] & 0xF
    assert (opcodes == Opcode.MAXPOOL).sum() == 2
    wrong = replace(product, instructions=product.instructions[opcodes != Opcode.MAXPOOL])
    with pytest.raises(SimulationFailure):
        compare(wrong, run_on_model(wrong), expected)


def test_what_cannot_run_is_refused():
    c = conv((4, 4), (4, 4), (3, 3))
    data = operands(c, 1)
    with pytest.raises(LockstepError, match=r"needs weights int8 \(4, 4, 3, 3\)"):
        training.input_gradient(SMALL, c, data["dy"], data["w"][:3])
    with pytest.raises(LockstepError, match=r"need int8 \(N, 4, 4, 4\)"):
        training.weight_gradient(SMALL, c, data["x"][:, :3], data["dy"], zero_point=0)
    with pytest.raises(LockstepError, match="1 images do not fit 2 gradients"):
        training.weight_gradient(SMALL, c, data["x"], data["dy"].repeat(2, 0), zero_point=0)
    tiny = Target(name="tiny", rows=4, columns=4, bank_words=(64,) * 4,
                  instruction_words=4 * N_WORDS)
    with pytest.raises(LockstepError, match="results of 144 words do not fit the banks of target"):
        training.weight_gradient(replace(tiny, bank_words=(36,) * 4), conv(
            (36, 4), (1, 2), (1, 1)), np.zeros((1, 36, 1, 2), np.int8),
            np.zeros((1, 4, 1, 2), np.int8), zero_point=0)
    with pytest.raises(LockstepError, match="11 instructions do not fit the 4"):
        training.weight_gradient(replace(tiny, bank_words=(512,) * 4), c, data["x"], data["dy"],
                                 zero_point=0)
    with pytest.raises(LockstepError, match="9 input channels do not divide evenly"):
        training.forward(SMALL, conv((9, 4), (4, 4), (3, 3)), np.zeros((1, 9, 4, 4), np.int8),
                         np.zeros((4, 9, 3, 3), np.int8), np.zeros(4), rescale(81, 0),
                         zero_point=0)


def test_more_terms_than_a_sum_can_take_are_refused():
    c = conv((4, 4), (256, 256), (1, 1))
    x = np.zeros((2, 4, 256, 256), np.int8)
    assert 2 * 256 * 256 == digits.MAX_TERMS + 1
    with pytest.raises(LockstepError, match="131072 pixels are more than the 131071"):
        training.weight_gradient(SMALL, c, x, x, zero_point=0)


def test_minus_128_stays_off_packed_multipliers():
    packed = get_target("ecp5-85k-packed")
    c = conv((16, 16), (4, 4), (3, 3))
    data = operands(c, 1)
    data["dy"].flat[0] = -128
    with pytest.raises(LockstepError, match="gradients of -128 do not run on target"):
        training.weight_gradient(packed, c, data["x"], data["dy"], zero_point=0)


@pytest.mark.slow
@pytest.mark.parametrize("c", layers(), ids=lambda c: c.name)
def test_every_layer_of_resnet8_on_the_model(c):
    for _, product, expected in cases(ECP5, c, 4, seed=1):
        compare(product, run_on_model(product), expected)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["conv1", "block2a", "block2s", "block3b"])
def test_layers_of_resnet8_on_the_rtl(name):
    """Every layer runs in `flows/bench.py accelerator`; here one of each kind."""
    from sim.training import run_product

    c = next(c for c in layers() if c.name == name)
    for kind, product, expected in cases(ECP5, c, 2, seed=2):
        values, counters = run_product(product)
        compare(product, values, expected)
        assert product.macs / (ECP5.n_macs * counters["cycles"]) > 0.3, kind

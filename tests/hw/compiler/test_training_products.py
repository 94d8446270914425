"""Training products as Programs: compiled, on the instruction-set model and the RTL, as torch's."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.training_products import (
    PRODUCTS,
    cases,
    compare,
    layers,
    operands,
    product_program,
    values,
)
from cli.rtl_backend import SimulationFailure
from golden import ops
from golden.errors import LockstepError
from golden.program import interpreter
from golden.program.compare import compare as differences
from hw.compiler import CannotRun, DoesNotFit, compile_program
from hw.isa import N_WORDS, Opcode, decode, encode
from hw.machine.hazards import check
from hw.targets import get_target
from sim import model, rtl
from tests.golden.ops.test_training import SHAPES, conv, shape_name

ECP5 = get_target("ecp5-85k")
SMALL, WIDE = get_target("sim-4x4"), get_target("array-4x16")


def fields_of(image):
    return [decode([int(word) for word in record])
            for record in image.instructions.reshape(-1, N_WORDS)]


def compile_checked(program, target):
    image = compile_program(program, target)
    check(image.instructions.reshape(-1, N_WORDS), target)
    return image


def assert_as_torch(target, kind, program, inputs, right):
    image = compile_checked(program, target)
    trace = model.run(program, inputs, target=target, image=image)
    assert not differences({"golden": interpreter.run(program, inputs), "model": trace}, program)
    compare(program, target, values(kind, program, trace), right)
    return image


@pytest.mark.slow
@pytest.mark.parametrize("c", SHAPES, ids=shape_name)
@pytest.mark.parametrize("n_images", [1, 3])
def test_every_product_is_torchs(c, n_images):
    kinds, target = [], WIDE if c.in_channels == 3 else SMALL
    for kind, program, inputs, right in cases(target, c, n_images):
        image = assert_as_torch(target, kind, program, inputs, right)
        kinds.append(kind)
        assert sum(step.macs for step in image.steps) == (
            n_images * c.macs * (2 if kind.endswith("16bit") else 1))
    assert set(PRODUCTS) - set(kinds) <= {"input_gradient"}


def wide_programs(c, n_images):
    """The raw sums of the outputs, and of the gradient to the input."""
    data, window = operands(c, n_images), {"stride": c.stride, "padding": c.padding}
    x = (c.in_channels, c.height, c.width), 5, "int8", True
    w = data["w"].shape, 0, "int8", False
    yield product_program("sums", [ops.ConvolutionSums(input_zero_point=5, **window)],
                          {"x": x, "w": w}, n_images), {"x": data["x"], "w": data["w"]}
    yield product_program("dx", [ops.InputGradient(size=(c.height, c.width), **window)],
                          {"dy": ((c.out_channels, *c.output), 0, "int8", True), "w": w},
                          n_images), {"dy": data["dy"], "w": data["w"]}


@pytest.mark.parametrize("channels, target", [((4, 8), SMALL), ((3, 5), WIDE)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [1, 3])
def test_raw_sums_are_golden(kernel, stride, channels, target):
    c = conv(channels, (4, 6), (kernel, kernel), (stride, stride))
    for program, inputs in wide_programs(c, 2):
        try:
            trace = model.run(program, inputs, target=target)
        except CannotRun as refusal:  # three channels of one pixel fill no period
            assert program.name == "sums" and kernel == 1 and "divide evenly" in str(refusal)
            continue
        assert not differences({"golden": interpreter.run(program, inputs), "model": trace},
                               program)


def test_stride_two_multiplies_no_inserted_zeros():
    c = conv((8, 8), (8, 8), (3, 3), (2, 2))
    program = next(entry[1] for entry in cases(SMALL, c, 1) if entry[0] == "input_gradient")
    image = compile_checked(program, SMALL)
    products = [f for f in fields_of(image) if f["opcode"] == Opcode.MATMUL]
    steps = sum(f["slots"] * f["period_count"] * f["outer_count"] * f["inner_count"]
                for f in products)
    assert len(products) == 4 and steps * SMALL.n_macs == image.steps[0].macs


@pytest.mark.parametrize("kind, field, value", [
    ("input_gradient", "a_k1_dx", 1), ("input_gradient", "out_step", 3),
    ("forward", "a_pad", 0), ("weight_gradient", "a_pad", 1),
    ("weight_gradient_16bit", "b_tile_step", 0), ("weight_gradient_16bit", "a_k0_step", 0)])
def test_a_planted_fault_is_seen(kind, field, value):
    c = conv((4, 8), (6, 6), (3, 3), (2, 2))
    _, program, inputs, right = next(case for case in cases(SMALL, c, 2) if case[0] == kind)
    image = compile_checked(program, SMALL)
    records = [f | ({field: value} if f["opcode"] == Opcode.MATMUL else {})
               for f in fields_of(image)]
    wrong = replace(image, instructions=np.array([encode(**f) for f in records], "<u4").ravel())
    trace = model.run(program, inputs, target=SMALL, image=wrong)
    with pytest.raises(SimulationFailure, match=f"conv.{kind} on sim-4x4: .* differ from torch's"):
        compare(program, SMALL, values(kind, program, trace), right)


def test_an_untouched_pixel_must_be_filled():
    c = conv((4, 4), (4, 4), (1, 1), (2, 2))
    kind, program, inputs, right = next(case for case in cases(SMALL, c, 1)
                                        if case[0] == "input_gradient")
    image = compile_checked(program, SMALL)
    fills = [k for k, f in enumerate(fields_of(image)) if f["opcode"] == Opcode.MAXPOOL]
    assert len(fills) == 2
    records = image.instructions.reshape(-1, N_WORDS).copy()
    records[fills] = encode(Opcode.SYNC)
    wrong = replace(image, instructions=records.ravel())
    trace = model.run(program, inputs, target=SMALL, image=wrong)
    with pytest.raises(SimulationFailure):
        compare(program, SMALL, values(kind, program, trace), right)


def product(c, op, n_images=1, dy_dtype="int8"):
    return product_program("product", [op], {
        "x": ((c.in_channels, c.height, c.width), 0, "int8", True),
        "dy": ((c.out_channels, *c.output), 0, dy_dtype, True)}, n_images)


def test_what_cannot_run_is_refused():
    def gradient(c):
        return ops.WeightGradient(kernel=c.kernel, input_zero_point=0, padding=c.padding)

    c = conv((9, 4), (4, 4), (3, 3))
    with pytest.raises(CannotRun, match="Node 'product0': training products need input "
                                         "channels that divide evenly into words of 4, not 9"):
        compile_program(product(c, gradient(c)), SMALL)
    c = conv((4, 4), (256, 256), (1, 1))
    with pytest.raises(CannotRun, match="131072 terms are more than the 131071 .*; take fewer im"):
        compile_program(product(c, gradient(c), 2), SMALL)
    c = conv((8, 8), (4, 4), (3, 3))
    for target in (SMALL, get_target("sim-8x8-axi")):
        target = replace(target, name="tiny", bank_words=(64,) * 4)
        with pytest.raises(DoesNotFit, match="does not fit target tiny"):
            compile_program(product(c, gradient(c), 4), target)
    c = conv((4, 4), (4, 4), (3, 3))
    with pytest.raises(DoesNotFit, match="instructions need"):
        compile_program(product(c, gradient(c)), replace(SMALL, instruction_words=4 * N_WORDS))


def test_minus_128_stays_off_packed_multipliers():
    packed = get_target("ecp5-85k-packed")
    c = conv((16, 16), (4, 4), (3, 3))
    kind, program, inputs, right = next(case for case in cases(packed, c, 1)
                                        if case[0] == "weight_gradient")
    inputs["dy"].flat[0] = -128
    with pytest.raises(LockstepError, match="Codes of -128 do not run where they meet packed"):
        model.run(program, inputs, target=packed)


@pytest.mark.slow
@pytest.mark.parametrize("c", layers(), ids=lambda c: c.name)
def test_every_layer_of_resnet8_on_the_model(c):
    for case in cases(ECP5, c, 4, seed=1):
        assert_as_torch(ECP5, *case)


@pytest.mark.slow
@pytest.mark.parametrize("c", SHAPES[:4], ids=shape_name)
def test_small_layers_on_the_rtl(c):
    for kind, program, inputs, right in cases(SMALL, c, 2, seed=2):
        compare(program, SMALL, values(kind, program, rtl.run(program, inputs, target=SMALL)),
                right)


@pytest.mark.long
@pytest.mark.parametrize("name", ["conv1", "block2a", "block2s", "block3b"])
def test_layers_of_resnet8_on_the_rtl(name):
    """Every layer runs in `flows/bench.py accelerator`; here one of each kind."""
    c = next(c for c in layers() if c.name == name)
    for kind, program, inputs, right in cases(ECP5, c, 2, seed=2):
        report = []
        trace = rtl.run(program, inputs, target=ECP5, report=report)
        compare(program, ECP5, values(kind, program, trace), right)
        assert report[0].utilisation > 0.3, kind

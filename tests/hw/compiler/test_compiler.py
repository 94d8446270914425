"""Layouts, capacity, refusals, order, batches and estimates of compiled programs."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks import networks
from golden import ops
from golden.errors import LockstepError
from hw.compiler import CannotRun, DoesNotFit, compile_program
from hw.compiler.scheduling.estimate import estimate
from hw.isa import N_WORDS, Engine, Opcode, decode
from hw.targets import get_target
from tests import programs
from tests.hw.compiler.compiled import assert_as_golden, compile_checked, run_image

TARGET = get_target("sim-4x4")
COMPILABLE = [name for name in programs.small_programs() if name != "norm_net"]
#: Cycles that the benchmark is to stay below.
GOALS = {"ecp5-85k": {"resnet8": 100_000, "ds_cnn": 20_000, "mobilenet_v1_025": 75_000,
                      "autoencoder": 9_000},
         "ecp5-85k-packed": {"resnet8": 53_000, "ds_cnn": 11_200, "mobilenet_v1_025": 60_000}}


def fields_of(image):
    return [decode([int(word) for word in record])
            for record in image.instructions.reshape(-1, N_WORDS)]


def opcodes(image):
    return [Opcode(f["opcode"]) for f in fields_of(image)]


@pytest.mark.parametrize("target", ["sim-4x4", "sim-8x8", "array-2x8", "ecp5-85k"])
@pytest.mark.parametrize("name", COMPILABLE)
def test_small_programs_are_as_golden(name, target):
    program = programs.small_programs()[name]
    assert_as_golden(program, get_target(target), programs.random_codes(program, 2))


@pytest.mark.parametrize(("target", "name"), [
    (target, name) for target, goals in GOALS.items() for name in goals])
def test_benchmark_networks_fit_and_reach_their_goals(target, name, capsys):
    program, goal = getattr(networks, name)(), GOALS[target][name]
    image = assert_as_golden(program, get_target(target), programs.random_codes(program, 1))
    cycles = estimate(image).cycles
    with capsys.disabled():
        print(f"\n{name} on {target}: {cycles} cycles estimated, goal {goal}")
    assert cycles <= goal


@pytest.mark.parametrize("n_images", [2, 3])
def test_a_batch_is_as_golden(n_images):
    program = programs.residual_net()
    image = assert_as_golden(program, get_target("sim-8x8"),
                             programs.random_codes(program, n_images), n_images)
    assert len({(place.bank, place.base) for k in range(n_images)
                for place in [image.place("input", k)]}) == n_images
    single = compile_program(program, get_target("sim-8x8"))
    assert estimate(image).cycles < n_images * estimate(single).cycles


@pytest.mark.parametrize("target", ["array-3x4", "sim-8x8", "array-3x16x8"])
@pytest.mark.parametrize("n_images", [2, 7, 16])
def test_images_of_single_pixels_share_their_weights(n_images, target):
    program, target = programs.pixel_net(), get_target(target)
    image = assert_as_golden(program, target, programs.random_codes(program, n_images), n_images)
    n_single = len(compile_program(program, target).instructions)
    if n_images > target.rows:
        assert len(image.instructions) <= n_single, "one instruction computes them all"


def test_images_follow_each_other_where_the_array_cannot_take_them_together():
    """A weight of -128 does not run on packed multipliers, but on the vector engine."""
    make = programs.Maker("lowest", (21,), 0)
    make._weights = lambda shape: np.full(shape, -128, np.int8)
    program = make.program(make.linear(make.input, 5))
    target = replace(get_target("ecp5-85k-packed"), bank_words=(512,) * 4)
    image = assert_as_golden(program, target, programs.random_codes(program, 4), 4)
    assert opcodes(image) == [Opcode.LINEAR] * 4 + [Opcode.HALT]


def test_a_batch_of_pixels_is_as_fast_as_one():
    program, target = networks.autoencoder(), get_target("ecp5-85k")
    image = compile_program(program, target, target.rows)
    steps = sum(op.macs((op.weights.shape[1],)) for op in (node.op for node in program.nodes))
    assert estimate(image).cycles < 1.15 * steps / target.columns


@pytest.mark.parametrize("target", ["sim-4x4", "sim-8x8"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_reshapes_keep_their_order_of_elements(channels_last, target):
    make = programs.Maker("order", (6, 3, 5), 0)
    program = make.program(make.flatten(make.conv(make.input, 6), channels_last))
    assert_as_golden(program, get_target(target), programs.random_codes(program, 2))
    make = programs.Maker("order", (6, 3, 5), 0)
    program = make.program(make.linear(make.flatten(make.input, channels_last), 5))
    assert_as_golden(program, get_target(target), programs.random_codes(program, 2))


@pytest.mark.parametrize(("shape", "orders"), [((3, 5, 1), (True, False)),
                                               ((2, 4, 2), (False, True))])
def test_reshapes_in_two_orders_of_a_single_pixel_are_refused(shape, orders):
    n = int(np.prod(shape))
    make = programs.Maker("order", (n, 1, 1), 0)
    x = make.input
    for new, last in zip((shape, (n,)), orders):
        op = ops.Reshape(shape=new, channels_last=last)
        x = make._append("reshape", op, [x], *make._quantization(x))
    with pytest.raises(CannotRun, match="reshapes in two orders of the elements"):
        compile_program(make.program(make.linear(x, 4)), get_target("array-3x4"))


@pytest.mark.parametrize("size", [(1, 12), (12, 1), (3, 4)])
def test_a_reshape_that_keeps_the_pixels_gives_an_image(size):
    program = programs.sequence_net(12, size)
    assert_as_golden(program, TARGET, programs.random_codes(program, 2))


def test_reshapes_in_two_orders_are_refused():
    make = programs.Maker("order", (6, 3, 5), 0)
    flat = make.flatten(make.input, channels_last=True)
    make._append("fold", ops.Reshape(shape=(10, 9)), [flat], *make._quantization(flat))
    folded = "fold1_out"
    with pytest.raises(CannotRun, match="Node 'fold1': reshapes in two orders"):
        compile_program(make.program(folded), TARGET)


def test_a_far_padded_average_is_refused():
    make = programs.Maker("average", (2, 40, 40), 0)
    program = make.program(make.code_average_pool(make.input, (17, 17), (16, 16), (3, 3, 3, 3)))
    with pytest.raises(CannotRun, match="average pooling that is padded has strides and"):
        compile_program(program, TARGET)


def test_an_empty_batch_is_refused():
    with pytest.raises(LockstepError, match="the batch must hold at least 1 image, not 0"):
        compile_program(programs.linear_net(), TARGET, batch=0)


# Which instruction a node becomes, and how its input is read.


def one_conv(shape, channels, **geometry):
    make = programs.Maker("one", shape, seed=0)
    return make.program(make.conv(make.input, channels, **geometry))


def test_depthwise_3x3_has_its_own_instruction():
    target = get_target("ecp5-85k")
    for geometry, opcode in (({}, Opcode.DEPTHWISE), ({"stride": (2, 2)}, Opcode.DEPTHWISE),
                             ({"dilation": (2, 2)}, Opcode.WINDOW),
                             ({"kernel": (2, 3)}, Opcode.WINDOW),
                             ({"stride": (1, 7)}, Opcode.WINDOW)):
        image = compile_program(one_conv((20, 9, 9), 20, groups=20, **geometry), target)
        assert opcodes(image) == [opcode, Opcode.HALT]


def steps(image):
    return [f["slots"] * f["period_count"] for f in fields_of(image)
            if f["opcode"] == Opcode.MATMUL]


@pytest.mark.parametrize(("shape", "geometry", "best"), [
    ((3, 32, 32), {}, 27),  # whole kernel rows
    ((1, 49, 10), {"kernel": (10, 4), "padding": (5, 1, 5, 1), "stride": (2, 2)}, 40),  # columns
    ((3, 224, 224), {"kernel": (7, 7), "padding": (3,) * 4, "stride": (2, 2)}, 154),  # 2 x 11
    ((1, 28, 28), {"kernel": (5, 5), "padding": (0,) * 4}, 40),
    ((16, 8, 8), {}, 144),
    ((24, 8, 8), {}, 216),  # two periods of 12 bytes
    ((8, 8, 8), {}, 72),
])
def test_no_byte_is_fetched_in_vain(shape, geometry, best):
    target = replace(get_target("ecp5-85k"), bank_words=(32768,) * 4)
    assert steps(compile_program(one_conv(shape, 8, **geometry), target)) == [best]


def test_a_dense_input_holds_its_border():
    image = compile_program(one_conv((3, 5, 5), 8), get_target("sim-8x8"))
    place = image.place("input")
    assert place.dense
    x = np.arange(75, dtype=np.int8).reshape(1, 3, 5, 5)
    words = place.pack(x)
    assert np.array_equal(place.unpack(words), x)
    rest = sorted(words.ravel().tolist())
    for value in x.ravel().tolist():
        rest.remove(value)
    assert set(rest) == {place.dense.fill}


@pytest.mark.parametrize("shape", [(1, 1, 1), (5, 3, 2), (40, 2, 7)])
def test_unpack_inverts_pack(shape):
    image = compile_program(one_conv(shape, 3), get_target("sim-8x8"))
    x = np.random.default_rng(0).integers(-128, 128, (2, *shape)).astype(np.int8)
    assert np.array_equal(image.place("input").unpack(image.place("input").pack(x)), x)


def test_groups_become_as_many_products_as_pay():
    target = get_target("ecp5-85k")
    whole = compile_program(one_conv((8, 4, 4), 8, groups=2), target)
    split = compile_program(one_conv((64, 16, 16), 64, groups=4), target)
    assert opcodes(whole).count(Opcode.MATMUL) == 1
    assert opcodes(split).count(Opcode.MATMUL) == 4


def test_a_large_linear_layer_uses_both_engines():
    make = programs.Maker("linear", (640,), seed=0)
    image = compile_program(make.program(make.linear(make.input, 128)), get_target("ecp5-85k"))
    assert sorted(opcodes(image)) == [Opcode.HALT, Opcode.MATMUL, Opcode.LINEAR]


def test_packed_columns_take_no_weight_of_minus_128():
    make = programs.Maker("one", (16, 4, 4), seed=0)
    make._weights = lambda shape: np.full(shape, -128, np.int8)
    program = make.program(make.conv(make.input, 8))
    compile_program(program, get_target("ecp5-85k"))
    with pytest.raises(CannotRun, match="Node 'conv0': weights of -128 do not run on target "
                                            "ecp5-85k-packed"):
        compile_program(program, get_target("ecp5-85k-packed"))


def test_shortcuts_run_before_what_the_addition_follows():
    image = compile_program(networks.resnet8(), get_target("ecp5-85k"))
    adds = [f for f in fields_of(image) if f["opcode"] == Opcode.ADD]
    assert len(adds) == 3
    for f in adds:
        assert f["chase"]
        assert f["chase_engine"] == Engine.ARRAY
    stalled = estimate(image).cycles - sum(one.busy for one in estimate(image).instructions
                                           if one.opcode == Opcode.MATMUL)
    assert stalled < 2000


# What does not fit.


def smaller(**sizes):
    return replace(TARGET, name="small", **sizes)


@pytest.mark.parametrize(("sizes", "message"), [
    ({"bank_words": (100,) * 4},
     r"weights and activations need \d+ \+ \d+ scratchpad words of 4 bytes, there are 400"),
    ({"parameter_words": 3}, r"per-channel parameters need \d+ channels, there are 12"),
    ({"instruction_words": 64}, r"instructions need \d+ words, there are 44"),
])
def test_what_does_not_fit_says_how_much_is_needed(sizes, message):
    with pytest.raises(DoesNotFit,
                       match=f"Program 'residual' does not fit target small: {message}$"):
        compile_program(programs.residual_net(), smaller(**sizes))


def test_parameters_and_instructions_that_are_needed_are_enough():
    program = programs.residual_net()
    image = compile_program(program, TARGET)
    sizes = {"instruction_words": len(image.instructions),
             "parameter_words": len(image.parameters) // TARGET.lanes}
    exact = compile_checked(program, smaller(**sizes))
    assert np.array_equal(exact.instructions, image.instructions)
    for name, limit in sizes.items():
        with pytest.raises(DoesNotFit, match="does not fit"):
            compile_program(program, smaller(**sizes | {name: limit - 1}))


def test_banks_that_are_just_large_enough_are_used():
    """Weights of one bank, activations of another: no word to spare."""
    make = programs.Maker("tight", (16, 4, 4), seed=0)
    program = make.program(make.conv(make.input, 16, kernel=(1, 1), padding=(0,) * 4))
    target = replace(get_target("ecp5-85k"), name="tight", bank_words=(16, 16, 16, 2))
    x = programs.random_codes(program, 1)
    assert np.array_equal(run_image(compile_checked(program, target), x),
                          run_image(compile_program(program, get_target("ecp5-85k")), x))
    with pytest.raises(DoesNotFit, match="does not fit target tight"):
        compile_program(program, replace(target, bank_words=(16, 16, 14, 2)))


def test_an_unsupported_operator_names_its_node():
    program = programs.norm_net()
    node = next(node for node in program.nodes if type(node.op).__name__ == "RangeNorm")
    with pytest.raises(CannotRun, match=f"Node '{node.name}': operator RangeNorm does not run"):
        compile_program(program, TARGET)


@pytest.mark.parametrize("kind", ["conv", "pool", "concat"])
def test_images_behind_a_reshape_name_the_node(kind):
    make = programs.Maker("flat", (4, 3, 3), seed=0)
    flat = make.flatten(make.input)
    if kind == "concat":
        make.concat(flat, flat)
        message = "joins tensors along the channels only"
    else:
        op = programs.ops.Reshape(shape=(6, 3, 2))
        image = make._append("image", op, [flat], *make._quantization(flat))
        make.conv(image, 2) if kind == "conv" else make.max_pool(image)
        message = "behind a reshape does not run"
    program = make.program(make.nodes[-1].outputs[0])
    with pytest.raises(CannotRun, match=f"Node '{program.nodes[-1].name}': .*{message}"):
        compile_program(program, TARGET)


def test_a_maximum_over_large_strides_is_refused():
    make = programs.Maker("far", (4, 40, 40), seed=0)
    program = make.program(make.max_pool(make.input, (2, 2), (16, 16)))
    with pytest.raises(CannotRun, match="Node 'max_pool0': maximum pooling has strides"):
        compile_program(program, TARGET)


def test_a_field_out_of_range_names_program_and_field():
    program = one_conv((1, 300, 1), 1, kernel=(1, 1), padding=(0,) * 4, stride=(299, 1))
    with pytest.raises(DoesNotFit, match="Program 'one': Instruction field 'a_iy_step' must be"):
        compile_program(program, TARGET)


def test_a_fault_of_the_compiler_is_not_taken_for_a_program_that_does_not_fit(monkeypatch):
    def broken(*what):
        raise ValueError("a fault")
    monkeypatch.setattr("hw.compiler.memory.build.allocate", broken)
    monkeypatch.setattr("hw.compiler.tile", lambda *what: pytest.fail("it was tiled"))
    with pytest.raises(ValueError, match="^a fault$"):
        compile_program(programs.residual_net(), get_target("zynq-7020"))

"""The floors of programs: instructions counted by hand, whole networks, and what bounds them."""

import numpy as np
import pytest

from benchmarks import networks
from hw.compiler import compile_program
from hw.compiler.scheduling.floors import Floors, floors, floors_of_fields
from hw.isa import FIELDS, FORMAT_OF, INSTRUCTIONS, Engine, Feed, Opcode
from hw.targets import get_target

TARGET = get_target("ecp5-85k")  # 8 rows, words of 16 channels
WITH_BUS = get_target("zynq-7020")  # 16 bytes in a cycle
NETWORKS = ("resnet8", "ds_cnn", "mobilenet_v1_025", "autoencoder")


def instruction(opcode, **fields):
    """All fields of an instruction; those that are not given are 0."""
    return {field.name: 0 for field in FIELDS[FORMAT_OF[opcode]]} | {"opcode": opcode} | fields


#: 20 pixels, 3 tiles of 8, times 20 channels, 2 words; the reduction has 9 periods of 16 steps.
PRODUCT = instruction(
    Opcode.MATMUL, n_pixels=20, n_channels=20, outer_count=3, inner_count=2, period_count=9,
    slots=16, a_x_step=16, a_feed=Feed.TRANSPOSING, b_feed=Feed.DIRECT, b_x_step=1)
#: 32 inputs, 32 outputs.
LINEAR = instruction(Opcode.LINEAR, n_inputs=32, n_chunks=2, n_channels=32)


def groups(n_channels):
    """Groups of channels that fill the lanes."""
    return -(-n_channels // TARGET.lanes)


def test_a_product_counted_by_hand():
    assert floors_of_fields([PRODUCT], TARGET) == Floors(
        array=3 * 2 * 9 * 16, lanes=3 * 8 * (groups(16) + groups(4)), vector=0,
        weight_banks=2 * 9 * 16 // 8, weight_ports=2 * 9 * 16)


def test_results_that_take_longer_than_the_sums_are_no_slots():
    """What a tile's results take beyond its sums is a matter of the lanes."""
    short = PRODUCT | {"period_count": 1}
    least = floors_of_fields([short], TARGET)
    assert least.array == 3 * 2 * 16 and least.lanes == 3 * 8 * (groups(16) + groups(4))
    assert least.bound == ("lanes" if least.lanes > 96 else "array")
    wide = floors_of_fields([short | {"wide": 1}], TARGET)
    assert wide.lanes == 4 * least.lanes and wide.array == least.array


def test_a_fully_connected_layer_counted_by_hand():
    least = floors_of_fields([LINEAR], TARGET)
    assert least == Floors(array=0, lanes=2 * groups(16), vector=32 * 2 // 2,
                           weight_banks=64 // 8, weight_ports=64 // 2)
    assert least.bound == "vector" and least.cycles == 32


def test_both_ports_bring_weights_where_both_engines_have_some():
    n_words = 2 * 9 * 16 + 64
    least = floors_of_fields([PRODUCT, LINEAR, LINEAR], TARGET)
    assert least.weight_banks == (n_words + 64) // 8
    assert least.weight_ports == -(-(n_words + 64) // 3)


def test_a_word_counts_once_and_only_where_its_channels_are_written():
    same = floors_of_fields([PRODUCT | {"b_x_step": 0}], TARGET)
    assert same.weight_ports == same.weight_banks == 1
    assert floors_of_fields([PRODUCT | {"n_channels": 16}], TARGET).weight_ports == 9 * 16


def test_an_instruction_has_its_weights_once():
    window = {"n_channels": 32, "n_chunks": 2, "out_width": 5, "out_height": 4, "width": 5,
              "height": 4, "stride_x": 1, "stride_y": 1}
    depthwise = floors_of_fields([instruction(Opcode.DEPTHWISE, left=1, top=1, **window)], TARGET)
    assert depthwise.weight_ports == 2 * 9 // 2
    assert depthwise.vector == 4 * 3 * (5 + 2) * 2  # the padding's columns too
    mean = instruction(Opcode.WINDOW, kernel_width=5, kernel_height=4, dilation_x=1, dilation_y=1,
                       same_weights=1, **window)
    assert floors_of_fields([mean], TARGET).weight_ports == 1


def test_what_comes_before_the_first_unit_counts():
    lookup = instruction(Opcode.LOOKUP, n_chunks=1, out_width=10)
    assert floors_of_fields([lookup], TARGET).vector == 256 // 4 + 10 * 16 // TARGET.lanes
    assert floors_of_fields([lookup], TARGET).weight_banks == 0


def test_the_direction_that_moves_more_bounds_the_bus():
    load = instruction(Opcode.LOAD, n_lines=3, line_words=5)  # 240 bytes
    store = instruction(Opcode.STORE, n_lines=2, line_words=10)  # 320
    assert floors_of_fields([load], WITH_BUS).external == 15
    assert floors_of_fields([load, store], WITH_BUS).external == 20
    assert floors_of_fields([load, load, store], WITH_BUS).external == 30
    small = floors_of_fields([store], get_target("sim-8x8-axi"))  # words and beats of 8 bytes
    assert small.external == 20
    assert small.bound == "external"


def test_the_first_of_equal_floors_bounds():
    equal = dict.fromkeys(("lanes", "vector", "weight_banks", "weight_ports"), 7)
    assert Floors(array=6, **equal).bound == "lanes"
    assert Floors(array=7, **equal).bound == "array"


def test_the_fetchs_own_instructions_take_nothing():
    assert floors_of_fields([{"opcode": Opcode.SYNC}, {"opcode": Opcode.HALT}], TARGET).cycles == 0


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("target", ["ecp5-85k", "ecp5-85k-packed"])
def test_networks_take_longer_than_their_floors(name, target):
    program, target = getattr(networks, name)(), get_target(target)
    image = compile_program(program, target)
    least = floors(image)
    assert 0 < least.cycles <= image.metadata["estimated_cycles"]
    assert least.external == 0
    # Every word of constants is read by one instruction.
    n_words = sum(len(block.words) for block in image.blocks)
    assert least.weight_banks == pytest.approx(n_words / 8, rel=0.02, abs=1)
    n_weights = sum(node.op.weights.size for node in program.nodes if hasattr(node.op, "weights"))
    assert 8 * target.columns * least.weight_banks >= n_weights


def test_a_tiled_programs_whole_stream_counts():
    """It passes through a short instruction memory, and its loads are all there."""
    image = compile_program(networks.resnet18(), WITH_BUS)
    least, estimated = floors(image), image.metadata["estimated_cycles"]
    assert image.metadata["instruction_stream"]["instructions"] > image.n_instructions
    assert least.array > 0.9 * estimated and least.cycles <= estimated
    weights = sum(node.op.weights.nbytes for node in networks.resnet18().nodes
                  if hasattr(node.op, "weights"))
    assert 16 * least.external > weights / 2  # in four bits at best


@pytest.mark.parametrize("opcode", [Opcode.MATMUL, Opcode.LINEAR, Opcode.DEPTHWISE, Opcode.WINDOW])
def test_weights_are_among_the_words_that_a_record_reads(opcode):
    record = INSTRUCTIONS[opcode]
    f = PRODUCT if record.engine == Engine.ARRAY else LINEAR | {
        "opcode": opcode, "w_bank": 2, "out_width": 3, "out_height": 3, "width": 3, "height": 3,
        "kernel_width": 2, "kernel_height": 3, "stride_x": 1, "stride_y": 1, "n_channels": 32}
    f = f | {"b_bank": 2}
    read = [access for access in record.reads(f, TARGET) if access.memory == 2]
    weights, = record.weight_reads(f, TARGET)
    assert len(read) == 1 and np.array_equal(read[0].words, weights.words)
    assert record.weights_per_cycle > 0

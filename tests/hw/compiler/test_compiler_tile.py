"""Programs from external memory: as golden, in order, and with the array at work."""

import re
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks import networks as benchmarks
from golden.program.interpreter import run
from golden.program.verify import verify
from hw.compiler import DoesNotFit, Image, compile_program
from hw.compiler.memory.allocator import NoRoom
from hw.compiler.memory.pool import Pool
from hw.compiler.scheduling.estimate import estimate_fields
from hw.compiler.scheduling.order import orders
from hw.compiler.tiling.tile import tile, unrolled
from hw.isa import N_WORDS, Opcode, decode
from hw.machine.hazards import check
from hw.targets import get_target
from tests import programs
from tests.hw.compiler.compiled import run_image
from tests.hw.random_programs import convolutions, networks

SMALL = get_target("sim-8x8-axi")
LARGE = get_target("zynq-7020")
#: Little memory of every kind, so that all is cut.
TIGHT = replace(SMALL, name="tight", bank_words=(600, 400, 400, 400), parameter_words=128,
                instruction_words=10 * N_WORDS)
COMPILABLE = [name for name in programs.small_programs() if name != "norm_net"]


def assert_tiled_as_golden(program, target, batch=1):
    image = tile(program, target, orders(program)[-1], batch)
    check(unrolled(image), target)
    x = programs.random_codes(program, batch)
    got = run_image(image, program.quantize_input(x))
    assert np.array_equal(got, run(program, x)[program.outputs[0]])
    return image


@pytest.mark.parametrize("target", [SMALL, TIGHT, LARGE], ids=lambda target: target.name)
@pytest.mark.parametrize("name", COMPILABLE)
def test_small_programs_are_as_golden(name, target):
    assert_tiled_as_golden(programs.small_programs()[name], target)


@pytest.mark.parametrize("length, size", [(12, (1, 12)), (12, (12, 1)), (256, (16, 16))])
def test_rows_have_another_length_behind_a_reshape(length, size):
    assert_tiled_as_golden(programs.sequence_net(length, size), TIGHT)


def assert_tiled_where_it_fits(program, target, batch=1):
    try:
        assert_tiled_as_golden(program, target, batch)
    except DoesNotFit as error:  # the weights of one word of channels need a bank
        assert re.search("not even in pieces: there is no room for [0-9]{3,} words", str(error))


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(networks(), st.sampled_from([SMALL, TIGHT]), st.integers(1, 2))
def test_any_network_is_as_golden(program, target, batch):
    assert_tiled_where_it_fits(program, target, batch)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(convolutions(), st.sampled_from([SMALL, TIGHT]))
def test_any_convolution_is_as_golden(program, target):
    assert_tiled_where_it_fits(program, target)


def striped(image):
    """Instructions per opcode."""
    fields = [decode([int(word) for word in record]) for record in unrolled(image)]
    return {opcode: sum(f["opcode"] == opcode for f in fields) for opcode in Opcode}


@pytest.mark.slow
def test_large_images_are_cut_into_stripes_and_channels_into_groups():
    make = programs.Maker("large", (3, 64, 64), 0)
    x = make.conv(make.input, 16, stride=(2, 2))
    x = make.add(make.conv(x, 16), x)
    x = make.conv(make.conv(make.max_pool(x), 48, stride=(2, 2)), 40, kernel=(1, 1),
                  padding=(0,) * 4)
    program = make.program(make.linear(make.flatten(make.global_average_pool(x)), 10))
    image = assert_tiled_as_golden(program, SMALL)
    counts = striped(image)
    assert counts[Opcode.MATMUL] > 12
    assert counts[Opcode.ADD] > 2
    assert counts[Opcode.MAXPOOL] > 1
    assert counts[Opcode.SYNC] > 1
    assert image.metadata["instruction_stream"]["instructions"] * N_WORDS > len(
        image.instructions)


def test_what_fits_the_chip_stays_there():
    image = compile_program(programs.residual_net(), SMALL)
    assert image.external is None


def test_compile_goes_to_external_memory_where_it_must(tmp_path):
    program = programs.residual_net()
    target = replace(SMALL, instruction_words=8 * N_WORDS)
    image = compile_program(program, target)
    assert image.place("input").external
    assert image.place(image.outputs[0]).external
    assert len(image.instructions) <= target.instruction_words
    x = program.quantize_input(programs.random_codes(program, 1))
    assert np.array_equal(run_image(image, x), run(program, x)[program.outputs[0]])
    with pytest.raises(DoesNotFit, match="instructions need"):
        compile_program(program, replace(target, bus_bits=0))


def test_an_external_image_survives_saving(tmp_path):
    program = programs.conv_shapes_net()
    image = tile(program, SMALL, orders(program)[-1])
    image.save(tmp_path)
    again = Image.load(tmp_path)
    assert np.array_equal(again.external, image.external)
    x = program.quantize_input(programs.random_codes(program, 1))
    assert np.array_equal(run_image(again, x), run_image(image, x))


def test_steps_hold_every_instruction_once():
    program = programs.residual_net()
    image = tile(program, TIGHT, orders(program)[-1])
    first = 0
    for step in image.steps:
        assert step.first_instruction == first
        first += step.n_instructions
    assert first == len(unrolled(image)) - 1
    assert sum(step.macs for step in image.steps) == verify(program).macs
    assert {step.node for step in image.steps} == {node.name for node in program.nodes}


@pytest.mark.slow
def test_what_fits_no_bank_is_refused():
    program = programs.residual_net()
    with pytest.raises(DoesNotFit, match="Program 'residual' does not fit target small, not "
                                            "even in pieces: there is no room for 144 words of "
                                            "the scratchpad in 128, 128, 128"):
        tile(program, replace(SMALL, name="small", bank_words=(128,) * 4), orders(program)[-1])
    with pytest.raises(DoesNotFit, match="words of parameters in 2$"):
        tile(program, replace(SMALL, parameter_words=2), orders(program)[-1])
    with pytest.raises(DoesNotFit, match=r"\d+ instructions cannot pass through a memory of 4"):
        tile(program, replace(SMALL, instruction_words=4 * N_WORDS), orders(program)[-1])


def test_buffers_do_not_overlap_and_the_longest_free_is_taken():
    pool = Pool((100, 60), "memory")
    first, second = pool.take(50, [0, 1]), pool.take(50, [0, 1])
    assert (first.bank, second.bank) == (0, 0)
    assert abs(first.base - second.base) >= 50
    third = pool.take(50, [0, 1])
    assert third.bank == 1
    with pytest.raises(NoRoom, match="20 words of memory in 100, 60"):
        pool.take(20, [0, 1])
    pool.give_back(first)
    pool.now = 9
    pool.give_back(second)
    fourth = pool.take(50, [0, 1])
    assert fourth.base == first.base
    assert pool.take(40, [0]).base == second.base


@pytest.mark.slow
@pytest.mark.parametrize("groups", [1, 24], ids=["products", "depthwise"])
@pytest.mark.parametrize("kernel, padding", [
    ((1, 1), (5, 2, 5, 2)), ((2, 3), (9, 0, 0, 7)), ((1, 1), (0, 7, 9, 0)),
    ((1, 1), (17, 2, 30, 16))])
def test_rows_that_lie_wholly_in_the_padding(kernel, padding, groups):
    make = programs.Maker("padded", (24, 16, 16), 0)
    x = make.conv(make.input, 24, kernel=(1, 1), padding=(0,) * 4)
    program = make.program(make.conv(x, 24, kernel=kernel, padding=padding, stride=(2, 2),
                                     groups=groups))
    image = assert_tiled_as_golden(program, TIGHT)
    fields = [decode([int(word) for word in record]) for record in unrolled(image)]
    assert any(f.get("a_height", f.get("height")) == 0 for f in fields
               if f["opcode"] not in (Opcode.MAXPOOL, Opcode.ADD, Opcode.LINEAR))


def test_chases_and_prefetching_save_cycles():
    """The same instructions, each waiting for all before it, take much longer."""
    make = programs.Maker("large", (16, 32, 32), 0)
    x = make.conv(make.input, 16)
    program = make.program(make.add(make.conv(x, 16), x))
    image = tile(program, LARGE, orders(program)[-1])
    fields = [decode([int(word) for word in record]) for record in unrolled(image)]
    counts = {"wait_array": 0, "wait_vector": 0, "wait_load": 0, "wait_store": 0}
    serial = []
    for f in fields:
        serial.append(f | counts | {"chase": 0})
        engine = ("array" if f["opcode"] == Opcode.MATMUL else "load" if f["opcode"] ==
                  Opcode.LOAD else "store" if f["opcode"] == Opcode.STORE else "vector")
        if f["opcode"] not in (Opcode.SYNC, Opcode.HALT):
            counts = counts | {f"wait_{engine}": counts[f"wait_{engine}"] + 1}
    assert estimate_fields(serial, LARGE).cycles > 1.2 * estimate_fields(fields, LARGE).cycles


@pytest.mark.long
def test_resnet18_keeps_the_array_busy(capsys):
    program = benchmarks.resnet18()
    image = compile_program(program, LARGE)
    check(unrolled(image), LARGE)
    cycles = image.metadata["estimated_cycles"]
    utilisation = verify(program).macs / (LARGE.n_macs * cycles)
    with capsys.disabled():
        print(f"\nresnet18: {cycles} cycles estimated, {utilisation:.1%}, goal 87 %")
    assert utilisation >= 0.87
    x = programs.random_codes(program, 1)
    assert np.array_equal(run_image(image, x), run(program, x)[program.outputs[0]])

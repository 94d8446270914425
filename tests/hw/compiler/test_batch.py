"""Which networks may compute their images as the pixels of one."""

import dataclasses

import pytest

from hw.compiler.lowering.lower import layouts
from hw.compiler.memory.batch import batches
from hw.targets import get_target
from tests import programs

TARGET = get_target("sim-8x8")
LARGEST = 2**16  # pixels of a row of one instruction, and one more


def ways(program, size=3):
    return batches(program, size, layouts(program, TARGET))


def by_pixel(program, size=3):
    return any(way.by_pixel for way in ways(program, size))


def image_net(**geometry):
    make = programs.Maker("image", (3, 5, 5), 0)
    return make.program(make.conv(make.input, 8, **geometry))


def test_image_after_image_is_always_a_way():
    for program in (programs.pixel_net(), image_net()):
        first = ways(program)[0]
        assert (first.size, first.gathered, first.whole) == (3, False, frozenset())


def test_a_network_of_single_pixels_has_a_second_way():
    program = programs.pixel_net()
    (_, way) = ways(program)
    assert way.gathered
    assert way.whole == {node.name for node in program.nodes}
    assert [way.images_of(node) for node in program.nodes] == [3] * len(program.nodes)


def test_one_image_has_nothing_to_share():
    assert not by_pixel(programs.pixel_net(), 1)


def test_an_instruction_holds_so_many_pixels_and_no_more():
    assert not by_pixel(programs.pixel_net(), LARGEST)
    assert by_pixel(programs.pixel_net(), LARGEST // 2)


@pytest.mark.parametrize("shape", [(8, 1, 2), (8, 2, 1)])
def test_images_of_more_pixels_run_one_by_one(shape):
    make = programs.Maker("two", shape, 0)
    assert not by_pixel(make.program(make.clamp(make.input, -90, 80)))


def test_a_dense_input_runs_image_by_image():
    program = image_net(kernel=(5, 5), padding=(0,) * 4)  # its output is one pixel
    place = layouts(program, TARGET)["input"]
    assert place.dense
    assert not by_pixel(program)


def test_a_tensor_that_the_images_share_keeps_them_apart():
    program = programs.pixel_net()
    name = program.nodes[0].outputs[0]
    tensors = program.tensors | {name: dataclasses.replace(program.tensors[name], batched=False)}
    shared = dataclasses.replace(program, tensors=tensors)
    assert by_pixel(program)
    assert not by_pixel(shared)


def test_an_operator_that_looks_around_itself_keeps_them_apart():
    make = programs.Maker("window", (8, 1, 1), 0)
    assert not by_pixel(make.program(make.max_pool(make.input, (1, 1), (1, 1))))

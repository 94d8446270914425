"""Weights of few bits: packed in external memory, unpacked on their way in, results as golden's."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from golden.program.interpreter import run
from hw.compiler.lowering.nibbles import pack_nibbles
from hw.compiler.scheduling.order import orders
from hw.compiler.tiling.tile import tile, unrolled
from hw.isa import N_WORDS, Opcode, decode, encode
from hw.machine import Machine
from hw.machine.hazards import check
from hw.targets import get_target
from sim import rtl
from tests import programs
from tests.hw.compiler.compiled import run_image
from tests.targets import AXI

SMALL, LARGE = get_target("sim-8x8-axi"), get_target("zynq-7020")


def few_bits(program, shift=0):
    """The program with the upper half of its weights' codes, shifted left."""
    def changed(op):
        if not hasattr(op, "weights"):
            return op
        return replace(op, weights=(op.weights >> 4 << shift).astype(np.int8))
    return replace(program, nodes=tuple(replace(node, op=changed(node.op))
                                        for node in program.nodes))


def tiled(program, target=SMALL):
    image = tile(program, target, orders(program)[-1], 1)
    check(unrolled(image), target)
    return image


def loads(image):
    fields = [decode([int(word) for word in record]) for record in unrolled(image)]
    return [f for f in fields if f["opcode"] == Opcode.LOAD]


@settings(deadline=None)
@given(st.integers(0, 4), st.integers(2, 9), st.sampled_from([SMALL, LARGE]),
       st.integers(0, 1 << 30))
def test_a_load_gives_what_was_packed(shift, n_words, target, seed):
    rng = np.random.default_rng(seed)
    words = (rng.integers(-8, 8, (n_words, target.word_bytes)) << shift).astype(np.int8)
    packed, used = pack_nibbles(words)
    assert packed.shape == (-(-n_words // 2), target.word_bytes) and used <= shift
    machine = Machine(target, external_bytes=packed.size)
    machine.external[:] = packed.ravel()
    machine.region_limit = packed.size
    machine.load_program([encode(Opcode.LOAD, n_lines=1, line_words=len(packed), nibbles=1,
                                 nibble_shift=used), encode(Opcode.HALT)])
    machine.run()
    assert np.array_equal(machine.banks[0][:n_words], words)


@pytest.mark.parametrize("codes", [[8, 1], [-9, 0], [1, 16], [-128, 1], [120, 24]])
def test_more_than_four_bits_stay_bytes(codes):
    assert pack_nibbles(np.array([[0, 0], codes], np.int8)) is None


def test_a_single_word_stays_as_it_is():
    assert pack_nibbles(np.zeros((1, 8), np.int8)) is None


@pytest.mark.parametrize("target", [SMALL, LARGE], ids=lambda target: target.name)
@pytest.mark.parametrize("shift", [0, 4])
def test_weights_of_four_bits_take_half_the_memory(target, shift):
    program = programs.conv_shapes_net()
    plain, packed = tiled(program, target), tiled(few_bits(program, shift), target)
    n_bytes = [sum(f["line_words"] for f in loads(image) if f["local_memory"] < 4)
               * target.word_bytes for image in (plain, packed)]
    unpacked = [f for f in loads(packed) if f["nibbles"]]
    assert not any(f["nibbles"] for f in loads(plain)) and unpacked
    assert {f["nibble_shift"] for f in unpacked} == {shift}
    saved = sum(f["line_words"] for f in unpacked) * target.word_bytes
    assert saved <= n_bytes[0] - n_bytes[1] + len(unpacked) * target.word_bytes
    assert len(packed.external) < len(plain.external)
    x = programs.random_codes(program, 1)
    program = few_bits(program, shift)
    assert np.array_equal(run_image(packed, program.quantize_input(x)),
                          run(program, x)[program.outputs[0]])


@pytest.mark.slow
@pytest.mark.parametrize("shift", [0, 3])
def test_the_hardware_unpacks_them(shift):
    program = few_bits(programs.conv_shapes_net(), shift)
    image = tiled(program, AXI)
    assert any(f["nibbles"] for f in loads(image))
    x = programs.random_codes(program, 2)
    expected = run(program, x)
    for name, codes in rtl.run(program, x, target=AXI, image=image).items():
        assert np.array_equal(codes, expected[name]), name


def test_the_order_of_nibbles_matters():
    program = few_bits(programs.linear_net())
    image, x = tiled(program), programs.random_codes(program, 1)
    expected = run(program, x)[program.outputs[0]]
    assert np.array_equal(run_image(image, program.quantize_input(x)), expected)
    packed = replace(image, external=image.external >> 4 | image.external << 4)
    changed = run_image(packed, program.quantize_input(x))
    assert not np.array_equal(changed, expected)


@pytest.mark.slow
def test_single_steps_follow_a_program_longer_than_its_memory():
    program = few_bits(programs.conv_shapes_net())
    image = tiled(program, AXI)
    assert sum(step.n_instructions for step in image.steps) > AXI.instruction_words // N_WORDS
    x = programs.random_codes(program, 1)
    expected = run(program, x)
    for name, codes in rtl.run(program, x, target=AXI, image=image).items():
        assert np.array_equal(codes, expected[name]), name


def test_a_block_of_weights_is_packed_once(monkeypatch):
    packed = []

    def count(words):
        packed.append(words)
        return pack_nibbles(words)
    monkeypatch.setattr("hw.compiler.tiling.jobs.pack_nibbles", count)
    make = programs.Maker("large", (8, 64, 16), 0)
    program = make.program(make.conv(make.input, 16))
    image = tile(program, get_target("sim-8x8-axi"), orders(program)[-1])
    products = [step.n_instructions for step in image.steps]
    assert sum(products) > 8 and len(packed) == 1

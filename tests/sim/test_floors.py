"""Floors against the counters of the hardware: nothing is counted that a run does not take."""

from dataclasses import replace

import pytest

from hw.compiler import compile_program
from hw.compiler.scheduling.floors import floors
from hw.compiler.tiling.tile import unrolled
from hw.isa import INSTRUCTIONS, Opcode, decode
from hw.isa.channels import emitted_groups
from hw.isa.instructions.matmul import MatMulInstruction
from hw.isa.instructions.transfer import LoadInstruction
from sim import rtl
from tests import programs
from tests.targets import AXI, ON_CHIP

pytestmark = pytest.mark.slow


def fields_of(image):
    return [f for f in (decode([int(word) for word in record]) for record in unrolled(image))
            if f["opcode"] in INSTRUCTIONS]


def unwritten_groups(image):
    """Groups of the last tiles' rows beyond the image: they pass the lanes and are not written."""
    total = 0
    for f in fields_of(image):
        if f["opcode"] == Opcode.MATMUL:
            assert not f["wide"] and not f["first_channel"]
            rows = f["outer_count"] * image.target.rows - f["n_pixels"]
            total += rows * int(emitted_groups(f, f["inner_count"], image.target).sum())
    return total


def assert_floors_hold(program, image):
    """What the engines count is what the floors are made of."""
    target, report = image.target, []
    rtl.run(program, programs.random_codes(program, 1), target=target, image=image, trace=False,
            report=report)
    least, counters = floors(image), report[0].counters
    assert least.cycles <= report[0].cycles
    assert least.array == counters["array_busy"]
    # What goes past the lanes may send them one last item.
    past = sum(f["opcode"] in (Opcode.MAXPOOL, Opcode.LOOKUP) for f in fields_of(image))
    assert 0 <= counters["lanes_busy"] - (least.lanes - unwritten_groups(image)) <= past
    assert least.vector <= counters["vector_busy"]
    if target.bus_bits:
        moved = max(counters["load_bytes"], counters["store_bytes"])
        assert least.external == -(-moved * 8 // target.bus_bits)


@pytest.mark.parametrize("make", [programs.residual_net, programs.conv_shapes_net,
                                  programs.pool_net, programs.linear_net, programs.gate_net])
def test_floors_on_the_chip(make):
    assert_floors_hold(make(), compile_program(make(), ON_CHIP))


def test_floors_with_external_memory():
    program = programs.residual_net()
    image = compile_program(program, AXI)
    assert image.metadata["instruction_stream"]  # its instructions are transfers too
    assert_floors_hold(program, image)


@pytest.mark.parametrize("record, field", [(MatMulInstruction, "slots"),
                                           (MatMulInstruction, "items"),
                                           (LoadInstruction, "external_bytes")])
def test_a_record_that_is_wrong_is_seen(record, field, monkeypatch):
    right = record.cost

    def wrong(self, f, target):
        cost = right(self, f, target)
        return replace(cost, **{field: getattr(cost, field) + target.word_bytes})
    program = programs.residual_net()
    image = compile_program(program, AXI)
    monkeypatch.setattr(record, "cost", wrong)
    with pytest.raises(AssertionError):
        assert_floors_hold(program, image)

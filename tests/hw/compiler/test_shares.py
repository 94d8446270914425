"""Which engine computes a node's MACs: what the compiler says, against the tasks it makes."""

import pytest

from benchmarks import networks
from hw.compiler import compile_program
from hw.compiler.lowering.task import Task, vector_share
from hw.isa import Opcode
from hw.targets import get_target


def task(opcode, **fields):
    return Task(node="n", opcode=opcode, inputs=("x",), output="y", fields=fields)


def test_the_share_is_that_of_the_results():
    array = task(Opcode.MATMUL, n_pixels=1, n_channels=10, first_channel=4)
    vector = task(Opcode.LINEAR, n_channels=4)
    window = task(Opcode.DEPTHWISE, n_channels=8, out_height=3, out_width=5)
    assert vector_share([array]) == 0
    assert vector_share([window]) == 1
    assert vector_share([array, vector]) == pytest.approx(4 / 10)
    assert vector_share([task(Opcode.MAXPOOL, n_channels=8, out_height=3, out_width=5)]) == 0
    assert vector_share([]) == 0


@pytest.mark.parametrize("target", ["ecp5-85k", "zynq-7020"])
def test_depthwise_layers_run_beside_the_array(target):
    program = networks.ds_cnn()
    steps = compile_program(program, get_target(target)).steps
    for step, node in zip(steps, program.nodes, strict=True):
        is_depthwise = getattr(node.op, "groups", 1) > 1
        if step.op == "Conv2d":
            assert step.vector_macs == (step.macs if is_depthwise else 0)
        assert 0 <= step.vector_macs <= step.macs

# amaranth: UnusedElaboratable=no
"""The vector engine computes what numpy does, whatever its ports do."""

import numpy as np
import pytest

from hw.isa import ErrorCode, Opcode
from hw.targets import Target
from tests.hw.vector_model import Memories, all_fields, model, run

COMMON = {"zero_point": 3, "low": -100, "high": 120, "x_bank": 0, "w_bank": 1, "out_bank": 2,
          "y_bank": 3, "pad": -7, "x_base": 100, "w_base": 8, "y_base": 300, "out_base": 20,
          "parameter_base": 5}
IMAGE = {"width": 7, "height": 6, "line_step": 20, "n_chunks": 2, "left": 1, "top": 1,
         "kernel_width": 3, "kernel_height": 3, "stride_x": 1, "stride_y": 1, "dilation_x": 1,
         "dilation_y": 1, "out_width": 4, "out_height": 3, "out_step": 3}
ADD = {"out_width": 5, "n_chunks": 2, "out_step": 3, "left_shift": 20, "multiplier_0": 1 << 30,
       "multiplier_1": (1 << 30) + 12345, "multiplier_2": 1 << 30, "shift_0": 31, "shift_1": 32,
       "shift_2": 50, "zero_point_0": 5, "zero_point_1": -9}
OPERATIONS = {
    "depthwise": (Opcode.DEPTHWISE, IMAGE),
    "window": (Opcode.WINDOW, IMAGE | {"kernel_height": 2, "dilation_x": 2, "stride_x": 2}),
    "linear": (Opcode.LINEAR, {"n_inputs": 22, "n_chunks": 2}),
    "add": (Opcode.ADD, ADD),
    "maxpool": (Opcode.MAXPOOL, IMAGE | {"pad": -128, "kernel_width": 2, "stride_y": 2}),
}


def target_of(columns, bank_words=512):
    return Target(name="vector", rows=2, columns=columns, bank_words=(bank_words,) * 4)


def instruction(name, columns, **changes):
    opcode, fields = OPERATIONS[name]
    return all_fields(opcode, **(COMMON | fields | {
        "n_channels": 2 * columns - 3, "first_channel": 1} | changes))


def check(columns, *instructions, seed=0, **options):
    """Run and compare; returns the report."""
    target = target_of(columns)
    memories = Memories(target, seed)
    expected = memories
    for f in instructions:
        expected = model(expected, f)
    report = run(target, memories, instructions, seed=seed, **options)
    for k, (mine, right) in enumerate(zip(memories.banks, expected.banks)):
        wrong = np.argwhere(mine != right)
        assert not len(wrong), f"bank {k} differs at (word, byte) {wrong[:5].tolist()}"
    assert len(report.complete) == len(report.done) == len(instructions)
    return report


@pytest.mark.parametrize("stalls", [0.0, 0.4])
@pytest.mark.parametrize("name", OPERATIONS)
def test_every_operation(name, stalls):
    check(4, instruction(name, 4), stalls=stalls, seed=1)


def test_impossible_counts_are_refused():
    f = instruction("window", 4, out_width=0)
    report = run(target_of(4), Memories(target_of(4)), [f])
    assert report.errors == [ErrorCode.FIELD] and not report.n_reads and not report.items

# amaranth: UnusedElaboratable=no
"""The vector engine computes what numpy does, whatever its ports do, and in how many cycles."""

import random

import numpy as np
import pytest

from hw.isa import ErrorCode, Opcode
from hw.targets import Target
from tests.hw.rtl.vector.vector_bench import WatchdogError, run
from tests.hw.rtl.vector.vector_model import Memories, all_fields, model, random_instruction

pytestmark = pytest.mark.slow

OPCODES = (Opcode.DEPTHWISE, Opcode.WINDOW, Opcode.LINEAR, Opcode.ADD, Opcode.MAXPOOL,
           Opcode.LOOKUP, Opcode.MUL)
COMMON = {"zero_point": 3, "low": -100, "high": 120, "x_bank": 0, "w_bank": 1, "out_bank": 2,
          "y_bank": 3, "pad": -7, "x_base": 100, "w_base": 8, "y_base": 300, "out_base": 20,
          "parameter_base": 5}
IMAGE = {"width": 5, "height": 3, "line_step": 10, "n_chunks": 2, "left": 1, "top": 1,
         "kernel_width": 3, "kernel_height": 3, "stride_x": 1, "stride_y": 1, "dilation_x": 1,
         "dilation_y": 1, "out_width": 5, "out_height": 3, "out_step": 2}
ADD = {"out_width": 5, "n_chunks": 2, "out_step": 2, "left_shift": 20, "multiplier_0": 1 << 30,
       "multiplier_1": (1 << 30) + 12345, "multiplier_2": 1 << 30, "shift_0": 31, "shift_1": 32,
       "shift_2": 50, "zero_point_0": 5, "zero_point_1": -9}
FIELDS = {Opcode.DEPTHWISE: IMAGE, Opcode.WINDOW: IMAGE, Opcode.ADD: ADD,
          Opcode.LINEAR: {"n_inputs": 32, "n_chunks": 2}, Opcode.MAXPOOL: IMAGE | {"pad": -128},
          Opcode.LOOKUP: {"out_width": 5, "n_chunks": 2, "out_step": 2},
          Opcode.MUL: {"out_width": 5, "n_chunks": 2, "out_step": 2, "multiplier_2": 1 << 30,
                       "shift_2": 38, "zero_point_0": 5, "zero_point_1": -9}}


def target_of(columns, lanes=4):
    return Target(name="vector", rows=2, columns=columns, lanes=lanes, bank_words=(512,) * 4)


def instruction(opcode, columns, **changes):
    return all_fields(opcode, **(COMMON | FIELDS[opcode] | {"n_channels": 2 * columns} | changes))


def check(columns, instructions, *, lanes=4, seed=0, **options):
    """Run and compare every word of every bank; returns the report."""
    target = target_of(columns, lanes)
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


@pytest.mark.parametrize("opcode", OPCODES, ids=lambda opcode: opcode.name)
@pytest.mark.parametrize("seed", [
    1, *(pytest.param(seed, marks=pytest.mark.long) for seed in range(2, 6))])
def test_random_instructions_with_random_waits(opcode, seed):
    rng = random.Random(f"{opcode}-{seed}")
    n = 3 if seed == 1 else 10
    check(4, [random_instruction(rng, opcode, 4) for _ in range(n)], seed=seed,
          stalls=rng.choice((0, 0.2, 0.5)), unit_cycles=rng.choice((0, 5, 40)),
          latency=rng.choice((3, 6, 9)))


@pytest.mark.parametrize(("columns", "lanes"), [
    (8, 4), (16, 8), *(pytest.param(*shape, marks=pytest.mark.long)
                       for shape in ((8, 8), (16, 4)))])
@pytest.mark.parametrize("opcode", OPCODES, ids=lambda opcode: opcode.name)
def test_wider_words(columns, lanes, opcode):
    rng = random.Random(f"{opcode}-{columns}-{lanes}")
    check(columns, [random_instruction(rng, opcode, columns) for _ in range(3)], lanes=lanes,
          stalls=0.2, unit_cycles=10)


def test_operations_follow_one_another():
    rng = random.Random(3)
    opcodes = [*OPCODES, *reversed(OPCODES)]
    check(4, [random_instruction(rng, opcode, 4) for opcode in opcodes], stalls=0.1)


def steady(report):
    """Cycles from start to done without what every instruction spends to begin and to end."""
    return report.done[0] - report.starts[0] - 33


@pytest.mark.parametrize(("opcode", "changes", "cycles"), [
    (Opcode.DEPTHWISE, {}, 3 * 2 * 3 * (5 + 2)),
    (Opcode.DEPTHWISE, {"stride_x": 2, "out_width": 3}, 3 * 2 * 3 * (5 + 2)),
    (Opcode.DEPTHWISE, {"width": 12, "line_step": 72, "out_width": 12, "out_height": 1, "n_chunks":
                        6, "n_channels": 24, "out_step": 6}, 6 * 3 * (12 + 2)),
    (Opcode.WINDOW, {}, 3 * 2 * 5 * 9),
    (Opcode.WINDOW, {"same_weights": 1}, 3 * 2 * 5 * 9),
    (Opcode.MAXPOOL, {}, 3 * 2 * 5 * 9),
    (Opcode.LINEAR, {"n_inputs": 64}, 2 * 32),
    (Opcode.LINEAR, {"n_inputs": 4, "n_chunks": 20, "n_channels": 80}, 20 * 2),
])
def test_cycles(opcode, changes, cycles):
    f = instruction(opcode, 4, **changes)
    assert steady(check(4, [f])) <= cycles + 12


def test_additions_keep_the_lanes_full():
    report = check(16, [instruction(Opcode.ADD, 16, out_width=8)])
    n_items = 8 * 2 * 4 * 3
    assert len(report.items) == n_items
    assert report.items[-1] - report.items[0] <= n_items + 30


def test_additions_of_chunks_of_different_length():
    """The first input of a short word may wait for the second one of a long word to go."""
    f = instruction(Opcode.ADD, 8, n_channels=12, n_chunks=3, out_width=12)
    for stalls in 0.3, 0.7:
        check(8, [f], stalls=stalls, latency=3)


def test_groups_without_channels_are_skipped():
    instructions = [instruction(opcode, 8, n_channels=12, first_channel=2, out_base=100 * k)
                    for k, opcode in enumerate((Opcode.ADD, Opcode.LINEAR, Opcode.DEPTHWISE))]
    assert len(check(8, instructions).items) == 5 * 3 * 3 + 3 + 3 * 5 * 3


@pytest.mark.parametrize(("opcodes", "abort_at"), [
    *(((Opcode.WINDOW, Opcode.ADD), when) for when in (3, 8, 30, 90)),
    *(((Opcode.LOOKUP, Opcode.MUL), when) for when in (8, 60, 115, 125, 190))])
def test_abort_leaves_nothing_behind(opcodes, abort_at):
    """The table of LOOKUP is read from cycle 8 to 105, its words from then to 130; then MUL."""
    check(4, [instruction(opcode, 4) for opcode in opcodes], abort_at=abort_at, stalls=0.2)


@pytest.mark.parametrize(("opcode", "changes", "progress"), [
    (Opcode.MAXPOOL, {"kernel_width": 1, "kernel_height": 1, "left": 0, "top": 0}, [5, 5, 5]),
    (Opcode.LOOKUP, {}, [1] * 5)])
def test_words_wait_for_what_is_in_the_lanes(opcode, changes, progress):
    before = instruction(Opcode.LINEAR, 4)
    after = instruction(opcode, 4, out_base=200, **changes)
    report = check(4, [before, after], lane_latency=200)
    assert [amount for _, amount in report.progress] == [1, *progress]
    assert report.complete == sorted(report.complete)


def test_progress_counts_pixels():
    report = check(4, [instruction(Opcode.DEPTHWISE, 4), instruction(Opcode.ADD, 4, out_base=100),
                       instruction(Opcode.MUL, 4, out_base=200)])
    assert [amount for _, amount in report.progress] == [5, 5, 5, *[1] * 10]


def test_impossible_instructions_are_refused():
    wrong = [
        (Opcode.DEPTHWISE, "out_width", 0), (Opcode.DEPTHWISE, "stride_x", 0),
        (Opcode.WINDOW, "out_height", 0), (Opcode.WINDOW, "kernel_width", 0),
        (Opcode.MAXPOOL, "kernel_height", 0), (Opcode.MAXPOOL, "n_chunks", 0),
        (Opcode.LINEAR, "n_inputs", 0), (Opcode.LINEAR, "n_inputs", 3),
        (Opcode.LINEAR, "w_base", 7), (Opcode.ADD, "out_width", 0), (Opcode.ADD, "n_chunks", 0),
        (Opcode.MUL, "out_width", 0), (Opcode.MUL, "n_chunks", 0),
        (Opcode.LOOKUP, "out_width", 0), (Opcode.LOOKUP, "n_chunks", 0)]
    target = target_of(4)
    report = run(target, Memories(target), [instruction(opcode, 4, **{name: value})
                                            for opcode, name, value in wrong])
    assert report.errors == [ErrorCode.FIELD] * len(wrong)
    assert not (report.n_reads or report.n_weight_reads or report.items or report.done)


def test_a_line_never_begins_before_its_input_is_there():
    """The bench sees every read; here that it would see a wrong one."""
    pixels = instruction(Opcode.ADD, 4, n_chunks=1, n_channels=4, out_width=20)
    check(4, [pixels], unit_cycles=8)  # units of two reads: the answer for the next one comes late
    f = instruction(Opcode.WINDOW, 4)
    check(4, [f], unit_cycles=60)
    with pytest.raises(AssertionError, match="read before it was there"):
        check(4, [f], unit_cycles=60, ignore_units=True)
    with pytest.raises(WatchdogError):
        check(4, [f], unit_cycles=1e9, watchdog=300)

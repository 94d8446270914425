# amaranth: UnusedElaboratable=no
"""LOOKUP: every code in every lane, and in how many cycles."""

import numpy as np
import pytest

from hw.isa import TABLE_ROW, TABLE_SIZE, Opcode
from tests.hw.rtl.vector.test_vector import check, instruction, steady, target_of
from tests.hw.rtl.vector.vector_bench import WatchdogError, run
from tests.hw.rtl.vector.vector_model import Memories

pytestmark = pytest.mark.slow

N_ROWS = TABLE_SIZE // TABLE_ROW  # cycles in which the table is filled


@pytest.mark.parametrize(("columns", "lanes"), [
    (4, 4), *(pytest.param(*shape, marks=pytest.mark.long)
              for shape in ((8, 4), (8, 8), (16, 4), (16, 8)))])
def test_every_code_in_every_lane(columns, lanes):
    """A table without two equal codes; the words have every code in every byte."""
    target = target_of(columns, lanes)
    memories = Memories(target)
    table = np.random.default_rng(columns).permutation(TABLE_SIZE).astype(np.uint8).view(np.int8)
    memories.banks[1][8:8 + TABLE_SIZE // columns] = table.reshape(-1, columns)
    x = (np.arange(TABLE_SIZE)[:, None] + 37 * np.arange(columns)).astype(np.uint8).view(np.int8)
    memories.banks[0][100:100 + TABLE_SIZE] = x
    f = instruction(Opcode.LOOKUP, columns, n_chunks=1, out_step=1, out_width=TABLE_SIZE)
    report = run(target, memories, [f])
    assert (memories.banks[2][20:20 + TABLE_SIZE] == table[x.astype(int) + 128]).all()
    assert report.n_weight_reads == TABLE_SIZE // columns
    assert not report.items[1:], "no lane is used, but by the item that waits for those before"


@pytest.mark.parametrize(("columns", "lanes", "n_pixels", "n_chunks"), [
    (4, 4, 100, 1), (8, 4, 20, 3), (16, 4, 7, 2), (16, 8, 7, 2)])
def test_a_group_per_cycle(columns, lanes, n_pixels, n_chunks):
    f = instruction(Opcode.LOOKUP, columns, n_chunks=n_chunks, out_step=n_chunks,
                    out_width=n_pixels)
    cycles = TABLE_SIZE // TABLE_ROW + n_pixels * n_chunks * columns // lanes
    assert steady(check(columns, [f], lanes=lanes)) <= cycles + 12


def test_tables_follow_one_another():
    """Whole words are written, whatever the channels; each instruction has a table of its own."""
    f = [instruction(Opcode.LOOKUP, 8, n_channels=1, first_channel=1, w_base=w_base, out_base=base)
         for base, w_base in ((20, 8), (60, 41), (100, 9))]
    check(8, [*f, instruction(Opcode.WINDOW, 8, out_base=200)], stalls=0.3)


def test_the_table_may_end_with_its_bank_and_no_word_behind_it_is_read():
    f = instruction(Opcode.LOOKUP, 16, w_base=512 - TABLE_SIZE // 16)
    assert check(16, [f]).n_weight_reads == TABLE_SIZE // 16


def test_codes_wait_for_the_whole_table():
    """However slowly it comes; and pixels for their turn, however early the table is there."""
    f = instruction(Opcode.LOOKUP, 4, out_width=12)
    check(4, [f], stalls=0.8)
    check(4, [f], unit_cycles=60)
    with pytest.raises(AssertionError, match="read before it was there"):
        check(4, [f], unit_cycles=60, ignore_units=True)
    with pytest.raises(WatchdogError):
        check(4, [f], unit_cycles=1e9, watchdog=300)

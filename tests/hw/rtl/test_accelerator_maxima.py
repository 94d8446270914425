"""Maxima that wait for their bank: none is lost, and none counts in the next run."""

import numpy as np
import pytest

from hw.isa import AddressWindow, Opcode, Register
from sim.commands import Commands, play
from sim.design import build_accelerator
from tests.hw.rtl.array.product import HALT, instructions
from tests.hw.rtl.test_accelerator import DONE, LIMIT, TARGET, product_of_a_tile, window

KEEPS_TILES = 60  # of 16 cycles, in which the lanes keep bank 2


@pytest.fixture(scope="module")
def build():
    return build_accelerator(TARGET)


def maxima_of_a_kept_bank(commands, n_taps):
    """A MAXPOOL of 60 pixels whose words pile up: a product keeps their bank. Returns the codes."""
    codes = np.random.default_rng(0).integers(-128, 128, (720, 4)).astype(np.int8)
    commands.write(AddressWindow.BANK_0 << 28, codes.view("<u4"))
    instructions(commands, window(Opcode.MAXPOOL, 60, n_taps, out_bank=2, out_base=2000),
                 product_of_a_tile(outer_count=KEEPS_TILES, n_pixels=4 * KEEPS_TILES, wide=1,
                                   plane_step=4 * KEEPS_TILES), HALT)
    commands.write(Register.PROGRAM_ADDRESS, [0])
    return codes


def maxima(answers, words):
    return answers[words].view(np.int8).reshape(-1, 4)


def test_no_maximum_is_lost_however_long_its_bank_is_kept(build):
    commands = Commands()
    codes = maxima_of_a_kept_bank(commands, 12)
    commands.run()
    found = commands.read(((AddressWindow.BANK_0 + 2) << 28) + 8000, 60)
    answers = play(build, commands)
    expected = np.stack([codes[first:first + 12].max(0) for first in range(60)])
    assert np.array_equal(maxima(answers, found), expected)


@pytest.mark.parametrize("how", ["abort", "reset"])
@pytest.mark.parametrize("when", [350, 450, 550])
def test_maxima_on_their_way_at_the_end_of_a_run_take_no_room_in_the_next(build, how, when):
    commands = Commands()
    codes = maxima_of_a_kept_bank(commands, 12)
    commands.start()
    commands.idle(when)
    if how == "abort":
        commands.abort()
        commands.wait(LIMIT)
    else:
        commands.reset(20)
    commands.write(AddressWindow.BANK_0 << 28, codes.view("<u4"))
    instructions(commands, window(Opcode.MAXPOOL, 60, 1, out_bank=2, out_base=2000), HALT)
    commands.write(Register.PROGRAM_ADDRESS, [0])
    commands.start()
    end, status = commands.wait(LIMIT), commands.read(Register.STATUS)
    found = commands.read(((AddressWindow.BANK_0 + 2) << 28) + 8000, 60)
    answers = play(build, commands)
    assert int(answers[status][0]) == DONE
    assert answers[end][1] < 200  # cycles: a word in each
    assert np.array_equal(maxima(answers, found), codes[:60])

"""LOOKUP and MUL on the whole accelerator, through its bus, against numpy."""

import numpy as np
import pytest

from golden import arith
from hw.isa import AddressWindow, Counter, Engine, ErrorCode, Opcode, Register, encode
from hw.targets import get_target
from sim.commands import Commands, play
from sim.design import build_accelerator
from tests.hw.rtl.array.product import HALT, instructions
from tests.hw.rtl.test_accelerator import DONE, LIMIT, WATCHDOG, counts, failed, product_of_a_tile

pytestmark = pytest.mark.slow
TARGET = get_target("sim-4x4")
N_PIXELS, N_CHUNKS = 21, 2
TABLE_BASE, Y_BASE = 200, 300  # in bank 1, as the codes x are in bank 0 from word 0 on
SIZE = {"n_chunks": N_CHUNKS, "n_channels": 4 * N_CHUNKS - 1, "out_width": N_PIXELS,
        "out_step": N_CHUNKS, "first_channel": 1}
MUL = {"y_bank": 1, "y_base": Y_BASE, "zero_point_0": -3, "zero_point_1": 7, "shift_2": 38,
       "multiplier_2": (1 << 30) + 4321, "zero_point": -11, "low": -100, "high": 101}


@pytest.fixture(scope="module")
def build():
    return build_accelerator(TARGET)


@pytest.fixture(scope="module")
def banks():
    """Banks 0 and 1, and the table in bank 1."""
    rng = np.random.default_rng(15)
    banks = rng.integers(-128, 128, (2, 400, TARGET.columns)).astype(np.int8)
    return banks, banks[1, TABLE_BASE:TABLE_BASE + 64].reshape(-1)


def load(commands, banks, *program):
    for k, bank in enumerate(banks):
        commands.write((AddressWindow.BANK_0 + k) << 28, bank.view("<u4"))
    for k in 2, 3:
        commands.write((AddressWindow.BANK_0 + k) << 28, np.zeros(400, np.uint32))
    commands.write(Register.PROGRAM_ADDRESS, [0])
    instructions(commands, *program, HALT)


def lookup(**fields):
    return encode(Opcode.LOOKUP, **{**SIZE, "w_bank": 1, "w_base": TABLE_BASE, "out_bank": 2,
                                    **fields})


def multiply(**fields):
    return encode(Opcode.MUL, **{**SIZE, **MUL, "out_bank": 3, **fields})


def read_words(commands, bank, first, n_words):
    return commands.read(((AddressWindow.BANK_0 + bank) << 28) + 4 * first, n_words)


def products(banks, gemmlowp, broadcast):
    """Words of MUL, with the zeros of what it does not write."""
    x, y = (banks[k][base:base + N_PIXELS * N_CHUNKS].astype(np.int64).reshape(N_PIXELS, -1)
            for k, base in ((0, 0), (1, Y_BASE)))
    product = (x + 3) * ((y[:1] if broadcast else y) - 7)
    rounding = arith.Rounding.GEMMLOWP if gemmlowp else arith.Rounding.HALF_UP
    codes = arith.requantize(product, MUL["multiplier_2"], MUL["shift_2"], MUL["zero_point"],
                             MUL["low"], MUL["high"], rounding)
    codes[:, [0, -1]] = 0  # first_channel, n_channels
    return codes.reshape(-1, TARGET.columns)


@pytest.mark.parametrize("broadcast", [0, 1])
@pytest.mark.parametrize("gemmlowp", [0, 1])
def test_products_and_their_look_up_equal_numpy(build, banks, gemmlowp, broadcast):
    commands, (memory, table) = Commands(), banks
    load(commands, memory, multiply(gemmlowp=gemmlowp, broadcast=broadcast, out_base=5),
         lookup(x_bank=3, x_base=5, wait_vector=1, out_base=9),
         multiply(gemmlowp=gemmlowp, x_bank=2, x_base=9, out_base=200, wait_vector=2))
    commands.run()
    n_words = N_PIXELS * N_CHUNKS
    found = [read_words(commands, bank, base, n_words + 1)
             for bank, base in ((3, 5), (2, 9), (3, 200))]
    counters = commands.read(Register.COUNTERS, 2 * len(Counter))
    answers = play(build, commands)
    first = products(memory, gemmlowp, broadcast)
    second = table[first + 128]
    third = products([second, memory[1]], gemmlowp, 0)
    for expected, words in zip((first, second, third), found):
        words = answers[words].view(np.int8).reshape(-1, 4)
        assert np.array_equal(words[:-1], expected)
        assert not words[-1].any(), "a word too many is written"
    # One item per group of channels of MUL; of LOOKUP only the one that nothing comes behind.
    assert counts(answers[counters])[Counter.LANES_BUSY] in (2 * n_words, 2 * n_words + 1)


def test_a_look_up_chases_a_product_pixel_by_pixel(build, banks):
    """A slow product of raw sums: 16 cycles a pixel, more than its codes take."""
    commands, (memory, table) = Commands(), banks
    n_tiles = 40
    product = product_of_a_tile(outer_count=n_tiles, n_pixels=4 * n_tiles, a_x_step=4,
                                period_count=16, wide=1, plane_step=200)
    size = {"n_chunks": 1, "out_step": 1, "out_width": 4 * n_tiles, "out_bank": 3}
    chase = {"chase": 1, "chase_engine": Engine.ARRAY, "chase_number": 0, "chase_first": 1,
             "chase_step": 1}
    load(commands, memory, product, lookup(x_bank=2, **size, **chase))
    commands.run()
    found = [read_words(commands, bank, 0, 4 * n_tiles) for bank in (2, 3)]
    answers = play(build, commands)
    x, y = (answers[words].view(np.int8).reshape(-1, 4) for words in found)
    assert x.any() and np.array_equal(y, table[x.astype(int) + 128])


@pytest.mark.parametrize("when", [20, 60, 120, 150, 180, 220])
@pytest.mark.parametrize("make", [lookup, multiply], ids=["lookup", "multiply"])
def test_an_abort_in_the_middle_leaves_nothing_behind(build, banks, make, when):
    commands, (memory, table) = Commands(), banks
    load(commands, memory, *[make(out_base=50 * k) for k in range(5)])
    commands.start()
    commands.idle(when)
    commands.abort()
    end = commands.wait(LIMIT)
    status = commands.read(Register.STATUS)
    load(commands, memory, multiply(), lookup(x_bank=3, wait_vector=1))
    commands.run()
    after = commands.read(Register.STATUS), read_words(commands, 2, 0, N_PIXELS * N_CHUNKS)
    answers = play(build, commands)
    assert answers[end][0] == 1, "the run does not end"
    assert int(answers[status][0]) == failed(ErrorCode.WATCHDOG)
    assert int(answers[after[0]][0]) == DONE
    expected = table[products(memory, 0, 0) + 128]
    assert np.array_equal(answers[after[1]].view(np.int8).reshape(-1, 4), expected)


BANK_END = TARGET.bank_words[1]


@pytest.mark.parametrize(("wrong", "code"), [
    (lookup(out_width=0), ErrorCode.FIELD), (lookup(n_chunks=0), ErrorCode.FIELD),
    (multiply(out_width=0), ErrorCode.FIELD), (multiply(n_chunks=0), ErrorCode.FIELD),
    *((make(**{name: BANK_END - n_words + 1}), ErrorCode.ADDRESS)
      for make, name, n_words in (
          (lookup, "x_base", N_PIXELS * N_CHUNKS), (lookup, "w_base", 64),
          (lookup, "out_base", N_PIXELS * N_CHUNKS), (multiply, "x_base", N_PIXELS * N_CHUNKS),
          (multiply, "y_base", N_PIXELS * N_CHUNKS), (multiply, "out_base", N_PIXELS * N_CHUNKS))),
    (multiply(broadcast=1, y_base=BANK_END - N_CHUNKS + 1), ErrorCode.ADDRESS),
    (lookup(wait_array=1), ErrorCode.WATCHDOG),
    (multiply(chase=1, chase_engine=Engine.ARRAY, chase_first=1), ErrorCode.WATCHDOG),
])
def test_an_error_names_its_instruction(build, banks, wrong, code):
    commands, (memory, _) = Commands(), banks
    commands.write(Register.WATCHDOG, [WATCHDOG])
    runs = []
    for others in (), (multiply(), lookup()):
        for behind in (), (lookup(), multiply()):
            load(commands, memory, *others, wrong, *behind)
            commands.run()
            runs.append((len(others), commands.read(Register.STATUS),
                         commands.read(Register.INSTRUCTION_INDEX)))
    answers = play(build, commands)
    found = [(int(answers[status][0]), int(answers[index][0])) for _, status, index in runs]
    assert found == [(failed(code), at) for at, *_ in runs]


@pytest.mark.parametrize(("name", "n_words"), [("x_base", N_PIXELS * N_CHUNKS), ("w_base", 64),
                                               ("y_base", N_PIXELS * N_CHUNKS),
                                               ("out_base", N_PIXELS * N_CHUNKS)])
def test_the_last_words_of_a_bank_are_no_error(build, banks, name, n_words):
    """What the errors above are held against: one word less, and all is well."""
    commands, (memory, _) = Commands(), banks
    load(commands, memory, *([multiply(**{name: BANK_END - n_words})] if name != "w_base" else []),
         *([lookup(**{name: BANK_END - n_words})] if name != "y_base" else []))
    commands.run()
    status = commands.read(Register.STATUS)
    assert int(play(build, commands)[status][0]) == DONE

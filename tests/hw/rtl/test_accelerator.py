"""The accelerator at its bus: products in every feed mode, and what it answers to misuse."""

import numpy as np
import pytest

from hw.compiler.memory.image import from_bus
from hw.isa import (
    MAGIC,
    N_WORDS,
    VERSION,
    AddressWindow,
    Counter,
    ErrorCode,
    Feed,
    Opcode,
    Register,
    encode,
)
from hw.machine import Machine, hazards
from hw.rtl.control.host import OKAY, SLVERR
from hw.targets import get_target
from sim.commands import Commands, play
from sim.design import build_accelerator
from tests.hw.rtl.array.product import BANK_A, HALT, MATMUL_SLOTS, Product, instructions

pytestmark = pytest.mark.slow
TARGET = get_target("sim-4x4")
FEEDS = [(a, b) for a in Feed for b in Feed]
WATCHDOG = 500
BUSY, DONE, FAILED = 1, 2, 4
LIMIT = 20_000  # cycles for which a test waits for the interrupt


@pytest.fixture(scope="module")
def build():
    return build_accelerator(TARGET)


def failed(code):
    """The status of a run that an error has ended."""
    return code << 8 | FAILED | DONE


def counts(words):
    """64-bit counters of the words from COUNTERS on."""
    low, high = np.asarray(words, np.uint64).reshape(-1, 2).T
    return dict(zip(Counter, (low | high << np.uint64(32)).tolist()))


# Results


@pytest.mark.parametrize("feeds", FEEDS)
def test_rescaled_products_of_every_feed_mode_equal_golden(build, feeds):
    product, commands = Product(TARGET, feeds), Commands()
    product.load(commands)
    commands.run()
    results = product.read(commands)
    answers = play(build, commands)
    product.check(answers[results])
    product.codes[-1, -1] ^= 1
    with pytest.raises(AssertionError):
        product.check(answers[results])


@pytest.mark.parametrize("feeds", FEEDS)
def test_raw_sums_of_every_feed_mode_equal_numpy(build, feeds):
    product, commands = Product(TARGET, feeds), Commands()
    product.load(commands)
    plane = product.n_pixels * product.out_step
    instructions(commands, product.instruction(wide=1, plane_step=plane), HALT)
    commands.run()
    words = product.read(commands, 4 * plane)
    planes = from_bus(play(build, commands)[words], TARGET.columns)
    planes = planes.reshape(4, product.n_pixels, -1)[:, :, :product.n_channels]
    sums = np.ascontiguousarray(planes.transpose(1, 2, 0)).view("<i4")[:, :, 0]
    assert np.array_equal(sums, product.sums)


def test_counters_add_up_to_the_cycles_of_every_run(build):
    product, commands = Product(TARGET), Commands()
    runs = []
    for others in ((), (product.instruction(),), (product.instruction(wait_array=1),),
                   (encode(Opcode.MAXPOOL, out_bank=3, n_chunks=1, width=4, height=4, out_width=4,
                           out_height=4, kernel_width=1, kernel_height=1, stride_x=1, stride_y=1,
                           line_step=4, n_channels=4),)):
        product.load(commands, *others)
        commands.write(Register.PROGRAM_ADDRESS, [0])
        commands.run()
        runs.append(commands.read(Register.COUNTERS, 2 * len(Counter)))
    answers = play(build, commands)
    one, two, waits, pools = (counts(answers[run]) for run in runs)
    for found in one, two, waits, pools:
        causes = sum(found[Counter(k)] for k in range(Counter.ARRAY_BUSY, Counter.ARRAY_FETCH + 1))
        assert causes == found[Counter.CYCLES] > 0
        assert found[Counter.LOAD_BYTES] == found[Counter.STORE_BYTES] == 0
    assert one[Counter.ARRAY_BUSY] == MATMUL_SLOTS
    assert two[Counter.ARRAY_BUSY] == waits[Counter.ARRAY_BUSY] == 2 * MATMUL_SLOTS
    assert one[Counter.LANES_BUSY] == product.n_pixels * -(-product.n_channels // TARGET.lanes)
    assert not one[Counter.ARRAY_WAIT_ARRAY] and waits[Counter.ARRAY_WAIT_ARRAY]
    assert waits[Counter.CYCLES] > two[Counter.CYCLES]
    assert not one[Counter.VECTOR_BUSY] and pools[Counter.VECTOR_BUSY]


def test_single_steps_stop_after_each_instruction(build):
    product, commands = Product(TARGET), Commands()
    other = product.instruction(out_base=100)
    product.load(commands, encode(Opcode.SYNC, wait_array=1), other)
    seen = []
    for _ in range(4):
        commands.run(single_step=True)
        seen.append([commands.read(register) for register in (
            Register.STATUS, Register.PROGRAM_ADDRESS)] + [product.read(commands)])
        product.clear(commands)
    answers = play(build, commands)
    statuses, indices = ([int(answers[step[k]][0]) for step in seen] for k in range(2))
    assert statuses == [DONE] * 4
    assert indices == [1, 2, 3, 3], "HALT stands still"
    product.check(answers[seen[0][2]])
    assert not answers[seen[2][2]].any(), "only the product behind the SYNC has run"


# Errors


def with_error(change, code):
    """An instruction that is refused, and what with."""
    return pytest.param(change, code, id=f"{code.name}-{'-'.join(change)}")


@pytest.mark.parametrize(("change", "code"), [
    with_error({"opcode": 3}, ErrorCode.OPCODE),
    with_error({"opcode": 15}, ErrorCode.OPCODE),
    with_error({"opcode": Opcode.LOAD}, ErrorCode.OPCODE),
    with_error({"a_base": 1 << 20}, ErrorCode.ADDRESS),
    with_error({"b_base": -1}, ErrorCode.ADDRESS),
    with_error({"out_base": 0xFFF0}, ErrorCode.ADDRESS),
    with_error({"parameter_base": 0xFFF0}, ErrorCode.ADDRESS),
    with_error({"period_count": 0}, ErrorCode.FIELD),
    with_error({"inner_count": 0}, ErrorCode.FIELD),
    with_error({"outer_count": 0}, ErrorCode.FIELD),
    with_error({"slots": 1}, ErrorCode.FIELD),
    with_error({"slots": 3, "a_feed": Feed.TRANSPOSING, "b_feed": Feed.DIRECT}, ErrorCode.FIELD),
    with_error({"slots": 3, "a_feed": Feed.DIRECT, "b_feed": Feed.TRANSPOSING}, ErrorCode.FIELD),
    with_error({"b_bank": BANK_A}, ErrorCode.BANK_CONFLICT),
    with_error({"wait_vector": 1}, ErrorCode.WATCHDOG),
    with_error({"chase": 1, "chase_engine": 0, "chase_number": 1, "chase_first": 1},
               ErrorCode.WATCHDOG),
])
def test_an_error_stops_with_its_index_and_the_next_run_is_right(build, change, code):
    product, commands = Product(TARGET), Commands()
    change = {"wait_array": 1, "out_base": 64, **change}
    opcode = change.pop("opcode", Opcode.MATMUL)
    wrong = product.instruction(**change)
    wrong[0] = wrong[0] & ~0xF | opcode
    product.load(commands, wrong)
    commands.write(Register.WATCHDOG, [WATCHDOG])
    commands.start()
    end = commands.wait(LIMIT)
    first = [commands.read(register) for register in (
        Register.STATUS, Register.INSTRUCTION_INDEX)] + [product.read(commands)]
    product.clear(commands)
    instructions(commands, product.instruction(), HALT)
    commands.write(Register.PROGRAM_ADDRESS, [0])
    commands.run()
    second = [commands.read(Register.STATUS), product.read(commands)]
    answers = play(build, commands)
    assert answers[end][0] == 1, "the run does not end"
    assert int(answers[first[0]][0]) == failed(code)
    assert int(answers[first[1]][0]) == 1
    product.check(answers[first[2]])
    assert int(answers[second[0]][0]) == DONE, "an accepted start clears the error"
    product.check(answers[second[1]])


def window(opcode, n_pixels, n_taps, **fields):
    """A line of windows, one word per pixel."""
    return encode(opcode, **{
        "n_chunks": 1, "n_channels": 4, "width": n_pixels * n_taps, "height": 1,
        "out_width": n_pixels, "out_height": 1, "kernel_width": n_taps, "kernel_height": 1,
        "stride_x": 1, "stride_y": 1, "dilation_x": 1, "dilation_y": 1, "out_step": 1,
        "w_bank": 1, "out_bank": 3, "low": -128, "high": 127, **fields})


def product_of_a_tile(**fields):
    """The shortest product: its results come when the next ones have begun."""
    return encode(Opcode.MATMUL, **{
        "slots": 4, "period_count": 1, "inner_count": 1, "outer_count": 1, "n_pixels": 4,
        "n_channels": 4, "out_bank": 2, "out_step": 1, "out_x_count": 0xFFFF, "a_k0_count": 1,
        "a_k1_count": 1, "a_group": 1, "a_x_count": 0xFFFF, "b_bank": 1, "b_k0_count": 1,
        "b_k1_count": 1, "b_group": 1, "b_x_count": 0xFFFF, **fields})


ENDS = {"out_base": TARGET.bank_words[2] - 3}  # the fourth word lies outside
NO_PARAMETERS = {"parameter_base": TARGET.parameter_words}
OTHERS = [product_of_a_tile(), window(Opcode.WINDOW, 4, 1), product_of_a_tile(), HALT]


@pytest.mark.parametrize("wrong", [
    *(pytest.param(make(**fields), id=f"{name}-{'-'.join(fields)}") for name, make in {
        "product": product_of_a_tile,
        "window": lambda **f: window(Opcode.WINDOW, 4, 1, **f),
        "linear": lambda **f: encode(Opcode.LINEAR, **{
            "n_inputs": 2, "n_chunks": 4, "n_channels": 16, "w_bank": 1, "out_bank": 3,
            "out_step": 1, **f}),
    }.items() for fields in (ENDS, NO_PARAMETERS)),
    pytest.param(window(Opcode.MAXPOOL, 4, 1, **ENDS), id="maxpool-out_base"),
    pytest.param(window(Opcode.WINDOW, 4, 1, x_base=TARGET.bank_words[0] - 3), id="window-x_base"),
    pytest.param(window(Opcode.WINDOW, 4, 4, w_base=TARGET.bank_words[1] - 2), id="window-w_base"),
    pytest.param(product_of_a_tile(a_base=4 * TARGET.bank_words[0] - 12, a_x_step=4),
                 id="product-a_base"),
    pytest.param(product_of_a_tile(b_base=TARGET.bank_words[1] - 3, b_x_step=1),
                 id="product-b_base"),
])
def test_a_wrong_address_names_its_instruction_among_others(build, wrong):
    """Its last word alone lies outside, at every place of a program of short instructions."""
    commands, runs = Commands(), []
    for at in range(len(OTHERS)):
        for n_alike in range(3):  # as many good ones behind it, which follow in the same engine
            alike = window(Opcode.WINDOW, 1, 1) if wrong[0] & 0xF != Opcode.MATMUL else OTHERS[0]
            instructions(commands, *OTHERS[:at], wrong, *[alike] * n_alike, *OTHERS[at:])
            commands.write(Register.PROGRAM_ADDRESS, [0])
            commands.run()
            runs.append((at, commands.read(Register.STATUS),
                         commands.read(Register.INSTRUCTION_INDEX)))
    answers = play(build, commands)
    found = [(int(answers[status][0]), int(answers[index][0])) for _, status, index in runs]
    assert found == [(failed(ErrorCode.ADDRESS), at) for at, *_ in runs]


@pytest.mark.parametrize("when", [0, 20, 60, 100, 150])
@pytest.mark.parametrize("how", ["abort", "reset", "cycle limit"])
def test_a_run_that_is_ended_in_its_middle_leaves_nothing_behind(build, how, when):
    product, commands = Product(TARGET), Commands()
    product.load(commands, *[product.instruction(out_base=32 * k) for k in range(1, 5)])
    if how == "cycle limit":
        commands.write(Register.CYCLE_LIMIT, [when + 20])
    commands.start()
    commands.idle(when)
    if how == "abort":
        commands.abort()
    if how == "reset":
        commands.reset()
    else:
        end = commands.wait(LIMIT)
    status = commands.read(Register.STATUS)
    commands.write(Register.CYCLE_LIMIT, [0])
    product.clear(commands)
    product.load(commands)
    commands.write(Register.PROGRAM_ADDRESS, [0])
    commands.run()
    after = [commands.read(Register.STATUS), product.read(commands),
             commands.read(Register.COUNTERS, 2 * len(Counter))]
    answers = play(build, commands)
    if how == "reset":
        assert int(answers[status][0]) == 0
    else:
        assert answers[end][0] == 1, "the run does not end"
        assert int(answers[status][0]) == failed(ErrorCode.WATCHDOG)
    assert int(answers[after[0]][0]) == DONE
    product.check(answers[after[1]])
    assert counts(answers[after[2]])[Counter.ARRAY_BUSY] == MATMUL_SLOTS


def test_misuse_while_busy_is_refused_and_harms_nothing(build):
    product, commands = Product(TARGET), Commands()
    product.load(commands, *[product.instruction()] * 20)
    windows = [w for w in AddressWindow if w != AddressWindow.REGISTERS]
    commands.start()
    tries = [(commands.try_read(w << 28), commands.try_write(w << 28, 0x55555555))
             for w in windows]
    counter = commands.read(Register.COUNTERS)
    refused = commands.try_write(Register.CONTROL, 1)
    busy = commands.read(Register.STATUS)
    end = commands.wait(LIMIT)
    status, results = commands.read(Register.STATUS), product.read(commands)
    commands.write(Register.PROGRAM_ADDRESS, [0])
    commands.run()
    again, repeated = commands.read(Register.STATUS), product.read(commands)
    answers = play(build, commands)
    for reading, writing in tries:
        assert answers[reading].tolist() == [SLVERR, 0]
        assert answers[writing][0] == SLVERR
    assert answers[counter][0] > 0, "registers may be read at any time"
    assert answers[refused][0] == OKAY
    code = ErrorCode.START_WHILE_BUSY << 8
    assert int(answers[busy][0]) == code | FAILED | BUSY, "the run has to be longer"
    assert answers[end][0] == 1
    assert int(answers[status][0]) == code | FAILED | DONE
    product.check(answers[results])
    assert int(answers[again][0]) == DONE, "an accepted start clears the error"
    product.check(answers[repeated])


def test_unknown_addresses_are_refused(build):
    ends = {AddressWindow.INSTRUCTIONS: 4 * TARGET.instruction_words,
            AddressWindow.PARAMETERS: 16 * TARGET.lanes * TARGET.parameter_words}
    ends |= {AddressWindow.BANK_0 + k: TARGET.word_bytes * n
             for k, n in enumerate(TARGET.bank_words)}
    known = {Register.MAGIC: MAGIC, Register.VERSION: VERSION, Register.STATUS: 0,
             Register.CONFIGURATION: TARGET.configuration_id, Register.FEATURES: 0,
             Register.WATCHDOG: TARGET.watchdog, Register.CYCLE_LIMIT: 0,
             Register.REGION_BASE: 0, Register.REGION_LIMIT: 0xFFFFFFFF}
    unknown = [Register.FEATURES + 4, Register.COUNTERS + 8 * len(Counter), Register.COUNTERS + 2,
               0x400, 3 << 28, 8 << 28, 15 << 28]
    unknown += [(window << 28) + end for window, end in ends.items()]
    lasts = [(window << 28) + end - 4 for window, end in ends.items()]
    commands = Commands()
    values = {register: commands.read(register) for register in known}
    refused = {where: (commands.try_read(where), commands.try_write(where, 0x12345678))
               for where in unknown}
    accepted = {where: (commands.try_write(where, 0x12345678), commands.try_read(where))
                for where in lasts}
    answers = play(build, commands)
    assert {register: int(answers[where][0]) for register, where in values.items()} == known
    for where, (reading, writing) in refused.items():
        assert answers[reading].tolist() == [SLVERR, 0], hex(where)
        assert answers[writing][0] == SLVERR, hex(where)
    for where, (writing, reading) in accepted.items():
        value = 0 if where >> 28 == AddressWindow.PARAMETERS else 0x12345678
        assert answers[writing][0] == OKAY, hex(where)
        assert answers[reading].tolist() == [OKAY, value], hex(where)


def test_the_fetch_goes_round_the_instruction_memory(build):
    product, commands = Product(TARGET), Commands()
    product.load(commands)
    last = TARGET.instruction_words // N_WORDS - 1
    commands.write((AddressWindow.INSTRUCTIONS << 28) + 4 * N_WORDS * last, encode(Opcode.SYNC))
    commands.write(Register.PROGRAM_ADDRESS, [last])
    commands.run()
    results = product.read(commands)
    commands.write(Register.PROGRAM_ADDRESS, [last + 1])
    commands.run()
    status = commands.read(Register.STATUS)
    answers = play(build, commands)
    product.check(answers[results])
    assert int(answers[status][0]) == failed(ErrorCode.ADDRESS)


# Order


def test_maxima_that_wait_for_their_bank_end_before_what_follows_them(build):
    """A product keeps the bank of the maximum; windows behind it write the bank beside, or it."""
    rng = np.random.default_rng(0)
    banks = rng.integers(-128, 128, (3, 256, TARGET.columns)).astype(np.int8)
    machine, commands, runs = Machine(TARGET), Commands(), []
    commands.write(Register.WATCHDOG, [2 * WATCHDOG])
    for k, bank in enumerate(banks):
        machine.banks[k][:len(bank)] = bank
        commands.write((AddressWindow.BANK_0 + k) << 28, bank.view("<u4"))
    n_tiles = 30  # 16 cycles each, without a gap
    keeps = product_of_a_tile(outer_count=n_tiles, n_pixels=4 * n_tiles, wide=1,
                              plane_step=4 * n_tiles)
    for out_bank, n_pixels in [(3, n) for n in range(1, 7)] + [(2, 1), (2, 5)]:
        program = [window(Opcode.MAXPOOL, 1, 120, out_bank=2, out_base=900), keeps,
                   window(Opcode.WINDOW, n_pixels, 1, zero_point=n_pixels,
                          out_bank=out_bank, out_base=900), HALT]
        hazards.check(program, TARGET)
        machine.load_program(program)
        machine.run()
        instructions(commands, *program)
        commands.write(Register.PROGRAM_ADDRESS, [0])
        commands.run()
        status = commands.read(Register.STATUS)
        runs.append((status, [(machine.banks[k][900:908].copy(),
                               commands.read(((AddressWindow.BANK_0 + k) << 28) + 4 * 900, 8))
                              for k in (2, 3)]))
    answers = play(build, commands)
    for status, banks in runs:
        assert int(answers[status][0]) == DONE
        for expected, found in banks:
            assert np.array_equal(answers[found].view(np.int8).reshape(-1, 4), expected)

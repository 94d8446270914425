"""Errors on the RTL: status and instruction index are right, and the next run is correct."""

import numpy as np
import pytest

from golden.program import interpreter
from hw.compiler import compile_program
from hw.compiler.scheduling.order import orders
from hw.compiler.tiling.tile import tile
from hw.isa import AddressWindow, Counter, ErrorCode, LocalMemory, Opcode, Register, encode
from sim.commands import Commands, play
from sim.design import build_accelerator
from sim.images import ImageRuns
from sim.runner import SimulationError
from tests import programs
from tests.targets import AXI, ON_CHIP

pytestmark = pytest.mark.slow
OKAY, SLVERR = 0, 2
BUSY, DONE, FAILED = 1, 2, 4
RECORDS = AddressWindow.INSTRUCTIONS << 28


class Disturbed:
    """A good run, something else, and the good run again; with transfers where there is a bus."""

    def __init__(self, target=ON_CHIP):
        self.target = target
        self.program = programs.linear_net()
        self.image = (tile(self.program, self.target, orders(self.program)[-1], 1)
                      if self.target.bus_bits else compile_program(self.program, self.target))
        self.codes = programs.random_codes(self.program, 1)
        self.runs = ImageRuns(self.image)
        self.runs.add({self.image.inputs[0]: self.codes}, traced=False)
        self.commands = self.runs.commands
        self.commands.write(Register.PROGRAM_ADDRESS, [0])

    def record(self, index, *words):
        """Write the first words of a record of the program."""
        self.commands.write(RECORDS + 4 * len(encode(Opcode.HALT)) * index, words)

    def ended(self):
        """Wait for the end of a run: (level, cycles), STATUS, INSTRUCTION_INDEX."""
        commands = self.commands
        return (commands.wait(50_000), commands.read(Register.STATUS),
                commands.read(Register.INSTRUCTION_INDEX))

    def play(self, **plusargs):
        """The answers, once both good runs have given what golden gives."""
        for address, words in self.image.sections():
            self.commands.write(address, words)
        if self.target.bus_bits:
            self.commands.write(Register.REGION_LIMIT, [len(self.image.external)])
        self.runs.add({self.image.inputs[0]: self.codes}, traced=False)
        answers = play(build_accelerator(self.target), self.commands, plusargs=plusargs)
        self.answers = answers
        self.runs.check(answers)
        expected = interpreter.run(self.program, self.codes)[self.image.outputs[0]]
        for run in 0, 1:
            assert np.array_equal(self.runs.tensors(answers, run)[self.image.outputs[0]], expected)
        return answers

    def error(self, ended, **plusargs):
        """(ErrorCode, INSTRUCTION_INDEX) with which the run in between has ended."""
        answers = self.play(**plusargs)
        (level, _), (status,), (index,) = (answers[where] for where in ended)
        assert level
        assert status & 0xFF == DONE | FAILED
        return ErrorCode(int(status) >> 8), int(index)


def test_an_undefined_opcode():
    bench = Disturbed()
    bench.record(2, 15)
    bench.commands.start()
    assert bench.error(bench.ended()) == (ErrorCode.OPCODE, 2)


def test_transfers_are_undefined_without_external_memory():
    bench = Disturbed()
    bench.record(0, *encode(Opcode.LOAD, n_lines=1, line_words=1))
    bench.commands.start()
    assert bench.error(bench.ended()) == (ErrorCode.OPCODE, 0)


@pytest.mark.parametrize(("fields", "code"), [
    ({"opcode": Opcode.MAXPOOL, "n_chunks": 1, "kernel_width": 1, "kernel_height": 1,
      "out_width": 1, "out_height": 1, "width": 1, "height": 1, "stride_x": 1, "stride_y": 1,
      "x_base": 65535}, ErrorCode.ADDRESS),
    ({"opcode": Opcode.MAXPOOL, "n_chunks": 0}, ErrorCode.FIELD),
    ({"opcode": Opcode.MATMUL, "slots": 4, "inner_count": 0}, ErrorCode.FIELD),
    ({"opcode": Opcode.MATMUL, "slots": 4, "inner_count": 1, "outer_count": 1, "period_count": 1,
      "a_bank": 1, "b_bank": 1, "n_pixels": 4, "n_channels": 4, "out_bank": 3},
     ErrorCode.BANK_CONFLICT),
])
def test_a_refused_instruction(fields, code):
    bench = Disturbed()
    bench.record(1, *encode(**fields))
    bench.record(2, *encode(Opcode.HALT))
    bench.commands.start()
    assert bench.error(bench.ended()) == (code, 1)


def test_a_wait_that_never_ends():
    bench = Disturbed()
    bench.record(1, *encode(Opcode.SYNC, wait_store=1))
    bench.commands.write(Register.WATCHDOG, [500])
    bench.commands.start()
    ended = bench.ended()
    bench.commands.write(Register.WATCHDOG, [bench.target.watchdog])
    assert bench.error(ended) == (ErrorCode.WATCHDOG, 1)


def test_a_run_that_takes_too_long():
    bench = Disturbed()
    bench.commands.write(Register.CYCLE_LIMIT, [100])
    bench.commands.start()
    ended = bench.ended()
    bench.commands.write(Register.CYCLE_LIMIT, [0])
    assert bench.error(ended)[0] == ErrorCode.WATCHDOG


def test_a_program_address_beyond_the_memory():
    bench = Disturbed()
    bench.commands.write(Register.PROGRAM_ADDRESS, [60_000])
    bench.commands.start()
    assert bench.error(bench.ended()) == (ErrorCode.ADDRESS, 60_000)


def test_an_abort():
    bench = Disturbed()
    bench.commands.start()
    bench.commands.abort()
    assert bench.error(bench.ended())[0] == ErrorCode.WATCHDOG


def test_a_start_while_busy_is_refused_and_the_run_goes_on():
    bench = Disturbed()
    bench.commands.start()
    bench.commands.start()
    ended = bench.ended()
    place = bench.image.placements[bench.image.outputs[0]]
    output = bench.commands.read(bench.image.bus_address(place), place.n_words)
    good = bench.runs._outputs[0][bench.image.outputs[0]]
    assert bench.error(ended)[0] == ErrorCode.START_WHILE_BUSY
    assert np.array_equal(bench.answers[output], bench.answers[good])


@pytest.mark.parametrize("n_cycles", [1, 40, 150, 300])
def test_a_reset_in_the_middle_of_a_run(n_cycles):
    bench = Disturbed()
    bench.commands.start()
    bench.commands.idle(n_cycles)
    busy = bench.commands.read(Register.STATUS)
    bench.commands.reset()
    status = bench.commands.read(Register.STATUS)
    answers = bench.play()
    assert answers[busy][0] & BUSY
    assert answers[status][0] == 0


def test_memories_answer_an_error_while_a_program_runs_and_outside():
    bench = Disturbed()
    commands, bank = bench.commands, AddressWindow.BANK_0 << 28
    commands.start()
    busy = [commands.try_read(bank), commands.try_write(bank, 0), commands.try_read(RECORDS),
            commands.try_write(RECORDS, 0)]
    status = commands.try_read(Register.STATUS)
    commands.wait(50_000)
    depth = bench.target.bank_words[0] * bench.target.word_bytes
    outside = [commands.try_read(bank + depth), commands.try_write(bank + depth, 0),
               commands.try_read(0xF000_0000), commands.try_read(0x0000_0FFC)]
    inside = commands.try_read(bank + depth - 4)
    answers = bench.play()
    assert [answers[where][0] for where in busy + outside] == [SLVERR] * 8
    assert answers[inside][0] == OKAY
    assert answers[status].tolist() == [OKAY, BUSY]


REFUSED = 1 << 20  # bytes of external memory that answer SLVERR, from here on


@pytest.mark.parametrize(("opcode", "code"), [(Opcode.LOAD, ErrorCode.BUS_READ),
                                              (Opcode.STORE, ErrorCode.BUS_WRITE)])
@pytest.mark.parametrize("response", [2, 3])
def test_an_error_response_of_the_external_memory(opcode, code, response):
    bench = Disturbed(AXI)
    bench.commands.write(Register.REGION_LIMIT, [0xFFFF_FFFF])
    transfer = {"n_lines": 3, "line_words": 9, "external_step": 16, "local_step": 9,
                "local_memory": LocalMemory.BANK_2}
    bench.record(0, *encode(Opcode.SYNC))
    bench.record(1, *encode(opcode, external_base=REFUSED - 32, **transfer))
    bench.record(2, *encode(opcode, external_base=2 * REFUSED, **transfer))  # has begun meanwhile
    bench.record(3, *encode(Opcode.HALT))
    bench.commands.start()
    assert bench.error(bench.ended(), axi_refuse_base=f"{REFUSED:x}", axi_stalls=30,
                       axi_refuse_limit=f"{REFUSED + 4096:x}",
                       axi_refuse_response=response) == (code, 1)


def test_a_transfer_outside_the_region():
    bench = Disturbed(AXI)
    words = np.arange(64, dtype="<u4")
    bench.commands.write_external(REFUSED, words)
    bench.commands.write(Register.REGION_LIMIT, [REFUSED])
    bench.record(0, *encode(Opcode.SYNC))
    bench.record(1, *encode(Opcode.STORE, external_base=REFUSED - 8, n_lines=1, line_words=2))
    bench.commands.start()
    ended = bench.ended()
    after = bench.commands.read_external(REFUSED, 64)
    assert bench.error(ended) == (ErrorCode.ADDRESS, 1)
    assert np.array_equal(bench.answers[after], words)


@pytest.mark.parametrize("n_cycles", [30, 70, 120])
def test_a_reset_while_transfers_are_under_way(n_cycles):
    bench = Disturbed(AXI)
    bench.commands.start()
    bench.commands.idle(n_cycles)
    busy = bench.commands.read(Register.STATUS)
    loaded = bench.commands.read(Register.COUNTERS + 8 * Counter.LOAD_BYTES)
    bench.commands.reset()
    answers = bench.play(axi_read_latency=60)
    assert answers[busy][0] == BUSY
    assert answers[loaded][0] < bench.runs.counters(answers, 0)["load_bytes"]


def test_commands_that_must_succeed_end_the_simulation():
    build = build_accelerator(ON_CHIP)
    commands = Commands()
    commands.write(0xF000_0000, [1])
    with pytest.raises(SimulationError, match="the write to f0000000 is answered 2"):
        play(build, commands)
    commands = Commands()
    commands.read(0xF000_0000)
    with pytest.raises(SimulationError, match="the read of f0000000 is answered 2"):
        play(build, commands)
    commands = Commands()
    commands.write_external(0, [1])
    with pytest.raises(SimulationError, match="no external memory"):
        play(build, commands)


def test_a_wait_is_bounded():
    commands = Commands()
    waited = commands.wait(123)
    answers = play(build_accelerator(ON_CHIP), commands)
    assert answers[waited].tolist() == [0, 123]
    commands.write(RECORDS, encode(Opcode.SYNC, wait_array=1))  # which never ends
    commands.run()
    with pytest.raises(SimulationError, match="no interrupt after 1000 cycles"):
        play(build_accelerator(ON_CHIP), commands, limit=1000)

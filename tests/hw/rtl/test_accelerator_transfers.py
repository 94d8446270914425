"""Transfers that fail: what the run ends with, what is left untouched, and the run after it."""

import numpy as np
import pytest

from hw.isa import AddressWindow, ErrorCode, LocalMemory, Opcode, Register, encode
from hw.machine import hazards
from sim.commands import Commands, play
from sim.design import build_accelerator
from tests.hw.rtl.array.product import BANK_OUT, HALT, Product, instructions
from tests.targets import AXI

DONE, FAILED = 2, 4
LIMIT = 20_000  # cycles for which the test waits for the interrupt


@pytest.mark.slow
@pytest.mark.parametrize(("change", "plusargs", "code"), [
    ({"external_base": 1024 - 8}, {}, ErrorCode.ADDRESS),
    ({"external_base": 4096 - 8}, {}, ErrorCode.ADDRESS),
    ({"external_base": 2048, "local_base": 1023}, {}, ErrorCode.ADDRESS),
    ({"external_base": 2048, "local_memory": 7}, {}, ErrorCode.FIELD),
    ({"external_base": 2048}, {"axi_refuse_base": "0800", "axi_refuse_limit": "0810",
                               "axi_refuse_response": 3}, ErrorCode.BUS_READ),
    ({"opcode": Opcode.STORE, "external_base": 2048, "local_memory": BANK_OUT},
     {"axi_refuse_base": "0800", "axi_refuse_limit": "0810"}, ErrorCode.BUS_WRITE),
])
def test_failing_transfers_stop_with_their_index(change, plusargs, code):
    product, commands = Product(AXI), Commands()
    wrong = encode(**{"opcode": Opcode.LOAD, "wait_array": 1, "n_lines": 1, "line_words": 4,
                      "local_memory": 3, **change})
    fill = [0xA5A5A5A5] * 2048
    commands.write_external(0, fill)
    commands.write(Register.REGION_BASE, [1024])
    commands.write(Register.REGION_LIMIT, [4096])
    product.load(commands, wrong)
    commands.start()
    end = commands.wait(LIMIT)
    answer = [commands.read(Register.STATUS), commands.read(Register.INSTRUCTION_INDEX),
              product.read(commands), commands.read_external(0, len(fill))]
    product.clear(commands)
    instructions(commands, product.instruction(), HALT)
    commands.write(Register.PROGRAM_ADDRESS, [0])
    commands.run()
    again = product.read(commands)
    answers = play(build_accelerator(AXI), commands, plusargs=plusargs)
    assert answers[end][0] == 1
    assert int(answers[answer[0]][0]) == code << 8 | FAILED | DONE
    assert int(answers[answer[1]][0]) == 1
    product.check(answers[answer[2]])
    external = answers[answer[3]]
    assert (external[:512] == fill[0]).all() and (external[1024:] == fill[0]).all()
    product.check(answers[again])


@pytest.mark.parametrize("n_words", [7, 8, 15, 16, 17, 24])
def test_a_load_is_complete_when_its_last_word_is_written(n_words):
    """Maxima keep the bank that it loads; a second load, to elsewhere, must not end before it."""
    maxima = encode(Opcode.MAXPOOL, x_bank=0, out_bank=2, out_base=100, n_chunks=1, n_channels=8,
                    width=250, height=8, out_width=250, out_height=8, kernel_width=1,
                    kernel_height=1, stride_x=1, stride_y=1, dilation_x=1, dilation_y=1)
    load = encode(Opcode.LOAD, n_lines=1, line_words=n_words, local_memory=2)
    parameters = encode(Opcode.LOAD, external_base=2048, n_lines=1, line_words=4,
                        local_memory=LocalMemory.PARAMETERS)
    store = encode(Opcode.STORE, wait_load=1, external_base=1024, n_lines=1, line_words=n_words,
                   local_memory=2)
    program, commands = [maxima, load, parameters, store, HALT], Commands()
    hazards.check(program, AXI)
    content = np.arange(1, 2 * n_words + 1, dtype=np.uint32)
    commands.write_external(0, content)
    commands.write_external(1024, np.zeros_like(content))
    commands.write((AddressWindow.BANK_0 + 2) << 28, np.zeros(100, np.uint32))
    instructions(commands, *program)
    commands.write(Register.PROGRAM_ADDRESS, [0])
    commands.write(Register.WATCHDOG, [6000])
    commands.start()
    end, status = commands.wait(LIMIT), commands.read(Register.STATUS)
    stored = commands.read_external(1024, len(content))
    answers = play(build_accelerator(AXI), commands)
    assert answers[end][0] == 1
    assert int(answers[status][0]) == DONE
    assert np.array_equal(answers[stored], content)

"""The instruction-set model: transfers, programs, and what it refuses."""

import numpy as np
import pytest

from golden.errors import LockstepError
from hw.isa import ErrorCode, LocalMemory, Opcode, encode
from hw.machine import Machine, MachineError
from hw.targets import get_target

SMALL, WITH_BUS = get_target("sim-4x4"), get_target("sim-8x8-axi")


def test_transfers_go_both_ways():
    machine = Machine(WITH_BUS, external_bytes=4096)
    machine.external[:] = np.arange(4096) * 7 % 256
    transfer = {"external_base": 64, "external_step": 32, "local_base": 10, "n_lines": 3,
                "line_words": 2, "local_step": 5}
    machine.execute(encode(Opcode.LOAD, local_memory=2, **transfer))
    for line in range(3):
        got = machine.banks[2][10 + 5 * line:12 + 5 * line].view(np.uint8).reshape(-1)
        assert np.array_equal(got, machine.external[64 + 32 * line:80 + 32 * line])
    assert not machine.banks[2][12:15].any()
    machine.execute(encode(Opcode.STORE, local_memory=2,
                           **transfer | {"external_base": 2048, "external_step": 16}))
    want = machine.external[64:160].reshape(3, 32)[:, :16].reshape(-1)
    assert np.array_equal(machine.external[2048:2096], want)


def test_parameters_and_instructions_are_loaded():
    machine = Machine(WITH_BUS, external_bytes=1024)
    values = machine.external.view("<u4")
    values[:8] = [11, 12, 13, 0, 21, 22, 23, 0]
    load = {"n_lines": 1, "line_words": 4}
    machine.execute(encode(Opcode.LOAD, local_memory=LocalMemory.PARAMETERS, local_base=8, **load))
    assert machine.parameters[2:4].tolist() == [[11, 12, 13], [21, 22, 23]]
    assert not machine.parameters[4:].any()
    machine.execute(encode(Opcode.LOAD, local_memory=LocalMemory.INSTRUCTIONS, local_base=3,
                           **load))
    assert machine.instructions[2:12].tolist() == [0, 11, 12, 13, 0, 21, 22, 23, 0, 0]


def test_a_program_runs_to_its_halt_around_the_ring():
    machine = Machine(WITH_BUS, external_bytes=64)
    n = machine.n_records
    load = encode(Opcode.LOAD, n_lines=1, line_words=1, local_base=4)
    machine.external[:8] = 5
    machine.load_program([encode(Opcode.SYNC, wait_load=9)] * (n - 1), start=0)
    machine.load_program([load], start=n - 1)
    machine.load_program([encode(Opcode.HALT)], start=1)
    assert machine.run(start=n - 1) == n + 1
    assert (machine.banks[0][4] == 5).all()
    with pytest.raises(LockstepError, match="must hold 2 instructions"):
        machine.load_program([load, load], start=n - 1)
    machine.load_program([load], start=1)
    with pytest.raises(MachineError, match="no HALT within 50") as caught:
        machine.run(max_instructions=50)
    assert caught.value.code == ErrorCode.WATCHDOG


MATMUL = {"opcode": Opcode.MATMUL, "slots": 8, "period_count": 1, "inner_count": 1,
          "outer_count": 1, "b_bank": 1, "n_pixels": 8, "n_channels": 8, "out_step": 1,
          "out_bank": 2, "a_x_step": 8, "b_x_step": 1}
LINEAR = {"opcode": Opcode.LINEAR, "n_chunks": 1, "n_inputs": 2, "n_channels": 8}
DEPTHWISE = {"opcode": Opcode.DEPTHWISE, "n_chunks": 1, "out_width": 4, "out_height": 4,
             "stride_x": 1, "stride_y": 1, "width": 4, "height": 4, "line_step": 4,
             "n_channels": 8, "out_step": 1, "w_bank": 1, "out_bank": 2}
ADD = {"opcode": Opcode.ADD, "n_chunks": 1, "out_width": 2, "out_step": 1, "n_channels": 8}
LOAD = {"opcode": Opcode.LOAD, "n_lines": 2, "line_words": 2, "external_step": 16,
        "local_step": 2}
FIELD, ADDRESS = ErrorCode.FIELD, ErrorCode.ADDRESS
REFUSED = [
    (MATMUL, {"slots": 7}, FIELD), (MATMUL, {"period_count": 0}, FIELD),
    (MATMUL, {"inner_count": 0}, FIELD), (MATMUL, {"outer_count": 0}, FIELD),
    (MATMUL, {"slots": 1, "a_feed": 1, "b_feed": 1}, FIELD),
    (MATMUL, {"a_base": 1024 * 8 - 63}, None), (MATMUL, {"a_base": 1024 * 8 - 56}, ADDRESS),
    (MATMUL, {"a_base": -1}, ADDRESS), (MATMUL, {"a_base": -9, "a_bounded": 1}, None),
    (MATMUL, {"b_base": 1017}, ADDRESS), (MATMUL, {"out_base": 1017}, ADDRESS),
    (MATMUL, {"out_base": 1017, "n_pixels": 7}, None),
    (MATMUL, {"parameter_base": 255}, ADDRESS),
    (MATMUL, {"parameter_base": 255, "n_channels": 4}, None),
    (MATMUL, {"parameter_base": 255, "wide": 1}, None),
    (MATMUL, {"b_bank": 0}, ErrorCode.BANK_CONFLICT),
    (MATMUL, {"b_bank": 0, "a_bounded": 1}, None),
    (LINEAR, {"n_inputs": 3}, FIELD), (LINEAR, {"n_inputs": 0}, FIELD),
    (LINEAR, {"w_base": 1}, FIELD), (LINEAR, {"w_base": 1024}, ADDRESS),
    (LINEAR, {"x_base": 1024}, ADDRESS), (LINEAR, {"n_chunks": 0}, FIELD),
    (DEPTHWISE, {"stride_x": 0}, FIELD), (DEPTHWISE, {"out_height": 0}, FIELD),
    (DEPTHWISE, {"x_base": 1009}, ADDRESS), (DEPTHWISE, {"x_base": 1008}, None),
    (DEPTHWISE, {"w_base": 1016}, ADDRESS),
    (DEPTHWISE, {"out_base": 1009}, ADDRESS), (DEPTHWISE, {"parameter_base": 255}, ADDRESS),
    (DEPTHWISE, {"out_base": 1009, "n_channels": 0}, None),
    (DEPTHWISE, {"opcode": Opcode.MAXPOOL}, FIELD),
    (DEPTHWISE, {"opcode": Opcode.WINDOW, "kernel_width": 1}, FIELD),
    (ADD, {"out_width": 0}, FIELD), (ADD, {"y_base": 1023}, ADDRESS),
    (ADD, {"parameter_base": 9999}, None),
    (LOAD, {"n_lines": 0}, FIELD), (LOAD, {"line_words": 0}, FIELD),
    (LOAD, {"local_memory": 6}, FIELD), (LOAD, {"external_base": 4}, FIELD),
    (LOAD, {"external_step": 4}, FIELD), (LOAD, {"external_step": 4, "n_lines": 1}, None),
    (LOAD, {"opcode": Opcode.STORE, "local_memory": 4}, FIELD),
    (LOAD, {"local_base": 1021}, ADDRESS), (LOAD, {"local_base": 1020}, None),
    (LOAD, {"nibbles": 1, "nibble_shift": 5}, FIELD), (LOAD, {"nibble_shift": 5}, None),
    (LOAD, {"nibbles": 1, "local_memory": 4}, FIELD),
    (LOAD, {"nibbles": 1, "opcode": Opcode.STORE}, FIELD),
    (LOAD, {"nibbles": 1, "local_base": 1019}, ADDRESS),
    (LOAD, {"nibbles": 1, "nibble_shift": 4, "local_base": 1018}, None),
    (LOAD, {"external_base": 2032}, ADDRESS), (LOAD, {"external_base": 2016}, None),
    (LOAD, {"external_base": 8}, ADDRESS), (LOAD, {"external_base": 1024}, ErrorCode.BUS_READ),
    (LOAD, {"external_base": 1024, "opcode": Opcode.STORE}, ErrorCode.BUS_WRITE),
    (LOAD, {"opcode": 3}, ErrorCode.OPCODE),
]


@pytest.mark.parametrize("case", range(len(REFUSED)))
def test_the_model_refuses_what_the_hardware_refuses(case):
    fields, change, code = REFUSED[case]
    machine = Machine(WITH_BUS, external_bytes=2048)
    machine.region_base, machine.region_limit = 16, 2048
    if code in (ErrorCode.BUS_READ, ErrorCode.BUS_WRITE):
        machine.external = machine.external[:1024]
    fields = {"external_base": 16, **fields} if fields is LOAD else fields
    values = fields | change
    words = encode(**{"opcode": values["opcode"]} if values["opcode"] == 3 else values)
    machine.load_program([encode(Opcode.SYNC), words, encode(Opcode.HALT)])
    if code is None:
        assert machine.run() == 2
        return
    before = [bank.copy() for bank in machine.banks]
    with pytest.raises(MachineError, match=code.name) as caught:
        machine.run()
    assert caught.value.code == code and caught.value.index == 1
    assert all(np.array_equal(a, b) for a, b in zip(before, machine.banks))


def test_transfers_are_unknown_without_a_bus():
    with pytest.raises(MachineError, match="OPCODE"):
        Machine(SMALL).execute(encode(**LOAD))

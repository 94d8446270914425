"""The checking slaves see what a master does wrong; tests/hw/rtl/dma/test_dma_errors.py has
more."""

import pytest

from tests.hw.rtl.dma.axi_slaves import INCR, Memory, ReadSlave, Stands, Traffic, WriteSlave

BASE = 0x1000


def slave(kind):
    memory = Memory(BASE, bytearray(8192))
    return kind(None, memory, Traffic(), bus_bytes=8, max_beats=16, outstanding=1)


def test_the_rules_of_a_channel():
    stands = Stands("W")
    assert not stands(1, 0, 5)
    with pytest.raises(AssertionError, match="W: payload changed before ready"):
        stands(1, 0, 6)
    stands = Stands("W")
    stands(1, 0, 5)
    with pytest.raises(AssertionError, match="W: valid fell before ready"):
        stands(0, 0, 5)


@pytest.mark.parametrize("lasts", [[0, 1, 1], [0, 0, 0, 1]])
def test_the_slave_sees_a_wrong_last(lasts):
    write = slave(WriteSlave)
    with pytest.raises(AssertionError, match="W: last at"):
        for valid in 0, 1:
            write.step(valid, BASE, 2, 3, INCR, 0, 0, 0, 0, 0, 1)
        for last in lasts:
            write.step(0, 0, 0, 0, 0, 0, 1, 7, 255, last, 1)


@pytest.mark.parametrize(("wrong", "message"), [
    ({"burst": 2}, "burst type 2"), ({"size": 2}, "size 2 is not the bus's"),
    ({"address": BASE + 4}, "unaligned address"), ({"length": 16}, "burst of 17 beats"),
    ({"address": BASE + 4096 - 16}, "crosses a 4 KB boundary"), ({"id_": 1}, "ID 1"),
    ({"address": BASE - 64}, "outside the memory")])
def test_the_slave_sees_a_wrong_address(wrong, message):
    address = {"address": BASE, "length": 2, "size": 3, "burst": INCR, "id_": 0, **wrong}
    with pytest.raises(AssertionError, match=message):
        slave(ReadSlave).address(1, 1, **address)


def test_the_slave_sees_too_many_bursts():
    read = slave(ReadSlave)
    read.address(1, 1, BASE, 0, 3, INCR, 0)
    with pytest.raises(AssertionError, match="AR: 2 bursts open"):
        read.address(1, 1, BASE, 0, 3, INCR, 0)

# amaranth: UnusedElaboratable=no
"""The stream harness: right units pass at every pace, each planted fault is caught."""

import pytest
from amaranth.hdl import signed, unsigned

from sim.runner import SimulationError
from sim.unit import flat_ports, pack, run_stream, unpack
from tests.sim.units import LAYOUT, Increment, Negate

ITEMS = [{"a": i - 100, "b": [i % 16, -(i % 17), 3]} for i in range(100)]


@pytest.mark.slow
@pytest.mark.parametrize(("idle", "backpressure"), [
    (0.5, 0.5), *(pytest.param(*pace, marks=pytest.mark.long)
                  for pace in ((0, 0), (0, 0.5), (0.5, 0)))])
def test_outputs_do_not_depend_on_the_pace(idle, backpressure):
    report = {}
    outputs = run_stream(Increment(), ITEMS, idle=idle, backpressure=backpressure, report=report)
    assert outputs == [{**item, "a": item["a"] + 1} for item in ITEMS]
    if idle == backpressure == 0:
        assert report["cycles"] == len(ITEMS) + 1


@pytest.mark.slow
def test_a_unit_without_a_clock():
    assert run_stream(Negate(), [-128, 0, 127]) == [128, 0, -127]


@pytest.mark.slow
@pytest.mark.parametrize(("fault", "message"), [
    pytest.param("hangs", "no transfer for", marks=pytest.mark.long),
    pytest.param("overwrites", "changed while it was waiting|valid fell before ready",
                 marks=pytest.mark.long),
    ("withdraws", "valid fell before ready"),
    ("babbles", "gave more than 100 payloads"),
])
def test_protocol_faults_are_caught(fault, message):
    with pytest.raises(SimulationError, match=message):
        run_stream(Increment(fault), ITEMS, watchdog=50, idle=0.5)


@pytest.mark.slow
def test_too_few_outputs_are_caught():
    with pytest.raises(SimulationError, match=r"o: 100 of 101"):
        run_stream(Increment(), ITEMS, n_outputs=101, watchdog=50)


def test_pack_is_lsb_first_and_unpack_its_inverse():
    value = {"a": -2, "b": [1, -1, 0]}
    assert pack(LAYOUT, value) == 0xFE | 1 << 8 | 31 << 13
    assert unpack(LAYOUT, pack(LAYOUT, value)) == value


@pytest.mark.parametrize(("shape", "value", "message"), [
    (signed(8), 128, r"Payload must be in -128..127, not 128"),
    (unsigned(4), -1, r"Payload must be in 0..15, not -1"),
    (LAYOUT, {"a": 0}, "Payload has fields"),
])
def test_values_that_do_not_fit_are_refused(shape, value, message):
    with pytest.raises(ValueError, match=message):
        pack(shape, value)


def test_flat_ports_name_the_verilog_ports():
    ports = flat_ports(Negate())
    assert ports["i__payload"] == ("in", signed(8))
    assert ports["o__ready"] == ("in", unsigned(1))
    assert ports["o__valid"] == ("out", unsigned(1))

"""Registers behind block RAM move into it, where nothing speaks against it."""

import copy

import pytest

from synthesis.block_ram import absorb_output_registers

CLOCK, OTHER_CLOCK = 2, 3


def register(data, output, **changes):
    return {
        "type": "TRELLIS_FF",
        "parameters": {"CEMUX": "1 ", "CLKMUX": "CLK", "GSR": "DISABLED", "LSRMUX": "LSR",
                       "REGSET": "RESET"} | changes.pop("parameters", {}),
        "port_directions": {"CLK": "input", "DI": "input", "LSR": "input", "Q": "output"},
        "connections": {"CLK": [CLOCK], "DI": [data], "LSR": ["0"], "Q": [output]} | changes}


def module(*, second=None, ram=None, parameters=None, extra=None):
    """A RAM whose outputs 10, 11 at port B feed the registers of 20, 21; 12 feeds nothing."""
    connections = {f"DOB{k}": [10 + k] for k in range(3)} | {f"DOA{k}": [30 + k] for k in range(2)}
    connections |= {"CLKA": [CLOCK], "CLKB": [CLOCK]}
    connections |= {f"{pin}{port}": [value] for port in "AB"
                    for pin, value in (("CE", "1"), ("OCE", "1"), ("RST", "0"))}
    cells = {
        "ram": {
            "type": "DP16KD",
            "parameters": {"REGMODE_A": "NOREG", "REGMODE_B": "NOREG", "CLKAMUX": "CLKA",
                           "CLKBMUX": "CLKB", "GSR": "DISABLED"} | (parameters or {}),
            "port_directions": {pin: "output" if pin.startswith("DO") else "input"
                                for pin in connections},
            "connections": connections | (ram or {})},
        "first": register(10, 20), "second": second or register(11, 21),
    } | (extra or {})
    return {"ports": {"q": {"direction": "output", "bits": [20, 21]}}, "cells": cells}


def test_a_ram_takes_over_the_registers_of_its_used_outputs():
    it = module()
    assert absorb_output_registers(it) == 2
    assert list(it["cells"]) == ["ram"]
    ram = it["cells"]["ram"]
    assert (ram["parameters"]["REGMODE_A"], ram["parameters"]["REGMODE_B"]) == ("NOREG", "OUTREG")
    assert [ram["connections"][f"DOB{k}"] for k in range(3)] == [[20], [21], [12]]
    assert absorb_output_registers(it) == 0


@pytest.mark.parametrize("obstacle", [
    {"second": register(11, 21, CLK=[OTHER_CLOCK])},
    {"second": register(11, 21, LSR=[9])},
    {"second": register(11, 21, parameters={"CEMUX": "CE"}, CE=[9])},
    {"second": register(11, 21, parameters={"CLKMUX": "INV"})},
    {"second": register(11, 21, parameters={"REGSET": "SET"})},
    {"second": {"type": "LUT4", "port_directions": {"A": "input", "Z": "output"},
                "parameters": {}, "connections": {"A": [11], "Z": [21]}}},
    {"extra": {"third": register(11, 22)}},
    {"extra": {"logic": {"type": "LUT4", "port_directions": {"A": "input", "Z": "output"},
                         "parameters": {}, "connections": {"A": [10], "Z": [22]}}}},
    {"extra": {"logic": {"type": "LUT4", "port_directions": {"A": "input", "Z": "output"},
                         "parameters": {}, "connections": {"A": [12], "Z": [22]}}}},
    {"ram": {"OCEB": [9]}}, {"ram": {"CEB": [9]}}, {"ram": {"RSTB": [9]}},
    {"parameters": {"REGMODE_B": "OUTREG"}}, {"parameters": {"CLKBMUX": "INV"}},
])
def test_a_port_is_left_alone_where_its_registers_are_not_the_rams(obstacle):
    it = module(**obstacle)
    before = copy.deepcopy(it)
    assert absorb_output_registers(it) == 0
    assert it == before


def test_an_output_that_leaves_the_module_keeps_its_register():
    it = module()
    it["ports"]["q"]["bits"].append(10)
    assert absorb_output_registers(it) == 0

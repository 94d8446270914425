"""The shell and the shift registers around a unit."""

import pytest

from golden.errors import LockstepError
from synthesis.design import Design

VERILOG = "module unit_a(clk, rst, x, y, z);\n  input clk;\n  input rst;\nendmodule\n"
PORTS = {"x": ("in", 8), "y": ("in", 3), "z": ("out", 5)}


def test_ports_are_sliced_from_the_shift_registers():
    design = Design(name="unit_a", verilog=VERILOG, ports=PORTS)
    assert "unit_a unit (\n  .clk(clk),\n  .rst(rst),\n  .x(x)" in design.shell()
    assert "input [7:0] x" in design.shell()
    assert "output [4:0] z" in design.shell()
    wrapper = design.wrapper()
    assert "reg [10:0] sent;" in wrapper
    assert ".y(sent[8 +: 3])" in wrapper
    assert ".z(result[0 +: 5])" in wrapper
    assert ".clk(unit_clock)" in wrapper
    assert "@(posedge shift_clock)" in wrapper


def test_a_unit_without_reset_or_inputs():
    design = Design(name="unit_a", verilog="input clk;", ports={"z": ("out", 1)})
    assert ".rst(rst)" not in design.shell()
    assert "input rst" in design.shell()
    assert "reg [0:0] sent;" in design.wrapper()


WORDS = """\
  initial begin
    even[0] = 16'h0000;
    \\odd$1 [1] = 16'h0000;
  end
  initial begin
    for (integer i = 0; i < 8; i = i + 1) bank[i] = 16'd0;
  end
"""
KEPT = """\
  initial begin
    rom[0] = 16'h0000;
    rom[1] = 16'h0200;
  end
  always @* begin
    flags[0] = 1'h0;
  end
"""


def test_what_yosys_reads_has_no_zeros_and_no_brackets_in_names():
    text = VERILOG + WORDS + "  wire [7:0] \\a[0] ;\n  assign x = \\a[0] [3];\n" + KEPT
    design = Design(name="unit_a", verilog=text, ports=PORTS)
    assert design.source == VERILOG + (
        "  wire [7:0] \\a<0> ;\n  assign x = \\a<0> [3];\n") + KEPT
    assert design.verilog == text


@pytest.mark.parametrize("verilog, ports, message", [
    ("input rst;", PORTS, "unit_a has no clock: there is nothing to time"),
    (VERILOG, {"x": ("in", 8)}, "unit_a has no outputs"),
])
def test_what_cannot_be_timed_is_refused(verilog, ports, message):
    with pytest.raises(LockstepError, match=message):
        Design(name="unit_a", verilog=verilog, ports=ports)

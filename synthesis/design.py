"""What is synthesized: a unit's Verilog, and the shift registers around it that stand for pins.

The unit sits in a module `shell` with the same ports, synthesized by itself, so that its cells
are counted exactly. Around it, on a clock of its own, shift registers feed its inputs and take
its outputs. What nextpnr reports for UNIT_CLOCK is therefore register to register inside the
unit; paths through its ports are reported as paths between the two clocks.
"""

import hashlib
import re
from dataclasses import dataclass

from golden.errors import LockstepError

__all__ = ["SHELL", "SHIFT_CLOCK", "UNIT", "UNIT_CLOCK", "WRAPPER", "Design", "design_of"]

SHELL, UNIT, WRAPPER = "shell", "unit", "wrapper"
UNIT_CLOCK, SHIFT_CLOCK = "unit_clock", "shift_clock"
CLOCK, RESET = "clk", "rst"
_ANGLES = str.maketrans("[]", "<>")
_ZERO_WORD = r"\S+ *\[\w+\] = \d+'[hdb]0+;"
_ZEROED = re.compile(  # as Amaranth writes it, or as the loop of hw.rtl.verilog
    rf"^ *initial begin\n(?:(?: *{_ZERO_WORD}\n)+| *for \(integer i.*\) {_ZERO_WORD}\n) *end\n",
    re.MULTILINE)


@dataclass(frozen=True, kw_only=True)
class Design:
    """A unit to synthesize.

    name: of its module. verilog: its text. ports: name to ("in" or "out", width), without clock
    and reset.
    """

    name: str
    verilog: str
    ports: dict[str, tuple[str, int]]

    def __post_init__(self):
        if not any(way == "out" for way, _ in self.ports.values()):
            raise LockstepError(f"{self.name} has no outputs: nothing of it would remain")
        if f"input {CLOCK};" not in self.verilog:
            raise LockstepError(f"{self.name} has no clock: there is nothing to time")

    @property
    def sha256(self) -> str:
        """Of the Verilog text."""
        return hashlib.sha256(self.verilog.encode()).hexdigest()

    @property
    def source(self) -> str:
        """The text that yosys reads, the same circuit in a form that it can bear.

        A wire named `a[0]` becomes `a<0>`: Amaranth writes the parts of an array so, beside a
        wire `a`; abc9 takes the name for a bit of that wire, and yosys fails an assertion. The
        zeros that memories start with are left out: reading them takes minutes, and block RAM
        without initial contents holds zeros.
        """
        text = re.sub(r"\\\S+", lambda name: name[0].translate(_ANGLES), self.verilog)
        return _ZEROED.sub("", text)

    @property
    def clocks(self) -> tuple[str, ...]:
        """Clock and, where the unit has one, reset."""
        return tuple(name for name in (CLOCK, RESET) if f"input {name};" in self.verilog)

    def widths(self, way: str) -> dict[str, int]:
        """Widths of the inputs ("in") or the outputs ("out")."""
        return {name: width for name, (direction, width) in self.ports.items()
                if direction == way}

    def shell(self) -> str:
        """The module around the unit, with the unit's ports."""
        declared = [f"input {CLOCK}", f"input {RESET}",
                    *(f"{way}put [{width - 1}:0] {name}"
                      for name, (way, width) in self.ports.items())]
        joined = ",\n  ".join(f".{name}({name})" for name in (*self.clocks, *self.ports))
        return (f"module {SHELL}(\n  " + ",\n  ".join(declared) + "\n);\n"
                f"  {self.name} {UNIT} (\n  {joined});\nendmodule\n")

    def wrapper(self) -> str:
        """The top module: six pins, the shell between shift registers."""
        joined, totals = [], {}
        for way, register in (("in", "sent"), ("out", "result")):
            at = 0
            for name, width in self.widths(way).items():
                joined.append(f".{name}({register}[{at} +: {width}])")
                at += width
            totals[way] = max(at, 1)
        ports = ",\n    ".join([f".{CLOCK}({UNIT_CLOCK})", f".{RESET}(reset)", *joined])
        return f"""module {WRAPPER}(
  input {UNIT_CLOCK}, input {SHIFT_CLOCK}, input rst, input load, input si, output so
);
  reg reset, loading;
  reg [{totals['in'] - 1}:0] sent;
  reg [{totals['out'] - 1}:0] received;
  wire [{totals['out'] - 1}:0] result;
  always @(posedge {SHIFT_CLOCK}) begin
    reset <= rst;
    loading <= load;
    sent <= {{sent, si}};
    received <= loading ? result : received >> 1;
  end
  assign so = received[0];
  {SHELL} {SHELL} (
    {ports}
  );
endmodule
"""


def design_of(component, name: str, verilog: str | None = None) -> Design:
    """The design of an Amaranth component. verilog: its text, where it exists already."""
    from sim.unit import component_verilog, flat_ports

    ports = {port: (way, shape.width) for port, (way, shape) in flat_ports(component).items()
             if shape.width}
    return Design(name=name, verilog=verilog or component_verilog(component, name)[0],
                  ports=ports)

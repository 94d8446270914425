"""Xilinx Zynq-7020: external memory behind an AXI4 port. There is no open place and route."""

from hw.targets.target import Device, Target

__all__ = ["DEVICE", "TARGETS"]

DEVICE = Device(name="xc7z020", flow="xilinx", part="xc7",
                available={"luts": 53200, "ffs": 106400, "dsps": 220, "brams": 140})

TARGETS = (Target(name="zynq-7020", rows=8, columns=16, lanes=8, parameter_words=512, bus_bits=128,
                  device=DEVICE.name),)

"""Lattice ECP5-85: everything on the chip."""

from hw.targets.target import Device, Target

__all__ = ["DEVICE", "TARGETS"]

DEVICE = Device(
    name="LFE5U-85F", flow="ecp5", part="--85k", package="CABGA381", speed_grade=6,
    available={"luts": 83640, "ffs": 83640, "dsps": 156, "brams": 208, "distributed_ram": 10455},
    goals_mhz={"ecp5-85k": 110, "ecp5-85k-packed": 95})

#: With 16-byte words 176 of the 208 block RAMs; parameters and instructions take 20 more.
_BANKS = (8192, 8192, 4096, 2048)
#: Eight lanes keep up with 256 products per cycle, and with 128 on small reductions.
_LANES = {"lanes": 8, "parameter_words": 512}

TARGETS = (
    Target(name="ecp5-85k", rows=8, columns=16, multiplier="ecp5", device=DEVICE.name,
           bank_words=_BANKS, **_LANES),
    Target(name="ecp5-85k-packed", rows=16, columns=16, multiplier="ecp5", packed=True,
           device=DEVICE.name, bank_words=_BANKS, **_LANES),
)

"""AXI4 master signatures (AMBA AXI, ARM IHI 0022): what the transfer engines use of the bus.

All transfers have one ID, so responses come in the order of the addresses; all bursts are INCR of
whole bus words. `connect_master` joins the read half and the write half into one port.
"""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["BOUNDARY", "BURST_INCR", "CACHE", "OKAY", "BusSignature", "ReadSignature",
           "WriteSignature", "connect_master", "constant_controls"]

OKAY = 0b00
BURST_INCR = 0b01
CACHE = 0b0011  #: normal memory, bufferable: interconnects may merge and split the bursts
BOUNDARY = 4096  #: bytes; no burst crosses a multiple of it


def _address(channel) -> dict:
    return {f"{channel}id": Out(1), f"{channel}addr": Out(32), f"{channel}len": Out(8),
            f"{channel}size": Out(3), f"{channel}burst": Out(2), f"{channel}cache": Out(4),
            f"{channel}prot": Out(3), f"{channel}valid": Out(1), f"{channel}ready": In(1)}


def _read(bus_bits) -> dict:
    return _address("ar") | {
        "rid": In(1), "rdata": In(bus_bits), "rresp": In(2), "rlast": In(1), "rvalid": In(1),
        "rready": Out(1)}


def _write(bus_bits) -> dict:
    return _address("aw") | {
        "wdata": Out(bus_bits), "wstrb": Out(bus_bits // 8), "wlast": Out(1), "wvalid": Out(1),
        "wready": In(1), "bid": In(1), "bresp": In(2), "bvalid": In(1), "bready": Out(1)}


class ReadSignature(wiring.Signature):
    """The master's view of the channels AR and R.

    Members
    -------
    araddr, arvalid, ... rready : the bus's own names, in lower case.
    """

    def __init__(self, bus_bits):
        super().__init__(_read(bus_bits))


class WriteSignature(wiring.Signature):
    """The master's view of the channels AW, W and B.

    Members
    -------
    awaddr, awvalid, ... bready : the bus's own names, in lower case.
    """

    def __init__(self, bus_bits):
        super().__init__(_write(bus_bits))


class BusSignature(wiring.Signature):
    """The master's view of all five channels.

    Members
    -------
    araddr, ... bready : the bus's own names, in lower case.
    """

    def __init__(self, bus_bits):
        super().__init__(_read(bus_bits) | _write(bus_bits))


def constant_controls(m, bus_bits: int, *, size, burst, cache) -> None:
    """Give an address channel the controls that never change: its signals of these names."""
    m.d.comb += [size.eq((bus_bits // 8).bit_length() - 1), burst.eq(BURST_INCR), cache.eq(CACHE)]


def connect_master(m, bus, *halves) -> None:
    """Connect the buses of a LoadEngine and a StoreEngine to one port of BusSignature.

    Each half is a part of the port: its members have the same names and ways there.
    """
    for half in halves:
        for name, member in half.signature.members.items():
            outer, inner = getattr(bus, name), getattr(half, name)
            m.d.comb += outer.eq(inner) if member.flow == Out else inner.eq(outer)

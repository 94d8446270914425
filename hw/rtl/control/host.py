"""Host interface: AXI4-Lite slave (32 bits) over the registers and the on-chip memories.

The top four address bits choose a window (hw.isa.AddressWindow). Scratchpad words lie
``Target.word_bytes`` apart; parameters lie 16 bytes apart per channel (bias, multiplier,
shift); instructions are plain words. Memories answer SLVERR while a program runs.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

__all__ = ["OKAY", "SLVERR", "AXI4LiteSignature", "HostInterface"]

OKAY, SLVERR = 0b00, 0b10

#: The slave's view of an AXI4-Lite bus, 32-bit address and data (AMBA AXI, ARM IHI 0022).
AXI4LiteSignature = wiring.Signature({
    "awaddr": In(32), "awvalid": In(1), "awready": Out(1),
    "wdata": In(32), "wstrb": In(4), "wvalid": In(1), "wready": Out(1),
    "bresp": Out(2), "bvalid": Out(1), "bready": In(1),
    "araddr": In(32), "arvalid": In(1), "arready": Out(1),
    "rdata": Out(32), "rresp": Out(2), "rvalid": Out(1), "rready": In(1),
})


class HostInterface(wiring.Component):
    """One access at a time, writes before reads.

    Members
    -------
    bus : AXI4-Lite slave.
    address : byte address of the access. write, write_data, write_strobe : up for one cycle.
    read_data : what lies at ``address``, at most READ_CYCLES after it, or one cycle after
        ``pending`` has fallen; pending : what is read is not there yet.
    allowed : the address may be accessed now, else SLVERR; SETTLE_CYCLES after ``address``.
    """

    READ_CYCLES = 6
    SETTLE_CYCLES = 5

    def __init__(self):
        super().__init__({
            "bus": Out(AXI4LiteSignature),
            "address": Out(32), "write": Out(1), "write_data": Out(32), "write_strobe": Out(4),
            "read_data": In(32), "allowed": In(1), "reading": Out(1),
            "pending": In(1),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        bus = self.bus
        wait = Signal(range(self.READ_CYCLES + 1))
        was_pending = Signal()
        m.d.sync += was_pending.eq(self.pending)
        with m.FSM():
            with m.State("IDLE"):
                with m.If(bus.awvalid & bus.wvalid):
                    m.d.sync += [self.address.eq(bus.awaddr), self.write_data.eq(bus.wdata),
                                 self.write_strobe.eq(bus.wstrb)]
                    m.d.sync += wait.eq(self.SETTLE_CYCLES)
                    m.next = "SETTLE"
                with m.Elif(bus.arvalid):
                    m.d.sync += [self.address.eq(bus.araddr), wait.eq(self.READ_CYCLES)]
                    m.next = "READ"
            # No path leads from valid to ready: what stood is taken a cycle later.
            with m.State("SETTLE"):
                takes = wait == self.SETTLE_CYCLES
                m.d.comb += [bus.awready.eq(takes), bus.wready.eq(takes)]
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 1):
                    m.next = "WRITE"
            with m.State("WRITE"):
                m.d.comb += self.write.eq(self.allowed)
                m.d.sync += bus.bresp.eq(Mux(self.allowed, OKAY, SLVERR))
                m.next = "RESPOND"
            with m.State("RESPOND"):
                m.d.comb += bus.bvalid.eq(1)
                with m.If(bus.bready):
                    m.next = "IDLE"
            with m.State("READ"):
                m.d.comb += [self.reading.eq(1), bus.arready.eq(wait == self.READ_CYCLES)]
                with m.If(wait != 0):
                    m.d.sync += wait.eq(wait - 1)
                with m.Elif(~self.pending & ~was_pending):
                    m.d.sync += [bus.rdata.eq(Mux(self.allowed, self.read_data, 0)),
                                 bus.rresp.eq(Mux(self.allowed, OKAY, SLVERR))]
                    m.next = "ANSWER"
            with m.State("ANSWER"):
                m.d.comb += bus.rvalid.eq(1)
                with m.If(bus.rready):
                    m.next = "IDLE"
        return m

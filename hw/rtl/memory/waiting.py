"""WaitingQueue: where a wide request stands until its turn.

The queue lies in distributed memory, and its content has no enables: as the place behind the last
item is always free it is written in every cycle, and the first item shows by itself.
"""

from amaranth.hdl import Module, Shape, Signal
from amaranth.lib import memory, stream, wiring
from amaranth.lib.wiring import In, Out

__all__ = ["WaitingQueue"]


class WaitingQueue(wiring.Component):
    """A stream buffer; `i.ready` and `o.valid` are registers, `o.payload` comes from the memory.

    Full rate, holds DEPTH - 2 items. An item is counted a cycle after it came, so that `i.valid`
    may come late in the cycle.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    LATENCY = 2
    DEPTH = 16  # of one memory cell

    def __init__(self, shape):
        self.shape = shape
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform) -> Module:
        m = Module()
        # A read port without a clock: synthesis takes distributed memory, not block RAM.
        m.submodules.memory = cells = memory.Memory(
            shape=Shape.cast(self.shape).width, depth=self.DEPTH, init=[])
        write, read = cells.write_port(), cells.read_port(domain="comb")
        level = Signal(range(self.DEPTH))
        has_room = Signal(init=1)
        push, pushed, pop = Signal(), Signal(), Signal()
        m.d.comb += [
            push.eq(self.i.valid & has_room), pop.eq(self.o.valid & self.o.ready),
            self.i.ready.eq(has_room), self.o.payload.eq(read.data),
            write.en.eq(1), write.data.eq(self.i.payload)]
        m.d.sync += [
            pushed.eq(push), level.eq(level + pushed - pop), self.o.valid.eq(level + pushed != pop),
            # Without the pop, which comes late too, and with an item in this cycle.
            has_room.eq(level + pushed < self.DEPTH - 2),
            write.addr.eq(write.addr + push), read.addr.eq(read.addr + pop)]
        return m

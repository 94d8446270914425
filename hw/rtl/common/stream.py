"""Stream primitives: register slice, skid buffer, FIFOs, and backpressure around a pipeline.

Data moves on `amaranth.lib.stream`: an item passes in every clock with valid and ready. None of
these units passes `ready` through combinationally, except RegisterSlice.
"""

from amaranth.hdl import Module, Mux, Shape, ShapeLike, Signal
from amaranth.lib import fifo, memory, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.pipeline import registered

__all__ = ["Elastic", "RegisterSlice", "SkidBuffer", "SmallFIFO", "StreamFIFO", "payload_shape"]


def payload_shape(port) -> ShapeLike:
    """The shape of the items of a stream interface."""
    return port.signature.members["payload"].shape


class _Buffer(wiring.Component):
    """A stream in and the same stream out.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    """

    def __init__(self, shape):
        self.shape = shape
        super().__init__({"i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})


class RegisterSlice(_Buffer):
    """One register: breaks the path of payload and valid, not that of ready. LATENCY 1, full rate.
    """

    LATENCY = 1

    def elaborate(self, platform) -> Module:
        m = Module()
        move = Signal()
        payload = registered(m, self.o.payload)
        m.d.comb += [move.eq(~self.o.valid | self.o.ready), self.i.ready.eq(move)]
        with m.If(move):
            m.d.sync += [self.o.valid.eq(self.i.valid), payload.eq(self.i.payload)]
        return m


class SkidBuffer(_Buffer):
    """Two registers: breaks every path, ready too. LATENCY 1, full rate, holds two items."""

    LATENCY = 1

    def elaborate(self, platform) -> Module:
        m = Module()
        payload = registered(m, self.o.payload)
        skid = Signal(self.shape, reset_less=True)
        is_full = Signal()
        move = Signal()
        # Written as gates: o.ready comes late in the cycle, and an If would cost it more of them.
        m.d.comb += [move.eq(~self.o.valid | self.o.ready), self.i.ready.eq(~is_full)]
        m.d.sync += [self.o.valid.eq(is_full | self.i.valid | ~move),
                     is_full.eq((is_full | self.i.valid) & ~move)]
        with m.If(move):
            m.d.sync += payload.eq(Mux(is_full, skid, self.i.payload))
        with m.If(~is_full):
            m.d.sync += skid.eq(self.i.payload)
        return m


class StreamFIFO(wiring.Component):
    """A first-in first-out buffer of `depth` items.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))
    level : Out(range(depth + 1)), the items held.

    Raises ValueError for a depth below 2.
    """

    def __init__(self, shape, depth):
        if depth < 2:
            raise ValueError(f"FIFO depth must be at least 2, not {depth}")
        self.shape = shape
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape)),
            "level": Out(range(depth + 1))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.fifo = queue = fifo.SyncFIFOBuffered(
            width=Shape.cast(self.shape).width, depth=self.depth)
        m.d.comb += [
            queue.w_en.eq(self.i.valid), self.i.ready.eq(queue.w_rdy),
            self.o.valid.eq(queue.r_rdy), queue.r_en.eq(self.o.ready),
            self.level.eq(queue.level)]
        m.d.comb += [queue.w_data.eq(self.i.payload), self.o.payload.eq(queue.r_data)]
        return m


class SmallFIFO(wiring.Component):
    """A FIFO in distributed memory; `i.ready`, `o.valid` and `o.payload` are registers.

    Full rate, LATENCY 2, holds `depth` items and one more in the output register.

    Arguments
    ---------
    depth : items, a power of two, 16 of which fit into one memory cell per 4 bits on ECP5.

    Members
    -------
    i : In(stream.Signature(shape))
    o : Out(stream.Signature(shape))

    Raises ValueError for another depth.
    """

    LATENCY = 2

    def __init__(self, shape, depth):
        if depth < 2 or depth & (depth - 1):
            raise ValueError(f"FIFO depth must be a power of two from 2, not {depth}")
        self.shape = shape
        self.depth = depth
        super().__init__({
            "i": In(stream.Signature(shape)), "o": Out(stream.Signature(shape))})

    def elaborate(self, platform) -> Module:
        m = Module()
        # A read port without a clock: synthesis takes distributed memory, not block RAM.
        width = Shape.cast(self.shape).width
        m.submodules.memory = cells = memory.Memory(shape=width, depth=self.depth, init=[])
        write, read = cells.write_port(), cells.read_port(domain="comb")
        level = Signal(range(self.depth + 1))
        push, pop, move = Signal(), Signal(), Signal()
        held = Signal(self.shape, reset_less=True)
        m.d.comb += [
            push.eq(self.i.valid & self.i.ready), move.eq(~self.o.valid | self.o.ready),
            pop.eq(move & (level != 0)),
            write.en.eq(push), write.data.eq(self.i.payload), self.o.payload.eq(held)]
        # The level is compared before it moves: o.ready comes late in the cycle.
        fills = (level == self.depth) | ((level == self.depth - 1) & push)
        m.d.sync += [
            level.eq(level + push - pop), self.i.ready.eq(~fills | pop),
            write.addr.eq(write.addr + push), read.addr.eq(read.addr + pop)]
        with m.If(move):
            m.d.sync += [self.o.valid.eq(level != 0), held.eq(read.data)]
        return m


class Elastic(wiring.Component):
    """Backpressure around a pipeline that never stalls, by counting credits.

    An item enters only when the FIFO behind the pipeline has a place reserved for its result.
    Full rate; `i.ready` is a register's output, `o.valid` too.

    Arguments
    ---------
    core : component with always-ready streams `i` and `o`, one result per item, and LATENCY.

    Members
    -------
    i, o : the core's streams, with ready.
    """

    # Clocks a credit is away besides the core's own: in and out of the FIFO, and the counter.
    ROUND_TRIP = 4

    def __init__(self, core):
        self.core = core
        self.depth = core.LATENCY + self.ROUND_TRIP
        super().__init__({"i": In(stream.Signature(payload_shape(core.i))),
                          "o": Out(stream.Signature(payload_shape(core.o)))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.core = core = self.core
        m.submodules.results = results = StreamFIFO(
            payload_shape(core.o), self.depth)
        credits = Signal(range(self.depth + 1), init=self.depth)
        taken = Signal()
        returned = Signal()
        m.d.comb += [
            self.i.ready.eq(credits != 0),
            taken.eq(self.i.valid & self.i.ready), returned.eq(self.o.valid & self.o.ready),
            core.i.valid.eq(taken), core.i.payload.eq(self.i.payload),
            results.i.valid.eq(core.o.valid), results.i.payload.eq(core.o.payload)]
        m.d.sync += credits.eq(credits - taken + returned)
        wiring.connect(m, results.o, wiring.flipped(self.o))
        return m

"""PlaceWalker: where the results go, one place per group of lanes, ahead of the results.

For MAXPOOL there is one place per word.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.stream import SmallFIFO
from hw.vector.geometry import GEOMETRY_LAYOUT
from hw.vector.loops import Countdown

__all__ = ["GroupCount", "PlaceWalker", "place_layout"]

_DEPTH = 16
_COUNT_WIDTH = 21  # signed differences of channel numbers: 2^16 chunks of 16


def place_layout(lanes):
    """Where a group goes, and whether it is the last one of its word, of a line, of all.

    ``source``: the group of the result that it comes from (ADD gives one group per result).
    """
    return data.StructLayout({
        "address": 16, "group": 2, "source": 2, "mask": lanes, "parameter": 16,
        "word_ends": 1, "line_ends": 1, "ends": 1})


class GroupCount:
    """How many groups of lanes of the present chunk have channels; at least one.

    Arguments
    ---------
    m : Module, receives the registers. n_channels : stable from the cycle before ``load`` on.
    single : there is one group per chunk, whatever the channels.

    ``last`` is the number of the chunk's last group, right SETTLING cycles after ``load`` and
    ``step``.
    """

    SETTLING = 2

    def __init__(self, m, target, n_channels, single=0):
        self.m = m
        self.target = target
        self.n_channels = n_channels
        n_groups = target.columns // target.lanes
        self.left = Signal(signed(_COUNT_WIDTH), name="channels_left")
        self.last = Signal(range(max(2, n_groups)), name="last_group")
        m.d.sync += self.last.eq(Mux(single, 0, sum(
            self.left > target.lanes * k for k in range(1, n_groups))))

    def load(self):
        """Statements (domain sync) that begin at the first chunk."""
        return [self.left.eq(self.n_channels)]

    def step(self, wrap):
        """Statements (domain sync) that go on to the next chunk, or where ``wrap`` the first."""
        return [self.left.eq(Mux(wrap, self.n_channels, self.left - self.target.columns))]


class PlaceWalker(wiring.Component):
    """Walks over the output of an instruction.

    Members
    -------
    geometry, base, step, parameter_base, n_channels, first_channel : the instruction; ``step``:
        words from one output pixel to the next.
    load : begin, a pulse; the geometry is stable since the cycle before.
    places : place_layout.
    """

    def __init__(self, target):
        self.target = target
        super().__init__({
            "geometry": In(GEOMETRY_LAYOUT), "base": In(16), "step": In(16),
            "parameter_base": In(16), "n_channels": In(16), "first_channel": In(16),
            "load": In(1), "places": Out(stream.Signature(place_layout(target.lanes)))})

    def elaborate(self, platform):
        m = Module()
        g, target = self.geometry, self.target
        lanes, columns = target.lanes, target.columns
        positions, chunks, lines = counters = [
            Countdown(m, name, g[f"n_{name}"]) for name in ("positions", "chunks", "lines")]
        counted = GroupCount(m, target, self.n_channels, single=g.is_maximum)
        settling = Signal(range(GroupCount.SETTLING + 1))
        running, in_first_chunk = Signal(), Signal()
        group = Signal.like(counted.last)
        address, chunk_address, line_address = (
            Signal(16, name=f"{name}address") for name in ("", "chunk_", "line_"))
        parameter, chunk_parameter = Signal(16), Signal(16)
        # Channels from the group's first one to the end of, and to the first of, those written.
        left, before, chunk_before = (Signal(signed(_COUNT_WIDTH), name=name)
                                      for name in ("left", "before", "chunk_before"))

        m.submodules.queue = queue = SmallFIFO(place_layout(lanes), _DEPTH)
        # One place waits in a register in front of the queue.
        place = Signal(place_layout(lanes))
        place_left, place_before = Signal.like(left), Signal.like(before)
        filled, move, go = Signal(), Signal(), Signal()
        m.d.comb += [move.eq(~filled | queue.i.ready), go.eq(running & (settling == 0) & move),
                     queue.i.valid.eq(filled), queue.i.payload.eq(place)]
        m.d.comb += queue.i.payload.mask.eq(Cat(
            (place_left > lane) & (place_before <= lane) for lane in range(lanes)))
        group_end, position_end, line_end = (
            Signal(name=f"{name}_end") for name in ("group", "position", "line"))
        m.d.comb += [group_end.eq(group == counted.last),
                     position_end.eq(group_end & positions.last),
                     line_end.eq(position_end & chunks.last)]
        with m.If(move):
            m.d.sync += [
                filled.eq(go), place.address.eq(address), place.group.eq(group),
                place.source.eq(Mux(g.is_add, 0, group)),
                place.parameter.eq(parameter), place.word_ends.eq(group_end),
                place.line_ends.eq(line_end), place.ends.eq(line_end & lines.last),
                place_left.eq(left), place_before.eq(before)]
        next_address = Signal(16)
        next_line = Mux(in_first_chunk, next_address, line_address)
        m.d.comb += next_address.eq(address + self.step)
        with m.If(settling != 0):
            m.d.sync += [settling.eq(settling - 1), left.eq(counted.left)]
        with m.If(go):
            m.d.sync += [group.eq(group + 1), parameter.eq(parameter + 1),
                         left.eq(left - lanes), before.eq(before - lanes)]
            with m.If(group_end):
                positions.step()
                m.d.sync += [group.eq(0), parameter.eq(chunk_parameter), left.eq(counted.left),
                             before.eq(chunk_before), address.eq(next_address)]
            with m.If(position_end):
                chunks.step()
                m.d.sync += [
                    counted.step(chunks.last), settling.eq(GroupCount.SETTLING),
                    in_first_chunk.eq(chunks.last), line_address.eq(next_line)]
                for value, base, following in (
                        (parameter, chunk_parameter, chunk_parameter + columns // lanes),
                        (before, chunk_before, chunk_before - columns),
                        (address, chunk_address, chunk_address + 1)):
                    m.d.sync += [value.eq(following), base.eq(following)]
            with m.If(line_end):
                lines.step()
                m.d.sync += [
                    parameter.eq(self.parameter_base), chunk_parameter.eq(self.parameter_base),
                    before.eq(self.first_channel), chunk_before.eq(self.first_channel),
                    address.eq(next_line), chunk_address.eq(next_line)]
                with m.If(lines.last):
                    m.d.sync += running.eq(0)
        with m.If(self.load):
            for counter in counters:
                m.d.sync += counter.load()
            m.d.sync += [
                counted.load(), settling.eq(GroupCount.SETTLING), running.eq(1), group.eq(0),
                in_first_chunk.eq(1), address.eq(self.base), chunk_address.eq(self.base),
                parameter.eq(self.parameter_base), chunk_parameter.eq(self.parameter_base),
                before.eq(self.first_channel), chunk_before.eq(self.first_channel)]
        wiring.connect(m, queue.o, wiring.flipped(self.places))
        return m

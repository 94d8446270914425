"""PlaceWalker: where the results go, one place per group of lanes, ahead of the results.

For MAXPOOL and LOOKUP there is one place per word.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.loops import Countdown, Level
from hw.rtl.common.stream import SkidBuffer, SmallFIFO
from hw.rtl.vector.geometry import GEOMETRY_LAYOUT

__all__ = ["GroupCount", "PlaceWalker", "place_layout"]

_DEPTH = 16
_COUNT_WIDTH = 21  # signed differences of channel numbers: 2^16 chunks of 16


def place_layout(lanes) -> data.StructLayout:
    """Where a group goes, and whether it is the last one of a line, of all.

    ``source``: the group of the result that it comes from (ADD and MUL give one group per result).
    ``drops``: it is the last one that needs that result.
    """
    return data.StructLayout({
        "address": 16, "group": 2, "source": 2, "mask": lanes, "parameter": 16,
        "drops": 1, "line_ends": 1, "ends": 1})


class GroupCount:
    """How many groups of lanes of the present chunk have channels; at least one.

    Arguments
    ---------
    m : Module, receives the registers. n_channels : stable from the cycle before ``load`` on.
    single : there is one group per chunk, whatever the channels.

    ``last`` is the number of the chunk's last group, ``alone`` says that it is the only one; right
    SETTLING cycles after ``load`` and ``step``.
    """

    SETTLING = 2

    def __init__(self, m, target, n_channels, single=0):
        self.m = m
        self.target = target
        self.n_channels = n_channels
        n_groups = target.columns // target.lanes
        self.left = Signal(signed(_COUNT_WIDTH), name="channels_left")
        self.last = Signal(range(max(2, n_groups)), name="last_group")
        self.alone = Signal(name="group_alone")
        m.d.sync += [
            self.last.eq(Mux(single, 0, sum(
                self.left > target.lanes * k for k in range(1, n_groups)))),
            self.alone.eq(int(n_groups == 1) | single | (self.left <= target.lanes))]

    def load(self) -> list:
        """Statements (domain sync) that begin at the first chunk."""
        return [self.left.eq(self.n_channels)]

    def step(self, wrap) -> list:
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

    def _loops(self, m, taken):
        """Stage 1: the counters, as long as there is room; ``taken``: for one more.

        Returns the registered event of a place, and the channels from its chunk on, or the next
        place's where its chunk ends.
        """
        g = self.geometry
        positions, chunks, lines = counters = [
            Countdown(m, name, g[f"n_{name}"]) for name in ("positions", "chunks", "lines")]
        counted = GroupCount(m, self.target, self.n_channels, single=g.by_words)
        group = Signal.like(counted.last)
        group_end, position_end, line_end = (
            Signal(name=f"{name}_end") for name in ("group", "position", "line"))
        running, settled = Signal(), Signal(GroupCount.SETTLING)
        go = Signal()
        room = Level(m, "under_way", _DEPTH, go, taken).room
        m.d.comb += [go.eq(running & settled[-1] & room),
                     position_end.eq(group_end & positions.last),
                     line_end.eq(position_end & chunks.last)]
        m.d.sync += settled.eq(Cat(1, settled))
        with m.If(go):
            m.d.sync += [group.eq(Mux(group_end, 0, group + 1)),
                         group_end.eq(Mux(group_end, counted.alone, group + 1 == counted.last))]
            with m.If(group_end):
                positions.step()
            with m.If(position_end):
                chunks.step()
                m.d.sync += [counted.step(chunks.last), settled.eq(Mux(g.by_words, settled, 0))]
            with m.If(line_end):
                lines.step()
                with m.If(lines.last):
                    m.d.sync += running.eq(0)
        with m.Elif(~settled[-1]):
            m.d.sync += group_end.eq(counted.alone)
        with m.If(self.load):
            for counter in counters:
                m.d.sync += counter.load()
            m.d.sync += [counted.load(), settled.eq(0), running.eq(1), group.eq(0)]

        event = Signal(data.StructLayout({
            "valid": 1, "group": group.shape(), "group_ends": 1, "chunk_ends": 1, "line_ends": 1,
            "ends": 1}))
        m.d.sync += [
            event.valid.eq(go), event.group.eq(group), event.group_ends.eq(group_end),
            event.chunk_ends.eq(position_end), event.line_ends.eq(line_end),
            event.ends.eq(line_end & lines.last)]
        return event, counted.left
    def elaborate(self, platform) -> Module:
        m = Module()
        g, lanes, columns = self.geometry, self.target.lanes, self.target.columns
        taken = Signal()
        event, channels = self._loops(m, taken)

        # Stage 2: where the place of the event is; then the registers move on.
        address, chunk_address, line_address = (
            Signal(16, name=f"{name}address") for name in ("", "chunk_", "line_"))
        parameter, chunk_parameter = Signal(16), Signal(16)
        in_first_chunk = Signal()
        # Channels from the group's first one to the end of, and to the first of, those written.
        left, before, chunk_before = (Signal(signed(_COUNT_WIDTH), name=name)
                                      for name in ("left", "before", "chunk_before"))
        place = Signal(place_layout(lanes))
        place_valid = Signal()
        place_left, place_before = Signal.like(left), Signal.like(before)
        m.d.sync += [
            place_valid.eq(event.valid), place.address.eq(address), place.group.eq(event.group),
            place.source.eq(Mux(g.is_pair, 0, event.group)), place.parameter.eq(parameter),
            place.drops.eq(event.group_ends | g.is_pair), place.line_ends.eq(event.line_ends),
            place.ends.eq(event.ends), place_left.eq(left), place_before.eq(before)]
        next_address, next_line = Signal(16), Signal(16)
        m.d.comb += [next_address.eq(address + self.step),
                     next_line.eq(Mux(in_first_chunk, next_address, line_address))]
        with m.If(event.valid):
            m.d.sync += [parameter.eq(parameter + 1), left.eq(left - lanes),
                         before.eq(before - lanes)]
            with m.If(event.group_ends):
                m.d.sync += [parameter.eq(chunk_parameter), left.eq(channels),
                             before.eq(chunk_before), address.eq(next_address)]
            with m.If(event.chunk_ends):
                m.d.sync += [in_first_chunk.eq(event.line_ends), line_address.eq(next_line)]
                for value, base, following in (
                        (parameter, chunk_parameter, chunk_parameter + columns // lanes),
                        (before, chunk_before, chunk_before - columns),
                        (address, chunk_address, chunk_address + 1)):
                    m.d.sync += [value.eq(following), base.eq(following)]
            with m.If(event.line_ends):
                m.d.sync += [
                    parameter.eq(self.parameter_base), chunk_parameter.eq(self.parameter_base),
                    before.eq(self.first_channel), chunk_before.eq(self.first_channel),
                    address.eq(next_line), chunk_address.eq(next_line)]
        with m.If(self.load):
            m.d.sync += [
                in_first_chunk.eq(1), address.eq(self.base), chunk_address.eq(self.base),
                parameter.eq(self.parameter_base), chunk_parameter.eq(self.parameter_base),
                left.eq(self.n_channels), before.eq(self.first_channel),
                chunk_before.eq(self.first_channel)]

        # Stage 3: into the queue, which has room for all under way.
        m.submodules.queue = queue = SmallFIFO(place.shape(), _DEPTH)
        m.submodules.buffer = buffer = SkidBuffer(place.shape())
        m.d.comb += [queue.i.valid.eq(place_valid), queue.i.payload.eq(place)]
        m.d.comb += queue.i.payload.mask.eq(Cat(
            (place_left > lane) & (place_before <= lane) for lane in range(lanes)))
        m.d.sync += taken.eq(queue.o.valid & queue.o.ready)
        wiring.connect(m, queue.o, buffer.i)
        wiring.connect(m, buffer.o, wiring.flipped(self.places))
        return m

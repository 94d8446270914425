"""Readout: empties the array tile by tile, finds each result's channel, pixel and address.

The array gives a row of results per pop. With pixels on rows a row is one pixel and its columns
are channels: ``lanes`` neighbouring channels leave per cycle. With the orientation swapped a row
is one channel and its columns are pixels: one result leaves per cycle, each to its own word.
Raw 32-bit sums (``wide``) leave as four byte planes, one after the other.
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.array import ACCUMULATOR_WIDTH
from hw.walker import ADDRESS_WIDTH

__all__ = ["BYTES_PER_SUM", "Readout", "destination_layout"]

BYTES_PER_SUM = ACCUMULATOR_WIDTH // 8


def destination_layout(lanes):
    """Where results go: a word, the byte of lane 0 in it, the lanes that exist, and how.

    ``single``: one value, from lane ``lane``, goes to byte ``byte``; otherwise lane i goes to
    byte ``byte`` + i.
    """
    return data.StructLayout({"address": ADDRESS_WIDTH, "byte": 6, "mask": lanes, "single": 1,
                              "lane": range(max(2, lanes))})


class Readout(wiring.Component):
    """Pops the array after each ``last`` and emits groups of ``lanes`` sums.

    Members
    -------
    start : an instruction begins; its fields are constant until the next.
    last : as given to the array. ``done``: everything of that tile has left the array.
    pop, results, results_valid : to and from the array.
    valid, sums, destination, parameter, parameter_lane, plane : one group of sums, where it goes,
        and which word (and, when swapped, which lane) of the parameter memory belongs to it.
    """

    def __init__(self, *, target, array):
        self.target = target
        self.result_latency = array.result_latency
        self.pop_spacing = array.POP_SPACING
        lanes = target.lanes
        super().__init__({
            "start": In(1), "swap": In(1), "wide": In(1),
            "inner_count": In(16), "out_base": In(ADDRESS_WIDTH), "out_byte": In(6),
            "out_step": In(16), "n_pixels": In(24), "n_channels": In(16),
            "parameter_base": In(16), "plane_step": In(ADDRESS_WIDTH),
            "last": In(1), "done": Out(1), "pop": Out(1),
            "results": In(data.ArrayLayout(signed(ACCUMULATOR_WIDTH), target.columns)),
            "results_valid": In(1),
            "valid": Out(1),
            "sums": Out(data.ArrayLayout(signed(ACCUMULATOR_WIDTH), lanes)),
            "destination": Out(destination_layout(lanes)),
            "parameter": Out(16), "parameter_lane": Out(range(max(2, lanes))),
            "plane": Out(range(BYTES_PER_SUM)),
        })

    def _pop_rows(self, m):
        """Pop every row, each as long after the one before as it takes to emit it."""
        lanes, columns = self.target.lanes, self.target.columns
        ready = self.last
        for stage in range(self.result_latency):
            late = Signal(name=f"last_{stage}")
            m.d.sync += late.eq(ready)
            ready = late
        spacings = [max(self.pop_spacing, columns * beats // lanes)
                    for beats in (1, BYTES_PER_SUM, lanes, lanes * BYTES_PER_SUM)]
        spacing = Array(spacings)[Cat(self.wide, self.swap)]
        row = Signal(range(self.target.rows))
        wait = Signal(range(max(spacings)))
        popping = Signal()
        m.d.comb += self.pop.eq(popping & (wait == 0))
        with m.If(ready):
            m.d.sync += [popping.eq(1), row.eq(0), wait.eq(0)]
        with m.Elif(popping):
            with m.If(wait + 1 == spacing):
                m.d.sync += wait.eq(0)
                with m.If(row == self.target.rows - 1):
                    m.d.sync += popping.eq(0)
                    m.d.comb += self.done.eq(1)
                with m.Else():
                    m.d.sync += row.eq(row + 1)
            with m.Else():
                m.d.sync += wait.eq(wait + 1)

    def elaborate(self, platform):
        m = Module()
        self._pop_rows(m)
        lanes, columns, rows = self.target.lanes, self.target.columns, self.target.rows
        word_bytes = self.target.word_bytes
        n_groups = columns // lanes

        # A popped row stays here while its groups, lanes and planes leave.
        held = Signal(self.results.shape())
        emitting = Signal()
        group = Signal(range(max(2, n_groups)))
        lane = Signal(range(max(2, lanes)))
        plane = Signal(range(BYTES_PER_SUM))
        plane_end = Signal()
        lane_end = Signal()
        row_end = Signal()
        m.d.comb += [
            plane_end.eq(emitting & (~self.wide | (plane == BYTES_PER_SUM - 1))),
            lane_end.eq(plane_end & (~self.swap | (lane == lanes - 1))),
            row_end.eq(lane_end & (group == n_groups - 1)),
        ]
        with m.If(emitting):
            m.d.sync += plane.eq(Mux(plane_end, 0, plane + 1))
            with m.If(plane_end):
                m.d.sync += lane.eq(Mux(lane_end, 0, lane + 1))
            with m.If(lane_end):
                m.d.sync += group.eq(Mux(row_end, 0, group + 1))
            with m.If(row_end):
                m.d.sync += emitting.eq(0)
        with m.If(self.results_valid):
            m.d.sync += [held.eq(self.results), emitting.eq(1)]

        # Trackers: one follows the rows of the array, the other its columns.
        pixel_layout = data.StructLayout({"index": 24, "address": ADDRESS_WIDTH})
        channel_layout = data.StructLayout({"index": 16, "chunk": 16, "byte": 6, "word": 16,
                                            "lane": range(max(2, lanes))})
        pixel, pixel_start, pixel_next, pixel_first = (
            Signal(pixel_layout, name=f"pixel{s}") for s in ("", "_start", "_next", "_first"))
        channel, channel_start, channel_next, channel_first = (
            Signal(channel_layout, name=f"channel{s}") for s in ("", "_start", "_next", "_first"))
        m.d.comb += [
            pixel_first.address.eq(self.out_base),
            channel_first.byte.eq(self.out_byte), channel_first.word.eq(self.parameter_base),
            pixel_next.index.eq(pixel.index + 1),
            pixel_next.address.eq(pixel.address + self.out_step),
        ]
        step = Mux(self.swap, 1, lanes)
        wraps = channel.byte + step == word_bytes
        next_word = ~self.swap | (channel.lane == lanes - 1)
        m.d.comb += [
            channel_next.index.eq(channel.index + step),
            channel_next.byte.eq(Mux(wraps, 0, channel.byte + step)),
            channel_next.chunk.eq(channel.chunk + wraps),
            channel_next.word.eq(channel.word + next_word),
            channel_next.lane.eq(Mux(next_word, 0, channel.lane + 1)),
        ]
        row = Signal(range(rows))
        inner = Signal(16)
        tile_end = Signal()
        inner_end = Signal()
        m.d.comb += [tile_end.eq(row_end & (row == rows - 1)),
                     inner_end.eq(inner + 1 == self.inner_count)]
        with m.If(row_end):
            m.d.sync += row.eq(Mux(tile_end, 0, row + 1))
        with m.If(tile_end):
            m.d.sync += inner.eq(Mux(inner_end, 0, inner + 1))
        for swap, by_row, by_column, column_step in (
                (0, (pixel, pixel_next, pixel_first, pixel_start),
                 (channel, channel_next, channel_first, channel_start), lane_end),
                (1, (channel, channel_next, channel_first, channel_start),
                 (pixel, pixel_next, pixel_first, pixel_start), plane_end)):
            with m.If(self.swap == swap):
                here, following, first, _ = by_row
                with m.If(tile_end & inner_end):
                    m.d.sync += here.eq(first)
                with m.Elif(row_end):
                    m.d.sync += here.eq(following)
                here, following, _, start = by_column
                with m.If(tile_end & inner_end):
                    m.d.sync += [here.eq(following), start.eq(following)]
                with m.Elif(row_end):
                    m.d.sync += here.eq(start)
                with m.Elif(column_step):
                    m.d.sync += here.eq(following)
        with m.If(self.start):
            m.d.sync += [pixel.eq(pixel_first), pixel_start.eq(pixel_first), row.eq(0),
                         channel.eq(channel_first), channel_start.eq(channel_first), inner.eq(0)]

        # One register between the trackers and what follows.
        plane_address = Signal(ADDRESS_WIDTH)
        m.d.sync += plane_address.eq(Mux(plane_end, 0, plane_address + self.plane_step))
        with m.If(self.start):
            m.d.sync += plane_address.eq(0)
        with m.If(~emitting):
            m.d.sync += plane_address.eq(0)
        mask = Cat(channel.index + k < self.n_channels for k in range(lanes))
        m.d.sync += [
            self.valid.eq(emitting & (pixel.index < self.n_pixels)),
            self.destination.address.eq(pixel.address + channel.chunk + plane_address),
            self.destination.byte.eq(channel.byte), self.destination.mask.eq(mask),
            self.destination.single.eq(self.swap), self.destination.lane.eq(lane),
            self.parameter.eq(channel.word), self.parameter_lane.eq(channel.lane),
            self.plane.eq(plane),
        ]
        groups = Array([Cat(held[g * lanes + k] for k in range(lanes)) for g in range(n_groups)])
        m.d.sync += self.sums.as_value().eq(groups[group] if n_groups > 1 else groups[0])
        return m

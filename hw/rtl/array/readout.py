"""Readout: empties the array tile by tile, finds each result's channel, pixel and address.

The array gives a row of results per pop: one pixel, its columns being channels. ``lanes``
neighbouring channels leave per cycle. Raw 32-bit sums (``wide``) leave as four byte planes, one
after the other. Nothing behind the array ever waits, so the pops of a tile follow each other at a
distance that is known (`hw.rtl.array.sequencer` counts on it).
"""

from types import SimpleNamespace

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FIELDS, Format
from hw.rtl.array.array import ACCUMULATOR_WIDTH
from hw.rtl.array.sequencer import tile_layout
from hw.rtl.common.pipeline import delayed
from hw.rtl.lanes.ports import array_item_layout

__all__ = ["BYTES_PER_SUM", "CONFIG_LAYOUT", "Readout"]

BYTES_PER_SUM = ACCUMULATOR_WIDTH // 8
_CONFIG = ("gemmlowp", "wide", "zero_point", "low", "high", "out_base", "out_bank", "out_step",
           "parameter_base", "n_channels", "first_channel", "n_pixels", "plane_step",
           "out_x_count", "out_line_step")

#: The instruction fields that the results of a product need.
CONFIG_LAYOUT = data.StructLayout({
    field.name: signed(field.width) if field.signed else field.width
    for field in FIELDS[Format.ARRAY] if field.name in _CONFIG})


class Readout(wiring.Component):
    """Pops the array after each ``last`` and emits groups of ``lanes`` sums.

    Members
    -------
    config, config_load, config_free : an instruction's fields; taken when the ones before have
        come into use, kept until its first results arrive.
    last, tile : as given to the array. pop, row, row_place, results, results_valid : to and from
        the array.
    items : stream of array_item_layout, always ready; an item is one group of sums.
    """

    def __init__(self, *, target, array):
        self.target = target
        self.result_latency = array.result_latency
        self.pop_latency = array.pop_latency
        self.groups_max = target.columns // target.lanes
        super().__init__({
            "config": In(CONFIG_LAYOUT), "config_load": In(1), "config_free": Out(1),
            "abort": In(1),
            "last": In(1), "tile": In(tile_layout(target, array.n_tiles)),
            "pop": Out(1), "row": Out(range(target.rows)), "row_place": Out(range(array.n_tiles)),
            "results": In(data.ArrayLayout(signed(ACCUMULATOR_WIDTH), target.columns)),
            "results_valid": In(1),
            "items": Out(stream.Signature(array_item_layout(target), always_ready=True)),
        })

    def _pop_rows(self, m) -> tuple:
        """Pop every row, each as long after the one before as it takes to emit it.

        Returns the tile that the arriving row belongs to, whether it is the tile's last row, and
        whether a row arrives that is the first one of an instruction.
        """
        tile_shape = self.tile.shape()
        # A cycle ahead, as long as the pop takes to its register.
        ready = delayed(m, self.last & ~self.abort, self.result_latency - 2, "last")
        tile = Signal(tile_shape)
        arrived = delayed(m, self.tile, self.result_latency - 2, "tile")
        row = Signal(range(self.target.rows))
        wait = Signal(range(self.groups_max * BYTES_PER_SUM + 1))
        popping = Signal()
        row_last = Signal()
        spacing = Signal.like(wait)
        m.d.comb += spacing.eq(Mux(tile.wide, tile.groups << 2,
                                   Mux(tile.groups > 2, tile.groups, 2)))
        pop = Signal()
        m.d.sync += [self.pop.eq(pop & ~self.abort), self.row.eq(row),
                     self.row_place.eq(tile.place)]
        m.d.comb += [pop.eq(popping & (wait == 0)),
                     row_last.eq(row == self.target.rows - 1)]
        with m.If(popping):
            with m.If(wait + 1 == spacing):
                m.d.sync += [wait.eq(0), row.eq(row + 1)]
                with m.If(row_last):
                    m.d.sync += popping.eq(0)
            with m.Else():
                m.d.sync += wait.eq(wait + 1)
        with m.If(ready):
            m.d.sync += [popping.eq(1), row.eq(0), wait.eq(0), tile.eq(arrived)]
        with m.If(self.abort):
            m.d.sync += popping.eq(0)
        latency = 1 + self.pop_latency
        return (delayed(m, tile, latency, "popped_tile"),
                delayed(m, row_last, latency, "popped_last"),
                delayed(m, pop & tile.begins & (row == 0), latency, "begins"))

    def elaborate(self, platform) -> Module:
        m = Module()
        popped_tile, popped_last, begins = self._pop_rows(m)
        waiting, c = (Signal(CONFIG_LAYOUT, name=n, reset_less=True) for n in ("waiting", "c"))
        waits = Signal()
        m.d.comb += self.config_free.eq(~waits)
        row = self._hold_row(m, popped_tile, popped_last)
        place = self._place_row(m, row, waiting, c, begins)
        with m.If(begins):
            m.d.sync += [c.eq(waiting), waits.eq(0)]
        with m.If(self.config_load):
            m.d.sync += [waiting.eq(self.config), waits.eq(1)]
        with m.If(self.abort):
            m.d.sync += [waits.eq(0), *(flag.eq(0) for flag in (
                row.emitting, row.plane_end, row.row_end, row.tile_end, row.pixels_end))]
        self._emit(m, row, place, c)
        return m

    def _hold_row(self, m, popped_tile, popped_last) -> SimpleNamespace:
        """A popped row stays here while its groups and planes leave.

        Returns its sums and tile, and what is emitted in this cycle: group, plane, and whether
        that ends a sum, its row, tile and pixels: known before it is emitted.
        """
        held = Signal(self.results.shape(), name="held", reset_less=True)
        tile = Signal(self.tile.shape(), name="tile")
        emitting = Signal()
        group = Signal(range(max(2, self.groups_max)))
        group_of_lane = [Signal.like(group, name=f"group_{k}", attrs={"keep": 1})
                         for k in range(self.target.lanes)]  # copies, each for one lane's sum
        plane = Signal(range(BYTES_PER_SUM))
        plane_end, row_end, tile_end, pixels_end = (
            Signal(name=f"{n}_end") for n in ("plane", "row", "tile", "pixels"))
        group_last, row_last, pixels_last = (
            Signal(name=f"{n}_last") for n in ("group", "row", "pixels"))
        next_plane_last, next_group_last = Signal(), Signal()
        with m.If(self.results_valid):
            m.d.comb += [next_plane_last.eq(~popped_tile.wide),
                         next_group_last.eq(popped_tile.groups == 1)]
            m.d.sync += [row_last.eq(popped_last),
                         pixels_last.eq(popped_last & popped_tile.row_ends)]
        with m.Else():
            m.d.comb += [next_plane_last.eq(~tile.wide | (plane == BYTES_PER_SUM - 2)),
                         next_group_last.eq(Mux(plane_end, group + 2 == tile.groups, group_last))]
        go_on = self.results_valid | (emitting & ~row_end)
        next_row_end = go_on & next_plane_last & next_group_last
        m.d.sync += [
            emitting.eq(go_on), group_last.eq(next_group_last),
            plane_end.eq(go_on & next_plane_last), row_end.eq(next_row_end),
            tile_end.eq(next_row_end & Mux(self.results_valid, popped_last, row_last)),
            pixels_end.eq(next_row_end & Mux(
                self.results_valid, popped_last & popped_tile.row_ends, pixels_last)),
        ]
        with m.If(emitting):
            m.d.sync += plane.eq(Mux(plane_end, 0, plane + 1))
        with m.If(plane_end):
            m.d.sync += [mine.eq(mine + 1) for mine in (group, *group_of_lane)]
        with m.If(self.results_valid):
            m.d.sync += [held.eq(self.results), tile.eq(popped_tile), group.eq(0), plane.eq(0),
                         *(mine.eq(0) for mine in group_of_lane)]
        return SimpleNamespace(
            held=held, tile=tile, emitting=emitting, group=group, group_of_lane=group_of_lane,
            plane=plane, plane_end=plane_end, row_end=row_end, tile_end=tile_end,
            pixels_end=pixels_end)

    def _place_row(self, m, row, waiting, c, begins) -> SimpleNamespace:
        """Where the row in hand goes: its pixel, and the channel tile.

        waiting, c : the fields of the next instruction and of the present one.
        """
        columns = self.target.columns
        pixel_layout = data.StructLayout({"index": 24, "address": 16, "x_left": 16,
                                          "x_last": 1})
        pixel, tile_pixel, following, first = (
            Signal(pixel_layout, name=n)
            for n in ("pixel", "tile_pixel", "following_pixel", "first_pixel"))
        channel, chunk, parameter = (Signal(16, name=n) for n in ("channel", "chunk", "parameter"))
        waiting_single, single = Signal(), Signal()  # lines of one pixel
        m.d.sync += waiting_single.eq(waiting.out_x_count == 1)
        m.d.comb += [
            first.address.eq(waiting.out_base), first.x_left.eq(waiting.out_x_count),
            first.x_last.eq(waiting_single), following.index.eq(pixel.index + 1),
            following.address.eq(pixel.address + Mux(pixel.x_last, c.out_line_step, c.out_step)),
            following.x_left.eq(Mux(pixel.x_last, c.out_x_count, pixel.x_left - 1)),
            following.x_last.eq(Mux(pixel.x_last, single, pixel.x_left == 2)),
        ]
        with m.If(row.pixels_end):
            m.d.sync += [pixel.eq(following), tile_pixel.eq(following), channel.eq(0),
                         chunk.eq(0), parameter.eq(c.parameter_base)]
        with m.Elif(row.tile_end):
            m.d.sync += [pixel.eq(tile_pixel), channel.eq(channel + columns),
                         chunk.eq(chunk + 1), parameter.eq(parameter + self.groups_max)]
        with m.Elif(row.row_end):
            m.d.sync += pixel.eq(following)
        with m.If(begins):
            m.d.sync += [single.eq(waiting_single), pixel.eq(first), tile_pixel.eq(first),
                         channel.eq(0), chunk.eq(0), parameter.eq(waiting.parameter_base)]
        return SimpleNamespace(pixel=pixel, channel=channel, chunk=chunk, parameter=parameter)

    def _emit(self, m, row, place, c) -> None:
        """The item of this cycle, in two stages: choose and add, then compare."""
        lanes, held, group = self.target.lanes, row.held, row.group
        plane_address = Signal(16)
        m.d.sync += plane_address.eq(
            Mux(row.plane_end | ~row.emitting, 0, plane_address + c.plane_step))
        chosen = [Array(held[g * lanes + k] for g in range(self.groups_max))[
            row.group_of_lane[k] if self.groups_max > 1 else 0] for k in range(lanes)]
        shapes = {name: field.shape for name, field in self.items.payload.shape()}
        item = Signal(data.StructLayout(shapes | {"group": group.shape()}), name="item")
        sums = Signal(item.sums.shape(), reset_less=True)
        in_image, valid, ends = Signal(), Signal(), Signal()
        lane_channel, address = Signal(16), Signal(16)
        late = Signal(data.StructLayout({"group": group.shape(), "plane": row.plane.shape(),
                                         "parameter": 16, "progress": 16}))
        m.d.sync += [
            *(mine.eq(value) for mine, value in zip(sums, chosen)),
            valid.eq(row.emitting), in_image.eq(place.pixel.index < c.n_pixels),
            lane_channel.eq(place.channel + group * lanes),
            address.eq(place.pixel.address + place.chunk + plane_address),
            late.group.eq(group), late.plane.eq(row.plane),
            late.parameter.eq(place.parameter + group),
            late.progress.eq(Mux(row.pixels_end, self.target.rows, 0)),
            ends.eq(row.pixels_end & row.tile.ends),
        ]
        # The next instruction's first row may take over ``c`` while the last group is here.
        late_c = Signal(CONFIG_LAYOUT, reset_less=True)
        m.d.sync += late_c.eq(c)
        mask = Cat((lane_channel + k < late_c.n_channels)
                   & (lane_channel + k >= late_c.first_channel) for k in range(lanes))
        m.d.sync += [
            item.sums.eq(sums), self.items.valid.eq(valid), item.address.eq(address),
            item.bank.eq(late_c.out_bank), item.mask.eq(Mux(in_image, mask, 0)),
            item.group.eq(late.group), item.plane.eq(late.plane),
            item.parameter.eq(late.parameter), item.progress.eq(late.progress),
            item.instruction_end.eq(ends), item.wide.eq(late_c.wide),
            item.gemmlowp.eq(late_c.gemmlowp), item.zero_point.eq(late_c.zero_point),
            item.low.eq(late_c.low), item.high.eq(late_c.high),
        ]
        m.d.comb += [self.items.payload[name].eq(item[name]) for name in shapes]

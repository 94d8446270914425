"""StepWalker: the loops over the input, one step per word that is used, and its reads.

The loops run ahead of what is computed by up to DEPTH steps. Each step leaves a tag, in order, that
says what to do with it; most also read a word, which arrives some time later.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.loops import Countdown, Level
from hw.rtl.common.stream import SkidBuffer, SmallFIFO
from hw.rtl.vector.geometry import GEOMETRY_LAYOUT

__all__ = ["DEPTH", "StepWalker", "tag_layout"]

#: Steps between their beginning here and their use; more than the latency of a read.
DEPTH = 16
_POSITION_WIDTH = 21  # columns or rows, signed: 2^16 positions of 15, a kernel of 255 times 15
_UNIT_LATENCY = 4  # cycles until unit_ready is right, and one as unit_next is registered
_REQUEST_LAYOUT = data.StructLayout({"bank": 2, "address": 16})


def tag_layout(word_bytes) -> data.StructLayout:
    """What to do with a step."""
    return data.StructLayout({
        "takes": 1,  # it needs the next word that was read; padding otherwise
        "drops": 1,  # it is the last one to need that word
        "first": 1,  # of the steps that add up to a result
        "emits": 1,  # the last of these, and the result is wanted (not of pairs)
        "frees": 1,  # the weights are not needed again
        "pair": range(max(2, word_bytes // 2)),  # LINEAR: which bytes of the word
    })


class StepWalker(wiring.Component):
    """Walks over the input of an instruction.

    Members
    -------
    geometry, x_bank, y_bank, width, height : the instruction.
    load : begin, a pulse; the geometry is stable since the cycle before. A step must have been
        used, ``used``, for each one beyond DEPTH.
    chases, unit_ready, unit_next : where it chases, the first step of a line waits for
        ``unit_ready``.
    requests : addresses to read, one for each tag that is the first to take a word.
    tags : tag_layout.
    """

    def __init__(self, word_bytes):
        self.word_bytes = word_bytes
        super().__init__({
            "geometry": In(GEOMETRY_LAYOUT), "x_bank": In(2), "y_bank": In(2), "width": In(16),
            "height": In(16), "load": In(1), "chases": In(1), "unit_ready": In(1),
            "unit_next": Out(1), "used": In(1), "requests": Out(stream.Signature(_REQUEST_LAYOUT)),
            "tags": Out(stream.Signature(tag_layout(word_bytes)))})

    def _loops(self, m):
        """Stage 1: the counters. Returns the registered event of a step."""
        g = self.geometry
        rows, columns = (Countdown(m, "row", g.kernel_height), Countdown(m, "column",
                                                                         g.kernel_width))
        positions, chunks, lines = (Countdown(m, "position", g.n_positions),
                                    Countdown(m, "chunk", g.n_chunks),
                                    Countdown(m, "line", g.n_lines))
        pair_last = max(1, self.word_bytes // 2) - 1
        running, line_first, tap_first = Signal(), Signal(), Signal()
        skip, emits = Signal(4), Signal()  # emits: none are left to skip
        pair = Signal(range(max(2, self.word_bytes // 2)))
        hold = Signal(range(_UNIT_LATENCY + 1))
        unit_open = Signal()
        go, used = Signal(), Signal()
        under_way = Level(m, "under_way", DEPTH, go, used)
        m.d.comb += go.eq(running & under_way.room & (~line_first | unit_open))
        m.d.sync += [used.eq(self.used), self.unit_next.eq(go & line_first),
                     unit_open.eq(~self.chases | (self.unit_ready & (hold == 0)))]
        with m.If(go & line_first):
            m.d.sync += [hold.eq(_UNIT_LATENCY), unit_open.eq(~self.chases)]
        with m.Elif(hold != 0):
            m.d.sync += hold.eq(hold - 1)

        tap_end, position_end, chunk_end, line_end = (
            Signal(name=f"{name}_end") for name in ("tap", "position", "chunk", "line"))
        m.d.comb += [
            position_end.eq(tap_end & emits & positions.last),
            line_end.eq(position_end & chunks.last)]
        m.d.sync += tap_end.eq(columns.next_last(go) & rows.next_last(go & columns.last))
        with m.If(go):
            m.d.sync += [tap_first.eq(tap_end), line_first.eq(line_end),
                         pair.eq(Mux(tap_end | (pair == pair_last), 0, pair + 1))]
            columns.step()
            with m.If(columns.last):
                rows.step()
            with m.If(tap_end):
                following = Mux(position_end, g.skip_first, Mux(emits, g.skip, skip - 1))
                m.d.sync += [skip.eq(following), emits.eq(following == 0)]
            with m.If(tap_end & emits):
                positions.step()
            with m.If(position_end):
                chunks.step()
            with m.If(line_end):
                lines.step()
                with m.If(lines.last):
                    m.d.sync += running.eq(0)
        with m.If(self.load):
            for counter in (rows, columns, positions, chunks, lines):
                m.d.sync += counter.load()
            m.d.sync += [tap_end.eq(columns.single & rows.single),
                         running.eq(1), line_first.eq(1), tap_first.eq(1), pair.eq(0),
                         skip.eq(g.skip_first), emits.eq(g.skip_first == 0)]

        event = Signal(data.StructLayout({
            "valid": 1, "row_ends": 1, "tap_ends": 1, "chunk_ends": 1, "line_ends": 1,
            "word_begins": 1, "stays": 1, "second": 1, "tag": tag_layout(self.word_bytes)}))
        word_ends = tap_end | (pair == pair_last)
        m.d.sync += [
            event.valid.eq(go), event.row_ends.eq(columns.last), event.tap_ends.eq(tap_end),
            event.chunk_ends.eq(position_end), event.line_ends.eq(line_end),
            event.word_begins.eq(~g.is_linear | (pair == 0)),
            event.stays.eq(g.is_linear & ~word_ends), event.second.eq(g.is_pair & ~tap_first),
            event.tag.drops.eq(~g.is_linear | word_ends), event.tag.first.eq(tap_first),
            event.tag.emits.eq(tap_end & emits & ~g.is_pair),
            event.tag.frees.eq(g.has_weights & ~g.keeps_weights
                               & (~g.is_depthwise | position_end)),
            event.tag.pair.eq(pair)]
        return event

    def _positions(self, m, event):
        """Stage 2: address, column and row of the step, moved on by its event."""
        g = self.geometry
        levels = ("line", "chunk", "position", "row", "address")
        bases = {name: Signal(16, name=f"{name}_address") for name in levels}
        column, column_base = Signal(signed(_POSITION_WIDTH)), Signal(signed(_POSITION_WIDTH))
        row, row_base = Signal(signed(_POSITION_WIDTH)), Signal(signed(_POSITION_WIDTH))
        tap_step = Signal(16)  # of a second input that all lines share, it moves back

        def move(level, step):
            """The next address of a level goes to all levels inside too."""
            following = bases[level] + step
            return [bases[name].eq(following) for name in levels[levels.index(level):]]

        with m.If(event.valid & ~event.stays):
            with m.If(event.line_ends):
                m.d.sync += [*move("line", g.line_step), tap_step.eq(tap_step - g.tap_back_step)]
            with m.Elif(event.chunk_ends):
                m.d.sync += move("chunk", g.chunk_step)
            with m.Elif(event.tap_ends):
                m.d.sync += move("position", g.position_step)
            with m.Elif(event.row_ends):
                m.d.sync += move("row", g.tap_y_step)
            with m.Else():
                m.d.sync += move("address", tap_step)
        with m.If(event.valid):
            with m.If(event.chunk_ends):
                m.d.sync += [column.eq(g.left), column_base.eq(g.left)]
            with m.Elif(event.tap_ends):
                m.d.sync += [column.eq(column_base + g.column_step),
                             column_base.eq(column_base + g.column_step)]
            with m.Elif(event.row_ends):
                m.d.sync += column.eq(column_base)
            with m.Else():
                m.d.sync += column.eq(column + g.tap_columns)
            with m.If(event.line_ends):
                m.d.sync += [row.eq(row_base + g.row_step), row_base.eq(row_base + g.row_step)]
            with m.Elif(event.tap_ends):
                m.d.sync += row.eq(row_base)
            with m.Elif(event.row_ends):
                m.d.sync += row.eq(row + g.tap_rows)
        with m.If(self.load):
            m.d.sync += [*(base.eq(g.origin) for base in bases.values()),
                         tap_step.eq(g.tap_x_step),
                         column.eq(g.left), column_base.eq(g.left), row.eq(g.top),
                         row_base.eq(g.top)]
        return bases["address"], column, row

    def elaborate(self, platform) -> Module:
        m = Module()
        g = self.geometry
        event = self._loops(m)
        address, column, row = self._positions(m, event)
        # Stage 3: is it inside? Stage 4: into the queues, which have room for all under way.
        step = Signal.like(event)
        step_address = Signal(16, reset_less=True)
        step_column, step_row = Signal.like(column), Signal.like(row)
        m.d.sync += [step.eq(event), step_address.eq(address), step_column.eq(column),
                     step_row.eq(row)]
        inside = Signal()
        # Negative ones are large without their sign.
        m.d.comb += inside.eq(~g.is_bounded | ((step_column.as_unsigned() < self.width)
                                               & (step_row.as_unsigned() < self.height)))
        m.submodules.requests = requests = SmallFIFO(_REQUEST_LAYOUT, DEPTH)
        m.submodules.tags = tags = SmallFIFO(self.tags.payload.shape(), DEPTH)
        m.d.sync += [
            tags.i.valid.eq(step.valid), tags.i.payload.eq(step.tag),
            tags.i.payload.takes.eq(inside), tags.i.payload.drops.eq(inside & step.tag.drops),
            requests.i.valid.eq(step.valid & step.word_begins & inside),
            requests.i.payload.address.eq(step_address),
            requests.i.payload.bank.eq(Mux(step.second, self.y_bank, self.x_bank))]
        wiring.connect(m, requests.o, wiring.flipped(self.requests))
        # Whether a tag is used is known late in the cycle: the queue must not hang on it.
        m.submodules.tag_buffer = buffer = SkidBuffer(self.tags.payload.shape())
        wiring.connect(m, tags.o, buffer.i)
        wiring.connect(m, buffer.o, wiring.flipped(self.tags))
        return m

"""WeightStore: reads the weights ahead of their use and keeps them in three small memories.

Memory k gives the operand of multiplier k, one word of channels:

DEPTHWISE  column k of the kernel; four chunks of weights, four places (three rows) each
WINDOW     memory 2 has the taps in the order of their use, 16 of them
LINEAR     memory 2 has the words of even inputs, memory 1 those of odd ones, 16 of each
LOOKUP     memory 2 has the next words of the table, on their way into the lookup's own memories
"""

from amaranth.hdl import Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.isa import DEPTHWISE_KERNEL
from hw.rtl.common.loops import Countdown, LateLevel, Level
from hw.rtl.common.pipeline import own_copy
from hw.rtl.common.stream import SmallFIFO
from hw.rtl.memory.crossbar import Read
from hw.rtl.memory.scratchpad import word_layout
from hw.rtl.vector.geometry import GEOMETRY_LAYOUT

__all__ = ["N_MULTIPLIERS", "WeightStore"]

N_MULTIPLIERS = 3
_DEPTH = 16
_N_CHUNKS = 4
_GROUP = 32  # bits of an operand that one register can reach


class WeightStore(wiring.Component):
    """The weights of an instruction, in the order of their use.

    Members
    -------
    geometry, base, bank : the instruction.
    load : begin, a pulse; the geometry is stable since the cycle before.
    w : port of the crossbar; the first word of a response is the addressed one.
    arrived : the next word, or chunk of them, is here.
    available : so are the next step's weights, or it needs none.
    row : of the kernel, of the step that is taken (DEPTHWISE). frees : it is taken, and its
        weights are not needed again. weights : operands of the three multipliers, LATENCY cycles
        later; those of multipliers that the operation does not use are 0.
    """

    LATENCY = 2

    def __init__(self, word_bytes):
        self.word = word_layout(word_bytes)
        super().__init__({
            "geometry": In(GEOMETRY_LAYOUT), "base": In(16), "bank": In(2),
            "load": In(1), "w": Out(Read(data.ArrayLayout(self.word, 2))),
            "arrived": Out(1), "available": Out(1),
            "row": In(range(DEPTHWISE_KERNEL)), "frees": In(1),
            "weights": Out(data.ArrayLayout(self.word, N_MULTIPLIERS))})

    def _requests(self, m, freed):
        """The loops: which address to read next, as long as there is room for it."""
        g = self.geometry
        columns, rows, positions, chunks, lines = counters = [
            Countdown(m, name, g[f"weight_{name}"])
            for name in ("columns", "rows", "positions", "chunks", "lines")]
        m.submodules.queue = queue = SmallFIFO(16, _DEPTH)
        running, takes_room, go, taken = Signal(), Signal(), Signal(), Signal()
        is_depthwise = own_copy(m, g.is_depthwise, "requests_depthwise")
        # Room is counted in chunks of weights for DEPTHWISE, otherwise in responses.
        free = Level(m, "free", _DEPTH, freed, go & takes_room)
        queued = Level(m, "queued", _DEPTH, go, taken)
        m.d.comb += go.eq(running & queued.room & (free.any | ~takes_room))
        taps_end, chunk_end, line_end = (
            Signal(name=f"{name}_end") for name in ("taps", "chunk", "line"))
        m.d.comb += [chunk_end.eq(taps_end & positions.last),
                     line_end.eq(chunk_end & chunks.last)]
        m.d.sync += taps_end.eq(columns.next_last(go) & rows.next_last(go & columns.last))
        with m.If(go):
            m.d.sync += takes_room.eq(~is_depthwise | taps_end)
            columns.step()
            with m.If(columns.last):
                rows.step()
            with m.If(taps_end):
                positions.step()
            with m.If(chunk_end):
                chunks.step()
            with m.If(line_end):
                lines.step()
                with m.If(lines.last):
                    m.d.sync += running.eq(0)

        # The address of the event of a request, and after it.
        event = Signal(data.StructLayout({
            "valid": 1, "taps_ends": 1, "chunk_ends": 1, "line_ends": 1}))
        m.d.sync += [event.valid.eq(go), event.taps_ends.eq(taps_end),
                     event.chunk_ends.eq(chunk_end), event.line_ends.eq(line_end)]
        address, chunk_address, following = Signal(16), Signal(16), Signal(16)
        m.d.comb += following.eq(address + Mux(g.is_linear, 2, 1))
        with m.If(event.valid):
            m.d.sync += address.eq(following)
            with m.If(event.line_ends):
                m.d.sync += [address.eq(self.base), chunk_address.eq(self.base)]
            with m.Elif(event.chunk_ends):
                m.d.sync += chunk_address.eq(following)
            with m.Elif(event.taps_ends):
                m.d.sync += address.eq(chunk_address)
        with m.If(self.load):
            for counter in counters:
                m.d.sync += counter.load()
            m.d.sync += [taps_end.eq(columns.single & rows.single),
                         running.eq(g.has_weights), takes_room.eq(1), free.any.eq(1),
                         free.count.eq(Mux(g.is_depthwise, _N_CHUNKS, _DEPTH)),
                         address.eq(self.base), chunk_address.eq(self.base)]
        m.d.sync += taken.eq(self.w.valid & self.w.ready)
        m.d.comb += [queue.i.valid.eq(event.valid), queue.i.payload.eq(address),
                     self.w.valid.eq(queue.o.valid), queue.o.ready.eq(self.w.ready),
                     self.w.address.eq(queue.o.payload), self.w.bank.eq(self.bank)]

    def _responses(self, m, memories):
        """Into the memories, in order. Returns: one more unit of room is filled."""
        g = self.geometry
        here, arrived, filled = self.w.response_valid, Signal(), Signal()
        words = Signal(data.ArrayLayout(self.word, 2), reset_less=True)
        column, row = Signal(range(DEPTHWISE_KERNEL)), Signal(range(DEPTHWISE_KERNEL))
        place = Signal(range(_DEPTH))
        is_last = Signal()
        first_word, second_word = self.w.data
        is_linear = own_copy(m, g.is_linear, "responses_linear")
        m.d.sync += [arrived.eq(here & is_last), filled.eq(arrived), words[0].eq(first_word),
                     words[1].eq(Mux(is_linear, second_word, first_word))]
        m.d.comb += is_last.eq(~g.is_depthwise | ((column == DEPTHWISE_KERNEL - 1)
                                                  & (row == DEPTHWISE_KERNEL - 1)))
        with m.If(here):
            m.d.sync += [place.eq(place + is_last),
                         column.eq(Mux(column == DEPTHWISE_KERNEL - 1, 0, column + 1))]
            with m.If(column == DEPTHWISE_KERNEL - 1):
                m.d.sync += row.eq(Mux(row == DEPTHWISE_KERNEL - 1, 0, row + 1))
        for k, cells in enumerate(memories):
            write = cells.write_port()
            is_depthwise = own_copy(m, g.is_depthwise, f"write_depthwise_{k}")
            enable = Signal(name=f"write_enable_{k}")
            address = Signal(range(_DEPTH), name=f"write_address_{k}", reset_less=True)
            m.d.sync += [enable.eq(here & (~is_depthwise | (column == k))),
                         address.eq(Mux(is_depthwise, Cat(row, place[:2]), place))]
            m.d.comb += [write.en.eq(enable), write.addr.eq(address),
                         write.data.eq(words[k == 1].as_value())]
        return filled

    def elaborate(self, platform) -> Module:
        m = Module()
        g = self.geometry
        is_depthwise = own_copy(m, g.is_depthwise, "is_depthwise")
        memories = []
        for k in range(N_MULTIPLIERS):
            cells = Memory(shape=self.word.size, depth=_DEPTH, init=[])
            m.submodules[f"memory_{k}"] = cells
            memories.append(cells)
        freed = Signal()
        m.d.sync += freed.eq(self.frees)
        self._requests(m, freed)
        here = LateLevel(m, "here", _DEPTH, self._responses(m, memories), self.frees)
        needs_none = own_copy(m, ~g.is_product, "needs_none")
        m.d.comb += [self.arrived.eq(here.any), self.available.eq(here.any | needs_none)]

        place = Signal(range(_DEPTH))
        address = Signal(range(_DEPTH))
        m.d.sync += [place.eq(place + self.frees),
                     address.eq(Mux(is_depthwise, Cat(self.row, place[:2]), place))]
        for k, (cells, operand, used) in enumerate(zip(memories, self.weights, (
                g.is_depthwise, g.is_depthwise | g.is_linear, 1))):
            read = cells.read_port(domain="comb")
            m.d.comb += read.addr.eq(address)
            held = Signal(self.word.size, name=f"operand_{k}", reset_less=True)
            for first in range(0, self.word.size, _GROUP):  # the word lies all over the device
                uses = own_copy(m, used, f"uses_{k}_{first}")
                part = slice(first, first + _GROUP)
                m.d.sync += held[part].eq(Mux(uses, read.data[part], 0))
            m.d.comb += operand.eq(held)
        return m

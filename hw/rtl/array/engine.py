"""ArrayEngine: sequencer, walkers, feeders, array and readout; runs MATMUL instructions.

    sequencer -> walker a, walker b -> crossbar -> feeders -> array -> readout -> lanes
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.isa import Engine, Format
from hw.rtl.array.array import MacArray
from hw.rtl.array.feeder import Feeder
from hw.rtl.array.readout import CONFIG_LAYOUT, Readout
from hw.rtl.array.sequencer import ArraySequencer
from hw.rtl.array.walker import WALKER_LAYOUT, AddressWalker
from hw.rtl.common.pipeline import delayed, own_copy, registered
from hw.rtl.control.ports import ArrayActivity, EngineControl
from hw.rtl.control.slot import instruction_fields
from hw.rtl.lanes.ports import array_item_layout
from hw.rtl.memory.crossbar import ArrayRead, Crossbar

__all__ = ["WORD_LATENCY", "ArrayEngine"]

#: Cycles from a slot to its word at the feeders: walker, crossbar, a register before and after.
WORD_LATENCY = AddressWalker.LATENCY + Crossbar.READ_LATENCY + 2


class ArrayEngine(wiring.Component):
    """The engine of products.

    Members
    -------
    control : EngineControl; a unit of the chase is a row of tiles.
    a, b : crossbar ports of the rows, byte addresses, and of the columns, word addresses.
    items : stream of array_item_layout, always ready: what the readout emits, for the lanes.
    activity : ArrayActivity.
    """

    def __init__(self, target):
        self.target = target
        self.array = MacArray(rows=target.rows, columns=target.columns,
                              multiplier=target.multiplier, packed=target.packed)
        # The sequencer keeps the readout's turns apart, but does not know of the memory behind.
        assert self.array.hold_latency >= self.array.result_latency - self.array.POP_SPACING
        super().__init__({
            "control": In(EngineControl(Engine.ARRAY)), "activity": Out(ArrayActivity()),
            "a": Out(ArrayRead(target.word_bytes)), "b": Out(ArrayRead(target.word_bytes)),
            "items": Out(stream.Signature(array_item_layout(target), always_ready=True))})

    def elaborate(self, platform) -> Module:
        m = Module()
        target = self.target
        f = instruction_fields(self.control.words, format_=Format.ARRAY)
        m.submodules.sequencer = sequencer = ArraySequencer(target, self.array.n_tiles)
        m.submodules.array = array = self.array
        m.submodules.readout = readout = Readout(target=target, array=array)
        connect(m, flipped(self.control), sequencer.control)
        connect(m, sequencer.activity, flipped(self.activity))
        connect(m, readout.items, flipped(self.items))
        slot = delayed(m, sequencer.slot, WORD_LATENCY, "slot")
        start = delayed(m, sequencer.period_start, WORD_LATENCY, "period_start")
        for port, bus, step, is_direct, entry in (
                ("a", self.a, sequencer.step_a, sequencer.a_direct, array.a),
                ("b", self.b, sequencer.step_b, sequencer.b_direct, array.b)):
            feeder = self._feed(m, f, port, bus, step, entry)
            direct = delayed(m, is_direct, WORD_LATENCY, f"{port}_direct")
            m.d.comb += [feeder.slot.eq(slot), feeder.start.eq(start), feeder.direct.eq(direct)]

        entry_latency = WORD_LATENCY + Feeder.LATENCY
        abort = self.control.abort
        last = delayed(m, sequencer.last & ~abort, entry_latency, "last")
        tile = delayed(m, sequencer.tile, entry_latency, "tile")
        m.d.comb += [
            array.first.eq(delayed(m, sequencer.first, entry_latency, "first")),
            array.last.eq(last), array.place.eq(tile.place), array.pop.eq(readout.pop),
            array.row.eq(readout.row), array.row_place.eq(readout.row_place),
            readout.last.eq(last), readout.abort.eq(own_copy(m, abort, "readout_abort")),
            readout.tile.eq(tile),
            readout.results.eq(array.results), readout.results_valid.eq(array.results_valid),
            readout.config_load.eq(sequencer.config_load),
            sequencer.config_free.eq(readout.config_free),
            *(readout.config[name].eq(f[name]) for name, _ in CONFIG_LAYOUT),
        ]
        return m

    def _feed(self, m, f, port, bus, step, entry) -> Feeder:
        """Walker, words and feeder of one port, "a" or "b". entry : its side of the array."""
        m.submodules[f"walker_{port}"] = walker = AddressWalker()
        m.submodules[f"feeder_{port}"] = feeder = Feeder(
            n_lanes=len(entry), word_bytes=self.target.columns)
        m.d.comb += [walker.step.eq(step),
                     *(walker.fields[name].eq(f[f"{port}_{name}"]) for name, _ in WALKER_LAYOUT)]
        word = self._fetch(m, port, bus, walker)
        m.d.comb += [feeder.word.eq(word), entry.eq(feeder.lanes)]
        return feeder

    def _fetch(self, m, port, bus, walker) -> data.View:
        """The word of each slot, padding put in, WORD_LATENCY cycles after the slot."""
        latency = Crossbar.READ_LATENCY + 1
        # What the crossbar decides about a request takes a cycle; the way there another.
        bank, address = registered(m, bus.bank), registered(m, bus.address)
        m.d.sync += [bus.valid.eq(walker.valid & walker.inside), bank.eq(walker.bank),
                     address.eq(walker.address)]
        inside = delayed(m, walker.inside, latency, f"{port}_inside")
        pad = delayed(m, walker.pad, latency, f"{port}_pad", reset_less=True)
        word = Signal(bus.data.shape(), name=f"{port}_word", reset_less=True)
        m.d.sync += word.as_value().eq(
            Mux(inside, bus.data.as_value(), pad[:8].replicate(self.target.columns)))
        return word

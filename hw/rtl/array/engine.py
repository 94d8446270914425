"""ArrayEngine: sequencer, walkers, feeders, array and readout; runs MATMUL instructions.

    sequencer -> walker a, walker b -> crossbar -> feeders -> array -> readout -> lanes
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FORMAT_WORDS, ErrorCode, Format
from hw.rtl.array.array import MacArray
from hw.rtl.array.feeder import Feeder
from hw.rtl.array.readout import CONFIG_LAYOUT, Readout
from hw.rtl.array.sequencer import ArraySequencer
from hw.rtl.array.walker import WALKER_LAYOUT, AddressWalker
from hw.rtl.common.pipeline import delayed
from hw.rtl.control.slot import instruction_fields
from hw.rtl.memory.crossbar import ArrayRead, Crossbar

__all__ = ["ArrayEngine"]

#: Cycles from a slot to its word at the feeders: walker, crossbar, one register.
WORD_LATENCY = AddressWalker.LATENCY + Crossbar.READ_LATENCY + 1


class ArrayEngine(wiring.Component):
    """The engine of products.

    Members
    -------
    words, start, done, unit_ready, unit_next, error, abort : as of an engine (hw.rtl.control.slot).
    a, b : crossbar ports of the rows, byte addresses, and of the columns, word addresses.
    item_... : what the readout emits, for the lanes.
    go, draining, chasing : what happens in this cycle, for the counters.
    """

    def __init__(self, target):
        self.target = target
        self.array = MacArray(rows=target.rows, columns=target.columns,
                              multiplier=target.multiplier, packed=target.packed)
        # The sequencer keeps the readout's turns apart, but does not know of the memory behind.
        assert self.array.hold_latency >= self.array.result_latency - self.array.POP_SPACING
        self.readout = Readout(target=target, array=self.array)
        self.items = ("valid", "sums", "bank", "address", "group", "mask", "parameter", "plane",
                      "progress", "instruction_end", "wide", "gemmlowp", "zero_point", "low",
                      "high")
        items = {f"item_{name}": self.readout.signature.members[name] for name in self.items}
        super().__init__({
            "words": In(data.ArrayLayout(32, FORMAT_WORDS[Format.ARRAY])),
            "start": In(1), "done": Out(1), "unit_ready": In(1), "unit_next": Out(1),
            "error": Out(ErrorCode), "abort": In(1),
            "a": Out(ArrayRead(target.word_bytes)), "b": Out(ArrayRead(target.word_bytes)),
            "go": Out(1), "draining": Out(1), "chasing": Out(1),
        } | items)

    def elaborate(self, platform):
        m = Module()
        f = instruction_fields(self.words, format_=Format.ARRAY)
        m.submodules.sequencer = sequencer = ArraySequencer(self.target, self.array.n_tiles)
        m.submodules.array = array = self.array
        m.submodules.readout = readout = self.readout
        for name in ("words", "start", "unit_ready", "abort"):
            m.d.comb += getattr(sequencer, name).eq(getattr(self, name))
        for name in ("done", "unit_next", "error", "go", "draining", "chasing"):
            m.d.comb += getattr(self, name).eq(getattr(sequencer, name))

        slot = delayed(m, sequencer.go, WORD_LATENCY, "slot")
        period_start = delayed(m, sequencer.period_start, WORD_LATENCY, "period_start")
        for port, lanes, entry in (("a", self.target.rows, array.a),
                                   ("b", self.target.columns, array.b)):
            m.submodules[f"walker_{port}"] = walker = AddressWalker()
            m.d.comb += walker.step.eq(getattr(sequencer, f"step_{port}"))
            for name, _ in WALKER_LAYOUT:
                m.d.comb += walker.fields[name].eq(f[f"{port}_{name}"])
            word = self._fetch(m, port, walker)
            m.submodules[f"feeder_{port}"] = feeder = Feeder(n_lanes=lanes,
                                                             word_bytes=self.target.columns)
            direct = delayed(m, getattr(sequencer, f"{port}_direct"), WORD_LATENCY,
                             f"{port}_direct")
            m.d.comb += [feeder.word.eq(word), feeder.slot.eq(slot), feeder.start.eq(period_start),
                         feeder.direct.eq(direct), entry.eq(feeder.lanes)]

        entry_latency = WORD_LATENCY + Feeder.LATENCY
        last = delayed(m, sequencer.last & ~self.abort, entry_latency, "last")
        tile = delayed(m, sequencer.tile, entry_latency, "tile")
        m.d.comb += [
            array.first.eq(delayed(m, sequencer.first, entry_latency, "first")),
            array.last.eq(last), array.place.eq(tile.place), array.pop.eq(readout.pop),
            array.row.eq(readout.row), array.row_place.eq(readout.row_place),
            readout.last.eq(last), readout.abort.eq(self.abort),
            readout.tile.eq(tile),
            readout.results.eq(array.results), readout.results_valid.eq(array.results_valid),
            readout.config_load.eq(sequencer.config_load),
            sequencer.config_free.eq(readout.config_free),
        ]
        for name, _ in CONFIG_LAYOUT:
            m.d.comb += readout.config[name].eq(f[name])
        for name in self.items:
            m.d.comb += getattr(self, f"item_{name}").eq(getattr(readout, name))
        return m

    def _fetch(self, m, port, walker):
        """The word of each slot, padding put in, WORD_LATENCY cycles after the slot."""
        latency = Crossbar.READ_LATENCY
        bus = getattr(self, port)
        m.d.comb += [bus.valid.eq(walker.valid & walker.inside), bus.bank.eq(walker.bank),
                     bus.address.eq(walker.address)]
        inside = delayed(m, walker.inside, latency, f"{port}_inside")
        pad = delayed(m, walker.pad, latency, f"{port}_pad", reset_less=True)
        word = Signal(bus.data.shape(), name=f"{port}_word", reset_less=True)
        m.d.sync += word.as_value().eq(
            Mux(inside, bus.data.as_value(), pad[:8].replicate(self.target.columns)))
        return word

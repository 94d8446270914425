"""LOAD and STORE engines in front of the crossbar, one bus: the design of test_dma_verilator."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect

from hw.rtl.dma import BusSignature, LoadEngine, StoreEngine, connect_master
from hw.rtl.memory.crossbar import Crossbar

_OF_CORE = ("words", "start", "done", "unit_ready", "unit_next", "error", "abort", "busy",
            "progress", "complete", "region_base", "region_limit")


class TransferPath(wiring.Component):
    """Both engines, their crossbar, and other ports that get in their way while ``noise`` is 1.

    Members
    -------
    bus : Out(BusSignature). load, store : the engines' sides towards the dispatcher.
    noise : the array reads and writes banks at random (the last word of each).
    """

    def __init__(self, target):
        self.target = target
        self.engines = {"load": LoadEngine(target), "store": StoreEngine(target)}
        super().__init__({
            "bus": Out(BusSignature(target.bus_bits)), "noise": In(1),
            **{name: Out(wiring.Signature({key: engine.signature.members[key]
                                           for key in _OF_CORE}))
               for name, engine in self.engines.items()}})

    def elaborate(self, platform):
        m = Module()
        m.submodules.crossbar = crossbar = Crossbar(self.target)
        for name, engine in self.engines.items():
            m.submodules[name] = engine
            outer = getattr(self, name)
            for key in _OF_CORE:
                mine, its = getattr(outer, key), getattr(engine, key)
                m.d.comb += (mine.eq(its) if engine.signature.members[key].flow == Out
                             else its.eq(mine))
        load, store = self.engines.values()
        connect(m, load.l, crossbar.l)
        connect(m, store.s, crossbar.s)
        connect_master(m, self.bus, load.bus, store.bus)
        random = Signal(23, init=1)
        m.d.sync += random.eq(Cat(random[22] ^ random[17], random))
        for port, at in ((crossbar.a, 3), (crossbar.r, 9)):
            m.d.comb += [port.valid.eq(self.noise & random[at:at + 2].any()),
                         port.bank.eq(random[at + 2:at + 4])]
            for bank, depth in enumerate(self.target.bank_words):
                with m.If(port.bank == bank):
                    last = depth - 1
                    if port is crossbar.a:
                        last *= self.target.word_bytes
                    m.d.comb += port.address.eq(last)
        m.d.comb += crossbar.r.enable.eq(~0)
        return m

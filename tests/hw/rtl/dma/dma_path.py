"""LOAD and STORE engines in front of the crossbar, one bus: the design of test_dma_verilator."""

from amaranth.hdl import Cat, Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.rtl.dma import BusSignature, LoadEngine, StoreEngine, connect_master
from hw.rtl.memory.crossbar import Crossbar

_OF_CORE = ("control", "written", "region")


class TransferPath(wiring.Component):
    """Both engines, their crossbar, and other ports that get in their way while ``noise`` is 1.

    Members
    -------
    bus : Out(BusSignature). load, store : the engines' sides towards the dispatcher.
    noise : the array reads and writes banks at random (the last word of each).
    """

    def __init__(self, target):
        self.target = target
        self.load_engine, self.store_engine = LoadEngine(target), StoreEngine(target)

        def side(engine):
            return Out(wiring.Signature({name: engine.signature.members[name]
                                         for name in _OF_CORE}))

        super().__init__({
            "bus": Out(BusSignature(target.bus_bits)), "noise": In(1),
            "load": side(self.load_engine), "store": side(self.store_engine)})

    def elaborate(self, platform):
        m = Module()
        m.submodules.crossbar = crossbar = Crossbar(self.target)
        m.submodules.load = load = self.load_engine
        m.submodules.store = store = self.store_engine
        for outer, engine in ((self.load, load), (self.store, store)):
            connect(m, flipped(outer.control), engine.control)
            connect(m, engine.written, flipped(outer.written))
            connect(m, flipped(outer.region), engine.region)
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

"""Maximum: the byte-wise maximum of the words from ``first`` to ``last``."""

from amaranth.hdl import Module, Signal
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.common.pipeline import registered
from hw.rtl.memory.scratchpad import word_layout

__all__ = ["Maximum"]


class Maximum(wiring.Component):
    """Compares one word per cycle.

    Members
    -------
    valid, first, last, word : a step.
    maximum : LATENCY cycles after the step with ``last``. valid_next : in the next cycle.
    """

    LATENCY = 2

    def __init__(self, word_bytes):
        self.word_bytes = word_bytes
        word = word_layout(word_bytes)
        super().__init__({"valid": In(1), "first": In(1), "last": In(1), "word": In(word),
                          "maximum": Out(word), "valid_next": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        # Own registers: the multipliers, which use the word too, lie elsewhere.
        valid, first, last = (Signal(name=name) for name in ("valid_1", "first_1", "last_1"))
        word = Signal(self.word.shape(), reset_less=True)
        maximum = registered(m, self.maximum)
        m.d.sync += valid.eq(self.valid)
        m.d.comb += self.valid_next.eq(valid & last)
        with m.If(self.valid):
            m.d.sync += [first.eq(self.first), last.eq(self.last), word.eq(self.word)]
        for k in range(self.word_bytes):  # once more does not change a maximum
            with m.If(first | (word[k] > maximum[k])):
                m.d.sync += maximum[k].eq(word[k])
        return m

"""Maximum: the byte-wise maximum of the words from ``first`` to ``last``."""

from amaranth.hdl import Module
from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.scratchpad import word_layout

__all__ = ["Maximum"]


class Maximum(wiring.Component):
    """Compares one word per cycle.

    Members
    -------
    valid, first, last, word : a step.
    maximum, maximum_valid : LATENCY cycles after the step with ``last``; ``maximum`` is 0 before
        the first step.
    """

    LATENCY = 1

    def __init__(self, word_bytes):
        self.word_bytes = word_bytes
        word = word_layout(word_bytes)
        super().__init__({"valid": In(1), "first": In(1), "last": In(1), "word": In(word),
                          "maximum": Out(word), "maximum_valid": Out(1)})

    def elaborate(self, platform):
        m = Module()
        m.d.sync += self.maximum_valid.eq(self.valid & self.last)
        for k in range(self.word_bytes):
            with m.If(self.valid & (self.first | (self.word[k] > self.maximum[k]))):
                m.d.sync += self.maximum[k].eq(self.word[k])
        return m

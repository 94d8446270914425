"""Ports: what the engines and lanes say to the crossbar (hw.rtl.memory.crossbar)."""

from amaranth.lib import wiring
from amaranth.lib.wiring import In, Out

from hw.rtl.memory.scratchpad import word_layout
from hw.targets import N_BANKS

__all__ = ["ARRAY_ADDRESS_WIDTH", "PORT_PROGRESS_WIDTH", "WORD_ADDRESS_WIDTH", "ArrayRead", "Read",
           "WaitingWrite", "Write"]

#: Bits of the addresses that the array's walkers give; high ones are checked, not dropped.
ARRAY_ADDRESS_WIDTH = 24
#: Bits of all other addresses, which count words.
WORD_ADDRESS_WIDTH = 16
#: Bits of the progress that comes with a write.
PORT_PROGRESS_WIDTH = 16


class ArrayRead(wiring.Signature):
    """A read port that never waits: ``data`` is there Crossbar.READ_LATENCY cycles later.

    Members
    -------
    valid, bank, address : of the read; ``address`` counts bytes where ``data`` may begin at any
        byte, otherwise words. data : a word.
    """

    def __init__(self, word_bytes):
        super().__init__({
            "valid": Out(1), "bank": Out(range(N_BANKS)), "address": Out(ARRAY_ADDRESS_WIDTH),
            "data": In(word_layout(word_bytes))})


class Read(wiring.Signature):
    """A read port that may wait.

    Members
    -------
    valid, ready, bank, address : of the read.
    response_valid, data : what lies there; in order, any number of cycles later.
    """

    def __init__(self, shape):
        super().__init__({
            "valid": Out(1), "ready": In(1), "bank": Out(range(N_BANKS)),
            "address": Out(WORD_ADDRESS_WIDTH), "response_valid": In(1), "data": In(shape)})


class Write(wiring.Signature):
    """A write port that never waits.

    Members
    -------
    valid, bank, address, data : of the write. enable : one bit per byte.
    """

    def __init__(self, word_bytes):
        super().__init__({
            "valid": Out(1), "bank": Out(range(N_BANKS)), "address": Out(WORD_ADDRESS_WIDTH),
            "data": Out(word_layout(word_bytes)), "enable": Out(word_bytes)})


class WaitingWrite(wiring.Signature):
    """A write port that may wait.

    Members
    -------
    valid, bank, address, data, enable : as of Write.
    ready : the write is accepted, which does not say that it is done. It is up as long as fewer
        than WaitingQueue.DEPTH - 2 accepted writes are not yet written.
    progress, instruction_end : go along with the write.
    written : 1 for one cycle per accepted write, in order, when a read that enters in this cycle
        or later sees it. written_progress, written_end : what went along with it, otherwise 0.
    """

    def __init__(self, word_bytes):
        super().__init__({
            **Write(word_bytes).members, "ready": In(1),
            "progress": Out(PORT_PROGRESS_WIDTH), "instruction_end": Out(1),
            "written": In(1), "written_progress": In(PORT_PROGRESS_WIDTH), "written_end": In(1)})

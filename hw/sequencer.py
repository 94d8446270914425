"""Sequencer: fetches instructions, runs their loops, drives walkers, array controls and units.

Loops, from the outside: tiles of port b, tiles of port a, periods of the reduction, slots of a
period. One slot a cycle. The array is never stopped: a tile whose results would overwrite ones
that have not been read yet waits before its last period, and the feeders supply zeros meanwhile.
"""

from amaranth.hdl import Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FIELDS, N_WORDS, ErrorCode, Feed, Opcode
from hw.walker import STEP_LAYOUT

__all__ = ["INSTRUCTION_LAYOUT", "Sequencer"]

INSTRUCTION_LAYOUT = data.ArrayLayout(32, N_WORDS)


def instruction_fields(words):
    """Return the fields of an instruction held in a Signal(INSTRUCTION_LAYOUT), by name."""
    fields = {}
    for field in FIELDS:
        value = words[field.word][field.offset:field.offset + field.width]
        fields[field.name] = value.as_signed() if field.signed else value
    return fields


class Sequencer(wiring.Component):
    """Runs programs from the instruction memory.

    Arguments
    ---------
    target : hw.targets.Target.
    fetch_latency : cycles from ``fetch_address`` to ``fetch_data``.
    flush_cycles : cycles from the end of an instruction's last slot, or of its last tile's
        readout, until every result is in the scratchpad.

    Members
    -------
    start, single_step, program_address : begin at instruction ``program_address``.
    busy, done, error, index : status; ``index`` is the running, refused or
        halting instruction, or the next one after a single step.
    words : the running instruction. ``instruction_start`` is up for one cycle before it runs.
    step_a, step_b : this slot, for the walkers.
    period_start : this slot is the first of a period.
    first, last : this slot holds the first / last element of a tile's reduction.
    tile_read : a tile's results have all been read.
    running, stalled : for the performance counters.
    """

    def __init__(self, *, target, fetch_latency, flush_cycles):
        self.target = target
        self.fetch_latency = fetch_latency
        self.flush_cycles = flush_cycles
        super().__init__({
            "start": In(1), "single_step": In(1), "program_address": In(16),
            "busy": Out(1), "done": Out(1), "error": Out(ErrorCode), "index": Out(16),
            "fetch_address": Out(range(target.instruction_words)), "fetch_data": In(32),
            "words": Out(INSTRUCTION_LAYOUT), "instruction_start": Out(1),
            "step_a": Out(STEP_LAYOUT), "step_b": Out(STEP_LAYOUT),
            "period_start": Out(1), "first": Out(1), "last": Out(1), "tile_read": In(1),
            "running": Out(1), "stalled": Out(1),
        })

    def elaborate(self, platform):
        m = Module()
        rows, columns = self.target.rows, self.target.columns
        f = instruction_fields(self.words)
        is_matmul, is_add = f["opcode"] == Opcode.MATMUL, f["opcode"] == Opcode.ADD

        slot = Signal(8)
        period = Signal(16)
        inner = Signal(16)
        outer = Signal(16)
        pending = Signal()  # a tile is between its last period and the end of its readout
        go = Signal()
        stall = Signal()
        at = {name: Signal(name=name) for name in
              ("slot_end", "period_last", "tile_end", "inner_end", "outer_end")}
        m.d.comb += [
            at["slot_end"].eq(slot + 1 == f["slots"]),
            at["period_last"].eq(period + 1 == f["period_count"]),
            at["tile_end"].eq(at["slot_end"] & at["period_last"]),
            at["inner_end"].eq(inner + 1 == f["inner_count"]),
            at["outer_end"].eq(outer + 1 == f["outer_count"]),
            stall.eq(is_matmul & pending & (slot == 0) & at["period_last"]),
        ]
        with m.If(go):
            m.d.sync += slot.eq(Mux(at["slot_end"], 0, slot + 1))
            with m.If(at["slot_end"]):
                m.d.sync += period.eq(Mux(at["period_last"], 0, period + 1))
            with m.If(at["tile_end"]):
                m.d.sync += inner.eq(Mux(at["inner_end"], 0, inner + 1))
                with m.If(at["inner_end"]):
                    m.d.sync += outer.eq(outer + 1)
        with m.If(self.tile_read):
            m.d.sync += pending.eq(0)
        with m.Elif(go & is_matmul & (slot == 0) & at["period_last"]):
            m.d.sync += pending.eq(1)

        active_a = Mux(is_matmul, (f["a_feed"] == Feed.DIRECT) | (slot < rows), slot == 0)
        active_b = Mux(is_matmul, (f["b_feed"] == Feed.DIRECT) | (slot < columns),
                       is_add & (slot == 1))
        for step, active, advance, rewind in (
                (self.step_a, active_a, ~at["inner_end"], at["inner_end"]),
                (self.step_b, active_b, at["inner_end"], 0)):
            m.d.comb += [
                step.restart.eq(self.instruction_start), step.active.eq(go & active),
                step.period_end.eq(go & at["slot_end"]), step.tile_end.eq(go & at["tile_end"]),
                step.advance.eq(advance), step.rewind.eq(rewind),
            ]
        m.d.comb += [
            self.period_start.eq(go & (slot == 0)),
            self.first.eq(go & is_matmul & (slot == 0) & (period == 0)),
            self.last.eq(go & is_matmul & at["tile_end"]),
        ]

        arriving = Signal(range(N_WORDS + 1))
        fetch_wait = Signal(range(self.fetch_latency + 1))
        flush = Signal(range(self.flush_cycles + 1))
        one_only = Signal()
        with m.FSM() as fsm:
            with m.State("IDLE"):
                with m.If(self.start):
                    m.d.sync += [
                        self.done.eq(0), self.error.eq(ErrorCode.NONE),
                        one_only.eq(self.single_step), self.index.eq(self.program_address),
                        self.fetch_address.eq(self.program_address * N_WORDS),
                    ]
                    m.next = "FETCH"
            with m.State("FETCH"):
                m.d.sync += [arriving.eq(0), fetch_wait.eq(0),
                             self.fetch_address.eq(self.fetch_address + 1)]
                m.next = "RECEIVE"
            with m.State("RECEIVE"):
                m.d.sync += self.fetch_address.eq(self.fetch_address + 1)
                with m.If(fetch_wait + 1 != self.fetch_latency):
                    m.d.sync += fetch_wait.eq(fetch_wait + 1)
                with m.Else():
                    m.d.sync += [self.words[arriving].eq(self.fetch_data),
                                 arriving.eq(arriving + 1)]
                    with m.If(arriving == N_WORDS - 1):
                        m.d.sync += self.fetch_address.eq(
                            self.fetch_address - (self.fetch_latency - 1))
                        m.next = "DECODE"
            with m.State("DECODE"):
                m.d.comb += self.instruction_start.eq(1)
                m.d.sync += [slot.eq(0), period.eq(0), inner.eq(0), outer.eq(0),
                             flush.eq(self.flush_cycles)]
                with m.Switch(f["opcode"]):
                    with m.Case(Opcode.HALT):
                        m.d.sync += self.done.eq(1)
                        m.next = "IDLE"
                    with m.Case(Opcode.MATMUL, Opcode.ADD, Opcode.MAXPOOL):
                        m.next = "RUN"
                    with m.Default():
                        m.d.sync += [self.error.eq(ErrorCode.OPCODE), self.done.eq(1)]
                        m.next = "IDLE"
            with m.State("RUN"):
                m.d.comb += [go.eq(~stall), self.running.eq(is_matmul & ~stall),
                             self.stalled.eq(stall)]
                with m.If(go & at["tile_end"] & at["inner_end"] & at["outer_end"]):
                    m.next = "FLUSH"
            with m.State("FLUSH"):
                with m.If(~pending):
                    m.d.sync += flush.eq(flush - 1)
                    with m.If(flush == 0):
                        m.d.sync += self.index.eq(self.index + 1)
                        with m.If(one_only):
                            m.d.sync += self.done.eq(1)
                            m.next = "IDLE"
                        with m.Else():
                            m.next = "FETCH"
            m.d.comb += self.busy.eq(~fsm.ongoing("IDLE"))
        return m

"""ControlRegisters: what the host sees of the accelerator, registers and performance counters.

`hw.isa.Register` and `hw.isa.Counter` say what lies where.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import MAGIC, VERSION, Counter, Engine, ErrorCode, Register
from hw.rtl.common.pipeline import delayed, one_of

__all__ = ["ControlRegisters"]

COUNTER_WIDTH = 64
_ENGINES = len(Engine)
_OFFSET_WIDTH = (Register.COUNTERS + COUNTER_WIDTH // 8 * len(Counter) - 1).bit_length()


class ControlRegisters(wiring.Component):
    """Registers and counters.

    Members
    -------
    offset, write, write_data : an access of the host to the register window; a write takes effect
        WRITE_LATENCY cycles later.
    known, read_data : what lies at ``offset``, READ_LATENCY cycles later.
    start, single_step, abort_request : pulses, and how to start. program_address, region_base,
        region_limit, cycle_limit, watchdog_limit : what the host has set.
    busy, done, error, index, begin : of the dispatcher.
    go, draining, chasing, waiting, blocked : what the array does in this cycle.
    vector_busy, lanes_busy : likewise. load_bytes, store_bytes : bytes moved in this cycle.
    """

    # Register, decoding; then the choice in two stages.
    WRITE_LATENCY = 3
    READ_LATENCY = 4

    def __init__(self, target):
        self.target = target
        super().__init__({
            "offset": In(28), "write": In(1), "write_data": In(32),
            "known": Out(1), "read_data": Out(32),
            "start": Out(1), "single_step": Out(1), "abort_request": Out(1),
            "program_address": Out(16), "region_base": Out(32, init=0),
            "region_limit": Out(32, init=0xFFFF_FFFF), "cycle_limit": Out(32),
            "watchdog_limit": Out(32, init=target.watchdog),
            "busy": In(1), "done": In(1), "error": In(ErrorCode), "index": In(16), "begin": In(1),
            "go": In(1), "draining": In(1), "chasing": In(1), "waiting": In(1),
            "blocked": In(_ENGINES), "vector_busy": In(1), "lanes_busy": In(1),
            "load_bytes": In(8), "store_bytes": In(8),
        })

    def _count(self, m):
        """The counters; every cycle of a run belongs to one of the array's.

        They know of a cycle three later: its events, what they add, the sum.
        """
        held = Cat(self.waiting & self.blocked[k] & ~self.blocked[:k].any()
                   for k in range(_ENGINES))
        waits = (Counter.ARRAY_WAIT_ARRAY, Counter.ARRAY_WAIT_VECTOR, Counter.ARRAY_WAIT_LOAD,
                 Counter.ARRAY_WAIT_STORE)
        moving = self.go | self.draining | self.chasing
        events = {
            Counter.CYCLES: 1, Counter.ARRAY_BUSY: self.go, Counter.ARRAY_DRAIN: self.draining,
            Counter.ARRAY_CHASE: self.chasing,
            Counter.ARRAY_FETCH: ~moving & ~held.any(),
            Counter.VECTOR_BUSY: self.vector_busy, Counter.LANES_BUSY: self.lanes_busy,
            Counter.LOAD_BYTES: self.load_bytes, Counter.STORE_BYTES: self.store_bytes,
        } | {counter: ~moving & held[k] for k, counter in enumerate(waits)}
        # Cleared by a register of their own, after a reset too.
        counts = Signal(data.ArrayLayout(COUNTER_WIDTH, len(Counter)), reset_less=True)
        clear = Signal(init=1)
        m.d.sync += clear.eq(self.begin)
        busy = Signal()
        m.d.sync += busy.eq(self.busy)
        for counter, event in events.items():
            event = delayed(m, Value.cast(event), 1, f"{counter.name.lower()}_event")
            amount = Signal(8, name=f"{counter.name.lower()}_amount")
            m.d.sync += amount.eq(Mux(busy, event, 0))
            m.d.sync += counts[counter].eq(counts[counter] + amount)
            with m.If(clear):
                m.d.sync += counts[counter].eq(0)
        return counts

    def elaborate(self, platform):
        m = Module()
        counts = self._count(m)
        offset = delayed(m, self.offset[:_OFFSET_WIDTH], 1, "offset", reset_less=True)
        inside = delayed(m, self.offset[_OFFSET_WIDTH:] == 0, 1, "inside", reset_less=True)
        write = delayed(m, self.write, 2, "write")
        write_data = delayed(m, self.write_data, 2, "write_data", reset_less=True)
        high = delayed(m, offset[2], 2, "high", reset_less=True)

        def at(name, place):
            return delayed(m, inside & place, 1, f"at_{name.lower()}", reset_less=True)

        refused = Signal()
        settings = {Register.PROGRAM_ADDRESS: self.program_address,
                    Register.REGION_BASE: self.region_base,
                    Register.REGION_LIMIT: self.region_limit,
                    Register.WATCHDOG: self.watchdog_limit,
                    Register.CYCLE_LIMIT: self.cycle_limit}
        m.d.sync += [self.start.eq(0), self.abort_request.eq(0)]
        # A stopped program goes on behind the instruction that it stopped after.
        was_busy = Signal()
        m.d.sync += was_busy.eq(self.busy)
        with m.If(was_busy & ~self.busy):
            m.d.sync += self.program_address.eq(self.index)
        chosen_register = {register: at(register.name, offset == register)
                           for register in Register if register != Register.COUNTERS}
        with m.If(write & chosen_register[Register.CONTROL]):
            m.d.sync += self.abort_request.eq(write_data[2] & self.busy)
            with m.If(write_data[0]):
                m.d.sync += refused.eq(self.busy)
                with m.If(~self.busy):
                    m.d.sync += [self.start.eq(1), self.single_step.eq(write_data[1])]
        for register, setting in settings.items():
            with m.If(write & chosen_register[register]):
                m.d.sync += setting.eq(write_data)
        error = Mux(self.error != ErrorCode.NONE, self.error,
                    Mux(refused, ErrorCode.START_WHILE_BUSY, ErrorCode.NONE))
        values = {
            Register.MAGIC: Const(MAGIC, 32), Register.VERSION: Const(VERSION, 32),
            Register.CONFIGURATION: Const(self.target.configuration_id, 32),
            Register.CONTROL: Cat(Const(0, 1), self.single_step),
            Register.STATUS: Cat(self.busy, self.done, error != 0, Const(0, 5), error),
            Register.INSTRUCTION_INDEX: self.index,
            Register.FEATURES: Cat(Const(self.target.bus_bits, 16), Const(self.target.packed, 1)),
        } | settings
        aligned = at("word", offset[:2] == 0)
        value, chosen = Signal(32), Signal(COUNTER_WIDTH)
        is_value, is_counter = Signal(), Signal()
        at_counter = [at(counter.name, offset[3:] == (Register.COUNTERS >> 3) + counter)
                      for counter in Counter]
        m.d.sync += [
            value.eq(one_of((chosen_register[register], what)
                             for register, what in values.items())),
            chosen.eq(one_of((at_counter[counter], counts[counter]) for counter in Counter)),
            is_value.eq(Cat(chosen_register[register] for register in values).any()),
            is_counter.eq(Cat(at_counter).any() & aligned),
            self.known.eq(is_value | is_counter),
            self.read_data.eq(Mux(is_counter, chosen.word_select(high, 32), value))]
        return m

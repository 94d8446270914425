"""ControlRegisters: what the host sees of the accelerator, registers and performance counters.

`hw.isa.Register` and `hw.isa.Counter` say what lies where.
"""

from amaranth.hdl import Cat, Const, Module, Mux, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import MAGIC, VERSION, Counter, ErrorCode, Register
from hw.rtl.common.pipeline import delayed, one_of
from hw.rtl.control.ports import ENGINES, ArrayActivity, EngineState, Region, RunControl

__all__ = ["ControlRegisters"]

COUNTER_WIDTH = 64
_OFFSET_WIDTH = (Register.COUNTERS + COUNTER_WIDTH // 8 * len(Counter) - 1).bit_length()


class ControlRegisters(wiring.Component):
    """Registers and counters.

    Members
    -------
    offset, write, write_data : an access of the host to the register window; a write takes effect
        WRITE_LATENCY cycles later.
    known, read_data : what lies at ``offset``, READ_LATENCY cycles later.
    run : RunControl, to the dispatcher. region : to the engines of transfers.
    activity, array, vector : what the array does, and what the dispatcher says of both engines.
    lanes_busy : a result is written or returned. load_bytes, store_bytes : moved in this cycle.
    """

    # Register, decoding; then the choice in two stages.
    WRITE_LATENCY = 3
    READ_LATENCY = 4

    def __init__(self, target):
        self.target = target
        super().__init__({
            "offset": In(28), "write": In(1), "write_data": In(32),
            "known": Out(1), "read_data": Out(32),
            "run": Out(RunControl(target)), "region": Out(Region()),
            "activity": In(ArrayActivity()), "array": In(EngineState()),
            "vector": In(EngineState()), "lanes_busy": In(1),
            "load_bytes": In(8), "store_bytes": In(8),
        })

    def _count(self, m) -> data.View:
        """The counters; every cycle of a run belongs to one of the array's.

        They know of a cycle three later: its events, what they add, the sum.
        """
        array, activity = self.array, self.activity
        held = Cat(array.waiting & array.blocked[k] & ~array.blocked[:k].any()
                   for k in range(len(ENGINES)))
        waits = (Counter.ARRAY_WAIT_ARRAY, Counter.ARRAY_WAIT_VECTOR, Counter.ARRAY_WAIT_LOAD,
                 Counter.ARRAY_WAIT_STORE)
        moving = activity.go | activity.draining | activity.chasing
        events = {
            Counter.CYCLES: 1, Counter.ARRAY_BUSY: activity.go,
            Counter.ARRAY_DRAIN: activity.draining, Counter.ARRAY_CHASE: activity.chasing,
            Counter.ARRAY_FETCH: ~moving & ~held.any(),
            Counter.VECTOR_BUSY: self.vector.running, Counter.LANES_BUSY: self.lanes_busy,
            Counter.LOAD_BYTES: self.load_bytes, Counter.STORE_BYTES: self.store_bytes,
        } | {counter: ~moving & held[k] for k, counter in enumerate(waits)}
        # Cleared by a register of their own, after a reset too.
        counts = Signal(data.ArrayLayout(COUNTER_WIDTH, len(Counter)), reset_less=True)
        clear = Signal(init=1)
        m.d.sync += clear.eq(self.run.begin)
        busy = Signal()
        m.d.sync += busy.eq(self.run.busy)
        for counter, event in events.items():
            event = delayed(m, Value.cast(event), 1, f"{counter.name.lower()}_event")
            amount = Signal(8, name=f"{counter.name.lower()}_amount")
            m.d.sync += amount.eq(Mux(busy, event, 0))
            m.d.sync += counts[counter].eq(counts[counter] + amount)
            with m.If(clear):
                m.d.sync += counts[counter].eq(0)
        return counts

    def elaborate(self, platform) -> Module:
        m = Module()
        counts = self._count(m)
        offset = delayed(m, self.offset[:_OFFSET_WIDTH], 1, "offset", reset_less=True)
        inside = delayed(m, self.offset[_OFFSET_WIDTH:] == 0, 1, "inside", reset_less=True)
        write = delayed(m, self.write, 2, "write")
        write_data = delayed(m, self.write_data, 2, "write_data", reset_less=True)
        high = delayed(m, offset[2], 2, "high", reset_less=True)

        def at(name, place):
            return delayed(m, inside & place, 1, f"at_{name.lower()}", reset_less=True)

        run, refused = self.run, Signal()
        settings = {Register.PROGRAM_ADDRESS: run.program_address,
                    Register.REGION_BASE: self.region.base,
                    Register.REGION_LIMIT: self.region.limit,
                    Register.WATCHDOG: run.watchdog_limit,
                    Register.CYCLE_LIMIT: run.cycle_limit}
        m.d.sync += [run.start.eq(0), run.abort_request.eq(0)]
        # A stopped program goes on behind the instruction that it stopped after.
        was_busy = Signal()
        m.d.sync += was_busy.eq(run.busy)
        with m.If(was_busy & ~run.busy):
            m.d.sync += [run.program_address.eq(run.index), run.resume.eq(1)]
        chosen_register = {register: at(register.name, offset == register)
                           for register in Register if register != Register.COUNTERS}
        with m.If(write & chosen_register[Register.CONTROL]):
            m.d.sync += run.abort_request.eq(write_data[2] & run.busy)
            with m.If(write_data[0]):
                m.d.sync += refused.eq(run.busy)
                with m.If(~run.busy):
                    m.d.sync += [run.start.eq(1), run.single_step.eq(write_data[1])]
        for register, setting in settings.items():
            with m.If(write & chosen_register[register]):
                m.d.sync += setting.eq(write_data)
        with m.If(write & chosen_register[Register.PROGRAM_ADDRESS]):
            m.d.sync += run.resume.eq(0)
        error = Mux(run.error != ErrorCode.NONE, run.error,
                    Mux(refused, ErrorCode.START_WHILE_BUSY, ErrorCode.NONE))
        values = {
            Register.MAGIC: Const(MAGIC, 32), Register.VERSION: Const(VERSION, 32),
            Register.CONFIGURATION: Const(self.target.configuration_id, 32),
            Register.CONTROL: Cat(Const(0, 1), run.single_step),
            Register.STATUS: Cat(run.busy, run.done, error != 0, Const(0, 5), error),
            Register.INSTRUCTION_INDEX: run.index,
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

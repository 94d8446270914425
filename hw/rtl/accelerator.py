"""The accelerator: host interface, dispatcher, engines, rescaler lanes, scratchpad.

    host -> registers -> dispatcher -> array engine   -- a, b --> crossbar <-> banks
      |                           \\--> vector engine  -- v, w -->   |
      |                            \\-> load, store    -- l, s -->   |
      |     array and vector engine -> lanes ---------- r ------->   |
      +---- while nothing runs ------------------------ h ------->   |
"""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.isa import AddressWindow, Engine, ErrorCode, Opcode
from hw.rtl.array.engine import ArrayEngine
from hw.rtl.common.pipeline import delayed, own_copy, registered
from hw.rtl.control.dispatcher import Dispatcher
from hw.rtl.control.host import AXI4LiteSignature, HostInterface
from hw.rtl.control.registers import ControlRegisters
from hw.rtl.control.slot import instruction_fields
from hw.rtl.dma import BusSignature, LoadEngine, StoreEngine, connect_master
from hw.rtl.lanes.lanes import Lanes
from hw.rtl.memory.crossbar import Crossbar
from hw.rtl.memory.scratchpad import FIELDS_PER_CHANNEL, WordMemory
from hw.rtl.vector import VectorEngine

__all__ = ["Accelerator", "AcceleratorSignature"]

_FIRST_BANK = AddressWindow.BANK_0


class AcceleratorSignature(wiring.Signature):
    """The ports of a target's accelerator.

    Members
    -------
    rst, bus, interrupt, memory : as of Accelerator.
    """

    def __init__(self, target):
        members = {"rst": In(1), "bus": Out(AXI4LiteSignature), "interrupt": Out(1)}
        if target.bus_bits:
            members["memory"] = Out(BusSignature(target.bus_bits))
        super().__init__(members)


class Accelerator(wiring.Component):
    """The accelerator of one target.

    Members
    -------
    rst : synchronous reset. The host interface obeys it at once, the units behind it a cycle
        later, each from a register of its own: one net to all of them would cross the device.
    bus : AXI4-Lite slave. interrupt : high while a finished run has not been started anew.
    memory : AXI4 master, where the target has external memory.
    """

    def __init__(self, target):
        self.target = target
        self.engines = {Engine.ARRAY: ArrayEngine(target), Engine.VECTOR: VectorEngine(target)}
        if target.bus_bits:
            self.engines |= {Engine.LOAD: LoadEngine(target), Engine.STORE: StoreEngine(target)}
        super().__init__(AcceleratorSignature(target))

    def elaborate(self, platform) -> Module:
        m = Module()
        target = self.target
        units = SimpleNamespace(
            host=HostInterface(), registers=ControlRegisters(target), lanes=Lanes(target),
            instructions=WordMemory(depth=target.instruction_words, width=32),
            dispatcher=Dispatcher(target=target, fetch_latency=WordMemory.LATENCY),
            crossbar=Crossbar(target))
        engines = {engine.name.lower(): unit for engine, unit in self.engines.items()}
        for name, unit in (vars(units) | engines).items():
            if unit is self.engines[Engine.VECTOR]:
                m.d.comb += unit.reset.eq(self.rst)
            elif unit is units.host:
                unit = ResetInserter(self.rst)(unit)
            else:
                unit = ResetInserter(own_copy(m, self.rst, f"{name}_reset"))(unit)
            m.submodules[name] = unit
        connect(m, flipped(self.bus), units.host.bus)
        self._control(m, units)
        self._dispatch(m, units)
        self._compute(m, units)
        self._host_memory(m, units)
        self._transfer(m, units)
        return m

    def _control(self, m, units) -> None:
        """Registers, counters, the dispatcher's start and end."""
        registers, dispatcher, host = units.registers, units.dispatcher, units.host
        connect(m, registers.run, dispatcher.run)
        connect(m, self.engines[Engine.ARRAY].activity, registers.activity)
        connect(m, dispatcher.array.state, registers.array)
        connect(m, dispatcher.vector.state, registers.vector)
        m.d.comb += [
            registers.offset.eq(host.address[:28]), registers.write_data.eq(host.write_data),
            registers.write.eq(host.write & (host.address[28:] == AddressWindow.REGISTERS)),
            registers.lanes_busy.eq(units.lanes.r.valid | units.lanes.returned.valid),
            self.interrupt.eq(dispatcher.run.done & ~dispatcher.run.busy & ~registers.run.start),
        ]

    def _dispatch(self, m, units) -> None:
        """The engines behind their slots, and the errors of what they share."""
        dispatcher, crossbar = units.dispatcher, units.crossbar
        for engine, unit in self.engines.items():
            connect(m, dispatcher.engines[engine].control, unit.control)
        # A word of MAXPOOL or LOOKUP may wait long for its bank after the engine has given it away.
        # The next vector instruction begins behind its end, so that completions come one at a time,
        # in the order of the program, and progress is of the oldest instruction not complete.
        control = dispatcher.vector.control
        opcode = instruction_fields(control.words, 1)["opcode"]
        with m.If(opcode.matches(Opcode.MAXPOOL, Opcode.LOOKUP)):
            m.d.comb += control.done.eq(crossbar.m.written_end)
        self._blame(m, units)

    def _blame(self, m, units) -> None:
        """Who asked for what is not there."""
        run, shared = units.dispatcher.run, units.dispatcher.shared
        errors = units.crossbar.address_errors
        # Beside the error of an item's write: whose it is, and whether its parameters are missing.
        array_item = self.engines[Engine.ARRAY].items.valid
        from_array = delayed(m, array_item, Lanes.LATENCY + 1, "from_array")
        no_parameters = delayed(m, units.lanes.address_error, Lanes.LATENCY - 2, "no_parameters")
        wrong_item = errors.r | no_parameters
        reads = {Engine.ARRAY: errors.a | errors.b, Engine.VECTOR: errors.v | errors.w,
                 Engine.STORE: errors.s}
        results = {Engine.ARRAY: wrong_item & from_array,
                   Engine.VECTOR: (wrong_item & ~from_array) | errors.m, Engine.LOAD: errors.l}
        for of_result, culprits in enumerate((reads, results)):
            for engine, wrong in culprits.items():
                with m.If(wrong):
                    m.d.sync += [shared.code.eq(ErrorCode.ADDRESS), shared.engine.eq(engine),
                                 shared.of_result.eq(of_result)]
        with m.If(units.crossbar.conflict):
            m.d.sync += [shared.code.eq(ErrorCode.BANK_CONFLICT), shared.engine.eq(Engine.ARRAY),
                         shared.of_result.eq(0)]
        with m.If(run.begin | ~run.busy):
            m.d.sync += shared.code.eq(ErrorCode.NONE)

    def _compute(self, m, units) -> None:
        """Array and vector engine: their operands, the lanes, their results."""
        crossbar, lanes, dispatcher = units.crossbar, units.lanes, units.dispatcher
        registers = units.registers
        array, vector = self.engines[Engine.ARRAY], self.engines[Engine.VECTOR]
        connect(m, array.a, crossbar.a)
        connect(m, array.b, crossbar.b)
        connect(m, vector.v, crossbar.v)
        connect(m, vector.w, crossbar.w)
        connect(m, vector.m, crossbar.m)
        connect(m, lanes.r, crossbar.r)
        connect(m, array.items, lanes.array)
        connect(m, vector.vector, lanes.vector)
        connect(m, lanes.returned, vector.returned)
        connect(m, lanes.array_written, dispatcher.array.written)
        # The results of the vector engine are written by the lanes, or through its own port.
        m.d.comb += [
            dispatcher.vector.written.progress.eq(
                lanes.vector_written.progress | crossbar.m.written_progress),
            dispatcher.vector.written.complete.eq(
                lanes.vector_written.complete | crossbar.m.written_end),
        ]
        moved = lanes.r.valid & lanes.r.enable.any() | lanes.returned.valid | crossbar.m.written
        if self.target.bus_bits:
            moved |= registers.load_bytes.any() | registers.store_bytes.any()
        m.d.sync += dispatcher.moved.eq(moved)

    def _host_memory(self, m, units) -> None:
        """The host's windows into the memories, open while no program runs."""
        target, host, registers = self.target, units.host, units.registers
        assert min(host.SETTLE_CYCLES, host.READ_CYCLES) > registers.READ_LATENCY
        # The memories lie far apart: they get the access a cycle later.
        address, write_data, strobe = (delayed(m, value, 1, f"host_{name}", reset_less=True)
                                       for name, value in (("address", host.address),
                                                           ("data", host.write_data),
                                                           ("strobe", host.write_strobe)))
        window, offset = address[28:], address[:28]
        access = SimpleNamespace(
            window=window, offset=offset, write_data=write_data, strobe=strobe,
            write=delayed(m, host.write, 1, "host_write"),
            reading=delayed(m, host.reading, 2, "host_reading"),  # in_memory is of this address
            idle=~units.dispatcher.run.busy, in_memory=Signal(name="in_memory"))
        in_bank = Cat((window == _FIRST_BANK + k) & (offset < depth * target.word_bytes)
                      for k, depth in enumerate(target.bank_words))
        in_registers = window == AddressWindow.REGISTERS
        m.d.sync += access.in_memory.eq(
            ((window == AddressWindow.INSTRUCTIONS) & (offset < 4 * target.instruction_words))
            | ((window == AddressWindow.PARAMETERS)
               & (offset < 4 * FIELDS_PER_CHANNEL * target.lanes * target.parameter_words))
            | in_bank.any())
        m.d.sync += host.allowed.eq(
            Mux(in_registers, registers.known, access.in_memory & access.idle))
        bank_data = self._host_banks(m, units, access)
        m.d.sync += host.read_data.eq(Mux(
            in_registers, registers.read_data,
            Mux(window[2], bank_data,
                Mux(window == AddressWindow.INSTRUCTIONS, units.instructions.read_data, 0))))
        self._small_memories(m, units, access)

    def _host_banks(self, m, units, access) -> Value:
        """The banks, one word of four bytes at a time; returns what the host reads."""
        word_bytes, crossbar = self.target.word_bytes, units.crossbar
        window, offset = access.window, access.offset
        word_bits = (word_bytes - 1).bit_length()
        n_pieces = word_bytes // 4
        piece = offset[2:word_bits] if n_pieces > 1 else 0
        bank_window = window[2]
        asked, answered = Signal(), Signal()
        answer = Signal(8 * word_bytes, reset_less=True)
        with m.If(~access.reading):
            m.d.sync += [asked.eq(0), answered.eq(0)]
        with m.Elif(crossbar.h.valid & crossbar.h.ready):
            m.d.sync += asked.eq(1)
        with m.If(crossbar.h.response_valid):
            m.d.sync += [answer.eq(crossbar.h.data.as_value()), answered.eq(1)]
        reads_bank = access.reading & bank_window & access.in_memory & access.idle
        m.d.sync += units.host.pending.eq(reads_bank & ~answered)
        m.d.comb += [
            crossbar.h.valid.eq(reads_bank & ~asked),
            crossbar.h.bank.eq(window[:2]), crossbar.h.address.eq(offset[word_bits:]),
            crossbar.h_write.valid.eq(access.write & bank_window),
            crossbar.h_write.bank.eq(window[:2]),
            crossbar.h_write.address.eq(offset[word_bits:]),
            crossbar.h_write.enable.eq(Cat(
                access.strobe[k % 4] & (piece == k // 4) for k in range(word_bytes))),
            crossbar.h_write.data.as_value().eq(access.write_data.replicate(n_pieces)),
        ]
        return answer.word_select(piece, 32)

    def _small_memories(self, m, units, access) -> None:
        """Instructions and parameters, which also come from a load."""
        instructions, dispatcher, lanes = units.instructions, units.dispatcher, units.lanes
        window, offset, write_data = access.window, access.offset, access.write_data
        parameter = Signal(data.StructLayout({
            "valid": 1, "address": lanes.parameters.address.shape(),
            "data": lanes.parameters.data.shape()}))
        m.d.comb += [
            instructions.read_address.eq(Mux(
                dispatcher.run.busy, dispatcher.fetch_address, offset >> 2)),
            dispatcher.fetch_data.eq(instructions.read_data),
            instructions.write_address.eq(offset >> 2),
            instructions.write_data.eq(write_data),
            instructions.write_enable.eq(access.write & (window == AddressWindow.INSTRUCTIONS)),
            parameter.valid.eq(access.write & (window == AddressWindow.PARAMETERS)),
            parameter.address.eq(offset >> 2), parameter.data.eq(write_data),
        ]
        if Engine.LOAD in self.engines:
            small = self.engines[Engine.LOAD].small
            with m.If(dispatcher.run.busy):
                m.d.comb += [
                    instructions.write_address.eq(small.address),
                    instructions.write_data.eq(small.data),
                    instructions.write_enable.eq(small.valid & small.is_instructions),
                    parameter.valid.eq(small.valid & ~small.is_instructions),
                    parameter.address.eq(small.address), parameter.data.eq(small.data),
                ]
        m.d.sync += [lanes.parameters.valid.eq(parameter.valid),
                     registered(m, lanes.parameters.address).eq(parameter.address),
                     registered(m, lanes.parameters.data).eq(parameter.data)]

    def _transfer(self, m, units) -> None:
        """External memory, where there is one."""
        if Engine.LOAD not in self.engines:
            return
        crossbar, dispatcher, registers = units.crossbar, units.dispatcher, units.registers
        load, store = self.engines[Engine.LOAD], self.engines[Engine.STORE]
        connect_master(m, self.memory, load.bus, store.bus)
        connect(m, load.l, crossbar.l)
        connect(m, store.s, crossbar.s)
        connect(m, registers.region, load.region, store.region)
        connect(m, load.written, dispatcher.load.written)
        connect(m, store.written, dispatcher.store.written)
        m.d.comb += [registers.load_bytes.eq(load.bytes), registers.store_bytes.eq(store.bytes)]

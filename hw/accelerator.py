"""The accelerator: host interface, sequencer, scratchpad, array and rescaler lanes.

    host -> instructions, parameters, two scratchpad banks
    sequencer -> walker a, walker b -> banks -> feeders -> array -> readout -+
                                        |                                    v
                                        +-> add unit, max unit -> rescaler lanes -> banks
"""

from types import SimpleNamespace

from amaranth.hdl import Array, Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.array import MULTIPLIERS, MacArray
from hw.feeder import Feeder
from hw.host import AXI4LiteSignature, HostInterface
from hw.isa import MAGIC, VERSION, ErrorCode, Feed, Opcode, Register, Window
from hw.readout import BYTES_PER_SUM, Readout, destination_layout
from hw.rescaler import RescalerPipeline, RoundingMode
from hw.scratchpad import Bank, ParameterMemory, WordMemory, word_layout
from hw.sequencer import Sequencer, instruction_fields
from hw.vector import AddUnit, MaxUnit, Pass
from hw.walker import ADDRESS_WIDTH, WALKER_LAYOUT, AddressWalker

__all__ = ["Accelerator", "AcceleratorSignature", "flush_cycles"]

AcceleratorSignature = wiring.Signature({"bus": Out(AXI4LiteSignature), "interrupt": Out(1)})

#: Cycles from a slot to its word at the feeders: walker, bank, one register.
WORD_LATENCY = AddressWalker.LATENCY + Bank.LATENCY + 1


def flush_cycles(target):
    """An upper bound of what is under way once the last slot or readout is over."""
    passes = 2 * (RescalerPipeline.LATENCY + len(Pass) + 2)
    group = target.columns * BYTES_PER_SUM * target.lanes
    return WORD_LATENCY + 3 * target.word_bytes + passes + group + 16


def delayed(m, value, n_cycles, name):
    """Return ``value`` as it was ``n_cycles`` ago."""
    for stage in range(n_cycles):
        late = Signal.like(value, name=f"{name}_{stage}")
        m.d.sync += late.eq(value)
        value = late
    return value


class Accelerator(wiring.Component):
    """The accelerator of one target.

    Members
    -------
    bus : AXI4-Lite slave. interrupt : high while a finished run has not been started anew.
    """

    COUNTER_WIDTH = 64

    def __init__(self, target):
        self.target = target
        super().__init__(AcceleratorSignature)

    def elaborate(self, platform):
        m = Module()
        target = self.target
        m.submodules.host = host = HostInterface()
        self._connect_bus(m, host)
        m.submodules.instructions = instructions = WordMemory(
            depth=target.instruction_words, width=32)
        m.submodules.parameters = parameters = ParameterMemory(
            depth=target.parameter_words, lanes=target.lanes)
        m.submodules.sequencer = sequencer = Sequencer(
            target=target, fetch_latency=WordMemory.LATENCY, flush_cycles=flush_cycles(target))
        banks = []
        for index, depth in enumerate(target.bank_words):
            bank = Bank(depth=depth, word_bytes=target.word_bytes)
            m.submodules[f"bank_{index}"] = bank
            banks.append(bank)
        f = instruction_fields(sequencer.words)
        access = self._connect_host(m, host, sequencer, instructions, parameters, banks)
        words = self._fetch_words(m, f, access, sequencer, banks)
        readout = self._multiply(m, f, sequencer, words)
        self._write_back(m, f, host, access, sequencer, parameters, banks, words, readout)
        return m

    def _connect_bus(self, m, host):
        """Pass the slave port through, signal by signal."""
        for name, member in AXI4LiteSignature.members.items():
            mine, its = getattr(self.bus, name), getattr(host.bus, name)
            m.d.comb += its.eq(mine) if member.flow == In else mine.eq(its)

    def _connect_host(self, m, host, sequencer, instructions, parameters, banks):
        """Registers, counters and the memories' windows; returns the access to the banks."""
        target, lanes = self.target, self.target.lanes
        window, offset = host.address[28:], host.address[:28]
        program_address = Signal(16)
        single_step = Signal()
        refused = Signal()
        counters = {name: Signal(self.COUNTER_WIDTH, name=f"{name}_count")
                    for name in ("cycles", "array_busy", "stall")}
        for name, event in (("cycles", sequencer.busy), ("array_busy", sequencer.running),
                            ("stall", sequencer.stalled)):
            with m.If(event):
                m.d.sync += counters[name].eq(counters[name] + 1)
        in_registers = window == Window.REGISTERS
        with m.If(host.write & in_registers):
            with m.Switch(offset):
                with m.Case(Register.CONTROL):
                    m.d.sync += single_step.eq(host.write_data[1])
                    with m.If(host.write_data[0]):
                        m.d.sync += refused.eq(sequencer.busy)
                        with m.If(~sequencer.busy):
                            m.d.comb += sequencer.start.eq(1)
                            m.d.sync += [count.eq(0) for count in counters.values()]
                with m.Case(Register.PROGRAM_ADDRESS):
                    m.d.sync += program_address.eq(host.write_data)
        m.d.comb += [
            sequencer.single_step.eq(host.write_data[1]),
            sequencer.program_address.eq(program_address),
            self.interrupt.eq(sequencer.done & ~sequencer.busy),
        ]
        # A stopped program goes on behind the instruction that it stopped after.
        was_busy = Signal()
        m.d.sync += was_busy.eq(sequencer.busy)
        with m.If(was_busy & ~sequencer.busy):
            m.d.sync += program_address.eq(sequencer.index)
        error = Mux(sequencer.error != ErrorCode.NONE, sequencer.error,
                    Mux(refused, ErrorCode.START_WHILE_BUSY, ErrorCode.NONE))
        registers = {
            Register.MAGIC: MAGIC, Register.VERSION: VERSION,
            Register.CONFIGURATION: target.configuration_id,
            Register.CONTROL: Cat(0, single_step),
            Register.STATUS: Cat(sequencer.busy, sequencer.done, error != 0, Signal(5),
                                 error),
            Register.PROGRAM_ADDRESS: program_address,
            Register.INSTRUCTION_INDEX: sequencer.index,
            Register.CYCLES_LOW: counters["cycles"][:32],
            Register.CYCLES_HIGH: counters["cycles"][32:],
            Register.ARRAY_BUSY_LOW: counters["array_busy"][:32],
            Register.ARRAY_BUSY_HIGH: counters["array_busy"][32:],
            Register.STALL_LOW: counters["stall"][:32],
            Register.STALL_HIGH: counters["stall"][32:],
        }
        known = Signal()
        register_data = Signal(32)
        with m.Switch(offset):
            for register, value in registers.items():
                with m.Case(register):
                    m.d.comb += [known.eq(1), register_data.eq(value)]
        in_memory = Signal()
        m.d.comb += in_memory.eq(
            ((window == Window.INSTRUCTIONS) & (offset < 4 * target.instruction_words))
            | ((window == Window.PARAMETERS)
               & (offset < 16 * lanes * target.parameter_words))
            | ((window == Window.BANK_0) & (offset < target.host_word_bytes * banks[0].depth))
            | ((window == Window.BANK_1) & (offset < target.host_word_bytes * banks[1].depth)))
        m.d.comb += host.allowed.eq(Mux(in_registers, known, in_memory & ~sequencer.busy))

        reads = host.reading & ~sequencer.busy  # registers are read at any time
        lane_bits = (lanes - 1).bit_length()
        m.d.comb += [
            instructions.read_address.eq(
                Mux(reads, offset >> 2, sequencer.fetch_address)),
            sequencer.fetch_data.eq(instructions.read_data),
            instructions.write_address.eq(offset >> 2),
            instructions.write_data.eq(host.write_data),
            instructions.write_enable.eq(host.write & (window == Window.INSTRUCTIONS)),
            parameters.write_address.eq(offset[4 + lane_bits:]),
            parameters.write_lane.eq(offset[4:4 + lane_bits] if lane_bits else 0),
            parameters.write_field.eq(offset[2:4]),
            parameters.write_data.eq(host.write_data),
            parameters.write_enable.eq(host.write & (window == Window.PARAMETERS)),
        ]
        word_bits = (target.host_word_bytes - 1).bit_length()
        pieces = target.host_word_bytes // 4
        piece = offset[2:word_bits] if pieces > 1 else 0
        access = SimpleNamespace(
            word=offset[word_bits:], reads=reads,
            enable=Cat(host.write_strobe[k % 4] & (piece == k // 4)
                       for k in range(target.word_bytes)),
            data=Cat(host.write_data.word_select(k % 4, 8) for k in range(target.word_bytes)))
        bank_words = [Cat(bank.read_data.as_value(), Signal(8 * target.host_word_bytes
                                                            - 8 * target.word_bytes))
                      for bank in banks]
        memory_data = Signal(32)
        with m.Switch(window):
            with m.Case(Window.INSTRUCTIONS):
                m.d.comb += memory_data.eq(instructions.read_data)
            for bank, value in zip((Window.BANK_0, Window.BANK_1), bank_words):
                with m.Case(bank):
                    m.d.comb += memory_data.eq(value.word_select(piece, 32))
        m.d.sync += host.read_data.eq(Mux(in_registers, register_data, memory_data))
        return access

    def _fetch_words(self, m, f, access, sequencer, banks):
        """Walkers and banks: the words of ports a and b, with their controls."""
        words = {}
        walkers = {}
        for port, lanes, step in (("a", self.target.rows, sequencer.step_a),
                                  ("b", self.target.columns, sequencer.step_b)):
            walker = AddressWalker(n_groups=-(-self.target.word_bytes // lanes))
            m.submodules[f"walker_{port}"] = walkers[port] = walker
            m.d.comb += walker.step.eq(step)
            for name, _ in WALKER_LAYOUT:
                m.d.comb += walker.fields[name].eq(f[f"{port}_{name}"])
        for index, bank in enumerate(banks):
            chosen = Mux(walkers["a"].valid & (f["a_bank"] == index), walkers["a"].address,
                         walkers["b"].address)
            m.d.comb += bank.read_address.eq(Mux(access.reads, access.word, chosen))
        for port, walker in walkers.items():
            valid = delayed(m, walker.valid, Bank.LATENCY, f"{port}_valid")
            inside = delayed(m, walker.inside, Bank.LATENCY, f"{port}_inside")
            sub = delayed(m, walker.sub, Bank.LATENCY + 1, f"{port}_sub")
            word = Signal(word_layout(self.target.word_bytes), name=f"{port}_word")
            word_valid = Signal(name=f"{port}_word_valid")
            pad = f[f"{port}_pad"][:8]
            read = Mux(f[f"{port}_bank"] == 0, banks[0].read_data.as_value(),
                       banks[1].read_data.as_value())
            m.d.sync += [
                word_valid.eq(valid),
                word.as_value().eq(Mux(valid, Mux(inside, read,
                                                  pad.replicate(self.target.word_bytes)), 0)),
            ]
            words[port] = {"word": word, "valid": word_valid, "sub": sub,
                           "feed": f[f"{port}_feed"]}
        return words

    def _multiply(self, m, f, sequencer, words):
        """Feeders, array and readout."""
        target = self.target
        m.submodules.array = array = MacArray(rows=target.rows, columns=target.columns,
                                              multiplier=target.multiplier)
        is_matmul = f["opcode"] == Opcode.MATMUL
        for port, lanes, entry in (("a", target.rows, array.a), ("b", target.columns, array.b)):
            feeder = Feeder(n_lanes=lanes, word_bytes=target.word_bytes)
            m.submodules[f"feeder_{port}"] = feeder
            w = words[port]
            start = delayed(m, sequencer.period_start, WORD_LATENCY, f"{port}_start")
            m.d.comb += [
                feeder.word.eq(w["word"]), feeder.sub.eq(w["sub"]),
                feeder.start.eq(start & is_matmul & (w["feed"] == Feed.TRANSPOSING)),
                feeder.direct.eq(is_matmul & (w["feed"] == Feed.DIRECT)),
                entry.eq(feeder.lanes),
            ]
        entry_latency = WORD_LATENCY + Feeder.LATENCY
        last = delayed(m, sequencer.last, entry_latency, "last")
        m.d.comb += [
            array.first.eq(delayed(m, sequencer.first, entry_latency, "first")),
            array.last.eq(last),
        ]
        m.submodules.readout = readout = Readout(target=target, array=array)
        for name in ("swap", "wide", "inner_count", "out_base", "out_byte", "out_step",
                     "n_pixels", "n_channels", "parameter_base", "plane_step"):
            m.d.comb += getattr(readout, name).eq(f[name])
        m.d.comb += [
            readout.start.eq(sequencer.instruction_start), readout.last.eq(last),
            sequencer.tile_read.eq(readout.done), array.pop.eq(readout.pop),
            readout.results.eq(array.results), readout.results_valid.eq(array.results_valid),
        ]
        return readout

    def _write_back(self, m, f, host, access, sequencer, parameters, banks, words, readout):
        """Add and max units, rescaler lanes, and the one write port of the banks."""
        target, lanes = self.target, self.target.lanes
        word_bytes = target.word_bytes
        latency = ParameterMemory.LATENCY
        m.submodules.add = add = AddUnit(target=target, lane_latency=RescalerPipeline.LATENCY)
        m.submodules.max = maximum = MaxUnit(word_bytes=word_bytes)
        is_add, is_max = f["opcode"] == Opcode.ADD, f["opcode"] == Opcode.MAXPOOL
        m.d.comb += [
            add.start.eq(sequencer.instruction_start), add.out_base.eq(f["out_base"]),
            add.zero_point_0.eq(f["zero_point_0"]), add.zero_point_1.eq(f["zero_point_1"]),
            add.left_shift.eq(f["left_shift"]),
            add.words_valid.eq(words["b"]["valid"] & is_add), add.word_1.eq(words["b"]["word"]),
            maximum.start.eq(sequencer.instruction_start), maximum.out_base.eq(f["out_base"]),
            maximum.n_words.eq(f["emit_periods"]),
            maximum.word_valid.eq(words["a"]["valid"] & is_max),
            maximum.word.eq(words["a"]["word"]),
            parameters.read_address.eq(readout.parameter),
        ]
        m.d.sync += add.word_0.eq(words["a"]["word"])  # its word comes one slot before

        sums = delayed(m, readout.sums, latency, "sums")
        valid = delayed(m, readout.valid & ~f["wide"], latency, "sums_valid")
        destination = delayed(m, readout.destination, latency, "destination")
        parameter_lane = delayed(m, readout.parameter_lane, latency, "parameter_lane")
        tag = data.StructLayout({"destination": destination_layout(lanes), "which": Pass,
                                 "is_add": 1})
        pipelines = []
        for lane in range(lanes):
            pipeline = RescalerPipeline(
                tag_shape=tag if lane == 0 else None,
                multiplier_class=MULTIPLIERS[target.multiplier])
            m.submodules[f"rescaler_{lane}"] = pipeline
            pipelines.append(pipeline)
            own = parameters.read_data[lane]
            shared = Array([parameters.read_data[k].as_value() for k in range(lanes)])
            channel = data.View(own.shape(), Mux(
                f["swap"], shared[parameter_lane] if lanes > 1 else shared[0], own.as_value()))
            item = pipeline.i.payload
            m.d.comb += [
                pipeline.i.valid.eq(Mux(is_add, add.valid, valid)),
                item.acc.eq(Mux(is_add, add.values[lane], sums[lane])),
                item.bias.eq(Mux(is_add, 0, channel.bias)),
                item.rounding.eq(Mux(f["gemmlowp"], RoundingMode.GEMMLOWP, RoundingMode.HALF_UP)),
                item.zero_point.eq(f["zero_point"]), item.low.eq(f["low"]),
                item.high.eq(f["high"]), item.wide.eq(is_add & (add.which != Pass.SUM)),
                item.multiplier.eq(channel.multiplier), item.shift.eq(channel.shift),
            ]
            for which in Pass:
                with m.If(is_add & (add.which == which)):
                    m.d.comb += [item.multiplier.eq(f[f"multiplier_{which.value}"]),
                                 item.shift.eq(f[f"shift_{which.value}"])]
            m.d.comb += add.returned[lane].eq(pipeline.o.payload.value)
        tag_in, out = pipelines[0].i.payload.tag, pipelines[0].o
        m.d.comb += [
            tag_in.destination.eq(Mux(is_add, add.destination, destination)),
            tag_in.which.eq(add.which), tag_in.is_add.eq(is_add),
            add.returned_valid.eq(out.valid & out.payload.tag.is_add),
            add.returned_which.eq(out.payload.tag.which),
        ]

        # One write a cycle: rescaled codes, raw byte planes, maxima, or the host's bytes.
        to = Mux(f["wide"], readout.destination.as_value(),
                 out.payload.tag.destination.as_value())
        to = data.View(destination_layout(lanes), to)
        codes = Signal(data.ArrayLayout(signed(8), lanes))
        for lane, pipeline in enumerate(pipelines):
            m.d.comb += codes[lane].eq(Mux(
                f["wide"], readout.sums[lane].as_unsigned().word_select(readout.plane, 8),
                pipeline.o.payload.value[:8]))
        single = Array([codes[k] for k in range(lanes)])[to.lane] if lanes > 1 else codes[0]
        is_final = ~out.payload.tag.is_add | (out.payload.tag.which == Pass.SUM)
        write_valid = Mux(f["wide"], readout.valid, out.valid & is_final)
        enable = Signal(word_bytes)
        value = Signal(word_layout(word_bytes))
        for k in range(word_bytes):
            in_group = (to.byte == k - k % lanes) & to.mask.bit_select(k % lanes, 1)
            m.d.comb += [
                enable[k].eq(write_valid & Mux(to.single, (to.byte == k) & to.mask[0], in_group)),
                value[k].eq(Mux(to.single, single, codes[k % lanes])),
            ]
        write = data.StructLayout({"address": ADDRESS_WIDTH, "enable": word_bytes,
                                   "value": word_layout(word_bytes)})
        store = Signal(write)
        m.d.sync += [
            store.address.eq(Mux(is_max, maximum.address, to.address)),
            store.enable.eq(Mux(is_max, maximum.valid.replicate(word_bytes), enable)),
            store.value.eq(Mux(is_max, maximum.maximum, value)),
        ]
        for index, bank in enumerate(banks):
            own = host.write & (host.address[28:] == (Window.BANK_0, Window.BANK_1)[index])
            m.d.comb += [
                bank.write_address.eq(Mux(own, access.word, store.address)),
                bank.write_data.as_value().eq(Mux(own, access.data, store.value.as_value())),
                bank.write_enable.eq(Mux(own, access.enable, Mux(
                    f["out_bank"] == index, store.enable, 0))),
            ]

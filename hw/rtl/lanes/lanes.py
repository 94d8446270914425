"""Lanes: the rescaler lanes that array and vector engine share, and the writing of their results.

An item is one value for every lane: what belongs together in one word of a bank, ``lanes``
channels side by side. Array items never wait; vector items enter in the cycles without one. The
order of each engine's items is kept, so its progress and its end travel with them.

Sums that are stored raw (``wide``) enter as the signed byte of one plane and pass as codes: in
full width the rescaler's left shift would saturate the largest.
"""

from amaranth.hdl import Array, Cat, Const, Module, Mux, Signal, Value, signed
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden import arith
from hw.rtl.array.array import ACCUMULATOR_WIDTH
from hw.rtl.array.multiplier import MULTIPLIERS
from hw.rtl.common.pipeline import Pipeline, registered
from hw.rtl.common.stream import SkidBuffer
from hw.rtl.control.ports import EngineProgress
from hw.rtl.lanes.ports import ParameterWrite, array_item_layout
from hw.rtl.lanes.rescaler import RescalerPipeline
from hw.rtl.memory.crossbar import Write
from hw.rtl.memory.scratchpad import FIELDS_PER_CHANNEL, ParameterMemory
from hw.rtl.vector.ports import Which, returned_signature, vector_item_layout

__all__ = ["Lanes"]

_BYTE = 8
# A multiplier and shift of 1: what passes a byte through unchanged.
_IDENTITY_SHIFT = arith.MULTIPLIER_WIDTH - 1


class Lanes(wiring.Component):
    """``target.lanes`` rescalers with the parameter memory in front and the writing behind.

    Members
    -------
    array : stream of array_item_layout, always ready. vector : stream of vector_item_layout.
    parameters : ParameterWrite. An item that enters PARAMETER_LATENCY cycles after a channel's
        last field, or later, uses it.
    r : Write, for the crossbar. The word holds the codes in every group; `enable` says which count.
    returned : {valid, which, values}: results of the vector items FIRST_INPUT and SECOND_INPUT, in
        32 bits, in order. They are not written.
    array_written, vector_written : EngineProgress: progress and instruction_end of an item, in
        the cycle of its write.
    address_error : the parameter word that an item needs, or that is written, is not there.

    One item per cycle. An array item, or a vector item that need not wait, is written or returned
    LATENCY cycles later.
    """

    PARAMETER_LATENCY = 1
    # Register, choice of the item, parameter memory, operands; rescaler; output register.
    _FRONT_LATENCY = 2 + ParameterMemory.LATENCY + 1
    LATENCY = _FRONT_LATENCY + RescalerPipeline.LATENCY + 1

    def __init__(self, target):
        self.target = target
        super().__init__({
            "array": In(stream.Signature(array_item_layout(target), always_ready=True)),
            "vector": In(stream.Signature(vector_item_layout(target))),
            "parameters": In(ParameterWrite()),
            "r": Out(Write(target.word_bytes)), "returned": Out(returned_signature(target)),
            "array_written": Out(EngineProgress()), "vector_written": Out(EngineProgress()),
            "address_error": Out(1)})

    def _choose_part(self, m, names, arrays, vectors) -> tuple:
        """Some fields of this cycle's item, by name, with ``valid`` and ``from_array``.

        ``arrays``, ``vectors``: what enters, by name. The parts move together, each with its own
        copy of what decides: one register could not reach them all. Returns the vector's ready too.
        """
        tag = names[0]
        shapes = {name: vectors[name].shape() for name in names}
        from_array = Signal(name=f"from_array_{tag}", attrs={"keep": 1})
        m.d.sync += from_array.eq(self.array.valid)
        m.submodules[f"vector_{tag}"] = buffer = SkidBuffer(data.StructLayout(shapes))
        m.d.comb += [buffer.i.valid.eq(self.vector.valid), buffer.o.ready.eq(~from_array),
                     *(buffer.i.payload[name].eq(vectors[name]) for name in names)]
        part = {"valid": from_array | buffer.o.valid, "from_array": from_array}
        for name in names:
            value = buffer.o.payload[name]
            if name in arrays:
                array = Signal(shapes[name], name=f"array_{name}", reset_less=True)
                m.d.sync += array.eq(arrays[name])
                value = Mux(from_array, array, value)
            part[name] = value
        return part, buffer.i.ready

    def _choose_item(self, m) -> tuple:
        """The pipeline of everything but the sums begins: the item of this cycle, registered.

        Returns the pipeline and the register of the sums.
        """
        def fields(item):
            sums = {f"sum_{k}": value for k, value in enumerate(item.sums)}
            return sums | {name: Value.cast(item[name]) for name, _ in item.shape()
                           if name != "sums"}

        arrays = fields(self.array.payload) | {"which": Const(Which.PARAMETERS.value, Which)}
        vectors = fields(self.vector.payload)
        item = {}
        sum_names = [f"sum_{k}" for k in range(self.target.lanes)]
        destination = ("bank", "address", "group", "mask", "progress", "instruction_end")
        scale = [name for name in vectors if name not in (*sum_names, *destination)]
        for names in (*([name] for name in sum_names), scale, destination):
            part, ready = self._choose_part(m, names, arrays, vectors)
            item |= part
        m.d.comb += self.vector.ready.eq(ready)
        sums = Signal(self.array.payload.sums.shape(), reset_less=True)
        m.d.sync += [sums[k].eq(item.pop(name)) for k, name in enumerate(sum_names)]
        pipe = Pipeline(m, **item)
        pipe.stage()
        return pipe, sums

    def _read_parameters(self, m, pipe, sums) -> tuple:
        """Through the parameter memory; the plane of raw sums is chosen meanwhile."""
        target = self.target
        m.submodules.parameters = memory = ParameterMemory(
            depth=target.parameter_words, lanes=target.lanes)
        now = pipe.now
        port = self.parameters
        in_range = port.address < target.parameter_words * target.lanes * FIELDS_PER_CHANNEL
        m.d.comb += [
            memory.read_address.eq(now.parameter), memory.write_address.eq(port.address),
            memory.write_data.eq(port.data), memory.write_valid.eq(port.valid & in_range)]
        uses_parameters = (now.which == Which.PARAMETERS) & ~now.wide
        m.d.sync += self.address_error.eq(
            (now.valid & uses_parameters & (now.parameter >= target.parameter_words))
            | (port.valid & ~in_range))
        returns = (now.which == Which.FIRST_INPUT) | (now.which == Which.SECOND_INPUT)
        raw = now.wide & (now.which == Which.PARAMETERS)
        plane = now.plane
        now = pipe.stage(
            drop=("wide", "plane", "parameter"), raw=raw, returns=returns,
            writes=now.mask.any() & ~returns, uses_parameters=uses_parameters,
            enable=Cat(Mux(now.group == k // target.lanes, now.mask[k % target.lanes], 0)
                       for k in range(target.word_bytes)))
        bytes_of = [Array([s[_BYTE * k:][:_BYTE] for k in range(ACCUMULATOR_WIDTH // _BYTE)])
                    for s in sums]
        bytes_1 = Signal(data.ArrayLayout(signed(_BYTE), target.lanes), reset_less=True)
        sums_1 = Signal(sums.shape(), reset_less=True)
        accs = Signal(sums.shape(), reset_less=True)
        m.d.sync += sums_1.eq(sums)
        for k in range(target.lanes):
            m.d.sync += [bytes_1[k].eq(bytes_of[k][plane]),
                         accs[k].eq(Mux(now.raw, bytes_1[k], sums_1[k]))]
        for _ in range(ParameterMemory.LATENCY - 1):
            pipe.stage()
        return memory.read_data, accs

    def _rescale(self, m, pipe, parameters, accs) -> list:
        """Operands into the rescalers; the rest of the item goes along. Returns the values."""
        now = pipe.now
        operands = {
            "rounding": now.gemmlowp & ~now.raw,
            "zero_point": Mux(now.raw, 0, now.zero_point),
            "low": Mux(now.raw, arith.INT8_MIN, now.low),
            "high": Mux(now.raw, arith.INT8_MAX, now.high), "wide": now.returns}
        shared = {}
        for name, value in operands.items():
            shared[name] = Signal(Value.cast(value).shape(), name=f"lane_{name}", reset_less=True)
            m.d.sync += shared[name].eq(value)
        own_multiplier = Mux(now.raw, 1 << _IDENTITY_SHIFT, now.multiplier)
        own_shift = Mux(now.raw, _IDENTITY_SHIFT, now.shift)
        per_lane = ("acc", "bias", "multiplier", "shift")
        values = []
        for k in range(self.target.lanes):
            lane = RescalerPipeline(multiplier_class=MULTIPLIERS[self.target.multiplier])
            m.submodules[f"lane_{k}"] = lane
            layout = lane.i.payload.shape()
            item = {name: Signal(layout[name].shape, name=f"{name}_{k}", reset_less=True)
                    for name in per_lane}
            word = parameters[k]
            m.d.sync += [
                item["acc"].eq(accs[k]),
                item["bias"].eq(Mux(now.uses_parameters, word.bias, 0)),
                item["multiplier"].eq(Mux(now.uses_parameters, word.multiplier, own_multiplier)),
                item["shift"].eq(Mux(now.uses_parameters, word.shift, own_shift))]
            m.d.comb += [lane.i.payload[name].eq(item[name]) for name in per_lane]
            m.d.comb += [Value.cast(lane.i.payload[name]).eq(value)
                         for name, value in shared.items()]
            values.append(lane.o.payload.value)
        pipe.stage(drop=("raw", "uses_parameters", "multiplier", "shift", "gemmlowp",
                         "zero_point", "low", "high"))
        pipe.wait(RescalerPipeline.LATENCY, "beside")
        return values

    def elaborate(self, platform) -> Module:
        m = Module()
        pipe, sums = self._choose_item(m)
        parameters, accs = self._read_parameters(m, pipe, sums)
        values = self._rescale(m, pipe, parameters, accs)
        assert pipe.depth == self.LATENCY - 2, pipe.depth
        now = pipe.now
        n_lanes = self.target.lanes
        data_register = registered(m, self.r.data)
        m.d.sync += [data_register[k].eq(values[k % n_lanes])
                     for k in range(self.target.word_bytes)]
        m.d.sync += [
            self.r.valid.eq(now.valid & now.writes), self.r.enable.eq(now.enable),
            self.r.bank.eq(now.bank), self.r.address.eq(now.address),
            self.returned.valid.eq(now.valid & now.returns),
            Value.cast(self.returned.which).eq(now.which)]
        returned = registered(m, self.returned.values)
        m.d.sync += [returned[k].eq(value) for k, value in enumerate(values)]
        for written, mine in ((self.array_written, now.from_array),
                              (self.vector_written, ~now.from_array)):
            passes = now.valid & mine
            m.d.sync += [written.progress.eq(Mux(passes, now.progress, 0)),
                         written.complete.eq(passes & now.instruction_end)]
        return m

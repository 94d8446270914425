"""VectorEngine: everything that is not a matrix product, beside the array.

    StepWalker -> v -> Operands -> Products -> ResultStore -> Emitter -> lanes
    WeightStore <- w ----^    |--> Maximum ------^  ^            '-----> m (MAXPOOL, LOOKUP)
          '-----(table)-------|--> Lookup -------^  |
                              '--> PairUnit --------+--------^ (inputs of ADD)
                                     ^----- returned (of ADD)

DEPTHWISE, WINDOW and LINEAR go through Products, ADD and MUL through PairUnit. Everything in front
of Operands runs ahead; between Operands and the results nothing ever waits.
"""

from types import SimpleNamespace

from amaranth.hdl import Cat, Module, Mux, ResetInserter, Signal, Value
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out, connect, flipped

from hw.isa import Engine, ErrorCode, Format
from hw.rtl.common.loops import Level
from hw.rtl.common.pipeline import own_copy
from hw.rtl.control.ports import EngineControl
from hw.rtl.control.slot import instruction_fields
from hw.rtl.memory.crossbar import Read, WaitingWrite
from hw.rtl.memory.scratchpad import word_layout
from hw.rtl.memory.waiting import WaitingQueue
from hw.rtl.vector.emitter import Emitter
from hw.rtl.vector.geometry import Geometry
from hw.rtl.vector.lookup import LookupUnit
from hw.rtl.vector.maximum import Maximum
from hw.rtl.vector.operands import Operands
from hw.rtl.vector.pairs import PairUnit
from hw.rtl.vector.places import PlaceWalker
from hw.rtl.vector.ports import SUM_WIDTH, returned_signature, vector_item_layout
from hw.rtl.vector.products import Products
from hw.rtl.vector.results import ResultStore
from hw.rtl.vector.steps import StepWalker
from hw.rtl.vector.weights import N_MULTIPLIERS, WeightStore

__all__ = ["VectorEngine"]


class VectorEngine(wiring.Component):
    """Runs one vector instruction at a time.

    Cycles of a whole instruction, about 30 more for its beginning and end, where no port waits and
    the lanes (one group of 4 channels per cycle, three for ADD) are not slower:
    DEPTHWISE 3 per column of the padded input, line and chunk; WINDOW and MAXPOOL 1 per tap;
    LINEAR n_inputs / 2 per word of outputs; ADD 3 per group of channels; MUL 1 per group and 4
    per word; LOOKUP 1 per group of a whole word, and 1 per TABLE_ROW codes of the table before.

    Members
    -------
    control : EngineControl. ``start`` comes not while ``busy``. ``done``: the last item has gone to
        the lanes, or the last word of MAXPOOL or LOOKUP to ``m``. A unit of the chase is an output
        line, of ADD, MUL and LOOKUP a pixel, of LINEAR all. Weights and the table are not chased;
        they must be there at ``start``. After an ``error`` nothing was read. As long as ``abort``
        is up, reads and items under way are forgotten. It must stay up until they have come back.
    reset : in the next cycle everything is reset.
    busy : from the cycle after ``start`` on.
    v, w : read ports of the crossbar, for the input and the weights. m : its write port, for
        MAXPOOL and LOOKUP, which give their progress and end there.
    vector : items for the lanes. returned : results of the inputs of additions.
    """

    def __init__(self, target):
        self.target = target
        word = word_layout(target.word_bytes)
        super().__init__({
            "control": In(EngineControl(Engine.VECTOR)), "reset": In(1), "busy": Out(1),
            "v": Out(Read(word)), "w": Out(Read(data.ArrayLayout(word, 2))),
            "vector": Out(stream.Signature(vector_item_layout(target))),
            "returned": In(returned_signature(target)),
            "m": Out(WaitingWrite(target.word_bytes))})

    def _control(self, m, geometry, finished):
        """Start, fault and end of an instruction. Returns the pulse that begins its loops."""
        load = Signal()
        count = Signal(range(Geometry.LATENCY + 1))
        preparing, running = Signal(), Signal()
        m.d.sync += [self.control.done.eq(0), self.control.error.eq(ErrorCode.NONE), load.eq(0)]
        with m.If(self.control.start):
            m.d.sync += [preparing.eq(1), count.eq(1)]
        with m.If(preparing):
            m.d.sync += count.eq(count + 1)
            with m.If((count == Geometry.FAULT_LATENCY) & geometry.impossible):
                m.d.sync += [preparing.eq(0), self.control.error.eq(ErrorCode.FIELD)]
            with m.If(count == Geometry.LATENCY - 1):
                m.d.sync += [preparing.eq(0), running.eq(1), load.eq(1)]
        with m.If(running & finished):
            m.d.sync += [running.eq(0), self.control.done.eq(1)]
        with m.If(self.control.abort | own_copy(m, self.reset, "control_reset")):
            m.d.sync += [preparing.eq(0), running.eq(0), load.eq(0), self.control.done.eq(0),
                         self.control.error.eq(ErrorCode.NONE)]
        m.d.comb += self.busy.eq(preparing | running)
        return load

    def elaborate(self, platform) -> Module:
        m = Module()
        target = self.target
        f = instruction_fields(self.control.words, format_=Format.VECTOR)
        units = {}
        wants_word = Signal()
        clear = self.control.abort | self.control.start | self.reset

        def add(name, unit):
            units[name] = unit
            inserted = ResetInserter(own_copy(m, clear, f"clear_{name}"))
            setattr(m.submodules, name, inserted(unit))
            return unit

        m.submodules.geometry = geometry = Geometry(target)
        steps = add("steps", StepWalker(target.word_bytes))
        weights = add("weights", WeightStore(target.word_bytes))
        operands = add("operands", Operands(target.word_bytes))
        add("products", Products(target.columns))
        add("maximum", Maximum(target.word_bytes))
        lookup = add("lookup", LookupUnit(target))
        pairs = add("pairs", PairUnit(target))
        results = add("results", ResultStore(target))
        places = add("places", PlaceWalker(target))
        emitter = add("emitter", Emitter(target))
        g = geometry.geometry
        load = self._control(m, geometry, emitter.finished)

        m.d.comb += [geometry.words.eq(self.control.words), geometry.start.eq(self.control.start),
                     emitter.words.eq(self.control.words)]
        for unit in (steps, weights, operands, pairs, places, emitter):
            m.d.comb += unit.geometry.eq(g)
        for name in ("steps", "weights", "lookup", "pairs", "places"):
            m.d.comb += units[name].load.eq(own_copy(m, load, f"load_{name}"))
        m.d.comb += [
            steps.x_bank.eq(f["x_bank"]), steps.y_bank.eq(f["y_bank"]),
            steps.width.eq(f["width"]), steps.height.eq(f["height"]),
            places.parameter_base.eq(f["parameter_base"]), places.n_channels.eq(f["n_channels"]),
            places.first_channel.eq(f["first_channel"]),
            pairs.n_channels.eq(f["n_channels"]), pairs.zero_point_0.eq(f["zero_point_0"]),
            pairs.zero_point_1.eq(f["zero_point_1"]),
            places.base.eq(f["out_base"]), places.step.eq(f["out_step"]),
            weights.base.eq(f["w_base"]), weights.bank.eq(f["w_bank"]),
            operands.pad.eq(f["pad"])]
        m.d.comb += [
            steps.chases.eq(f["chase"]), steps.unit_ready.eq(self.control.unit_ready),
            self.control.unit_next.eq(steps.unit_next),
            steps.used.eq(operands.used), self.v.valid.eq(steps.requests.valid),
            steps.requests.ready.eq(self.v.ready), self.v.bank.eq(steps.requests.payload.bank),
            self.v.address.eq(steps.requests.payload.address),
            operands.word_valid.eq(self.v.response_valid), operands.word.eq(self.v.data),
            operands.weights_available.eq(weights.available),
            operands.has_room.eq(results.has_room), operands.wants_word.eq(wants_word),
            weights.row.eq(operands.row), weights.frees.eq(operands.frees | lookup.takes)]
        m.d.sync += wants_word.eq(pairs.wants_next & lookup.wants_next)
        connect(m, steps.tags, operands.tags)
        connect(m, flipped(self.w), weights.w)
        connect(m, pairs.inputs, emitter.inputs)
        connect(m, places.places, emitter.places)
        connect(m, flipped(self.returned), pairs.returned)
        connect(m, emitter.vector, flipped(self.vector))
        connect(m, emitter.m, flipped(self.m))
        # The port's ready would have to come across the device in time: the words on their way are
        # counted instead. No instruction clears the count, and an abort outlasts them; a reset
        # forgets them, as the port does.
        written, ways = Signal(), Module()
        on_the_way = Level(ways, "m_on_the_way", WaitingQueue.DEPTH - 2, emitter.m.valid, written)
        ways.d.sync += written.eq(self.m.written)
        m.submodules.ways = ResetInserter(own_copy(m, self.reset, "ways_reset"))(ways)
        m.d.comb += emitter.m_room.eq(on_the_way.room)
        self._compute(m, g, SimpleNamespace(**units))
        return m

    def _group_sums(self, m, g, units) -> Value:
        """Of the unit whose results come group by group, chosen for each sum by itself."""
        lanes = self.target.lanes
        codes = [word.as_value() for word in (units.lookup.word, units.maximum.maximum)]
        sums = []
        for k in range(lanes):
            is_pair, is_mul, is_lookup = (own_copy(m, flag, f"group_{name}_{k}") for name, flag in (
                ("pair", g.is_pair), ("mul", g.is_mul), ("lookup", g.is_lookup)))
            looked_up, largest = (word[SUM_WIDTH * k:][:SUM_WIDTH] for word in codes)
            sums.append(Mux(is_pair, Mux(is_mul, units.pairs.products[k], units.pairs.sums[k]),
                            Mux(is_lookup, looked_up, largest))[:SUM_WIDTH])
        return Cat(sums)

    def _compute(self, m, g, units) -> None:
        """From operands and weights to results, by the units that compute, and to the emitter.

        Step, word and weights reach the multipliers together.
        """
        operands, weights, results, emitter = (units.operands, units.weights, units.results,
                                               units.emitter)
        products, maximum, lookup, pairs = (units.products, units.maximum, units.lookup,
                                            units.pairs)
        assert weights.LATENCY == operands.LATENCY
        for name, unit, is_its in (("products", products, g.is_product),
                                   ("maximum", maximum, g.is_maximum),
                                   ("lookup", lookup, g.is_lookup)):
            m.d.comb += unit.valid.eq(operands.valid & own_copy(m, is_its, f"{name}_step"))
        for unit in products, maximum:
            m.d.comb += [unit.first.eq(operands.first), unit.last.eq(operands.last)]
        m.d.comb += [
            products.x.eq(operands.x), products.weights.eq(weights.weights),
            maximum.word.eq(operands.x[N_MULTIPLIERS - 1]),
            lookup.is_lookup.eq(g.is_lookup), lookup.arrived.eq(weights.arrived),
            lookup.table.eq(weights.weights[N_MULTIPLIERS - 1]), lookup.uses.eq(operands.used),
            lookup.x.eq(operands.x[N_MULTIPLIERS - 1]),
            pairs.takes_word.eq(operands.used & own_copy(m, g.is_pair, "takes_word_pair")),
            pairs.word_valid.eq(operands.pair_valid), pairs.word.eq(operands.pair_word),
            pairs.has_room.eq(results.has_room),
            results.claim.eq(operands.claims | pairs.claims),
            results.put_next.eq(products.valid_next | pairs.valid_next | maximum.valid_next
                                | lookup.valid_next),
            results.word_next.eq(products.valid_next), results.word.eq(products.sums),
            results.group_sums.eq(self._group_sums(m, g, units)),
            emitter.available.eq(results.available), emitter.sums.eq(results.sums),
            results.take.eq(emitter.take), results.group.eq(emitter.group),
            results.drop.eq(emitter.drop),
            emitter.returned.eq(self.returned.valid)]

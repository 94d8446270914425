"""RangeBN with batch statistics: the unit of training mode.

Per channel the codes pass twice. The first pass gives sum and spread (golden/ops/range_norm.py has
the algorithm, its widths and its source); about 200 clocks later m, B and sh are known, and the
second pass gives y = clamp((q * m + B + half) >> sh), one code per clock.
"""

from types import SimpleNamespace

from amaranth.hdl import Const, Module, Mux, Signal, signed, unsigned
from amaranth.lib import data, stream, wiring
from amaranth.lib.wiring import In, Out

from golden import arith
from golden.ops import range_norm
from hw.rtl.array.multiplier import Multiplier
from hw.rtl.common.pipeline import Pipeline
from hw.rtl.common.stream import Elastic
from hw.rtl.norm.divider import Divider

__all__ = ["PARAMETERS", "RangeBatchNormUnit", "RangeNormApply", "range_norm_items"]

CODE = signed(arith.INT8_MAX.bit_length() + 1)
COUNT = unsigned(range_norm.COUNT_MAX.bit_length())
SUM = unsigned(COUNT.width + CODE.width - 1)
BIAS = signed(range_norm.BIAS_WIDTH + 1)     # B plus half
SHIFT = range(range_norm.SHIFT_MAX + 1)
MAGNITUDE = unsigned(range_norm.MULTIPLIER_WIDTH - 1)
# The divisor has its top bit set.
QUOTIENT = unsigned(range_norm.GAIN_WIDTH + range_norm.QUOTIENT_SHIFT
                    - (range_norm.DIVISOR_WIDTH - 1))
PARAMETERS = data.StructLayout({
    "count": COUNT, "gain": signed(range_norm.GAIN_WIDTH + 1),
    "shift": range(range_norm.BASE_SHIFT_MAX + 1), "beta": signed(range_norm.BETA_WIDTH),
    "epsilon": range(range_norm.EPSILON_MAX + 1), "low": CODE, "high": CODE,
})


def range_norm_items(config) -> list:
    """The items of `parameters`, one dict per channel, for a golden RangeNormConfig."""
    return [{"count": int(config.count), "gain": int(gain), "shift": int(shift),
             "beta": int(beta), "epsilon": int(config.epsilon), "low": int(config.low),
             "high": int(config.high)}
            for gain, shift, beta in zip(config.gain, config.shift, config.beta, strict=True)]


class RangeNormApply(wiring.Component):
    """y = clamp((q * multiplier + bias) >> shift), never stalls.

    Members
    -------
    i, o : always-ready streams of codes.
    multiplier, bias (half included), shift, low, high : held while codes are in the pipeline.
    """

    LATENCY = Multiplier.LATENCY + 4

    def __init__(self, multiplier_class=Multiplier):
        self.multiplier_class = multiplier_class
        super().__init__({
            "i": In(stream.Signature(CODE, always_ready=True)),
            "o": Out(stream.Signature(CODE, always_ready=True)),
            "multiplier": In(signed(range_norm.MULTIPLIER_WIDTH)), "bias": In(BIAS),
            "shift": In(SHIFT), "low": In(CODE), "high": In(CODE)})

    def elaborate(self, platform) -> Module:
        m = Module()
        unit = self.multiplier_class(CODE, self.multiplier.shape())
        m.submodules.multiplier = unit
        m.d.comb += [unit.a.eq(self.i.payload), unit.b.eq(self.multiplier)]
        pipe = Pipeline(m, valid=self.i.valid)
        for _ in range(self.multiplier_class.LATENCY):
            pipe.stage()
        total = (unit.p + self.bias)[:BIAS.width].as_signed()
        now = pipe.stage(total=total)
        now = pipe.stage(drop=("total",), y=now.total >> self.shift)
        now = pipe.stage(y=now.y[:CODE.width].as_signed(), below=now.y < self.low,
                         above=now.y > self.high)
        y = Mux(now.below, self.low, Mux(now.above, self.high, now.y))
        now = pipe.stage(drop=("below", "above"), y=y)
        m.d.comb += [self.o.valid.eq(now.valid), self.o.payload.eq(now.y)]
        return m


class RangeStatistics(wiring.Component):
    """Sum of (q + 128) and sum over the chunks of (max - min) of the codes that enter.

    Members
    -------
    clear : In(1), starts a channel.
    valid, code, first, last : a code and whether it is the first, the last of its chunk.
    total, spread : the statistics, DELAY clocks after the last code.
    """

    DELAY = 4

    def __init__(self):
        super().__init__({
            "clear": In(1), "valid": In(1), "code": In(CODE), "first": In(1), "last": In(1),
            "total": Out(SUM), "spread": Out(range_norm.SPREAD_WIDTH)})

    def elaborate(self, platform) -> Module:
        m = Module()
        pipe = Pipeline(m, valid=self.valid, code=self.code, first=self.first, last=self.last)
        now = pipe.stage(offset=(self.code + range_norm.CODE_OFFSET)[:CODE.width])
        low = Signal(CODE)
        high = Signal(CODE)
        with m.If(now.valid):
            m.d.sync += self.total.eq(self.total + now.offset)
            with m.If(now.first | (now.code < low)):
                m.d.sync += low.eq(now.code)
            with m.If(now.first | (now.code > high)):
                m.d.sync += high.eq(now.code)
        now = pipe.stage(drop=("code", "first", "offset"))
        now = pipe.stage(width=(high - low)[:CODE.width])
        with m.If(now.valid & now.last):
            m.d.sync += self.spread.eq(self.spread + now.width)
        with m.If(self.clear):
            m.d.sync += [self.total.eq(0), self.spread.eq(0)]
        return m


class RangeBatchNormUnit(wiring.Component):
    """RangeBN of one channel after the other.

    Arguments
    ---------
    multiplier_class : Multiplier or a target's subclass; one is used.

    Members
    -------
    parameters : In(stream.Signature(PARAMETERS)), one item per channel; see `range_norm_items`.
    i : In(stream.Signature(signed(8))), per channel `count` codes, then the same codes again.
    o : Out(stream.Signature(signed(8))), `count` results per channel.
    """

    def __init__(self, multiplier_class=Multiplier):
        self.multiplier_class = multiplier_class
        super().__init__({"parameters": In(stream.Signature(PARAMETERS)),
                          "i": In(stream.Signature(CODE)), "o": Out(stream.Signature(CODE))})

    def elaborate(self, platform) -> Module:
        m = Module()
        m.submodules.statistics = statistics = RangeStatistics()
        m.submodules.divider = divider = Divider(range_norm.DIVIDEND_WIDTH,
                                                 range_norm.DIVISOR_WIDTH)
        core = RangeNormApply(self.multiplier_class)
        m.submodules.apply = apply = Elastic(core)
        wiring.connect(m, apply.o, wiring.flipped(self.o))
        now = Signal(PARAMETERS)
        # Codes of this pass still to come, and cycles of a pipeline.
        left, wait = Signal(COUNT), Signal(range(max(RangeStatistics.DELAY, core.LATENCY) + 1))
        slope = SimpleNamespace(
            negative=now.gain < 0, denominator=Signal(range_norm.DENOMINATOR_WIDTH),
            shift=Signal(signed(PARAMETERS["shift"].width + 2)), magnitude=Signal(MAGNITUDE),
            rounded=Signal(QUOTIENT), is_zero=Signal())
        bias = Signal(signed(range_norm.BIAS_WIDTH + range_norm.GUARD_WIDTH))
        half = Signal(range_norm.SHIFT_MAX)
        m.d.comb += [statistics.code.eq(self.i.payload), apply.i.payload.eq(self.i.payload)]

        with m.FSM():
            self._measure(m, now, statistics, left, wait)
            self._find_slope(m, now, statistics, divider, slope)
            self._find_bias(m, now, statistics, divider, slope, bias)
            with m.State("ROUND_BIAS"):
                m.d.sync += [bias.eq(arith.round_shift(bias, range_norm.GUARD_WIDTH)),
                             half.eq(Const(1, 1) << slope.shift[:len(core.shift)] >> 1)]
                m.next = "HALF"
            with m.State("HALF"):
                m.d.sync += [core.bias.eq(bias + half),
                             core.multiplier.eq(
                                 Mux(slope.negative, -slope.magnitude, slope.magnitude)),
                             core.shift.eq(slope.shift), core.low.eq(now.low),
                             core.high.eq(now.high), left.eq(now.count), wait.eq(core.LATENCY)]
                m.next = "APPLY"
            with m.State("APPLY"):
                m.d.comb += [self.i.ready.eq(apply.i.ready), apply.i.valid.eq(self.i.valid)]
                with m.If(self.i.valid & apply.i.ready):
                    m.d.sync += left.eq(left - 1)
                    with m.If(left == 1):
                        m.next = "DRAIN"
            with m.State("DRAIN"):
                m.d.sync += wait.eq(wait - 1)
                with m.If(wait == 1):
                    m.next = "PARAMETERS"
        return m

    def _measure(self, m, now, statistics, left, wait) -> None:
        """A channel's parameters, and the first pass over its codes."""
        n_chunks = range_norm.N_CHUNKS
        chunk_length, chunk_left = Signal(COUNT), Signal(COUNT)
        is_first = Signal()
        m.d.comb += [chunk_length.eq((now.count + n_chunks - 1) >> (n_chunks - 1).bit_length()),
                     statistics.first.eq(is_first),
                     statistics.last.eq((chunk_left == 1) | (left == 1))]
        with m.State("PARAMETERS"):
            m.d.comb += [self.parameters.ready.eq(1), statistics.clear.eq(1)]
            m.d.sync += now.eq(self.parameters.payload)
            with m.If(self.parameters.valid):
                m.next = "BEGIN"
        with m.State("BEGIN"):
            m.d.sync += [left.eq(now.count), chunk_left.eq(chunk_length), is_first.eq(1),
                         wait.eq(RangeStatistics.DELAY)]
            m.next = "STATISTICS"
        with m.State("STATISTICS"):
            m.d.comb += [self.i.ready.eq(1), statistics.valid.eq(self.i.valid)]
            with m.If(self.i.valid):
                m.d.sync += [left.eq(left - 1), is_first.eq(chunk_left == 1),
                             chunk_left.eq(Mux(chunk_left == 1, chunk_length, chunk_left - 1))]
                with m.If(left == 1):
                    m.next = "SETTLE"
        with m.State("SETTLE"):
            m.d.sync += wait.eq(wait - 1)
            with m.If(wait == 1):
                m.next = "DENOMINATOR"

    def _find_slope(self, m, now, statistics, divider, slope) -> None:
        """Magnitude and shift of the multiplier: the gain divided by the spread."""
        denominator, shift = slope.denominator, slope.shift
        with m.State("DENOMINATOR"):
            spread = Mux(statistics.spread == 0, 1, statistics.spread)
            m.d.sync += [denominator.eq((spread << range_norm.FRACTION_WIDTH) + now.epsilon),
                         shift.eq(now.shift)]
            m.next = "NORMALISE"
        with m.State("NORMALISE"):
            with m.If(denominator[-1]):
                m.d.comb += [
                    divider.start.eq(1), divider.divisor.eq(denominator),
                    divider.dividend.eq(
                        Mux(slope.negative, -now.gain, now.gain)[:range_norm.GAIN_WIDTH]
                        << range_norm.QUOTIENT_SHIFT)]
                m.next = "SLOPE"
            with m.Else():
                m.d.sync += [denominator.eq(denominator << 1), shift.eq(shift - 1)]
        with m.State("SLOPE"):
            with m.If(~divider.busy):
                m.d.sync += [slope.rounded.eq((divider.quotient[:QUOTIENT.width] + 1) >> 1),
                             slope.is_zero.eq((statistics.spread == 0) | (now.gain == 0)
                                              | (shift > range_norm.SHIFT_MAX))]
                m.next = "SATURATE"
        with m.State("SATURATE"):
            m.d.sync += slope.magnitude.eq(Mux(slope.rounded > range_norm.MULTIPLIER_MAX,
                                               range_norm.MULTIPLIER_MAX, slope.rounded))
            with m.If(slope.is_zero):
                m.d.sync += [slope.magnitude.eq(0), shift.eq(range_norm.ZERO_SHIFT)]
            m.next = "MEAN"

    def _find_bias(self, m, now, statistics, divider, slope, bias) -> None:
        """Beta less the mean times the multiplier, with guard bits."""
        guard = range_norm.GUARD_WIDTH
        remaining = Signal(MAGNITUDE)  # multiplier bits not yet added
        addend = Signal(SUM.width + MAGNITUDE.width)
        product = Signal(SUM.width + MAGNITUDE.width)
        align = Signal(signed(PARAMETERS["shift"].width + 2))
        offset = Signal(signed(MAGNITUDE.width + CODE.width + guard + 1))
        with m.State("MEAN"):
            m.d.sync += [remaining.eq(slope.magnitude), addend.eq(statistics.total),
                         product.eq(0), bias.eq(now.beta),
                         align.eq(slope.shift + guard - range_norm.FRACTION_WIDTH)]
            m.next = "PRODUCT"
        with m.State("PRODUCT"):
            m.d.sync += [remaining.eq(remaining >> 1), addend.eq(addend << 1)]
            with m.If(remaining[0]):
                m.d.sync += product.eq(product + addend)
            with m.If(remaining == 0):
                m.next = "ROUND"
        with m.State("ROUND"):
            m.d.comb += [divider.start.eq(1), divider.divisor.eq(now.count),
                         divider.dividend.eq((product << guard) + (now.count >> 1))]
            m.next = "ALIGN"
        with m.State("ALIGN"):
            with m.If(align > 0):
                m.d.sync += [bias.eq(bias << 1), align.eq(align - 1)]
            with m.Elif(align < 0):
                m.d.sync += [bias.eq(bias >> 1), align.eq(align + 1)]
            with m.Elif(~divider.busy):
                m.d.sync += offset.eq(
                    slope.magnitude * Const(range_norm.CODE_OFFSET << guard)
                    - divider.quotient[:len(offset) - 1])
                m.next = "OFFSET"
        with m.State("OFFSET"):
            m.d.sync += bias.eq(Mux(slope.negative, bias - offset, bias + offset))
            m.next = "ROUND_BIAS"

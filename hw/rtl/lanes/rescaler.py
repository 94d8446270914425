"""Rescaler: bias, multiplier and shift, both roundings, zero point and clamp, one lane.

    x = saturate((acc + bias) << left)          left  = max(0, F - shift)
    p = x * multiplier                          right = max(0, shift - F)
    half_up:  y = (p + 2^(F-1+right)) >> (F+right)
    gemmlowp: h = (p + 2^(F-1)) >> F;  y = (h + 2^(right-1) - (h < 0)) >> right  if right else h
    value = clamp(y + zero_point, low, high), or y where the item is `wide`

which is golden.arith.requantize with F = 31 fraction bits. The lowest F-1 bits of p cannot change
y, as every rounding constant is a multiple of 2^(F-1): t = p >> (F-1) is rounded instead. y always
fits the accumulator's width, since |x| <= 2^(A-1) and multiplier < 2^F.
"""

from dataclasses import dataclass

from amaranth.hdl import Cat, Const, Module, Mux, Value, signed, unsigned
from amaranth.lib import data, enum, stream, wiring
from amaranth.lib.wiring import In, Out

from golden import arith
from hw.rtl.array.multiplier import Multiplier
from hw.rtl.common.pipeline import Pipeline
from hw.rtl.common.stream import Elastic

__all__ = ["Rescaler", "RescalerPipeline", "RescalerWidths", "RoundingMode", "rescaler_item"]


class RoundingMode(enum.Enum, shape=1):
    """The rounding of one item; the names are those of golden.arith.Rounding."""

    HALF_UP = 0
    GEMMLOWP = 1


@dataclass(frozen=True, kw_only=True)
class RescalerWidths:
    """Bits of the operands: accumulator (signed), multiplier (unsigned), code (signed)."""

    accumulator: int = arith.INT32_MAX.bit_length() + 1
    multiplier: int = arith.MULTIPLIER_WIDTH
    code: int = arith.INT8_MAX.bit_length() + 1

    def __post_init__(self) -> None:
        if not 2 <= self.multiplier < self.accumulator:
            raise ValueError(f"Multiplier width must be in 2..{self.accumulator - 1}, "
                             f"not {self.multiplier}")

    @property
    def max_shift(self) -> int:
        """The largest legal shift; larger ones give undefined values."""
        return 2 * self.multiplier

    @property
    def product(self) -> int:
        """Bits of x * multiplier, signed."""
        return self.accumulator + self.multiplier

    def input_layout(self, tag_shape=None) -> data.StructLayout:
        """The payload of one item."""
        fields = {
            "acc": signed(self.accumulator), "bias": signed(self.accumulator),
            "multiplier": unsigned(self.multiplier), "shift": range(self.max_shift + 1),
            "rounding": RoundingMode, "zero_point": signed(self.code),
            "low": signed(self.code), "high": signed(self.code), "wide": unsigned(1),
        }
        return data.StructLayout(fields | ({} if tag_shape is None else {"tag": tag_shape}))

    def output_layout(self, tag_shape=None) -> data.StructLayout:
        """The payload of one result; codes are sign-extended to the accumulator's width."""
        fields = {"value": signed(self.accumulator)}
        return data.StructLayout(fields | ({} if tag_shape is None else {"tag": tag_shape}))


def rescaler_item(op, acc, *, channel=0, bias=0, wide=False) -> dict:
    """The payload constant, as a dict, that makes a Rescaler compute op at one channel.

    op : golden.ops.Rescale. acc, bias : int32 values.
    """
    def pick(values):
        return int(values[channel if len(values) > 1 else 0])

    return {"acc": int(acc), "bias": int(bias), "multiplier": pick(op.multiplier),
            "shift": pick(op.shift), "rounding": RoundingMode[op.rounding.name],
            "zero_point": int(op.zero_point), "low": int(op.low), "high": int(op.high),
            "wide": int(wide)}


def _fits(value, width) -> bool:
    """Is value, which is signed, in the range of signed(width)?"""
    top = value[width - 1:]
    return top.all() | ~top.any()


class RescalerPipeline(wiring.Component):
    """The core: one item per clock, never stalls, result LATENCY clocks later.

    Arguments
    ---------
    tag_shape : shape of a value that travels with each item, or None.
    widths : RescalerWidths.
    multiplier_class : Multiplier or a target's subclass; three are used.

    Members
    -------
    i : In(stream.Signature(widths.input_layout(tag_shape), always_ready=True))
    o : Out(stream.Signature(widths.output_layout(tag_shape), always_ready=True))
    """

    LATENCY = 17

    def __init__(self, *, tag_shape=None, widths=RescalerWidths(), multiplier_class=Multiplier):
        self.tag_shape = tag_shape
        self.widths = widths
        self.multiplier_class = multiplier_class
        super().__init__({
            "i": In(stream.Signature(widths.input_layout(tag_shape), always_ready=True)),
            "o": Out(stream.Signature(widths.output_layout(tag_shape), always_ready=True)),
        })

    def front_stages(self, pipe) -> None:
        """Bias add, left shift, saturation: acc, bias, shift become x, right."""
        now, fraction, acc_width = pipe.now, self.widths.multiplier, self.widths.accumulator
        scales_up = now.shift < fraction
        left = Mux(scales_up, fraction - now.shift, 0)[:fraction.bit_length()]
        right = Mux(scales_up, 0, now.shift - fraction)[:fraction.bit_length()]
        now = pipe.stage(drop=("acc", "bias", "shift"), left=left, right=right,
                         sum=(now.acc + now.bias)[:acc_width].as_signed())
        shifted = (now.sum << now.left)[:acc_width + fraction].as_signed()
        now = pipe.stage(drop=("sum", "left"), shifted=shifted)
        now = pipe.stage(fits=_fits(now.shifted, acc_width))
        bound = Cat((~now.shifted[-1]).replicate(acc_width - 1), now.shifted[-1])
        pipe.stage(drop=("shifted", "fits"),
                   x=Mux(now.fits, now.shifted[:acc_width], bound).as_signed())

    def product_stages(self, m, pipe) -> None:
        """x, multiplier become p: three partial products of half the width, two staged sums.

        With x = x1 B + x0, multiplier = m1 B + m0 and B = 2^limb, the middle term x1 m0 + x0 m1
        is (x0 + x1)(m0 + m1) - x0 m0 - x1 m1 (Karatsuba and Ofman 1962).
        """
        now = pipe.now
        limb = (self.widths.accumulator + 1) // 2
        x_low, x_high = now.x[:limb], now.x[limb:].as_signed()
        m_low, m_high = now.multiplier[:limb], now.multiplier[limb:]
        now = pipe.stage(
            own=("rounding",), drop=("x", "multiplier"), x_low=x_low, x_high=x_high,
            x_both=x_low + x_high, m_low=m_low, m_high=m_high, m_both=m_low + m_high)
        factors = ("low", "high", "both")
        parts = {}
        for name in factors:
            a, b = (getattr(now, f"{side}_{name}") for side in "xm")
            unit = self.multiplier_class(a.shape(), b.shape())
            m.submodules[name] = unit
            m.d.comb += [unit.a.eq(a), unit.b.eq(b)]
            parts[f"p_{name}"] = unit.p
        pipe.stage(drop=[f"{side}_{name}" for side in "xm" for name in factors])
        for _ in range(self.multiplier_class.LATENCY - 2):
            pipe.stage()
        now = pipe.stage(joined=parts)
        now = pipe.stage(drop=tuple(parts), middle=now.p_both - now.p_low,
                         bottom=now.p_low[:limb],
                         outer=Cat(now.p_low[limb:2 * limb], now.p_high).as_signed() - now.p_high)
        high_sum = (now.outer + now.middle)[:self.widths.product - limb]
        pipe.stage(drop=("middle", "bottom", "outer"), p=Cat(now.bottom, high_sum).as_signed())

    def first_half(self, now) -> Value:
        """What the first rounding adds, in units of t's lowest bit: half of what is cut off."""
        return Mux(now.gemmlowp, 1, now.one)

    def round_stages(self, pipe) -> None:
        """p, right, rounding become y: first rounding, second rounding, right shift."""
        now, fraction, acc_width = pipe.now, self.widths.multiplier, self.widths.accumulator
        now.gemmlowp = now.rounding == RoundingMode.GEMMLOWP
        now.one = (Const(1, 1) << now.right)[:fraction + 1]
        # The second rounding adds 2^(right-1), one less where h < 0, and nothing where right = 0.
        now = pipe.stage(drop=("p", "rounding", "gemmlowp", "one"), t=now.p >> (fraction - 1),
                         half=self.first_half(now), nudge=Mux(now.gemmlowp, now.one >> 1, 0),
                         twice=now.gemmlowp & (now.right != 0))
        now = pipe.stage(drop=("t", "half", "twice"),
                         first=(now.t + now.half)[:acc_width + 2].as_signed(),
                         nudge_negative=Mux(now.twice, now.nudge - 1, 0))
        h = now.first >> 1
        nudge = Mux(h[-1], now.nudge_negative, now.nudge)[:fraction]
        now = pipe.stage(drop=("first", "nudge", "nudge_negative"),
                         second=(h + nudge)[:len(h)].as_signed())
        pipe.stage(own=("zero_point", "low", "high", "wide"), drop=("second", "right"),
                   y=(now.second >> now.right)[:acc_width].as_signed())

    def output_stages(self, pipe) -> None:
        """y, zero_point, low, high, wide become value.

        Only a y of two bits more than a code can come to lie within the codes' range: the bounds
        are compared with so many bits alone.
        """
        now, acc_width = pipe.now, self.widths.accumulator
        near_width = min(self.widths.code + 2, acc_width)
        high_bits = now.y[near_width - 1:]
        now = pipe.stage(drop=("zero_point",), offset=Mux(now.wide, 0, now.zero_point),
                         is_near=high_bits.all() | ~high_bits.any(), is_negative=now.y < 0)
        now = pipe.stage(drop=("y", "offset"), placed=now.y + now.offset)
        near = now.placed[:near_width + 1].as_signed()
        now = pipe.stage(
            drop=("wide", "is_near", "is_negative"),
            below=~now.wide & Mux(now.is_near, near < now.low, now.is_negative),
            above=~now.wide & Mux(now.is_near, near > now.high, ~now.is_negative))
        value = Mux(now.below, now.low, Mux(now.above, now.high, now.placed))
        pipe.stage(drop=("placed", "low", "high", "below", "above"),
                   value=value[:acc_width].as_signed())

    def elaborate(self, platform) -> Module:
        m = Module()
        item = self.i.payload
        pipe = Pipeline(m, valid=self.i.valid, **{name: item[name] for name, _ in item.shape()})
        self.front_stages(pipe)
        self.product_stages(m, pipe)
        self.round_stages(pipe)
        self.output_stages(pipe)
        assert pipe.depth == self.LATENCY, pipe.depth
        m.d.comb += [self.o.valid.eq(pipe.now.valid), self.o.payload.value.eq(pipe.now.value)]
        if self.tag_shape is not None:
            m.d.comb += Value.cast(self.o.payload.tag).eq(pipe.now.tag)
        return m


class Rescaler(Elastic):
    """RescalerPipeline as a stream with backpressure: full rate, ready never combinational.

    Arguments
    ---------
    core : the pipeline; by default RescalerPipeline with the remaining arguments.

    Members: `i` and `o` as the core's, with `ready`.
    """

    def __init__(self, core=None, **kwargs):
        super().__init__(core or RescalerPipeline(**kwargs))

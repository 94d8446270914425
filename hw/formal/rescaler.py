"""What is proven of the Rescaler, on its registered RTL, for all inputs and at all times.

The proof is cut at the factors and at the product, so that no solver meets a 32 x 31 bit
multiplication; the four parts are the four groups of stages of `RescalerPipeline`:

- FrontProof: x is the wrapped sum times 2^left, saturated; right is right.
- ProductProof: the operands of the first two multipliers recombine to x and multiplier, those of
  the third are their sums, and for any three partial products p is what Karatsuba makes of them;
  distributivity then gives p = x * multiplier.
- RoundProof: for every p that a product can be, y satisfies the defining inequalities of the
  rounding; these have one integer solution, so y is right and fits the accumulator's width.
- OutputProof: value is y placed at the zero point and clamped, or y where the item is wide.

FullProof compares the uncut path, multiplications included, at a reduced width.
"""

from collections.abc import Iterator

from amaranth.asserts import AnySeq
from amaranth.hdl import Assert, Assume, Const, Module, Mux, Signal, Value, signed, unsigned
from amaranth.lib import wiring
from amaranth.lib.wiring import In

from hw.rtl.array.multiplier import Multiplier
from hw.rtl.common.pipeline import Pipeline
from hw.rtl.lanes.rescaler import RescalerWidths, RoundingMode

__all__ = ["PROOFS", "REDUCED", "FrontProof", "FullProof", "OutputProof", "ProductProof",
           "RoundProof"]

REDUCED = RescalerWidths(accumulator=6, multiplier=5, code=3)


class _Proof(wiring.Component):
    """Inputs are free in every clock; assertions compare the stages with the definition.

    No register feeds back: what an output shows depends only on the inputs so many clocks before
    as there are stages. Hence a check of the first `depth` clocks holds at all times.

    Arguments
    ---------
    core : the RescalerPipeline whose stages are checked, made with the proof's `widths`.

    Members
    -------
    valid, and what `inputs` says : free. depth : stages + 1, known after elaboration.
    """

    depth = None
    widths = RescalerWidths()

    def __init__(self, core):
        self.core = core
        super().__init__({"valid": In(1)} | {
            name: In(shape) for name, shape in self.inputs(self.widths).items()})

    def inputs(self, widths) -> dict:
        """{name: shape} of what enters the stages."""
        raise NotImplementedError

    def stages(self, m, pipe) -> None:
        """Add the stages to a pipeline, and what is assumed of the inputs."""
        raise NotImplementedError

    def conditions(self, m, now) -> Iterator[Value]:
        """What must hold of the values behind the last stage."""
        raise NotImplementedError

    def pipe(self, m) -> Pipeline:
        """A pipeline fed with the inputs, and with copies named ref_* that reach its end."""
        values = {name: getattr(self, name) for name in self.inputs(self.widths)}
        references = {f"ref_{name}": value for name, value in values.items()}
        return Pipeline(m, valid=self.valid, **values, **references)

    def elaborate(self, platform) -> Module:
        m = Module()
        pipe = self.pipe(m)
        self.stages(m, pipe)
        self.depth = pipe.depth + 1
        with m.If(pipe.now.valid):
            m.d.comb += [Assert(condition) for condition in self.conditions(m, pipe.now)]
        return m


def _bounds(width) -> tuple:
    return -(1 << (width - 1)), (1 << (width - 1)) - 1


def _clamp(value, low, high) -> Value:
    return Mux(value < low, low, Mux(value > high, high, value))


def _wrap(value, width) -> Value:
    return value[:width].as_signed()


class FrontProof(_Proof):
    """Bias add, left shift and saturation."""

    def inputs(self, widths) -> dict:
        fields = widths.input_layout()
        return {name: fields[name].shape for name in ("acc", "bias", "shift")}

    def stages(self, m, pipe) -> None:
        m.d.comb += Assume(self.shift <= self.widths.max_shift)
        self.core.front_stages(pipe)

    def conditions(self, m, now) -> Iterator[Value]:
        fraction, width = self.widths.multiplier, self.widths.accumulator
        total = _wrap(now.ref_acc + now.ref_bias, width)
        left = Mux(now.ref_shift < fraction, fraction - now.ref_shift, 0)[:fraction.bit_length()]
        yield now.x == _clamp(total << left, *_bounds(width))
        yield now.right == Mux(now.ref_shift > fraction, now.ref_shift - fraction, 0)


class ProductProof(_Proof):
    """The operand pairs and the sum of three arbitrary partial products."""

    def inputs(self, widths) -> dict:
        return {"x": signed(widths.accumulator), "multiplier": unsigned(widths.multiplier)}

    def stages(self, m, pipe) -> None:
        units = self.units = []

        class Arbitrary(Multiplier):
            """Products that the solver chooses."""

            def __init__(self, a_shape, b_shape):
                super().__init__(a_shape, b_shape)
                units.append(self)

            def product(self, m) -> None:
                m.d.comb += self.p.eq(AnySeq(self.p.shape()))

        self.core.multiplier_class = Arbitrary
        limb = (self.widths.accumulator + 1) // 2
        now = pipe.now
        x, multiplier = (Signal.like(value) for value in (now.x, now.multiplier))
        entered = Signal()
        m.d.sync += [x.eq(now.x), multiplier.eq(now.multiplier), entered.eq(1)]
        self.core.product_stages(m, pipe)
        low, high, both = self.units
        with m.If(entered):
            m.d.comb += [
                Assert(x == low.a + (high.a << limb)),
                Assert(multiplier == low.b + (high.b << limb)),
                Assert(both.a == low.a + high.a), Assert(both.b == low.b + high.b)]
        total = low.p + ((both.p - low.p - high.p) << limb) + (high.p << (2 * limb))
        self.total = _wrap(total, self.widths.product)
        for _ in range(2):
            delayed = Signal.like(self.total)
            m.d.sync += delayed.eq(self.total)
            self.total = delayed

    def conditions(self, m, now) -> Iterator[Value]:
        yield now.p == self.total


class RoundProof(_Proof):
    """Both roundings, from any product in range."""

    def inputs(self, widths) -> dict:
        return {"p": signed(widths.product), "right": range(widths.multiplier + 1),
                "rounding": RoundingMode}

    def stages(self, m, pipe) -> None:
        low, high = _bounds(self.widths.accumulator)
        multiplier_max = (1 << self.widths.multiplier) - 1
        m.d.comb += [Assume(self.right <= self.widths.multiplier),
                     Assume(self.p >= low * multiplier_max),
                     Assume(self.p <= high * multiplier_max)]
        self.core.round_stages(pipe)

    def conditions(self, m, now) -> Iterator[Value]:
        fraction = self.widths.multiplier
        one = Const(1, 1)
        p, y, right = now.ref_p, now.y, now.ref_right

        def is_quotient(value, dividend, shift):
            return ((value << shift) <= dividend) & (dividend < ((value + 1) << shift))

        yield (now.ref_rounding == RoundingMode.GEMMLOWP) | is_quotient(
            y, p + (one << (fraction - 1) << right),
            (right + fraction)[:(2 * fraction).bit_length()])
        h = Signal(signed(self.widths.accumulator))
        m.d.comb += h.eq((p + (1 << (fraction - 1))) >> fraction)
        yield is_quotient(h, p + (1 << (fraction - 1)), fraction)
        second = Mux(right == 0, y == h,
                     is_quotient(y, h + (one << right >> 1) - (h < 0), right))
        yield (now.ref_rounding == RoundingMode.HALF_UP) | second


class OutputProof(_Proof):
    """Zero point, clamp and the wide result."""

    def inputs(self, widths) -> dict:
        fields = widths.input_layout()
        return {"y": signed(widths.accumulator)} | {
            name: fields[name].shape for name in ("zero_point", "low", "high", "wide")}

    def stages(self, m, pipe) -> None:
        self.core.output_stages(pipe)

    def conditions(self, m, now) -> Iterator[Value]:
        m.d.comb += Assume(self.low <= self.high)
        clamped = _clamp(now.ref_y + now.ref_zero_point, now.ref_low, now.ref_high)
        yield now.value == Mux(now.ref_wide, now.ref_y, clamped)


class FullProof(_Proof):
    """The whole pipeline at REDUCED widths against one expression."""

    widths = REDUCED

    def inputs(self, widths) -> dict:
        layout = widths.input_layout()
        return {name: field.shape for name, field in layout}

    def stages(self, m, pipe) -> None:
        m.d.comb += [Assume(self.shift <= self.widths.max_shift), Assume(self.low <= self.high)]
        self.core.front_stages(pipe)
        self.core.product_stages(m, pipe)
        self.core.round_stages(pipe)
        self.core.output_stages(pipe)

    def conditions(self, m, now) -> Iterator[Value]:
        fraction, width = self.widths.multiplier, self.widths.accumulator
        bits = fraction.bit_length()
        one = Const(1, 1)
        shift = now.ref_shift
        left = Mux(shift < fraction, fraction - shift, 0)[:bits]
        right = Mux(shift > fraction, shift - fraction, 0)[:bits]
        x = _clamp(_wrap(now.ref_acc + now.ref_bias, width) << left, *_bounds(width))
        p = x * now.ref_multiplier
        once = (p + (one << right << (fraction - 1))) >> (right + fraction)[:bits + 1]
        h = (p + (1 << (fraction - 1))) >> fraction
        twice = Mux(right == 0, h, (h + (one << right >> 1) - (h < 0)) >> right)
        y = Mux(now.ref_rounding == RoundingMode.HALF_UP, once, twice)
        clamped = _clamp(y + now.ref_zero_point, now.ref_low, now.ref_high)
        yield now.value == Mux(now.ref_wide, y, clamped)


PROOFS = (FrontProof, ProductProof, RoundProof, OutputProof, FullProof)

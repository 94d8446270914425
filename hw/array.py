"""Output-stationary systolic array of int8 multiply-accumulate units.

Rows carry one operand to the right, columns the other downwards, one processing element a cycle;
every element keeps its own int32 sum. ``first`` and ``last`` travel with the data along the rows:
``first`` replaces the sum instead of adding to it, ``last`` copies it to a second register, so
that reading out overlaps the next tile. A ``pop`` token travels the same way; each one samples
the top row's results and shifts all columns up by one.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.multiplier import Multiplier, MultiplierECP5

__all__ = ["ACCUMULATOR_WIDTH", "MULTIPLIERS", "MacArray", "ProcessingElement"]

ACCUMULATOR_WIDTH = 32
MULTIPLIERS = {"portable": Multiplier, "ecp5": MultiplierECP5}


class ProcessingElement(wiring.Component):
    """One multiply-accumulate unit with its result register.

    A product of operands that enter with ``first`` or ``last`` reaches the sum
    ``multiplier.LATENCY`` + 1 cycles later and, after ``last``, ``result`` one cycle after that.
    ``pop`` acts at once: ``result`` takes ``below``. A result must be popped before the next
    ``last``; two pops are at least two cycles apart, since the row below shifts a cycle later.
    """

    def __init__(self, *, multiplier_class=Multiplier, accumulator_width=ACCUMULATOR_WIDTH):
        self.multiplier_class = multiplier_class
        super().__init__({
            "a_in": In(signed(8)), "a_out": Out(signed(8)),
            "b_in": In(signed(8)), "b_out": Out(signed(8)),
            "first_in": In(1), "first_out": Out(1),
            "last_in": In(1), "last_out": Out(1),
            "pop_in": In(1), "pop_out": Out(1),
            "below": In(signed(accumulator_width)), "result": Out(signed(accumulator_width)),
        })

    def elaborate(self, platform):
        m = Module()
        m.submodules.multiplier = multiplier = self.multiplier_class(signed(8), signed(8))
        m.d.comb += [multiplier.a.eq(self.a_in), multiplier.b.eq(self.b_in)]
        m.d.sync += [
            self.a_out.eq(self.a_in), self.b_out.eq(self.b_in),
            self.first_out.eq(self.first_in), self.last_out.eq(self.last_in),
            self.pop_out.eq(self.pop_in),
        ]
        first, last = self.first_in, self.last_in
        for stage in range(multiplier.LATENCY):
            next_first, next_last = Signal(name=f"first_{stage}"), Signal(name=f"last_{stage}")
            m.d.sync += [next_first.eq(first), next_last.eq(last)]
            first, last = next_first, next_last
        total = Signal.like(self.result)
        capture = Signal()
        m.d.sync += [
            total.eq(Mux(first, 0, total) + multiplier.p),
            capture.eq(last),
        ]
        with m.If(capture):
            m.d.sync += self.result.eq(total)
        with m.Elif(self.pop_in):
            m.d.sync += self.result.eq(self.below)
        return m


class MacArray(wiring.Component):
    """``rows`` x ``columns`` processing elements.

    Members
    -------
    a : one byte per row, row i lagging row 0 by i cycles (as a Feeder gives them).
    b : one byte per column, likewise.
    first, last : the byte now entering row 0 is the first / last of a reduction.
    pop : take the next row of results; not before ``result_latency`` cycles after ``last`` (both
        counted at row 0), and at least POP_SPACING cycles apart.
    results, results_valid : the popped row, all columns together, ``pop_latency`` cycles later.
    """

    POP_SPACING = 2

    def __init__(self, *, rows, columns, multiplier="portable"):
        self.rows = rows
        self.columns = columns
        self.multiplier_class = MULTIPLIERS[multiplier]
        super().__init__({
            "a": In(data.ArrayLayout(signed(8), rows)),
            "b": In(data.ArrayLayout(signed(8), columns)),
            "first": In(1), "last": In(1), "pop": In(1),
            "results": Out(data.ArrayLayout(signed(ACCUMULATOR_WIDTH), columns)),
            "results_valid": Out(1),
        })

    @property
    def result_latency(self):
        """Cycles from ``last`` to the first legal ``pop`` (the row below has captured by then)."""
        return self.multiplier_class.LATENCY + 3

    @property
    def pop_latency(self):
        """Cycles from ``pop`` to ``results_valid``."""
        return self.columns

    def elaborate(self, platform):
        m = Module()
        elements = [[ProcessingElement(multiplier_class=self.multiplier_class)
                     for _ in range(self.columns)] for _ in range(self.rows)]
        controls = (self.first, self.last, self.pop)
        for i, row in enumerate(elements):
            if i:  # controls enter row i as late as its operand
                delayed = tuple(Signal(name=f"{name}_row{i}") for name in ("first", "last", "pop"))
                m.d.sync += [late.eq(early) for late, early in zip(delayed, controls)]
                controls = delayed
            for j, element in enumerate(row):
                m.submodules[f"pe_{i}_{j}"] = element
                left = row[j - 1] if j else None
                m.d.comb += [
                    element.a_in.eq(left.a_out if left else self.a[i]),
                    element.b_in.eq(elements[i - 1][j].b_out if i else self.b[j]),
                    element.first_in.eq(left.first_out if left else controls[0]),
                    element.last_in.eq(left.last_out if left else controls[1]),
                    element.pop_in.eq(left.pop_out if left else controls[2]),
                    element.below.eq(elements[i + 1][j].result if i + 1 < self.rows else 0),
                ]
        for j, element in enumerate(elements[0]):
            result = element.result
            for stage in range(self.columns - j):  # undo the skew of the columns
                late = Signal.like(result, name=f"result_{j}_{stage}", reset_less=True)
                m.d.sync += late.eq(result)
                result = late
            m.d.comb += self.results[j].eq(result)
        m.d.comb += self.results_valid.eq(elements[0][-1].pop_out)
        return m

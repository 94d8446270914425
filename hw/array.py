"""Output-stationary systolic array of int8 multiply-accumulate units.

Output pixels lie on the rows, output channels on the columns. Rows carry their operand to the
right, columns theirs downwards, one element a cycle; every element keeps its own int32 sum.
``first`` and ``last`` travel with the data along the rows: ``first`` clears the sum in the cycle
before its product is added, ``last`` copies the finished sum to a second register, so that
reading out overlaps the next tile. A ``pop`` token travels the same way; each one samples the top
row's results and shifts all columns up by one.

The elements are registers of one module: it simulates and compiles faster than one each.
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.multiplier import MULTIPLIERS
from hw.packed import PackedWeights, packed_latency, packed_products
from hw.pipeline import delayed

__all__ = ["ACCUMULATOR_WIDTH", "MacArray"]

ACCUMULATOR_WIDTH = 32
_CONTROLS = ("first", "last", "pop")
_MEMORY_CYCLES, _MEMORY_DEPTH = 4, 16  # results wait in memories from so many cycles on


class MacArray(wiring.Component):
    """``rows`` x ``columns`` processing elements.

    Arguments
    ---------
    multiplier : name of the vendor hook, one of hw.multiplier.MULTIPLIERS.
    packed : two neighbouring columns share a multiplier (hw.packed): half as many of them, the
        same results, except that bytes of port b must be in [-127, 127]. Raises ValueError for
        an odd number of columns.

    Members
    -------
    a : one byte per row, row i lagging row 0 by i cycles (as a Feeder gives them).
    b : one byte per column, likewise.
    first, last : the byte now entering row 0 is the first / last of a reduction (of one step:
        both). Zeros between them do not matter.
    pop : take the next row of results. A tile's ``rows`` pops are at least POP_SPACING cycles
        apart, the first one not before ``result_latency`` cycles after its ``last``, the last
        one not after ``hold_latency`` cycles after the next tile's ``last`` (all as given here).
    results, results_valid : the popped row (one pixel, all columns), ``pop_latency`` cycles later.

    After an abort nothing but the pops that were given comes out; the next ``first`` starts anew.
    """

    POP_SPACING = 2

    def __init__(self, *, rows, columns, multiplier="portable", packed=False):
        if packed and columns % 2:
            raise ValueError(f"Packed columns come in pairs, not {columns}")
        self.rows = rows
        self.columns = columns
        self.packed = packed
        self.multiplier_class = MULTIPLIERS[multiplier]
        super().__init__({
            "a": In(data.ArrayLayout(signed(8), rows)),
            "b": In(data.ArrayLayout(signed(8), columns)),
            "first": In(1), "last": In(1), "pop": In(1),
            "results": Out(data.ArrayLayout(signed(ACCUMULATOR_WIDTH), columns)),
            "results_valid": Out(1),
        })

    @property
    def product_latency(self):
        """Cycles from an element's operands to their product beside the accumulator's adder."""
        if self.packed:
            return packed_latency(self.multiplier_class)
        return self.multiplier_class.LATENCY + 1

    @property
    def result_latency(self):
        """Cycles from ``last`` to the first legal ``pop`` (the row below has its sums by then)."""
        return self.product_latency + 1

    @property
    def hold_latency(self):
        """Cycles from ``last`` to the last legal ``pop`` of the tile before."""
        return self.product_latency - 1

    @property
    def pop_latency(self):
        """Cycles from ``pop`` to ``results_valid``."""
        return self.columns

    def elaborate(self, platform):
        m = Module()
        controls = self._controls(m)
        products = self._packed_products(m) if self.packed else self._products(m)
        below = [0] * self.columns
        for i in reversed(range(self.rows)):
            below = [self._accumulate(m, f"{i}_{j}", products[i][j], below[j],
                                      {name: chain[j:] for name, chain in controls[i].items()})
                     for j in range(self.columns)]
        for j, result in enumerate(below):  # undo the skew of the columns
            m.d.comb += self.results[j].eq(self._late(m, result, self.columns - 1 - j, j))
        m.d.comb += self.results_valid.eq(controls[0]["pop"][self.columns])
        return m

    def _late(self, m, result, n_cycles, j):
        """A result of column ``j`` as it was ``n_cycles`` ago."""
        if not _MEMORY_CYCLES <= n_cycles < _MEMORY_DEPTH:
            return delayed(m, result, n_cycles, f"result_{j}", reset_less=True)
        # Distributed memory that is written in turn; a read port without a clock.
        m.submodules[f"deskew_{j}"] = cells = Memory(
            shape=ACCUMULATOR_WIDTH, depth=_MEMORY_DEPTH, init=[])
        write, read = cells.write_port(), cells.read_port(domain="comb")
        place = Signal(range(_MEMORY_DEPTH), name=f"deskew_place_{j}", attrs={"keep": 1})
        m.d.sync += [place.eq(place + 1), read.addr.eq(place + 1 - n_cycles)]
        m.d.comb += [write.en.eq(1), write.addr.eq(place), write.data.eq(result)]
        return read.data

    def _controls(self, m):
        """Per row the controls by name: bit k of a chain is the control, k cycles later.

        The chains of two rows differ in their initial values only, which do no harm: else a
        synthesis tool would make one register of all those that lie on a diagonal of the array.
        """
        lengths = {"first": self.columns + self.product_latency - 1,
                   "last": self.columns + self.product_latency, "pop": self.columns + 1}
        chains, entering = [], {name: getattr(self, name) for name in _CONTROLS}
        for i in range(self.rows):
            if i:  # a control enters row i as late as its operand
                entering = {name: chains[-1][name][1] for name in _CONTROLS}
            row = {}
            for name in _CONTROLS:
                width = lengths[name] - 1
                late = Signal(width, name=f"{name}_{i}", init=(1 << width) - 1 if i % 2 else 0,
                              reset_less=i > 0 or name != "pop")
                m.d.sync += late.eq(Cat(entering[name], late))
                row[name] = Cat(entering[name], late)
            chains.append(row)
        return chains

    def _products(self, m):
        """Pass the operands on; returns per row and column the registered product."""
        products, b_row = [], [self.b[j] for j in range(self.columns)]
        for i in range(self.rows):
            a, row = self.a[i], []
            for j in range(self.columns):
                product = self.multiplier_class.multiply(m, a, b_row[j], name=f"p_{i}_{j}")
                # From here on in logic cells: the way from a hard multiplier takes a cycle.
                near = Signal(product.shape(), name=f"near_{i}_{j}", reset_less=True)
                a_next = Signal(signed(8), name=f"a_{i}_{j}", reset_less=True)
                b_next = Signal(signed(8), name=f"b_{i}_{j}", reset_less=True)
                m.d.sync += [near.eq(product), a_next.eq(a), b_next.eq(b_row[j])]
                a, b_row[j] = a_next, b_next
                row.append(near)
            products.append(row)
        return products

    def _packed_products(self, m):
        """The same with one multiplier for two columns, both at the later one's time."""
        def register(value, name):
            late = Signal(value.shape(), name=name, reset_less=True)
            m.d.sync += late.eq(value)
            return late

        weights = []
        for j in range(0, self.columns, 2):
            pair = Signal(PackedWeights, name=f"b_top_{j}")
            m.d.comb += pair.pack(register(self.b[j], f"b_early_{j}"), self.b[j + 1])
            weights.append(pair)
        products = []
        for i in range(self.rows):
            a, row = self.a[i], []
            for j in range(0, self.columns, 2):
                a = register(a, f"a_{i}_{j}")
                row += packed_products(m, self.multiplier_class, a, weights[j // 2],
                                       name=f"p_{i}_{j}")
                weights[j // 2] = register(weights[j // 2], f"b_{i}_{j}")
                a = register(a, f"a_{i}_{j + 1}")
            products.append(row)
        return products

    def _accumulate(self, m, name, product, below, controls):
        """One element behind its product; returns the result register."""
        latency = self.product_latency
        total = Signal(signed(ACCUMULATOR_WIDTH), name=f"total_{name}", reset_less=True)
        result = Signal(signed(ACCUMULATOR_WIDTH), name=f"result_{name}", reset_less=True)
        added = Signal(signed(ACCUMULATOR_WIDTH), name=f"added_{name}")
        m.d.comb += added.eq(total + product)
        m.d.sync += total.eq(added)
        with m.If(controls["first"][latency - 1]):  # a cycle early: a reset costs no logic
            m.d.sync += total.eq(0)
        enable = Signal(name=f"enable_{name}", reset_less=True)
        m.d.sync += enable.eq(controls["last"][latency - 1] | controls["pop"][0])
        with m.If(enable):
            m.d.sync += result.eq(Mux(controls["last"][latency], added, below))
        return result

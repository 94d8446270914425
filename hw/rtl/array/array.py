"""Output-stationary systolic array of int8 multiply-accumulate units.

Output pixels lie on the rows, output channels on the columns. Rows carry their operand to the
right, columns theirs downwards, one element a cycle; every element keeps its own int32 sum.
``first`` and ``last`` travel with the data along the rows: ``first`` clears the sum in the cycle
before its product is added, ``last`` lets the finished sum go, so that reading out overlaps the
next tile. A column's sums are finished one row a cycle. Every _GROUP rows share a register that
passes on to the group above in every cycle, so that the sums leave a column at the top in the
order of their rows, with a cycle's gap between two groups, and never meet. There they wait in a
memory of the column (distributed RAM), until a ``pop`` reads a row of all columns at once.

The elements are registers of one module: it simulates and compiles faster than one each.
"""

from amaranth.hdl import Cat, Module, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.memory import Memory
from amaranth.lib.wiring import In, Out

from hw.rtl.array.multiplier import MULTIPLIERS
from hw.rtl.array.packed import PackedWeights, packed_latency, packed_products
from hw.rtl.common.pipeline import delayed, one_of

__all__ = ["ACCUMULATOR_WIDTH", "MacArray"]

ACCUMULATOR_WIDTH = 32
_CONTROLS = ("first", "last")
_GROUP = 4  # rows that share a register of results


class MacArray(wiring.Component):
    """``rows`` x ``columns`` processing elements.

    Arguments
    ---------
    multiplier : name of the vendor hook, one of hw.rtl.array.multiplier.MULTIPLIERS.
    packed : two neighbouring columns share a multiplier (hw.rtl.array.packed): half as many of
    them, the
        same results, except that bytes of port b must be in [-127, 127]. Raises ValueError for
        an odd number of columns.

    Members
    -------
    a : one byte per row, row i lagging row 0 by i cycles (as a Feeder gives them).
    b : one byte per column, likewise.
    first, last : the byte now entering row 0 is the first / last of a reduction (of one step:
        both). Zeros between them do not matter. Two ``last`` are at least rows and a gap per group
        of rows but one apart.
    place : with last: where the memory keeps the tile's results, below n_tiles, counting up from
        tile to tile and around.
    pop, row, row_place : take this row of the tile there. A tile's pops are at least POP_SPACING
        cycles apart, the first one not before ``result_latency`` cycles after its ``last``, the
        last one not after ``hold_latency`` cycles after the next tile's ``last`` (all as given
        here).
    results, results_valid : the popped row (one pixel, all columns), ``pop_latency`` cycles later.
    """

    POP_SPACING = 2
    pop_latency = 1  #: cycles from ``pop`` to ``results_valid``

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
            "first": In(1), "last": In(1), "place": In(range(self.n_tiles)),
            "pop": In(1), "row": In(range(rows)), "row_place": In(range(self.n_tiles)),
            "results": Out(data.ArrayLayout(signed(ACCUMULATOR_WIDTH), columns)),
            "results_valid": Out(1),
        })

    @property
    def product_latency(self) -> int:
        """Cycles from an element's operands to their product beside the accumulator's adder."""
        if self.packed:
            return packed_latency(self.multiplier_class)
        return self.multiplier_class.LATENCY + 1

    @property
    def _delay(self) -> int:
        """Cycles by which a column's last row leaves it later than its first."""
        return self.rows - 1 + (self.rows - 1) // _GROUP

    @property
    def n_tiles(self) -> int:
        """Tiles in the memory of results, a power of two: so many that a tile whose ``last`` comes
        as soon as ``hold_latency`` allows does not overwrite one that is still to be popped."""
        n_tiles = 1
        while self.columns > (n_tiles - 1) * self.POP_SPACING * self.rows + 2 + self._delay:
            n_tiles *= 2
        return n_tiles

    @property
    def result_latency(self) -> int:
        """Cycles from ``last`` to the first legal ``pop`` (the last column has its sum by then)."""
        return self.product_latency + self.columns

    @property
    def hold_latency(self) -> int:
        """Cycles from ``last`` to the last legal ``pop`` of the tile before: until the first
        column's last row is written; where there is more than one tile, until the next is popped.
        """
        if self.n_tiles > 1:
            return self.result_latency - self.POP_SPACING
        return self.product_latency + self._delay

    def elaborate(self, platform) -> Module:
        m = Module()
        controls = self._controls(m)
        products = self._packed_products(m) if self.packed else self._products(m)
        write = self._write_controls(m, controls[0]["last"][self.product_latency])
        for j in range(self.columns):
            column = 0
            for top in reversed(range(0, self.rows, _GROUP)):
                sums = [(controls[i]["last"][j + self.product_latency],
                         self._accumulate(m, f"{i}_{j}", products[i][j],
                                          controls[i]["first"][j + self.product_latency - 1]))
                        for i in range(top, min(top + _GROUP, self.rows))]
                result = Signal(signed(ACCUMULATOR_WIDTH), name=f"result_{top}_{j}")
                m.d.sync += result.eq(one_of(sums) | column)
                column = result
            write = self._keep(m, j, column, write)
        m.d.sync += self.results_valid.eq(self.pop)
        return m

    def _address(self, row, place) -> Value:
        """Of a row of results in a column's memory."""
        return row + place * self.rows

    def _write_controls(self, m, finished) -> tuple:
        """Where the first column's results go, from a cycle after ``finished``, row 0's token."""
        enable, waits = Signal(), Signal()
        row, place = Signal(range(self.rows)), Signal.like(self.place)
        late_place = delayed(m, self.place, self.product_latency, "place", reset_less=True)
        m.d.sync += waits.eq(0)
        with m.If(finished):
            m.d.sync += [enable.eq(1), row.eq(0), place.eq(late_place)]
        with m.Elif(enable):
            last = row == self.rows - 1
            group_last = (row % _GROUP == _GROUP - 1) & ~last
            m.d.sync += [enable.eq(~group_last & ~last), waits.eq(group_last), row.eq(row + 1)]
        with m.Elif(waits):
            m.d.sync += enable.eq(1)
        return enable, self._address(row, place)

    def _keep(self, m, j, results, write) -> tuple:
        """The memory of column ``j``, written as ``write`` says; returns the next column's."""
        m.submodules[f"results_{j}"] = cells = Memory(
            shape=ACCUMULATOR_WIDTH, depth=self.rows * self.n_tiles, init=[])
        port, read = cells.write_port(), cells.read_port(domain="comb")
        enable, address = write
        read_address = Signal.like(read.addr, name=f"read_{j}", attrs={"keep": 1}, reset_less=True)
        m.d.comb += [port.en.eq(enable), port.addr.eq(address), port.data.eq(results),
                     read.addr.eq(read_address), self.results[j].eq(read.data)]
        m.d.sync += read_address.eq(self._address(self.row, self.row_place))
        return (delayed(m, enable, 1, f"write_{j}"),
                delayed(m, address, 1, f"address_{j}", reset_less=True))

    def _controls(self, m) -> list:
        """Per row the controls by name: bit k of a chain is the control, k cycles later.

        They are marked to be kept: else a synthesis tool would make one register of all those
        that lie on a diagonal of the array.
        """
        lengths = {"first": self.columns + self.product_latency - 1,
                   "last": self.columns + self.product_latency}
        chains, entering = [], {"first": self.first, "last": self.last}
        for i in range(self.rows):
            if i:  # a control enters row i as late as its operand
                entering = {name: chains[-1][name][1] for name in _CONTROLS}
            row = {}
            for name in _CONTROLS:
                width = lengths[name] - 1
                late = Signal(width, name=f"{name}_{i}", attrs={"keep": 1}, reset_less=True)
                m.d.sync += late.eq(Cat(entering[name], late))
                row[name] = Cat(entering[name], late)
            chains.append(row)
        return chains

    def _products(self, m) -> list:
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

    def _packed_products(self, m) -> list:
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

    def _accumulate(self, m, name, product, first) -> Value:
        """One element behind its product; returns its sum, this product included."""
        total = Signal(signed(ACCUMULATOR_WIDTH), name=f"total_{name}", reset_less=True)
        added = Signal(signed(ACCUMULATOR_WIDTH), name=f"added_{name}")
        m.d.comb += added.eq(total + product)
        m.d.sync += total.eq(added)
        with m.If(first):  # a cycle early: a reset costs no logic
            m.d.sync += total.eq(0)
        return added

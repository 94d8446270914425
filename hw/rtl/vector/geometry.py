"""Geometry: the loops, steps and first positions of an instruction, computed once at its start.

All operations run one nest of loops: for line: for chunk: for position: for kernel row: for kernel
column. What they are of each:

             lines       chunks         positions    rows          columns
DEPTHWISE    out_height  n_chunks       columns of   3             1 (three are multiplied at once)
                                        the input
WINDOW, MAX  out_height  n_chunks       out_width    kernel_height kernel_width
LINEAR       1           n_chunks (of   1            n_inputs / 2  1
                         the output)
ADD, MUL     out_width   n_chunks       1            1             2: the two inputs
LOOKUP       out_width   n_chunks       1            1             1
"""

from amaranth.hdl import Cat, Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import DEPTHWISE_KERNEL, FORMAT_WORDS, TABLE_SIZE, Format, Opcode, field_of
from hw.rtl.common.pipeline import registered
from hw.rtl.control.slot import instruction_fields

__all__ = ["GEOMETRY_LAYOUT", "Geometry"]

_FACTOR_WIDTH = field_of(Format.VECTOR, "stride_x").width  # dilations and padding are as wide
_KERNEL_WIDTH = field_of(Format.VECTOR, "kernel_width").width
_KERNEL_HEIGHT = field_of(Format.VECTOR, "n_inputs").width - 1  # pairs of inputs are rows, too

#: Addresses and their steps wrap at 16 bits; columns and rows of the input are counted in words.
GEOMETRY_LAYOUT = data.StructLayout({
    "is_depthwise": 1, "is_window": 1, "is_linear": 1, "is_add": 1, "is_maximum": 1,
    "is_lookup": 1, "is_mul": 1,
    "is_pair": 1,  # two words in, a result per group: ADD, MUL
    "by_words": 1,  # results are words of codes, for the write port: MAXPOOL, LOOKUP
    "is_bounded": 1,  # positions outside the input give padding
    "has_weights": 1, "is_product": 1, "keeps_weights": 1,
    "n_lines": 16, "n_chunks": 16, "n_positions": 16,
    "kernel_height": _KERNEL_HEIGHT, "kernel_width": _KERNEL_WIDTH,
    "skip_first": 4, "skip": 4,  # positions without a result before the first one, and between
    "origin": 16, "tap_x_step": 16, "tap_back_step": 16,  # what tap_x_step loses per line
    "tap_y_step": 16, "position_step": 16, "chunk_step": 1,
    "line_step": 16,
    "left": signed(5), "top": signed(5),  # first column and row
    "column_step": 4, "row_step": 4, "tap_columns": 4, "tap_rows": 4,
    "weight_lines": 16, "weight_chunks": 16, "weight_positions": 16,
    "weight_rows": _KERNEL_HEIGHT, "weight_columns": _KERNEL_WIDTH,
    "line_progress": 16,
})


class Geometry(wiring.Component):
    """Computes the geometry of an instruction.

    Members
    -------
    words : the instruction, stable from ``start`` on. start : pulse.
    geometry : GEOMETRY_LAYOUT, right LATENCY cycles after ``start`` and as long as the words are.
    impossible : a count is zero that must not be, or odd; right FAULT_LATENCY cycles after start.
    """

    LATENCY = 7
    FAULT_LATENCY = 4

    def __init__(self, target):
        self.n_table_words = TABLE_SIZE // target.columns
        super().__init__({
            "words": In(data.ArrayLayout(32, FORMAT_WORDS[Format.VECTOR])), "start": In(1),
            "geometry": Out(GEOMETRY_LAYOUT), "impossible": Out(1)})

    def elaborate(self, platform) -> Module:
        m = Module()
        f = instruction_fields(self.words, format_=Format.VECTOR)
        g = registered(m, self.geometry)
        kinds = {Opcode.DEPTHWISE: g.is_depthwise, Opcode.WINDOW: g.is_window,
                 Opcode.LINEAR: g.is_linear, Opcode.ADD: g.is_add, Opcode.MAXPOOL: g.is_maximum,
                 Opcode.LOOKUP: g.is_lookup, Opcode.MUL: g.is_mul}
        m.d.sync += [kind.eq(f["opcode"] == opcode) for opcode, kind in kinds.items()]
        m.d.sync += [g.is_pair.eq(f["opcode"].matches(Opcode.ADD, Opcode.MUL)),
                     g.by_words.eq(f["opcode"].matches(Opcode.MAXPOOL, Opcode.LOOKUP))]
        has_kernel = g.is_window | g.is_maximum
        by_pixels = g.is_pair | g.is_lookup
        m.d.sync += [
            g.is_bounded.eq(g.is_depthwise | has_kernel),
            g.has_weights.eq(g.is_depthwise | g.is_window | g.is_linear | g.is_lookup),
            g.is_product.eq(g.is_depthwise | g.is_window | g.is_linear)]
        self._steps(m, f, g, by_pixels)
        self._counts(m, f, g, has_kernel, by_pixels)
        no_out = (f["out_width"] == 0) | (f["out_height"] == 0)
        no_kernel = (f["kernel_width"] == 0) | (f["kernel_height"] == 0)
        wrong = Signal(4)
        m.d.sync += [
            wrong.eq(Cat(
                f["n_chunks"] == 0,
                Mux(g.is_bounded, no_out, by_pixels & (f["out_width"] == 0)),
                Mux(has_kernel, no_kernel, g.is_depthwise & (f["stride_x"] == 0)),
                g.is_linear & ((f["n_inputs"] == 0) | f["n_inputs"][0] | f["w_base"][0]))),
            self.impossible.eq(wrong.any())]
        return m

    def _steps(self, m, f, g, by_pixels) -> None:
        """First positions and steps: products with a factor of four bits, one bit per cycle."""
        shift = Signal(range(_FACTOR_WIDTH + 1))
        wide = {name: Signal(16, name=f"{name}_shifted") for name in ("n_chunks", "line_step")}
        with m.If(self.start):
            m.d.sync += [shift.eq(0), *(value.eq(f[name]) for name, value in wide.items())]
        with m.Elif(shift != _FACTOR_WIDTH):
            m.d.sync += [shift.eq(shift + 1), *(value.eq(value << 1) for value in wide.values())]

        def product(name, factor, doubled):
            total = Signal(16, name=name)
            with m.If(self.start):
                m.d.sync += total.eq(0)
            with m.Elif((shift != _FACTOR_WIDTH) & factor.bit_select(shift[:2], 1)):
                m.d.sync += total.eq(total + doubled)
            return total

        chunks, lines = wide["n_chunks"], wide["line_step"]
        stride_x = product("stride_x_words", f["stride_x"], chunks)
        dilation_x = product("dilation_x_words", f["dilation_x"], chunks)
        left = product("left_words", f["left"], chunks)
        stride_y = product("stride_y_words", f["stride_y"], lines)
        dilation_y = product("dilation_y_words", f["dilation_y"], lines)
        top = product("top_words", f["top"], lines)
        corner = Signal(16)
        m.d.sync += [
            corner.eq(f["x_base"] - left),
            g.origin.eq(Mux(g.is_bounded, corner - top, f["x_base"])),
            g.tap_x_step.eq(Mux(g.is_pair, f["y_base"] - f["x_base"], dilation_x)),
            g.tap_back_step.eq(Mux(g.is_mul & f["broadcast"], f["n_chunks"], 0)),
            g.tap_y_step.eq(Mux(g.is_depthwise, f["line_step"],
                                Mux(g.is_linear, 1, dilation_y))),
            g.position_step.eq(Mux(g.is_depthwise, f["n_chunks"], stride_x)),
            g.chunk_step.eq(~g.is_linear),
            g.line_step.eq(Mux(by_pixels, f["n_chunks"], stride_y)),
            g.left.eq(-f["left"]), g.top.eq(-f["top"]),
            g.column_step.eq(Mux(g.is_depthwise, 1, f["stride_x"])),
            g.row_step.eq(f["stride_y"]),
            g.tap_columns.eq(f["dilation_x"]),
            g.tap_rows.eq(Mux(g.is_depthwise, 1, f["dilation_y"])),
            g.skip_first.eq(Mux(g.is_depthwise, DEPTHWISE_KERNEL - 1, 0)),
            g.skip.eq(Mux(g.is_depthwise, f["stride_x"] - 1, 0)),
        ]

    def _counts(self, m, f, g, has_kernel, by_pixels) -> None:
        """How often each loop runs."""
        pairs = f["n_inputs"][1:]
        once = (f["same_weights"] & g.is_window) | g.is_lookup
        m.d.sync += [
            g.n_lines.eq(Mux(by_pixels, f["out_width"], Mux(g.is_linear, 1, f["out_height"]))),
            g.n_chunks.eq(f["n_chunks"]),
            g.n_positions.eq(Mux(g.is_bounded, f["out_width"], 1)),
            g.kernel_height.eq(Mux(has_kernel, f["kernel_height"],
                                   Mux(g.is_depthwise, DEPTHWISE_KERNEL,
                                       Mux(g.is_linear, pairs, 1)))),
            g.kernel_width.eq(Mux(has_kernel, f["kernel_width"], Mux(g.is_pair, 2, 1))),
            g.line_progress.eq(Mux(g.is_bounded, f["out_width"], 1)),
            g.keeps_weights.eq(once),
            g.weight_lines.eq(Mux(once, 1, g.n_lines)),
            g.weight_chunks.eq(Mux(once, 1, f["n_chunks"])),
            g.weight_positions.eq(Mux(g.is_window & ~once, f["out_width"], 1)),
            g.weight_rows.eq(Mux(once, 1, g.kernel_height)),
            g.weight_columns.eq(Mux(once, Mux(g.is_lookup, self.n_table_words, 1),
                                    Mux(g.is_depthwise, DEPTHWISE_KERNEL, g.kernel_width))),
        ]

"""Lookup: codes through a table of 256 codes, one group of lanes per cycle.

The table comes first, through the weight store. Every lane has a block RAM of its own with all of
it, in rows of TABLE_ROW codes, of which one is written per cycle:

    taken -> piece -> row written          x -> codes -> row (memory, register) -> code -> word
"""

from amaranth.hdl import Array, Cat, Module, Mux, Signal
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import TABLE_ROW, TABLE_SIZE
from hw.rtl.common.pipeline import delayed, registered
from hw.rtl.memory.scratchpad import WordMemory, exact_bits, word_layout

__all__ = ["LookupUnit"]

_CODE_WIDTH = exact_bits(TABLE_SIZE)


class LookupUnit(wiring.Component):
    """The table, and the words that go through it.

    Members
    -------
    is_lookup : of the instruction; stable since the cycle before ``load``.
    load : begin, a pulse.
    arrived, takes, table : the table's next word is here; it is taken; TABLE_LATENCY cycles later
        it is in ``table``.
    uses : a step is taken, in this cycle. wants_next : in the next cycle one may be (of LOOKUP;
        else always): the table is whole, and the word before has gone through.
    valid, x : the word of a step, which stands until the next one's is there.
    word : its codes, once ``valid_next`` was up one cycle before.
    """

    TABLE_LATENCY = 2

    def __init__(self, target):
        self.target = target
        word = word_layout(target.columns)
        super().__init__({
            "is_lookup": In(1), "load": In(1), "arrived": In(1), "takes": Out(1), "table": In(word),
            "uses": In(1), "wants_next": Out(1), "valid": In(1), "x": In(word),
            "word": Out(word), "valid_next": Out(1)})

    def _write(self, m, memories):
        """Fill the memories, one row per cycle. Returns: the table is whole."""
        n_pieces, n_rows = self.target.columns // TABLE_ROW, TABLE_SIZE // TABLE_ROW
        piece = Signal(range(max(2, n_pieces)))
        row = Signal(range(n_rows))
        loading, takes_piece, whole = Signal(), Signal(), Signal()
        last_piece = piece == n_pieces - 1
        m.d.comb += [takes_piece.eq(loading & (self.arrived | (piece != 0))),
                     self.takes.eq(takes_piece & last_piece)]
        with m.If(takes_piece):
            m.d.sync += [piece.eq(Mux(last_piece, 0, piece + 1)), row.eq(row + 1)]
            with m.If(row == n_rows - 1):
                m.d.sync += loading.eq(0)
        with m.If(self.load):
            m.d.sync += loading.eq(self.is_lookup)
        late = [delayed(m, value, self.TABLE_LATENCY, name) for value, name in (
            (takes_piece, "write_piece"), (piece, "piece"), (row, "row"))]
        content = Signal(TABLE_ROW * _CODE_WIDTH, reset_less=True)
        address, enable = Signal(range(n_rows)), Signal()
        pieces = Array([self.table.as_value().word_select(k, len(content))
                        for k in range(n_pieces)])
        m.d.sync += [enable.eq(late[0]), content.eq(pieces[late[1]]),
                     address.eq(late[2] ^ (n_rows >> 1)),  # the first codes are the negative ones
                     whole.eq(whole | (late[0] & (late[2] == n_rows - 1)))]
        for memory in memories:
            m.d.comb += [memory.write_enable.eq(enable), memory.write_address.eq(address),
                         memory.write_data.eq(content)]
        return whole

    def elaborate(self, platform) -> Module:
        m = Module()
        lanes = self.target.lanes
        n_groups = self.target.columns // lanes
        memories = [WordMemory(depth=TABLE_SIZE // TABLE_ROW, width=TABLE_ROW * _CODE_WIDTH,
                               in_block_ram=True) for _ in range(lanes)]
        for lane, memory in enumerate(memories):
            m.submodules[f"lane_{lane}"] = memory
        whole = self._write(m, memories)

        # A word takes a cycle per group.
        left = Signal(range(max(2, n_groups)))
        m.d.sync += left.eq(Mux(self.uses, n_groups - 1, left - left.any()))
        free = Mux(self.uses, int(n_groups == 1), left <= 1)
        m.d.comb += self.wants_next.eq(~self.is_lookup | (whole & free))

        # Stage 1: the codes of a group; 2: their rows, from the memories; 3: the new codes.
        group = Signal(range(max(2, n_groups)))
        now = Signal(range(max(2, n_groups)))
        running, chosen = Signal(), Signal()
        m.d.comb += [now.eq(Mux(self.valid, 0, group)), chosen.eq(self.valid | running)]
        m.d.sync += [group.eq(now + 1), running.eq(chosen & (now != n_groups - 1))]
        groups = Array([self.x.as_value().word_select(k, lanes * _CODE_WIDTH)
                        for k in range(n_groups)])
        codes = Signal(data.ArrayLayout(_CODE_WIDTH, lanes), reset_less=True)
        m.d.sync += codes.as_value().eq(groups[now])
        low_bits = exact_bits(TABLE_ROW)
        lows = delayed(m, Cat(code[:low_bits] for code in codes), WordMemory.LATENCY, "low",
                       reset_less=True)
        latency = 1 + WordMemory.LATENCY
        fills = delayed(m, chosen, latency, "fills")
        filled = delayed(m, now, latency, "filled", reset_less=True)
        word = registered(m, self.word)
        for lane, memory in enumerate(memories):
            m.d.comb += memory.read_address.eq(codes[lane][low_bits:])
            code = memory.read_data.word_select(lows.word_select(lane, low_bits), _CODE_WIDTH)
            for k in range(n_groups):
                with m.If(filled == k):
                    m.d.sync += word[k * lanes + lane].eq(code)
        m.d.comb += self.valid_next.eq(fills & (filled == n_groups - 1))
        return m

"""AddressWalker: the addresses of one array port, from counters and additions alone.

A *slot* is one cycle. In every slot the walker may name one word; `slots` slots make a period and
`period_count` periods a tile. Three walks add up to the address:

slot walk    positions x inside lines y; goes back to the tile's start every `group` periods
period walk  three levels, one step whenever the slot walk goes back
tile walk    to where the slot walk of the tile ended, or by a fixed step

Positions outside the tensor (padding, and what lies beyond the last tile) are flagged.
"""

from types import SimpleNamespace

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FIELDS, Format
from hw.rtl.common.loops import Countdown

__all__ = ["STEP_LAYOUT", "WALKER_LAYOUT", "WALK_WIDTH", "AddressWalker"]

#: Bits of an address while it is walked; it may be negative on the way (padding).
WALK_WIDTH = 24

WALKER_LAYOUT = data.StructLayout({
    field.name.removeprefix("a_"): signed(field.width) if field.signed else field.width
    for field in FIELDS[Format.ARRAY] if field.name.startswith("a_")})

#: What the sequencer says about a slot.
STEP_LAYOUT = data.StructLayout({
    "restart": 1,  # before the first slot of an instruction: load the walker's registers
    "active": 1,  # this port names a word in this slot
    "period_end": 1,  # last slot of a period
    "tile_end": 1,  # last slot of a tile
    "advance": 1,  # with tile_end: move on to this port's next tile, else the same again
    "rewind": 1,  # with tile_end: go back to this port's first tile
})


class AddressWalker(wiring.Component):
    """Walks the addresses of one port.

    Members
    -------
    fields : the port's instruction fields, constant from the cycle before ``restart`` until two
        cycles after the last slot.
    step : what happens in this slot.
    address, inside, valid, bank, pad : the word named, LATENCY cycles later; where `inside` is 0
        the code `pad` has to stand in for all its bytes.
    """

    LATENCY = 3

    def __init__(self):
        super().__init__({
            "fields": In(WALKER_LAYOUT),
            "step": In(STEP_LAYOUT),
            "address": Out(signed(WALK_WIDTH)),
            "inside": Out(1),
            "valid": Out(1),
            "bank": Out(2),
            "pad": Out(signed(8)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        f = self.fields
        position = data.StructLayout({"address": signed(WALK_WIDTH), "x_left": 16, "x_last": 1,
                                      "ix": signed(16), "iy": signed(16)})
        start, here, after = (Signal(position, name=n) for n in ("start", "here", "after"))
        x_single = Signal()
        m.d.sync += x_single.eq(f.x_count == 1)
        # The position has copies of its own: it lies apart from the sequencer.
        slot, here_slot = self._decided(m, ""), self._decided(m, "_here")
        self._walk_slots(m, here_slot, here, after, x_single)
        tap, counters = self._walk_periods(m, slot)
        group = counters[0]
        with m.If(here_slot.period_end & group.last):
            m.d.sync += here.eq(start)

        # Tile walk.
        first = Signal(position)
        following = Signal(position)
        m.d.comb += [first.address.eq(f.base), first.x_left.eq(f.x_count),
                     first.x_last.eq(x_single), first.ix.eq(f.ix), first.iy.eq(f.iy),
                     following.eq(after)]
        with m.If(f.fixed):
            m.d.comb += [following.eq(start), following.address.eq(start.address + f.tile_step)]
        with m.If(slot.tile_end):
            m.d.sync += [tap.eq(0), *(c.load() for c in counters)]
        with m.If(slot.to_first):
            m.d.sync += start.eq(first)
        with m.If(slot.to_following):
            m.d.sync += start.eq(following)
        with m.If(here_slot.tile_end):
            m.d.sync += here.eq(start)
        with m.If(here_slot.to_first):
            m.d.sync += here.eq(first)
        with m.If(here_slot.to_following):
            m.d.sync += here.eq(following)
        self._name(m, slot.active, here, tap)
        return m

    def _decided(self, m, suffix) -> SimpleNamespace:
        """What happens in this slot, decided one cycle before; ``suffix``: of the registers."""
        step = self.step
        rewind = step.restart | (step.tile_end & step.rewind)
        decisions = {"active": step.active, "period_end": step.period_end,
                     "tile_end": step.tile_end | step.restart, "to_first": rewind,
                     "to_following": step.tile_end & step.advance & ~rewind}
        registers = {name: Signal(name=f"{name}{suffix}", attrs={"keep": 1})
                     for name in decisions}
        m.d.sync += [registers[name].eq(value) for name, value in decisions.items()]
        return SimpleNamespace(**registers)

    def _walk_slots(self, m, slot, here, after, x_single) -> None:
        """Slot walk: `after` is the position once this slot is done."""
        f = self.fields
        m.d.comb += after.eq(here)
        with m.If(slot.active):
            with m.If(here.x_last):
                m.d.comb += [after.address.eq(here.address + f.y_step), after.ix.eq(f.ix),
                             after.iy.eq(here.iy + f.iy_step), after.x_left.eq(f.x_count),
                             after.x_last.eq(x_single)]
            with m.Else():
                m.d.comb += [after.address.eq(here.address + f.x_step),
                             after.ix.eq(here.ix + f.ix_step), after.x_left.eq(here.x_left - 1),
                             after.x_last.eq(here.x_left == 2)]
        m.d.sync += here.eq(after)

    def _walk_periods(self, m, slot) -> tuple:
        """Period walk: what it adds to a position, and its counters, the group's first.

        Periods have two slots at least, so that `move` is right when it is used.
        """
        f = self.fields
        taps = data.StructLayout({"address": signed(WALK_WIDTH), "dx": signed(16),
                                  "dy": signed(16)})
        tap, move = Signal(taps, name="tap"), Signal(taps, name="move", reset_less=True)
        group, k0, k1 = counters = [Countdown(m, name, count) for name, count in (
            ("group", f.group), ("k0", f.k0_count), ("k1", f.k1_count))]
        for to, (step_0, step_1, step_2) in ((move.address, (f.k0_step, f.k1_step, f.k2_step)),
                                             (move.dx, (f.k0_dx, f.k1_dx, f.k2_dx)),
                                             (move.dy, (f.k0_dy, f.k1_dy, f.k2_dy))):
            m.d.sync += to.eq(Mux(k0.last, Mux(k1.last, step_2, step_1), step_0))
        with m.If(slot.period_end):
            group.step()
        with m.If(slot.period_end & group.last):
            m.d.sync += [tap.address.eq(tap.address + move.address),
                         tap.dx.eq(tap.dx + move.dx), tap.dy.eq(tap.dy + move.dy)]
            k0.step()
            with m.If(k0.last):
                k1.step()
        return tap, counters

    def _name(self, m, active, here, tap) -> None:
        """The outputs, in two stages: sums, then bounds."""
        f = self.fields
        address = Signal(signed(WALK_WIDTH))
        ix = Signal(signed(17))
        iy = Signal(signed(17))
        valid = Signal()
        m.d.sync += [
            address.eq(here.address + tap.address), ix.eq(here.ix + tap.dx),
            iy.eq(here.iy + tap.dy), valid.eq(active),
            self.address.eq(address), self.valid.eq(valid), self.bank.eq(f.bank),
            self.pad.eq(f.pad),
            self.inside.eq(~f.bounded | ((ix >= 0) & (ix < f.width)
                                         & (iy >= 0) & (iy < f.height))),
        ]

"""AddressWalker: the addresses of one array port, from counters and additions alone.

A *slot* is one cycle. In every slot the walker may name one word; `slots` slots make a period and
`period_count` periods a tile. Three walks add up to the address:

slot walk    positions x inside lines y; goes back to the tile's start every `group` periods
period walk  three levels, one step whenever the slot walk goes back
tile walk    to where the slot walk of the tile ended, or by a fixed step

Positions outside the tensor (padding, and what lies beyond the last tile) are flagged.
"""

from amaranth.hdl import Module, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FIELDS, Format

__all__ = ["AddressWalker", "STEP_LAYOUT", "WALKER_LAYOUT", "WALK_WIDTH"]

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
    fields : the port's instruction fields, constant while an instruction runs and two cycles more.
    step : what happens in this slot.
    address, inside, valid, bank, pad : the word named, LATENCY cycles later; where `inside` is 0
        the code `pad` has to stand in for all its bytes.
    """

    LATENCY = 2

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

    def elaborate(self, platform):
        m = Module()
        f, step = self.fields, self.step
        position = data.StructLayout({"address": signed(WALK_WIDTH), "x": 16, "ix": signed(16),
                                      "iy": signed(16)})
        start, here, after = (Signal(position, name=n) for n in ("start", "here", "after"))
        group = Signal(16)
        tap_address = Signal(signed(WALK_WIDTH))
        tap_dx = Signal(signed(16))
        tap_dy = Signal(signed(16))
        k0 = Signal(16)
        k1 = Signal(16)

        # Slot walk: `after` is the position once this slot is done.
        m.d.comb += after.eq(here)
        with m.If(step.active):
            with m.If(here.x + 1 == f.x_count):
                m.d.comb += [after.address.eq(here.address + f.y_step), after.x.eq(0),
                             after.ix.eq(f.ix), after.iy.eq(here.iy + f.iy_step)]
            with m.Else():
                m.d.comb += [after.address.eq(here.address + f.x_step), after.x.eq(here.x + 1),
                             after.ix.eq(here.ix + f.ix_step), after.iy.eq(here.iy)]
        m.d.sync += here.eq(after)

        # Period walk.
        with m.If(step.period_end):
            with m.If(group + 1 != f.group):
                m.d.sync += group.eq(group + 1)
            with m.Else():
                m.d.sync += [group.eq(0), here.eq(start)]
                with m.If(k0 + 1 != f.k0_count):
                    m.d.sync += [k0.eq(k0 + 1), tap_address.eq(tap_address + f.k0_step),
                                 tap_dx.eq(tap_dx + f.k0_dx), tap_dy.eq(tap_dy + f.k0_dy)]
                with m.Else():
                    m.d.sync += k0.eq(0)
                    with m.If(k1 + 1 != f.k1_count):
                        m.d.sync += [k1.eq(k1 + 1), tap_address.eq(tap_address + f.k1_step),
                                     tap_dx.eq(tap_dx + f.k1_dx), tap_dy.eq(tap_dy + f.k1_dy)]
                    with m.Else():
                        m.d.sync += [k1.eq(0), tap_address.eq(tap_address + f.k2_step),
                                     tap_dx.eq(tap_dx + f.k2_dx), tap_dy.eq(tap_dy + f.k2_dy)]

        # Tile walk.
        first = Signal(position)
        following = Signal(position)
        m.d.comb += [first.address.eq(f.base), first.ix.eq(f.ix), first.iy.eq(f.iy),
                     following.eq(after)]
        with m.If(f.fixed):
            m.d.comb += [following.eq(start), following.address.eq(start.address + f.tile_step)]
        reset_taps = [tap_address.eq(0), tap_dx.eq(0), tap_dy.eq(0), k0.eq(0), k1.eq(0),
                      group.eq(0)]
        with m.If(step.tile_end):
            m.d.sync += [*reset_taps, here.eq(start)]
            with m.If(step.rewind):
                m.d.sync += [start.eq(first), here.eq(first)]
            with m.Elif(step.advance):
                m.d.sync += [start.eq(following), here.eq(following)]
        with m.If(step.restart):
            m.d.sync += [*reset_taps, start.eq(first), here.eq(first)]

        # Two stages: sums, then bounds.
        address = Signal(signed(WALK_WIDTH))
        ix = Signal(signed(17))
        iy = Signal(signed(17))
        valid = Signal()
        m.d.sync += [
            address.eq(here.address + tap_address), ix.eq(here.ix + tap_dx),
            iy.eq(here.iy + tap_dy), valid.eq(step.active),
            self.address.eq(address), self.valid.eq(valid), self.bank.eq(f.bank),
            self.pad.eq(f.pad),
            self.inside.eq(~f.bounded | ((ix >= 0) & (ix < f.width)
                                         & (iy >= 0) & (iy < f.height))),
        ]
        return m

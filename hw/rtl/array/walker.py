"""AddressWalker: the addresses of one array port, from counters and additions alone.

A *slot* is one cycle. In every slot the walker may name one word; `slots` slots make a period and
`period_count` periods a tile. Three walks add up to the address:

slot walk    positions x inside lines y; goes back to the tile's start every `group` periods
period walk  three levels, one step whenever the slot walk goes back
tile walk    to where the slot walk of the tile ended, or by a fixed step

Positions outside the tensor (padding, and what lies beyond the last tile) are flagged.
"""

from amaranth.hdl import Module, Mux, Signal, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import FIELDS, Format
from hw.rtl.common.loops import Countdown

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

    def elaborate(self, platform):
        m = Module()
        f = self.fields
        position = data.StructLayout({"address": signed(WALK_WIDTH), "x_left": 16, "x_last": 1,
                                      "ix": signed(16), "iy": signed(16)})
        start, here, after = (Signal(position, name=n) for n in ("start", "here", "after"))
        taps = data.StructLayout({"address": signed(WALK_WIDTH), "dx": signed(16),
                                  "dy": signed(16)})
        tap, move = Signal(taps), Signal(taps, reset_less=True)
        group, k0, k1 = counters = [Countdown(m, name, count) for name, count in (
            ("group", f.group), ("k0", f.k0_count), ("k1", f.k1_count))]
        x_single = Signal()
        m.d.sync += x_single.eq(f.x_count == 1)

        # What happens in this slot, decided one cycle before.
        step = self.step
        rewind = step.restart | (step.tile_end & step.rewind)

        def decided(of):
            decisions = {"active": step.active, "period_end": step.period_end,
                         "tile_end": step.tile_end | step.restart, "to_first": rewind,
                         "to_following": step.tile_end & step.advance & ~rewind}
            registers = [Signal(name=f"{name}{of}", attrs={"keep": 1}) for name in decisions]
            m.d.sync += [register.eq(value)
                         for register, value in zip(registers, decisions.values())]
            return registers

        # The position has copies of its own: it lies apart from the sequencer.
        active, period_end, tile_end, to_first, to_following = decided("")
        here_active, here_period_end, here_tile_end, here_to_first, here_to_following = decided(
            "_here")

        # Slot walk: `after` is the position once this slot is done.
        m.d.comb += after.eq(here)
        with m.If(here_active):
            with m.If(here.x_last):
                m.d.comb += [after.address.eq(here.address + f.y_step), after.ix.eq(f.ix),
                             after.iy.eq(here.iy + f.iy_step), after.x_left.eq(f.x_count),
                             after.x_last.eq(x_single)]
            with m.Else():
                m.d.comb += [after.address.eq(here.address + f.x_step),
                             after.ix.eq(here.ix + f.ix_step), after.x_left.eq(here.x_left - 1),
                             after.x_last.eq(here.x_left == 2)]
        m.d.sync += here.eq(after)

        # Period walk. Periods have two slots at least, so that `move` is right when it is used.
        m.d.sync += [getattr(move, to).eq(Mux(k0.last, Mux(k1.last, f[f"k2_{by}"], f[f"k1_{by}"]),
                                              f[f"k0_{by}"]))
                     for to, by in (("address", "step"), ("dx", "dx"), ("dy", "dy"))]
        with m.If(period_end):
            group.step()
        with m.If(period_end & group.last):
            m.d.sync += [tap.address.eq(tap.address + move.address),
                         tap.dx.eq(tap.dx + move.dx), tap.dy.eq(tap.dy + move.dy)]
            k0.step()
            with m.If(k0.last):
                k1.step()
        with m.If(here_period_end & group.last):
            m.d.sync += here.eq(start)

        # Tile walk.
        first = Signal(position)
        following = Signal(position)
        m.d.comb += [first.address.eq(f.base), first.x_left.eq(f.x_count),
                     first.x_last.eq(x_single), first.ix.eq(f.ix), first.iy.eq(f.iy),
                     following.eq(after)]
        with m.If(f.fixed):
            m.d.comb += [following.eq(start), following.address.eq(start.address + f.tile_step)]
        with m.If(tile_end):
            m.d.sync += [tap.eq(0), *(c.load() for c in counters)]
        with m.If(to_first):
            m.d.sync += start.eq(first)
        with m.If(to_following):
            m.d.sync += start.eq(following)
        with m.If(here_tile_end):
            m.d.sync += here.eq(start)
        with m.If(here_to_first):
            m.d.sync += here.eq(first)
        with m.If(here_to_following):
            m.d.sync += here.eq(following)

        # Two stages: sums, then bounds.
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
        return m

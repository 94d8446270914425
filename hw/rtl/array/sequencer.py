"""ArraySequencer: runs the loops of a MATMUL, drives the walkers and the array's controls.

Loops, from the outside: tiles of port a (pixels), tiles of port b (channels), periods of the
reduction, slots of a period. One slot a cycle. The array is never stopped: what cannot go on yet
waits at the start of a pixel tile (its input is not there) or before a tile's last period (the
readout would still be busy with the tile before when this one's turn comes), and the feeders supply
zeros meanwhile. The time to read a tile is known beforehand, as its readout never waits.
"""

from types import SimpleNamespace

from amaranth.hdl import Array, Cat, Module, Mux, Signal, Value, signed
from amaranth.lib import data, wiring
from amaranth.lib.wiring import In, Out

from hw.isa import N_PLANES, Engine, ErrorCode, Feed, Format
from hw.rtl.array.walker import STEP_LAYOUT
from hw.rtl.common.loops import Countdown
from hw.rtl.common.pipeline import delayed, own_copy
from hw.rtl.control.ports import ArrayActivity, EngineControl
from hw.rtl.control.slot import instruction_fields

__all__ = ["ArraySequencer", "tile_layout"]

#: Cycles from start or unit_next until unit_ready is right (hw.rtl.control.slot) and here.
_UNIT_LATENCY = 3 + 1


def tile_layout(target, n_tiles) -> data.StructLayout:
    """What the readout must know of a tile: groups of lanes per pixel and its place among those
    that the array can hold, ``n_tiles``."""
    return data.StructLayout({
        "groups": range(target.columns // target.lanes + 1), "wide": 1,
        "begins": 1,  # first tile of an instruction
        "row_ends": 1,  # last channel tile of its pixels
        "ends": 1,  # last tile of an instruction
        "place": range(n_tiles),
    })


class ArraySequencer(wiring.Component):
    """Runs MATMUL instructions. n_tiles: of the array, whose memory takes them in turn.

    Members
    -------
    control : EngineControl.
    config_free, config_load : the readout can take, and takes, the instruction's fields.
    slot : a slot is taken, and what it is: step_a, step_b : for the walkers. period_start : the
        first of its period; a_direct, b_direct : of direct feed. first, last : it holds the first /
        last element of a tile's reduction; tile : with last.
    activity : ArrayActivity.

    All of these but the feeds follow from registers of the cycle before, which do nothing else:
    what decides about a slot drives nothing that lies apart from it.
    """

    def __init__(self, target, n_tiles):
        self.target = target
        super().__init__({
            "control": In(EngineControl(Engine.ARRAY)), "activity": Out(ArrayActivity()),
            "config_free": In(1), "config_load": Out(1),
            "slot": Out(1), "step_a": Out(STEP_LAYOUT), "step_b": Out(STEP_LAYOUT),
            "period_start": Out(1), "a_direct": Out(1), "b_direct": Out(1),
            "first": Out(1), "last": Out(1), "tile": Out(tile_layout(target, n_tiles)),
        })

    def elaborate(self, platform) -> Module:
        m = Module()
        f = instruction_fields(self.control.words, format_=Format.ARRAY)
        slots, periods, inner, outer = counters = [Countdown(m, name, f[name]) for name in (
            "slots", "period_count", "inner_count", "outer_count")]
        # go : a slot is taken in this cycle. loaded : the one before the first slot.
        now = SimpleNamespace(go=Signal(name="go"), tile_end=Signal(name="tile_end"),
                              loaded=Signal(name="loaded"), hold=Signal(range(_UNIT_LATENCY + 2)),
                              channels_left=Signal(signed(17)), slots=slots, periods=periods,
                              inner=inner, outer=outer)
        now.finished = now.tile_end & inner.last & outer.last
        with m.If(now.hold != 0):
            m.d.sync += now.hold.eq(now.hold - 1)
        drain_over, groups = self._drain(m, f, now)
        self._decide(m, now, drain_over)
        self._advance(m, f, now, groups)
        config_free = self._load(m, now, counters)
        self._run(m, f, now, self._impossible(m, f, counters), config_free)
        return m

    def _drain(self, m, f, now) -> tuple:
        """A tile's last element comes at least so long after the one before's as that is read.

        Returns whether it is read by the end of the next period, and the groups of this tile.
        """
        lanes, rows = self.target.lanes, self.target.rows
        groups_max = self.target.columns // lanes
        spacings = [0, *range(1, groups_max + 1)]
        drain_left = Signal(range(rows * groups_max * N_PLANES + 1))
        drain_top = Signal.like(drain_left)
        drain_over = Signal()  # in the next cycle
        groups = Signal(range(groups_max + 1))
        n_groups = Signal.like(groups)
        m.d.comb += n_groups.eq(
            1 + sum(now.channels_left > lanes * k for k in range(1, groups_max)))
        m.d.sync += [
            groups.eq(n_groups),
            drain_top.eq(Mux(f["wide"], *(
                Array([max(1, rows * spacing) - 1 for spacing in times])[n_groups]
                for times in ([N_PLANES * n for n in spacings], [max(n, 2) for n in spacings])))),
            drain_left.eq(Mux(now.tile_end, drain_top, drain_left - drain_left.any())),
        ]
        m.d.comb += drain_over.eq(Mux(now.tile_end, drain_top < f["slots"],
                                      drain_left <= f["slots"]))
        return drain_over, groups

    def _decide(self, m, now, drain_over) -> None:
        """Whether the next cycle takes a slot.

        A slot that begins a unit of the chase needs that to be there, and one that begins a tile's
        last period needs the tile before to have been read.
        """
        control, activity = self.control, self.activity
        slots, periods, inner = now.slots, now.periods, now.inner
        running = Signal()
        unit_first, unit_may_begin, last_first = (
            Signal(name=n) for n in ("unit_first", "unit_may_begin", "last_first"))
        next_unit_first, next_last_first, next_running = (
            Signal(name=n) for n in ("next_unit_first", "next_last_first", "next_running"))
        chasing = Signal()
        unit_ready = Signal()
        next_may_begin = unit_ready & (now.hold <= 1)
        m.d.comb += [
            now.tile_end.eq(now.go & slots.last & periods.last),
            next_running.eq((now.loaded | (running & ~now.finished)) & ~control.abort),
            next_unit_first.eq(Mux(now.go, now.tile_end & inner.last, unit_first)),
            next_last_first.eq(Mux(now.go, slots.last & Mux(periods.last, periods.single,
                                                            periods.left == 2), last_first)),
            chasing.eq(running & unit_first & ~unit_may_begin),
        ]
        with m.If(now.loaded):
            m.d.comb += [next_unit_first.eq(1), next_last_first.eq(periods.single)]
        m.d.sync += [
            unit_ready.eq(control.unit_ready), activity.go.eq(now.go),
            activity.chasing.eq(chasing), activity.draining.eq(running & ~now.go & ~chasing),
            running.eq(next_running), unit_first.eq(next_unit_first),
            last_first.eq(next_last_first), unit_may_begin.eq(next_may_begin),
            now.go.eq(next_running & ~(next_unit_first & ~next_may_begin)
                      & ~(next_last_first & ~drain_over)),
            control.unit_next.eq(now.go & unit_first),
        ]
        with m.If(now.go & unit_first):
            m.d.sync += now.hold.eq(_UNIT_LATENCY + 1)

    def _advance(self, m, f, now, groups) -> None:
        """The loops go on with every slot; what walkers, feeders, array and readout hear of it."""
        rows, columns = self.target.rows, self.target.columns
        go, tile_end, slots, periods, inner = (now.go, now.tile_end, now.slots, now.periods,
                                               now.inner)
        a_direct, b_direct = (f[f"{port}_feed"] == Feed.DIRECT for port in "ab")
        slot_first, period_first, tile_first = (
            Signal(name=f"{n}_first") for n in ("slot", "period", "tile"))
        index = Signal(8)
        a_window, b_window = Signal(), Signal()
        place = Signal.like(self.tile.place)
        with m.If(go):
            slots.step()
            m.d.sync += [
                slot_first.eq(slots.last),
                index.eq(Mux(slots.last, 0, index + 1)),
                a_window.eq(slots.last | (index + 1 < rows)),
                b_window.eq(slots.last | (index + 1 < columns)),
            ]
            with m.If(slots.last):
                periods.step()
                m.d.sync += period_first.eq(periods.last)
        with m.If(tile_end):
            inner.step()
            m.d.sync += [tile_first.eq(0), place.eq(place + 1),
                         now.channels_left.eq(Mux(inner.last, f["n_channels"],
                                                  now.channels_left - columns))]
            with m.If(inner.last):
                now.outer.step()
        with m.If(now.loaded):
            m.d.sync += [slot_first.eq(1), period_first.eq(1), tile_first.eq(1), index.eq(0),
                         a_window.eq(1), b_window.eq(1)]

        # What this slot is, a cycle later, for those that lie elsewhere.
        late = {name: own_copy(m, flag, f"late_{name}") for name, flag in {
            "loaded": now.loaded, "go": go, "slot_last": slots.last, "period_last": periods.last,
            "inner_last": inner.last, "outer_last": now.outer.last, "slot_first": slot_first,
            "period_first": period_first, "tile_first": tile_first, "a_window": a_window,
            "b_window": b_window}.items()}
        was = SimpleNamespace(**late)
        period_ends = was.go & was.slot_last
        tile_ends = period_ends & was.period_last
        row_ends = tile_ends & was.inner_last
        for step, active, advance, rewind in (
                (self.step_a, a_direct | was.a_window, was.inner_last, row_ends & was.outer_last),
                (self.step_b, b_direct | was.b_window, tile_ends, was.inner_last)):
            m.d.comb += [
                step.restart.eq(was.loaded), step.active.eq(was.go & active),
                step.period_end.eq(period_ends), step.tile_end.eq(tile_ends),
                step.advance.eq(advance), step.rewind.eq(rewind),
            ]
        m.d.comb += [
            self.a_direct.eq(a_direct), self.b_direct.eq(b_direct),
            self.slot.eq(was.go), self.period_start.eq(was.go & was.slot_first),
            self.first.eq(was.go & was.slot_first & was.period_first), self.last.eq(tile_ends),
            self.tile.groups.eq(delayed(m, groups, 1, "late_groups")),
            self.tile.wide.eq(f["wide"]), self.tile.begins.eq(was.tile_first),
            self.tile.row_ends.eq(was.inner_last),
            self.tile.ends.eq(was.inner_last & was.outer_last),
            self.tile.place.eq(delayed(m, place, 1, "late_place")),
        ]

    def _impossible(self, m, f, counters) -> Value:
        """Whether the fields are, two cycles after they are there: each, then all of them."""
        rows, columns = self.target.rows, self.target.columns
        a_direct, b_direct = (f[f"{port}_feed"] == Feed.DIRECT for port in "ab")
        short, impossible = Signal(len(counters) + 3), Signal()
        m.d.sync += [
            short.eq(Cat(*(~counter.count.any() for counter in counters), f["slots"] < 2,
                         ~a_direct & (f["slots"] < rows), ~b_direct & (f["slots"] < columns))),
            impossible.eq(short.any())]
        return impossible

    def _load(self, m, now, counters) -> Value:
        """Counters and readout take an instruction; returns whether the readout can."""
        config_free = Signal()
        m.d.sync += [config_free.eq(self.config_free), now.loaded.eq(0)]
        with m.If(now.loaded):
            for counter in counters:
                m.d.sync += counter.load()
        m.d.comb += self.config_load.eq(now.loaded)
        return config_free

    def _run(self, m, f, now, impossible, config_free) -> None:
        """From ``start`` to ``done``.

        No state between `start` and the first slot costs a cycle, unless the readout still waits
        for the fields of the product before: `hold` is longer.
        """
        control = self.control
        start = Signal()
        m.d.sync += start.eq(control.start)

        def give_up():
            with m.If(control.abort):
                m.next = "IDLE"

        with m.FSM():
            with m.State("IDLE"):
                with m.If(start):
                    m.d.sync += [now.hold.eq(_UNIT_LATENCY - 1),
                                 now.channels_left.eq(f["n_channels"])]
                    m.next = "CHECK"
                give_up()
            with m.State("CHECK"):
                m.next = "LOAD"
                give_up()
            with m.State("LOAD"):
                with m.If(impossible):
                    m.d.comb += control.error.eq(ErrorCode.FIELD)
                    m.next = "IDLE"
                with m.Elif(config_free):
                    m.d.sync += now.loaded.eq(1)
                    m.next = "RUN"
                give_up()
            with m.State("RUN"):
                with m.If(now.finished):
                    m.next = "DONE"
                give_up()
            with m.State("DONE"):  # the slot keeps the fields for the walkers' last two cycles
                m.d.comb += control.done.eq(1)
                m.next = "IDLE"
                give_up()

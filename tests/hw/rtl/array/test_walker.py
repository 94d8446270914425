"""The walker's counters and additions equal a model that computes each address from its indices."""

import random

import pytest

from hw.rtl.array.walker import WALK_WIDTH, WALKER_LAYOUT, AddressWalker
from tests.hw.simulate import run_testbench


def wrap(value, width=WALK_WIDTH):
    """value in two's complement of ``width`` bits."""
    half = 1 << width - 1
    return (value + half & 2 * half - 1) - half


def wrap16(value):
    return wrap(value, 16)


def tap_offsets(f, index):
    """(address, dx, dy) after ``index`` steps of the three nested levels."""
    k0, k1 = index % f["k0_count"], index // f["k0_count"] % f["k1_count"]
    k2 = index // f["k0_count"] // f["k1_count"]
    moves = (index - index // f["k0_count"],  # level 0 steps, level 1 steps, level 2 steps
             index // f["k0_count"] - k2, k2)
    assert 0 <= k0 < f["k0_count"] and 0 <= k1 < f["k1_count"]
    return [sum(n * f[f"k{level}_{what}"] for level, n in enumerate(moves))
            for what in ("step", "dx", "dy")]


def position(f, index):
    """(address, ix, iy) of position ``index``, counted x inside y, without the taps."""
    x, y = index % f["x_count"], index // f["x_count"]
    return (f["base"] + (index - y) * f["x_step"] + y * f["y_step"],
            f["ix"] + x * f["ix_step"], f["iy"] + y * f["iy_step"])


def expected(f, flow, n_periods, slots, active_slots):
    """(valid, address, inside) per slot; ``flow``: per tile, (advance, rewind) at its end."""
    rows, first, base = [], 0, 0  # of a tile: its first position, the steps added to its address
    for advance, rewind in flow:
        for period in range(n_periods):
            restarts, within = divmod(period, f["group"])
            tap, dx, dy = tap_offsets(f, restarts)
            for slot in range(slots):
                last = first + within * active_slots + min(slot, active_slots)
                address, ix, iy = position(f, last)
                ix, iy = wrap16(ix) + wrap16(dx), wrap16(iy) + wrap16(dy)
                inside = not f["bounded"] or (0 <= ix < f["width"] and 0 <= iy < f["height"])
                rows.append((int(slot < active_slots), wrap(address + base + tap), int(inside)))
        stopped = first + ((n_periods - 1) % f["group"] + 1) * active_slots
        if rewind:
            first, base = 0, 0
        elif advance and f["fixed"]:
            base += f["tile_step"]
        elif advance:
            first = stopped
    return rows


def walk(f, flow, n_periods, slots, active_slots):
    """What the walker answers."""
    dut = AddressWalker()
    seen = []

    async def testbench(ctx):
        for name, _ in WALKER_LAYOUT:
            ctx.set(dut.fields[name], f[name])
        ctx.set(dut.step.restart, 1)
        await ctx.tick()
        ctx.set(dut.step.restart, 0)
        total = len(flow) * n_periods * slots
        for count in range(total + dut.LATENCY - 1):
            live = count < total
            slot, period = count % slots, count // slots % n_periods
            advance, rewind = flow[count // slots // n_periods] if live else (0, 0)
            slot_end = live and slot == slots - 1
            for name, value in {"active": live and slot < active_slots, "period_end": slot_end,
                                "tile_end": slot_end and period == n_periods - 1,
                                "advance": advance, "rewind": rewind}.items():
                ctx.set(dut.step[name], int(value))
            await ctx.tick()
            if count >= dut.LATENCY - 1:
                assert (ctx.get(dut.bank), ctx.get(dut.pad)) == (f["bank"], f["pad"])
                seen.append(tuple(ctx.get(x) for x in (dut.valid, dut.address, dut.inside)))

    run_testbench(dut, testbench)
    return seen


def random_fields(rng):
    """Fields of plausible sizes, steps of both signs, and bounds that are often crossed."""
    f = {"base": rng.randrange(-1 << 23, 1 << 23), "bank": rng.randrange(4),
         "feed": rng.randrange(2), "fixed": 0, "tile_step": rng.randrange(-2000, 2000),
         "bounded": rng.randrange(2), "pad": rng.randrange(-128, 128),
         "x_step": rng.randrange(-99, 100), "y_step": rng.randrange(-999, 1000),
         "x_count": rng.randrange(1, 7), "group": rng.randrange(1, 4), "ix": rng.randrange(-3, 3),
         "iy": rng.randrange(-3, 3), "width": rng.randrange(1, 9), "height": rng.randrange(1, 9),
         "ix_step": rng.randrange(4), "iy_step": rng.randrange(4),
         "k0_count": rng.randrange(1, 4), "k1_count": rng.randrange(1, 4)}
    for level in range(3):
        f |= {f"k{level}_step": rng.randrange(-500, 500), f"k{level}_dx": rng.randrange(-3, 4),
              f"k{level}_dy": rng.randrange(-3, 4)}
    return f


@pytest.mark.parametrize("fixed", [0, 1])
@pytest.mark.parametrize("seed", range(12))
def test_addresses_equal_the_model(seed, fixed):
    rng = random.Random(f"{fixed}-{seed}")
    f = random_fields(rng) | {"fixed": fixed}
    slots = rng.randrange(2, 6)
    active = rng.randrange(1, slots + 1)
    n_periods = rng.randrange(1, 12)
    flow = [(1, 0), (1, 0), (0, 0), (1, 1), (1, 0), (0, 0), (0, 1), (0, 0)]
    assert (walk(f, flow, n_periods, slots, active)
            == expected(f, flow, n_periods, slots, active))


@pytest.mark.parametrize("group", [1, 2])
def test_the_outer_level_steps_once_all_inner_ones_are_through(group):
    f = random_fields(random.Random(group)) | {"group": group, "k0_count": 3, "k1_count": 3,
                                               "bounded": 0}
    n_periods = group * (2 * 3 * 3 + 1)  # the third level steps twice
    flow = [(1, 0), (0, 1)]
    assert walk(f, flow, n_periods, 2, 1) == expected(f, flow, n_periods, 2, 1)

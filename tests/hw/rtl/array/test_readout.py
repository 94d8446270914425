# amaranth: UnusedElaboratable=no
"""The readout alone: every group of sums with its place, as close together as a drain allows."""

import itertools
import random

import pytest

from hw.rtl.array.array import MacArray
from hw.rtl.array.readout import BYTES_PER_SUM, CONFIG_LAYOUT, Readout
from hw.targets import Target
from tests.hw.simulate import run_testbench

_FROM_CONFIG = ("gemmlowp", "wide", "zero_point", "low", "high")
_ITEM = ("sums", "bank", "address", "group", "mask", "parameter", "plane", "progress",
         "instruction_end", *_FROM_CONFIG)


def random_product(rng, target):
    """The fields of a product, its channel tiles and its pixel tiles."""
    inner, outer = rng.randint(1, 2), rng.randint(1, 2)
    n_channels = rng.randint((inner - 1) * target.columns + 1, inner * target.columns)
    fields = {
        "gemmlowp": rng.randrange(2), "wide": int(rng.random() < 0.3),
        "zero_point": rng.randrange(-128, 128), "low": rng.randrange(-128, 0),
        "high": rng.randrange(128), "out_base": rng.randrange(1 << 16),
        "out_bank": rng.randrange(4), "out_step": rng.randrange(1, 40),
        "parameter_base": rng.randrange(1000), "n_channels": n_channels,
        "first_channel": rng.randrange(n_channels), "plane_step": rng.randrange(1, 99),
        "n_pixels": rng.randint((outer - 1) * target.rows + 1, outer * target.rows),
        "out_x_count": rng.randint(1, 5), "out_line_step": rng.randrange(1, 99)}
    return fields, inner, outer


def tiles_of(target, products):
    """(product number, place in the product, fields for the readout) in the order of ``last``."""
    for number, (fields, inner, outer) in enumerate(products):
        for y in range(outer):
            for x in range(inner):
                left = min(fields["n_channels"] - x * target.columns, target.columns)
                yield number, (y, x), {
                    "groups": -(-left // target.lanes), "wide": fields["wide"],
                    "begins": int(x == y == 0), "row_ends": int(x == inner - 1),
                    "ends": int(x == inner - 1 and y == outer - 1)}


def expected(target, products, sums):
    """The items, from indices alone; ``sums``: per tile, rows of one sum per column."""
    items = []
    for tile_sums, (number, (y, x), tile) in zip(sums, tiles_of(target, products), strict=True):
        f = products[number][0]
        for row in range(target.rows):
            pixel = y * target.rows + row
            line = pixel // f["out_x_count"]
            address = (f["out_base"] + (pixel - line) * f["out_step"]
                       + line * f["out_line_step"] + x)
            for group in range(tile["groups"]):
                channels = [x * target.columns + group * target.lanes + k
                            for k in range(target.lanes)]
                mask = sum((f["first_channel"] <= c < f["n_channels"]) << k
                           for k, c in enumerate(channels)) if pixel < f["n_pixels"] else 0
                planes = BYTES_PER_SUM if f["wide"] else 1
                for plane in range(planes):
                    ends = (row == target.rows - 1 and group == tile["groups"] - 1
                            and plane == planes - 1)
                    at = group * target.lanes
                    items.append({
                        "sums": tile_sums[row][at:at + target.lanes], "bank": f["out_bank"],
                        "address": (address + plane * f["plane_step"]) & 0xFFFF,
                        "group": group, "mask": mask, "plane": plane,
                        "parameter": f["parameter_base"]
                        + x * (target.columns // target.lanes) + group,
                        "progress": target.rows if ends and tile["row_ends"] else 0,
                        "instruction_end": int(ends and tile["ends"]),
                        **{name: f[name] for name in _FROM_CONFIG}})
    return items


def drain_cycles(target, tile):
    """Cycles from a tile's ``last`` to the next one at the earliest, as the sequencer counts."""
    return target.rows * (tile["groups"] * BYTES_PER_SUM if tile["wide"]
                          else max(2, tile["groups"]))


class Bench:
    """A readout behind an array that only knows its results; pause: cycles added to each drain."""

    def __init__(self, target, products, sums, pause):
        self.target, self.products, self.sums, self.pause = target, products, sums, pause
        self.array = MacArray(rows=target.rows, columns=target.columns)
        self.dut = Readout(target=target, array=self.array)
        self.items, self.given = [], []  # given: the cycles of ``last``

    async def give_tiles(self, ctx):
        """Fields and ``last`` of one tile after the other, as early as they may come."""
        dut, cycle, earliest = self.dut, 0, 0

        async def tick():
            nonlocal cycle
            await ctx.tick()
            cycle += 1

        for count, (number, _, tile) in enumerate(tiles_of(self.target, self.products)):
            if tile["begins"]:
                while not ctx.get(dut.config_free):
                    await tick()
                ctx.set(dut.config, self.products[number][0])
                ctx.set(dut.config_load, 1)
                await tick()
                ctx.set(dut.config_load, 0)
                await tick()
            while cycle < earliest:
                await tick()
            self.given.append(cycle)
            ctx.set(dut.tile, tile | {"place": count % self.array.n_tiles})
            ctx.set(dut.last, 1)
            earliest = cycle + drain_cycles(self.target, tile) + self.pause()
            await tick()
            ctx.set(dut.last, 0)

    async def answer_pops(self, ctx):
        """The row that is popped, ``pop_latency`` cycles later; rows come in order and in time."""
        dut, array, count = self.dut, self.array, 0
        assert array.pop_latency == 1
        for cycle in itertools.count():
            *_, pop, row, place = await ctx.tick().sample(dut.pop, dut.row, dut.row_place)
            ctx.set(dut.results_valid, pop)
            if pop:
                tile, following = divmod(count, self.target.rows)
                assert (row, place) == (following, tile % array.n_tiles)
                assert cycle >= self.given[tile] + array.result_latency
                for last in self.given[tile + 1:tile + 2]:
                    assert cycle <= last + array.hold_latency
                ctx.set(dut.results, self.sums[tile][row])
                count += 1

    async def collect(self, ctx):
        dut, cycles = self.dut, 0
        n_items = len(expected(self.target, self.products, self.sums))
        while len(self.items) < n_items:
            *_, valid, item = await ctx.tick().sample(dut.items.valid, dut.items.payload)
            if valid:
                self.items.append({name: item[name] for name in _ITEM}
                                  | {"sums": list(item.sums)})
            cycles += 1
            assert cycles < 20000, "the readout does not end"

    def run(self):
        run_testbench(self.dut, self.collect, self.give_tiles, self.answer_pops)
        return self.items


def check(target, products, rng, pause=lambda: 0):
    sums = [[[rng.randrange(-1 << 31, 1 << 31) for _ in range(target.columns)]
             for _ in range(target.rows)] for _ in tiles_of(target, products)]
    assert Bench(target, products, sums, pause).run() == expected(target, products, sums)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize(("rows", "columns", "lanes"), [
    (2, 4, 4), (4, 8, 4), (8, 8, 4), (4, 16, 4), (4, 8, 8), (4, 16, 8)])
def test_every_group_leaves_once_with_its_place(rows, columns, lanes, seed):
    rng = random.Random(f"{rows}x{columns}-{seed}")
    target = Target(name="test", rows=rows, columns=columns, lanes=lanes)
    products = [random_product(rng, target) for _ in range(5)]
    check(target, products, rng, pause=lambda: seed % 2 * rng.randrange(6))


@pytest.mark.parametrize(("columns", "lanes"), [(8, 4), (16, 4), (16, 8)])
def test_the_last_group_keeps_its_products_fields_where_the_next_row_comes_at_once(columns, lanes):
    rng = random.Random(columns)
    target = Target(name="test", rows=8, columns=columns, lanes=lanes)
    full = {"wide": 0, "n_channels": columns, "first_channel": 0, "n_pixels": 8}
    products = []
    for number in range(4):
        fields, _, _ = random_product(rng, target)
        products.append((fields | full | {
            "out_bank": number, "zero_point": number, "low": -1 - number, "high": number,
            "gemmlowp": number % 2, "n_channels": columns - number}, 1, 1))
    check(target, products, rng)


def test_the_layout_of_the_fields_is_that_of_the_products_here():
    fields, _, _ = random_product(random.Random(0), Target(name="test", rows=4, columns=4))
    assert set(fields) == {name for name, _ in CONFIG_LAYOUT}

# amaranth: UnusedElaboratable=no
"""The shared lanes against the numeric contract, item by item."""

import random

import pytest
from amaranth.hdl import Mux

from golden import arith
from golden.arith import Rounding, requantize
from hw.rtl.lanes.lanes import Lanes
from hw.rtl.lanes.ports import array_item_layout
from hw.rtl.lanes.rescaler import RescalerPipeline
from hw.rtl.memory.scratchpad import FIELDS_PER_CHANNEL
from hw.rtl.vector.ports import Which, vector_item_layout
from hw.targets import N_BANKS, Target
from tests.hw.simulate import component, fresh_components, run_testbench

pytestmark = pytest.mark.slow

INT32 = (arith.INT32_MIN, arith.INT32_MAX)


def make_target(columns, parameter_words=6, **kwargs):
    return Target(name="test", rows=2, columns=columns, bank_words=(16,) * N_BANKS,
                  parameter_words=parameter_words, instruction_words=64, **kwargs)


def random_parameters(rng, n_channels):
    return [{"bias": number(rng, 32), "multiplier": rng.randrange(1 << 31),
             "shift": rng.randrange(28, 50)} for _ in range(n_channels)]


def number(rng, width):
    low, high = -(1 << width - 1), (1 << width - 1) - 1
    near = min(high, 5000)
    return rng.choice((low, high, rng.randint(-near, near), rng.randint(low, high)))


def random_item(rng, target, *, vector):
    low, high = sorted((number(rng, 8), number(rng, 8)))
    lanes, full = target.lanes, (1 << target.lanes) - 1
    item = {
        "sums": [number(rng, 32) for _ in range(lanes)], "bank": rng.randrange(N_BANKS),
        "address": rng.randrange(1 << 16), "group": rng.randrange(target.columns // lanes),
        "mask": rng.choice((0, full, rng.randint(0, full))),
        "parameter": rng.randrange(target.parameter_words),
        "wide": rng.randrange(2), "plane": rng.randrange(4), "gemmlowp": rng.randrange(2),
        "zero_point": number(rng, 8), "low": low, "high": high,
        "progress": rng.choice((0, rng.randrange(1 << 16))),
        "instruction_end": int(rng.random() < 0.1)}
    if vector:
        item |= {"which": rng.choice(list(Which)), "multiplier": rng.randrange(1 << 31),
                 "shift": rng.randrange(arith.SHIFT_MAX + 1)}
    return item


def golden(item, parameters, target):
    """What becomes of an item: ("r", bank, address, {byte: code}) or ("returned", which, values).

    None where it is neither written nor returned.
    """
    which = item.get("which", Which.PARAMETERS)
    codes = []
    for k, total in enumerate(item["sums"]):
        if which is Which.PARAMETERS and item["wide"]:
            byte = total >> 8 * item["plane"] & 0xFF
            codes.append(byte - 256 if byte > 127 else byte)
            continue
        channel = (parameters[item["parameter"] * target.lanes + k] if which is Which.PARAMETERS
                   else {"bias": 0, "multiplier": item["multiplier"], "shift": item["shift"]})
        total = (total + channel["bias"] - INT32[0]) % (1 << 32) + INT32[0]
        returns = which in (Which.FIRST_INPUT, Which.SECOND_INPUT)
        codes.append(requantize(
            total, channel["multiplier"], channel["shift"], 0 if returns else item["zero_point"],
            *(INT32 if returns else (item["low"], item["high"])),
            Rounding.GEMMLOWP if item["gemmlowp"] else Rounding.HALF_UP))
    if which in (Which.FIRST_INPUT, Which.SECOND_INPUT):
        return "returned", which, codes
    if not item["mask"]:
        return None
    first = target.lanes * item["group"]
    return ("r", item["bank"], item["address"],
            {first + k: code for k, code in enumerate(codes) if item["mask"] >> k & 1})


def simulate(target, parameters, *, array=(), vector=(), share=0.5, seed=0, dut=None):
    """Run items through the lanes; returns what came out, by cycle, and when they were accepted.

    array, vector : lists of items. share : the chance that the array gives its next item in a
    cycle; the vector's are always offered.
    """
    dut = dut or component(Lanes, target)
    rng = random.Random(seed)
    outputs, entered = [], {"array": [], "vector": []}
    pending = {"array": list(array), "vector": list(vector)}

    async def testbench(ctx):
        ctx.set(dut.parameters.valid, 1)
        for channel, fields in enumerate(parameters):
            for field, value in enumerate(fields.values()):
                ctx.set(dut.parameters.address, channel * FIELDS_PER_CHANNEL + field)
                ctx.set(dut.parameters.data, value & 0xFFFFFFFF)
                await ctx.tick()
        ctx.set(dut.parameters.valid, 0)
        quiet = 0
        cycle = 0
        while quiet < Lanes.LATENCY + 5:
            for name, port, wants in (("array", dut.array, rng.random() < share),
                                      ("vector", dut.vector, True)):
                valid = wants and bool(pending[name])
                ctx.set(port.valid, int(valid))
                if valid:
                    ctx.set(port.payload, pending[name][0])
                if valid and (name == "array" or ctx.get(port.ready)):
                    entered[name].append(cycle)
                    pending[name].pop(0)
            assert not ctx.get(dut.address_error)
            outputs.append(observe(ctx, dut))
            await ctx.tick()
            cycle += 1
            quiet = 0 if any(pending.values()) else quiet + 1

    run_testbench(dut, testbench)
    return outputs, entered


def observe(ctx, dut):
    """What leaves the lanes in one cycle."""
    seen = {engine: (ctx.get(written.progress), ctx.get(written.complete))
            for engine, written in (("array", dut.array_written), ("vector", dut.vector_written))}
    if ctx.get(dut.r.valid):
        enable, word = ctx.get(dut.r.enable), list(ctx.get(dut.r.data))
        seen["r"] = ("r", ctx.get(dut.r.bank), ctx.get(dut.r.address),
                     {k: code for k, code in enumerate(word) if enable >> k & 1})
    if ctx.get(dut.returned.valid):
        seen["returned"] = ("returned", ctx.get(dut.returned.which),
                            list(ctx.get(dut.returned.values)))
    return seen


def check(target, parameters, array, vector, **kwargs):
    """Array items come out at their time, vector items in the cycles between, all in order."""
    outputs, entered = simulate(target, parameters, array=array, vector=vector, **kwargs)
    at = {cycle + Lanes.LATENCY: item for cycle, item in zip(entered["array"], array)}
    assert len(at) == len(array)
    left = list(vector)
    for cycle, seen in enumerate(outputs):
        item, engine = at.get(cycle), "array"
        if item is None and left and cycle >= Lanes.LATENCY:
            item, engine = left.pop(0), "vector"
        expected = golden(item, parameters, target) if item else None
        for what in ("r", "returned"):
            wanted = expected if expected and expected[0] == what else None
            assert seen.get(what) == wanted, (cycle, engine, item)
        for name in ("array", "vector"):
            mine = item is not None and name == engine
            expected = (item["progress"], item["instruction_end"]) if mine else (0, 0)
            assert seen[name] == expected, (cycle, item)
    assert not left


def random_items(rng, target, n_items):
    return [[random_item(rng, target, vector=vector) for _ in range(n_items)]
            for vector in (False, True)]


@pytest.mark.parametrize(("columns", "lanes"), [(4, 4), (8, 4), (16, 4), (8, 8), (16, 8)])
@pytest.mark.parametrize("share", [0.2, 0.7])
def test_mixed_items_of_both_engines(columns, lanes, share):
    target, rng = make_target(columns, lanes=lanes), random.Random(columns)
    parameters = random_parameters(rng, target.parameter_words * target.lanes)
    check(target, parameters, *random_items(rng, target, 150), share=share, seed=columns)


@pytest.mark.parametrize("engine", [0, 1])
def test_one_item_per_cycle(engine):
    target, rng = make_target(8), random.Random(engine)
    parameters = random_parameters(rng, target.parameter_words * target.lanes)
    items = [[], []]
    items[engine] = random_items(rng, target, 60)[engine]
    _, entered = simulate(target, parameters, array=items[0], vector=items[1], share=1)
    assert entered["vector" if engine else "array"] == list(range(60))
    check(target, parameters, *items, share=1)


def test_raw_sums_pass_exactly():
    target, rng = make_target(4), random.Random(1)
    parameters = random_parameters(rng, target.parameter_words * target.lanes)
    sums = [INT32[0], INT32[1], -1, 1 << 30, (1 << 30) - 1, -(1 << 30) - 1, 0, 12345678]
    items = [random_item(rng, target, vector=False)
             | {"sums": [sums[(k + j) % len(sums)] for j in range(target.lanes)], "wide": 1,
                "plane": plane, "mask": 15} for k in range(len(sums)) for plane in range(4)]
    outputs, _ = simulate(target, parameters, array=items, share=1)
    written = [seen["r"][3] for seen in outputs if "r" in seen]
    for k, total in enumerate(sums):
        planes = bytes(written[4 * k + plane][0] & 0xFF for plane in range(4))
        assert int.from_bytes(planes, "little", signed=True) == total


def test_parameters_beyond_the_memory_are_an_error():
    target = make_target(4, parameter_words=6)
    dut = component(Lanes, target)
    errors = []

    async def testbench(ctx):
        async def error_after(cycles):
            await ctx.tick()
            ctx.set(dut.parameters.valid, 0)
            ctx.set(dut.array.valid, 0)
            for _ in range(cycles - 1):
                await ctx.tick()
            errors.append(ctx.get(dut.address_error))

        for address in (95, 96, 1 << 17):
            ctx.set(dut.parameters.valid, 1)
            ctx.set(dut.parameters.address, address)
            await error_after(1)
        for item in ({"parameter": 5}, {"parameter": 6}, {"parameter": 6, "wide": 1}):
            ctx.set(dut.array.valid, 1)
            ctx.set(dut.array.payload, {"wide": 0} | item)
            await error_after(3)

    run_testbench(dut, testbench)
    assert errors == [0, 1, 1, 0, 1, 0]


def test_array_items_are_vector_items_without_their_own_scale():
    target = make_target(8)
    array, vector = dict(array_item_layout(target)), dict(vector_item_layout(target))
    assert set(vector) - set(array) == {"which", "multiplier", "shift"}


def test_a_mutant_is_noticed(monkeypatch):
    def first_half(self, now):
        return Mux(now.gemmlowp, 1, now.one - 1)

    target, rng = make_target(4), random.Random(1)
    parameters = [{"bias": 0, "multiplier": 1 << 30, "shift": 32}] * (6 * target.lanes)
    items = [random_item(rng, target, vector=False)
             | {"sums": [2, 6, 10, -2], "wide": 0, "gemmlowp": 0, "mask": 15, "low": -128,
                "high": 127, "zero_point": 0}]
    check(target, parameters, items, [])
    monkeypatch.setattr(RescalerPipeline, "first_half", first_half)
    with fresh_components(), pytest.raises(AssertionError):
        check(target, parameters, items, [])

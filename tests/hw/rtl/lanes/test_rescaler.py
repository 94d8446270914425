# amaranth: UnusedElaboratable=no
"""The Rescaler equals golden.arith.requantize, item by item."""

import random
from types import SimpleNamespace

import pytest
from amaranth.back import verilog
from amaranth.hdl import Mux
from hypothesis import given, settings
from hypothesis import strategies as st

from golden import arith
from golden.arith import Rounding, requantize
from hw.rtl.array.multiplier import MultiplierECP5
from hw.rtl.lanes.rescaler import (
    Rescaler,
    RescalerPipeline,
    RescalerWidths,
    RoundingMode,
    rescaler_item,
)
from tests.hw.simulate import simulate

pytestmark = pytest.mark.slow

INT32 = (arith.INT32_MIN, arith.INT32_MAX)
CORNERS_32 = (*INT32, -1, 0, 1, INT32[0] + 1, INT32[1] - 1, 1 << 30, -(1 << 30))
MULTIPLIERS = (0, 1, 1 << 30, (1 << 30) + 1, arith.MULTIPLIER_MAX)


def golden(item):
    """What the contract says about one item."""
    total = (item["acc"] + item["bias"] - INT32[0]) % (1 << 32) + INT32[0]
    wide = item["wide"]
    return requantize(
        total, item["multiplier"], item["shift"], 0 if wide else item["zero_point"],
        *(INT32 if wide else (item["low"], item["high"])),
        Rounding[RoundingMode(item["rounding"]).name])


def make_item(acc, multiplier, shift, *, bias=0, rounding=0, zero_point=0, low=-128, high=127,
              wide=0):
    return {"acc": acc, "bias": bias, "multiplier": multiplier, "shift": shift,
            "rounding": rounding, "zero_point": zero_point, "low": low, "high": high,
            "wide": wide}


def rtl(items, *, dut=None, stalls=0.0, seed=0):
    results = simulate(dut or Rescaler(), items, n_outputs=len(items), stalls=stalls, seed=seed)
    return [result["value"] for result in results]


def check(items, **kwargs):
    actual, expected = rtl(items, **kwargs), [golden(item) for item in items]
    wrong = [(item, a, e) for item, a, e in zip(items, actual, expected) if a != e]
    assert not wrong, f"{len(wrong)} of {len(items)} differ, first (item, RTL, golden): {wrong[0]}"


def random_item(rng):
    def number(width):
        low, high = -(1 << (width - 1)), (1 << (width - 1)) - 1
        near = min(high, 1000)
        return rng.choice((low, high, rng.randint(-near, near), rng.randint(low, high)))

    low, high = sorted((number(8), number(8)))
    return make_item(
        number(32), rng.choice((*MULTIPLIERS, rng.randrange(1 << 31), rng.randrange(1 << 31))),
        rng.randrange(arith.SHIFT_MAX + 1), bias=number(32), rounding=rng.randrange(2),
        zero_point=number(8), low=low, high=high, wide=rng.randrange(2))


def test_corners_of_every_shift():
    check([make_item(acc, multiplier, shift, rounding=rounding, wide=1)
           for acc in CORNERS_32 for multiplier in MULTIPLIERS for rounding in (0, 1)
           for shift in (0, 1, 15, 30, 31, 32, 33, 47, 61, 62)])


def test_ties_and_their_neighbours():
    items = []
    for right in (1, 2, 7, 20):
        for whole in (-3, -2, -1, 0, 1, 2, 100):
            tie = (2 * whole + 1) << right
            items += [make_item(tie + off, 1 << 30, 31 + right, rounding=rounding, wide=1)
                      for off in (-1, 0, 1) for rounding in (0, 1)]
    check(items)


def test_the_two_roundings_differ_where_gemmlowp_rounds_twice():
    items = [make_item(-3 << 8, 1 << 30, 39, rounding=rounding) for rounding in (0, 1)]
    assert rtl(items) == [golden(item) for item in items] == [-1, -2]


def test_clamp_and_zero_point():
    check([make_item(acc, 1 << 30, 30, zero_point=zero_point, low=low, high=high)
           for acc in (-1000, -129, -128, -1, 0, 1, 127, 128, 1000)
           for zero_point in (-128, -1, 0, 127)
           for low, high in ((-128, 127), (0, 127), (-128, -128), (-5, 100), (127, 127))])


def test_the_sum_of_accumulator_and_bias_wraps():
    check([make_item(INT32[1], 1 << 30, 40, bias=1, wide=1),
           make_item(INT32[0], 1 << 30, 40, bias=-1, wide=1)])


@pytest.mark.parametrize("stalls", [0.0, 0.5])
def test_random_items(stalls):
    rng = random.Random(2)
    check([random_item(rng) for _ in range(2000)], stalls=stalls, seed=7)


@settings(max_examples=25, deadline=None)
@given(st.randoms(use_true_random=False), st.sampled_from([0.0, 0.2, 0.8]))
def test_any_items_under_any_stalls(rng, stalls):
    check([random_item(rng) for _ in range(60)], stalls=stalls, seed=rng.random())


def test_an_item_made_from_an_op():
    op = SimpleNamespace(multiplier=[1 << 30, 3 << 29], shift=[31, 40], rounding=Rounding.GEMMLOWP,
                         zero_point=-3, low=-128, high=127)
    items = [rescaler_item(op, 12345, channel=c, bias=-5) for c in (0, 1)]
    assert rtl([item | {"rounding": item["rounding"].value} for item in items]) == [
        requantize(12340, op.multiplier[c], op.shift[c], -3, -128, 127, op.rounding)
        for c in (0, 1)]


class OffByOne(RescalerPipeline):
    """A mutant that rounds ties of half_up down."""

    def first_half(self, now):
        return Mux(now.gemmlowp, 1, now.one - 1)


def test_a_mutant_is_noticed():
    rng = random.Random(3)
    with pytest.raises(AssertionError, match="differ, first"):
        check([make_item(rng.randrange(-500, 500), 1 << 30, 31) for _ in range(50)],
              dut=Rescaler(OffByOne()))


def test_widths_are_checked():
    with pytest.raises(ValueError, match="Multiplier width must be in 2..31, not 32"):
        RescalerWidths(multiplier=32)
    with pytest.raises(ValueError, match="Operand a must fit 18 signed bits, not 19"):
        MultiplierECP5(18, 8)


def test_verilog_is_clean_and_uses_three_multipliers_on_ecp5():
    def convert(multiplier_class):
        return verilog.convert(Rescaler(multiplier_class=multiplier_class), emit_src=False,
                               strip_internal_attrs=True, name="rescaler")

    text = convert(MultiplierECP5)
    assert text == convert(MultiplierECP5)
    assert "src =" not in text
    assert text.count("MULT18X18D #(") == 3

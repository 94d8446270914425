"""Radix-4 Booth multiplication in LUTs: the array and the lanes have the hard multipliers.

A digit of the second factor makes a partial product -2, -1, 0, 1 or 2 times the first; the negative
ones are complements that lack one, and where each carry chain has its carry input free, the one
goes in there.
"""

from amaranth.hdl import Cat, Mux, Value

from hw.rtl.common.pipeline import Pipeline

__all__ = ["DIFFERENCE_WIDTH", "MULTIPLY_LATENCY", "add_carry", "multiply_differences",
           "partial_products"]

DIFFERENCE_WIDTH = 9  #: bits of a code without its zero point, signed
MULTIPLY_LATENCY = 3
_PRODUCT_WIDTH = 2 * DIFFERENCE_WIDTH


def add_carry(a, b, carry) -> Value:
    """a + b + carry (signed values, one bit) as one carry chain."""
    chain = Cat(1, a).as_signed() + Cat(carry, b).as_signed()
    return chain[1:].as_signed()


def partial_products(x, w) -> list[tuple[Value, Value]]:
    """x times each radix-4 Booth digit of w, the lowest first; negative ones lack one.

    Returns [(value, lacks)], value signed and of weight 4^k.
    """
    result = []
    extended = Cat(0, w)  # bit -1
    for k in range(len(w) // 2):
        low, middle, high = extended[2 * k:2 * k + 3]
        once, twice = low ^ middle, (low == middle) & (middle != high)
        size = Mux(once, x, 0) | Mux(twice, x << 1, 0)
        width = len(x) + 1
        value = (size ^ high.replicate(width))[:width].as_signed()
        result.append((value, high))
    return result


def multiply_differences(m, a, b) -> Value:
    """Add to ``m`` what computes a * b, both signed(DIFFERENCE_WIDTH); returns the product,
    MULTIPLY_LATENCY clocks later.

    The lowest bit of ``b`` makes a partial product of its own, so that four digits are left and
    each of the four adders takes the one that a digit lacks.
    """
    digits = partial_products(a, b[1:].as_signed())
    (d0, lacks0), (d1, lacks1), (d2, lacks2), (d3, lacks3) = digits
    bit = Mux(b[0], a, 0).as_signed()
    pipe = Pipeline(m)
    now = pipe.stage(
        low=Cat(bit[0], add_carry(bit[1:].as_signed(), d0, lacks0)).as_signed(), middle=d1,
        high=Cat(d2[:2], add_carry(d2[2:].as_signed(), d3, lacks3)).as_signed(),
        lacks_middle=lacks1, lacks_high=lacks2)
    now = pipe.stage(
        drop=("middle", "lacks_middle"),
        low=Cat(now.low[:3], add_carry(now.low[3:].as_signed(), now.middle, now.lacks_middle)
                ).as_signed())
    now = pipe.stage(p=Cat(now.low[:5], add_carry(now.low[5:].as_signed(), now.high,
                                                  now.lacks_high))[:_PRODUCT_WIDTH].as_signed())
    assert pipe.depth == MULTIPLY_LATENCY, pipe.depth
    return now.p

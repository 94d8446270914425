"""A float product rounded to the nearest integer, as one integer multiplier and shift.

    y = round(float64(acc) * factor), ties away from zero

is how LiteRT's reference kernel of FULLY_CONNECTED rescales its sums. y is a staircase: the step to
k > 0 lies at the smallest accumulator t with float64(t) * factor >= k - 1/2, the step to -k at -t.
Half-up `requantize` has the same steps exactly where

    multiplier * t       >= (k - 1/2) 2**shift     and     multiplier * (t - 1) <  the same
    multiplier * t       >  (k - 1/2) 2**shift     and     multiplier * (t - 1) <= the same

for all k, the first line for the positive side and the second for the negative one. So each step
bounds the multiplier, and what satisfies all bounds is right for every accumulator.

Source: google-ai-edge/LiteRT, tflite/kernels/internal/reference/integer_ops/fully_connected.h.
"""

import math

from golden import arith

__all__ = ["float_product"]


def float_product(factor, low, high, smallest=arith.INT32_MIN, largest=arith.INT32_MAX
                  ) -> tuple[int, int, int]:
    """The multiplier and shift that round as float64(acc) * factor does.

    factor: a float that `arith.multiplier_and_shift` takes
    low, high: what y is clamped to, without the zero point
    smallest, largest: of the accumulators
    Returns (multiplier, shift, wrong): wrong counts the steps that no multiplier of this width
    puts at the right accumulator together; the multiplier is then the nearest one.
    """
    nearest, shift = arith.multiplier_and_shift(factor)
    bounds = [*_bounds(factor, shift, high, largest, 0),
              *_bounds(factor, shift, -low, -smallest, 1)]
    least = max((bound[0] for bound in bounds), default=nearest)
    most = min((bound[1] for bound in bounds), default=nearest)
    if least <= most:
        return arith.clamp(nearest, least, most), shift, 0
    return nearest, shift, sum(not least <= nearest <= most for least, most in bounds)


def _bounds(factor, shift, n_steps, largest, strict):
    """(least, most) multiplier of each step; strict: 1 on the negative side."""
    bounds = []
    for k in range(1, n_steps + 1):
        t = max(1, math.floor((k - 0.5) / factor) - 1)
        while t * factor < k - 0.5:
            t += 1
        if t > largest:
            break
        half = (2 * k - 1 << shift) + 1 >> 1        # exact for shift > 0
        least = (half + strict - 1) // t + 1
        most = (half + strict - 1) // (t - 1) if t > 1 else arith.MULTIPLIER_MAX
        bounds.append((least, min(most, arith.MULTIPLIER_MAX)))
    return bounds

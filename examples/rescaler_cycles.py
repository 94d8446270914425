"""Prints the ports of a Rescaler cycle by cycle: `python examples/rescaler_cycles.py [trace.vcd]`.

Five accumulators enter in a row, the sink pauses for three cycles in between, and the results
come out a fixed latency later, in order.
"""

import sys

from golden.arith import Rounding, multiplier_and_shift, requantize
from hw.rtl.lanes.rescaler import Rescaler, RescalerPipeline, RoundingMode
from sim.pyverilator_driver import PyVerilatorUnit

ACCUMULATORS = (0, 1000, -1000, 123456, -7)
SCALE, ZERO_POINT = 0.01, -3
PAUSE = range(RescalerPipeline.LATENCY + 3, RescalerPipeline.LATENCY + 6)


def main(argv: list[str]) -> None:
    """Run the example; an argument names a file for the waveform."""
    multiplier, shift = (int(x) for x in multiplier_and_shift(SCALE))
    constants = {"bias": 0, "multiplier": multiplier, "shift": shift, "zero_point": ZERO_POINT,
                 "rounding": RoundingMode.HALF_UP, "low": -128, "high": 127, "wide": 0}
    unit = PyVerilatorUnit(Rescaler(), vcd=argv[0] if argv else None)
    items, outputs = [{"acc": acc, **constants} for acc in ACCUMULATORS], []

    print(f"scale {SCALE} = {multiplier} * 2^-{shift}, zero point {ZERO_POINT}\n")
    print("cycle  i.valid i.ready      acc   o.valid o.ready  value")
    while len(outputs) < len(ACCUMULATORS):
        unit["i__valid"] = int(bool(items))
        if items:
            unit["i__payload"] = items[0]
        unit["o__ready"] = int(unit.cycle not in PAUSE)
        entering, leaving = unit["i__valid"] and unit["i__ready"], unit["o__valid"]
        print(f"{unit.cycle:5}  {unit['i__valid']:7} {unit['i__ready']:7} "
              f"{items[0]['acc'] if items else '-':>8}   {leaving:7} {unit['o__ready']:7}  "
              f"{unit['o__payload']['value'] if leaving else '-':>5}")
        if leaving and unit["o__ready"]:
            outputs.append(unit["o__payload"]["value"])
        if entering:
            items.pop(0)
        unit.tick()
    unit.close()

    expected = [int(requantize(acc, multiplier, shift, ZERO_POINT, -128, 127, Rounding.HALF_UP))
                for acc in ACCUMULATORS]
    print(f"\nhardware {outputs}\ngolden   {expected}")
    if outputs != expected:
        sys.exit(1)


if __name__ == "__main__":
    main(sys.argv[1:])

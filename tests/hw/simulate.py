"""Drive a stream component in Amaranth's simulator with random stalls on both sides.

    outputs = simulate(Rescaler(), items, n_outputs=len(items), stalls=0.5, seed=1)
"""

import random

from amaranth.hdl import Shape
from amaranth.sim import Simulator

from hw.rtl.common.stream import payload_shape

CLOCK_PERIOD = 1e-8


class WatchdogError(AssertionError):
    """The component made no progress for too many clocks."""


def _check(value, shape):
    """Raise ValueError where ctx.set would silently truncate value to the shape."""
    if isinstance(value, dict):
        for name, item in value.items():
            _check(item, shape[name].shape)
    elif isinstance(value, int):
        cast = Shape.cast(shape)
        low = -(1 << (cast.width - 1)) if cast.signed else 0
        if not low <= value < low + (1 << cast.width):
            raise ValueError(f"Value {value} does not fit {shape}")


def simulate(dut, items, *, n_outputs, stalls=0.0, seed=0, inputs="i", output="o",
             watchdog=5000, trace=None):
    """Feed items to the dut's input stream and return what its output stream gives.

    items : list of payloads (int, or dict of int by field), or a dict of such lists by port name.
    n_outputs : results to wait for. stalls : probability of a pause, per clock, on every side.
    watchdog : clocks without a transfer after which WatchdogError is raised.
    trace : path of a VCD file, or None.
    Returns a list of payloads: int, or dict of int by field where the payload is a struct.
    """
    feeds = items if isinstance(items, dict) else {inputs: items}
    for name, values in feeds.items():
        shape = payload_shape(getattr(dut, name))
        for value in values:
            _check(value, shape)
    outputs = []
    progress = {"idle": 0}

    def feeder(port, values, rng):
        async def testbench(ctx):
            for value in values:
                while rng.random() < stalls:
                    await ctx.tick()
                ctx.set(port.payload, value)
                ctx.set(port.valid, 1)
                ready = 0
                while not ready:
                    *_, ready = await ctx.tick().sample(port.ready)
                progress["idle"] = 0
                ctx.set(port.valid, 0)
        return testbench

    async def collector(ctx):
        rng = random.Random(f"{seed}-{output}")
        port = getattr(dut, output)
        while len(outputs) < n_outputs:
            ready = int(rng.random() >= stalls)
            ctx.set(port.ready, ready)
            *_, valid, payload = await ctx.tick().sample(port.valid, port.payload)
            if valid and ready:
                outputs.append(_plain(payload))
                progress["idle"] = 0
            progress["idle"] += 1
            if progress["idle"] > watchdog:
                raise WatchdogError(f"No transfer for {watchdog} clocks after {len(outputs)} of "
                                    f"{n_outputs} results (seed {seed})")
        ctx.set(port.ready, 0)

    sim = Simulator(dut)
    sim.add_clock(CLOCK_PERIOD)
    for name, values in feeds.items():
        sim.add_testbench(feeder(getattr(dut, name), values, random.Random(f"{seed}-{name}")),
                          background=True)
    sim.add_testbench(collector)
    if trace is None:
        sim.run()
    else:
        with sim.write_vcd(str(trace)):
            sim.run()
    return outputs


def _plain(payload):
    """A sampled payload as int or dict of int."""
    if not hasattr(payload, "shape") or isinstance(payload, int):
        return int(payload)
    return {name: _plain(payload[name]) for name, _ in payload.shape()}

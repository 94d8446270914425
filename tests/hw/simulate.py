"""Run components in Amaranth's simulator.

    run_testbench(dut, testbench)
    outputs = simulate(Rescaler(), items, n_outputs=len(items), stalls=0.5, seed=1)

To elaborate a unit and to make the simulator's program of it takes seconds, so a component that is
run again begins anew from reset; `component` gives the same one for the same arguments.
"""

import contextlib
import functools
import random

from amaranth.hdl import Cat, Const, Shape, ShapeCastable, Value, ValueCastable
from amaranth.sim import Simulator

from hw.rtl.common.stream import payload_shape

CLOCK_PERIOD = 1e-8


class WatchdogError(AssertionError):
    """The component made no progress for too many clocks."""


@functools.lru_cache(maxsize=16)
def component(make, *arguments, **options):
    """`make(*arguments, **options)`, once."""
    return make(*arguments, **options)


@contextlib.contextmanager
def fresh_components():
    """Within it `component` makes new ones, of what is patched; behind it new ones again."""
    component.cache_clear()
    try:
        yield
    finally:
        component.cache_clear()


def run_testbench(dut, testbench, *background):
    """Run async functions of a context from reset, until `testbench` returns.

    The context's `set` takes effect when something is read or time passes: several at once cost no
    more than one.
    """
    _simulation(dut, len(background)).run(testbench, *background)


@functools.lru_cache(maxsize=16)
def _simulation(dut, n_background):
    return _Simulation(dut, n_background)


class _Simulation:
    """A Simulator whose testbenches can be exchanged."""

    def __init__(self, dut, n_background):
        self.simulator, self.testbenches = Simulator(dut), ()
        self.simulator.add_clock(CLOCK_PERIOD)
        for number in range(1, 1 + n_background):
            self.simulator.add_testbench(functools.partial(self._run, number), background=True)
        self.simulator.add_testbench(functools.partial(self._run, 0))

    async def _run(self, number, ctx):
        ctx = _Context(ctx)
        await self.testbenches[number](ctx)
        ctx.settle()

    def run(self, *testbenches):
        if self.testbenches:
            self.simulator.reset()
        self.testbenches = testbenches
        self.simulator.run()


class _Context:
    """A testbench's context that collects what is set."""

    def __init__(self, ctx):
        self._ctx, self._targets, self._bits, self._n_bits = ctx, [], 0, 0

    def set(self, target, value):
        if isinstance(target, ValueCastable) and isinstance(target.shape(), ShapeCastable):
            value = target.shape().const(value)
        target = Value.cast(target)
        self._targets.append(target)
        self._bits |= (Const.cast(value).value & (1 << len(target)) - 1) << self._n_bits
        self._n_bits += len(target)

    def settle(self):
        if self._targets:
            self._ctx.set(Cat(*self._targets), self._bits)
            self._targets, self._bits, self._n_bits = [], 0, 0

    def __getattr__(self, name):
        """`get`, `tick` and all else that looks at the design."""
        self.settle()
        return getattr(self._ctx, name)


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
             watchdog=5000):
    """Feed items to the dut's input stream and return what its output stream gives.

    items : list of payloads (int, or dict of int by field), or a dict of such lists by port name.
    n_outputs : results to wait for. stalls : probability of a pause, per clock, on every side.
    watchdog : clocks without a transfer after which WatchdogError is raised.
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

    run_testbench(dut, collector, *(
        feeder(getattr(dut, name), values, random.Random(f"{seed}-{name}"))
        for name, values in feeds.items()))
    return outputs


def _plain(payload):
    """A sampled payload as int or dict of int."""
    if not hasattr(payload, "shape") or isinstance(payload, int):
        return int(payload)
    return {name: _plain(payload[name]) for name, _ in payload.shape()}

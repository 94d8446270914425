"""The cocotb side of `sim.unit`: one coroutine drives every stream of the unit under test.

Inputs change while the clock is low and transfers are read just before it rises, so nothing
depends on the simulator's order of events, and a unit without a clock is driven the same way.
"""

import json
import os
import random
from pathlib import Path

import cocotb
from cocotb.triggers import Timer

__all__ = ["drive_streams"]


class AlwaysOne:
    """Stands for a valid or ready that a stream does not have."""

    value = True


class Source:
    """Offers items on a stream, with random pauses; an offer stands until it is taken."""

    def __init__(self, dut, name, items, idle, rng):
        self.valid = getattr(dut, f"{name}__valid", AlwaysOne)
        self.ready = getattr(dut, f"{name}__ready", AlwaysOne)
        self.payload = getattr(dut, f"{name}__payload", None)
        self.items, self.idle, self.rng = items, idle, rng
        self.position, self.offering = 0, False

    @property
    def done(self) -> bool:
        """Have all items been taken?"""
        return self.position == len(self.items)

    def drive(self) -> None:
        """Set valid and the payload for the next clock."""
        pauses = self.valid is not AlwaysOne and self.rng.random() < self.idle
        if not self.offering and not self.done and not pauses:
            self.offering = True
        if self.payload is not None:
            # Noise on the wires while nothing is offered: a unit must not look at it.
            self.payload.value = (self.items[self.position] if self.offering
                                  else self.rng.getrandbits(len(self.payload)))
        if self.valid is not AlwaysOne:
            self.valid.value = int(self.offering)

    def sample(self) -> bool:
        """Whether an item is taken at this clock."""
        taken = self.offering and bool(self.ready.value)
        if taken:
            self.position, self.offering = self.position + 1, False
        return taken


class Sink:
    """Takes payloads from a stream, with random pauses; checks that an offer stands."""

    def __init__(self, dut, name, n_expected, backpressure, rng):
        self.name = name
        self.valid = getattr(dut, f"{name}__valid", AlwaysOne)
        self.ready = getattr(dut, f"{name}__ready", AlwaysOne)
        self.payload = getattr(dut, f"{name}__payload", None)
        self.n_expected, self.backpressure, self.rng = n_expected, backpressure, rng
        self.taken, self.accepting, self.waiting = [], False, None

    @property
    def done(self) -> bool:
        """Have all payloads arrived?"""
        return len(self.taken) == self.n_expected

    def drive(self) -> None:
        """Set ready for the next clock."""
        self.accepting = self.ready is AlwaysOne or self.rng.random() >= self.backpressure
        if self.ready is not AlwaysOne:
            self.ready.value = int(self.accepting)

    def sample(self) -> bool:
        """Whether a payload is taken at this clock."""
        if not bool(self.valid.value):
            assert self.waiting is None, f"{self.name}.valid fell before ready was given"
            return False
        bits = self.payload.value.to_unsigned() if self.payload is not None else 0
        assert self.waiting in (None, bits), f"{self.name}.payload changed while it was waiting"
        self.waiting = None if self.accepting else bits
        if self.accepting:
            assert not self.done, f"{self.name} gave more than {self.n_expected} payloads"
            self.taken.append(bits)
        return self.accepting


@cocotb.test()
async def drive_streams(dut) -> None:
    """Run the job in $LOCKSTEP_UNIT_JOB/job.json and write result.json beside it."""
    folder = Path(os.environ["LOCKSTEP_UNIT_JOB"])
    job = json.loads((folder / "job.json").read_text())
    rng = random.Random(job["seed"])
    sources = [Source(dut, name, items, job["idle"], rng) for name, items in job["inputs"].items()]
    sinks = [Sink(dut, name, n, job["backpressure"], rng) for name, n in job["outputs"].items()]
    for name, value in job["constants"].items():
        getattr(dut, name).value = value
    idle = [port.valid for port in sources] + [port.ready for port in sinks]
    for signal in idle:
        if signal is not AlwaysOne:
            signal.value = 0
    clock, reset = getattr(dut, "clk", None), getattr(dut, "rst", None)

    async def half(level):
        if clock is not None:
            clock.value = level
        await Timer(5, "ns")

    for level in (1, 1, 0):
        if reset is not None:
            reset.value = level
        await half(0)
        await half(1)

    cycle, first, last, quiet, n_extra = 0, None, 0, 0, job["n_extra_cycles"]
    while n_extra:
        for port in (*sources, *sinks):
            port.drive()
        await half(0)
        moved = [port.sample() for port in (*sources, *sinks)]
        await half(1)
        if any(moved):
            first, last, quiet = cycle if first is None else first, cycle, 0
        quiet += 1
        cycle += 1
        if all(port.done for port in (*sources, *sinks)):
            n_extra -= 1
        else:
            state = [f"{s.name}: {len(s.taken)} of {s.n_expected}" for s in sinks]
            assert quiet <= job["watchdog"], (
                f"no transfer for {quiet} cycles; sent {[s.position for s in sources]} of "
                f"{[len(s.items) for s in sources]}, received {state}")
    (folder / "result.json").write_text(json.dumps({
        "outputs": {sink.name: sink.taken for sink in sinks},
        "cycles": 0 if first is None else last - first + 1}))

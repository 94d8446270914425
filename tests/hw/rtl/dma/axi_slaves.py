"""AXI4 memories for Amaranth's simulator that check the master's side of the protocol.

Each slave is stepped once a clock: `step` gets what the signals were in the cycle and returns
what the slave's signals are in the next one. AssertionError names the broken rule.
"""

import random
from dataclasses import dataclass, field

OKAY, EXOKAY, SLVERR, DECERR = range(4)
INCR = 1


class Stands:
    """A channel's rule: valid and payload stand until ready. Returns whether a transfer happens."""

    def __init__(self, name):
        self.name = name
        self.waiting = None

    def __call__(self, valid, ready, *payload):
        if self.waiting is not None:
            assert valid, f"{self.name}: valid fell before ready"
            assert payload == self.waiting, f"{self.name}: payload changed before ready"
        self.waiting = payload if valid and not ready else None
        return bool(valid and ready)


@dataclass
class Memory:
    """Bytes from ``base`` on. ``refused``: (first byte, last byte, response) of failing windows."""

    base: int
    data: bytearray
    refused: list = field(default_factory=list)

    def response(self, address, size):
        for low, high, code in self.refused:
            if address <= high and low < address + size:
                return code
        return OKAY

    def span(self, address, size):
        at = address - self.base
        assert 0 <= at <= len(self.data) - size, f"access to {address:#x}, outside the memory"
        return slice(at, at + size)


@dataclass(kw_only=True)
class Traffic:
    """How a slave behaves. ``latency``: cycles from the address to the first data beat, or from
    the last data beat to the response; ``jitter``: up to so many more; ``stalls``: the share of
    cycles in which any channel pauses; ``accepts``: bursts open at once."""

    latency: int = 40
    jitter: int = 0
    stalls: float = 0.0
    accepts: int = 8
    seed: int = 0


class _Slave:
    channel = None

    def __init__(self, bus, memory, traffic, *, bus_bytes, max_beats, outstanding):
        self.bus, self.memory, self.traffic = bus, memory, traffic
        self.bus_bytes, self.max_beats, self.outstanding = bus_bytes, max_beats, outstanding
        self.rng = random.Random(f"{self.channel} {traffic.seed}")
        self.stands_address = Stands(self.channel)
        self.cycle = 0
        self.bursts = []  # (address, beats, cycle of the address)
        self.n_bursts = self.n_beats = self.most_open = 0
        self.first_beat = self.last_beat = None

    def pauses(self):
        return self.rng.random() < self.traffic.stalls

    def due(self, since):
        return since + self.traffic.latency + self.rng.randint(0, self.traffic.jitter)

    def address(self, valid, ready, address, length, size, burst, id_):
        if not self.stands_address(valid, ready, address, length, size, burst, id_):
            return
        n_bytes = (length + 1) * self.bus_bytes
        assert burst == INCR, f"{self.channel}: burst type {burst}"
        assert 1 << size == self.bus_bytes, f"{self.channel}: size {size} is not the bus's"
        assert address % self.bus_bytes == 0, f"{self.channel}: unaligned address {address:#x}"
        assert length < self.max_beats, f"{self.channel}: burst of {length + 1} beats"
        assert address // 4096 == (address + n_bytes - 1) // 4096, (
            f"{self.channel}: burst from {address:#x} crosses a 4 KB boundary")
        assert id_ == 0, f"{self.channel}: ID {id_}"
        self.memory.span(address, n_bytes)
        self.n_bursts += 1
        self.opened(address, length + 1)
        self.most_open = max(self.most_open, self.n_open())
        assert self.n_open() <= self.outstanding, f"{self.channel}: {self.n_open()} bursts open"

    def beat(self):
        self.n_beats += 1
        self.first_beat = self.cycle if self.first_beat is None else self.first_beat
        self.last_beat = self.cycle


class ReadSlave(_Slave):
    """Answers AR with R, in order."""

    channel = "AR"

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.beats = []  # (cycle it may be given in, data, response, last)
        self.n_answered = 0
        self.outputs = {"arready": 0, "rvalid": 0, "rdata": 0, "rresp": 0, "rlast": 0}

    def signals(self):
        b = self.bus
        return [b.arvalid, b.araddr, b.arlen, b.arsize, b.arburst, b.arid, b.rready]

    def n_open(self):
        return self.n_bursts - self.n_answered

    def opened(self, address, n_beats):
        due = max(self.due(self.cycle), self.beats[-1][0] if self.beats else 0)
        for k in range(n_beats):
            at = address + k * self.bus_bytes
            data = int.from_bytes(self.memory.data[self.memory.span(at, self.bus_bytes)], "little")
            code = self.memory.response(at, self.bus_bytes)
            # A refused beat carries noise: nobody may use it.
            data = self.rng.getrandbits(8 * self.bus_bytes) if code else data
            self.beats.append((due, data, code, k == n_beats - 1))

    def step(self, arvalid, araddr, arlen, arsize, arburst, arid, rready):
        out = self.outputs
        self.cycle += 1
        self.address(arvalid, out["arready"], araddr, arlen, arsize, arburst, arid)
        if out["rvalid"] and rready:
            self.beat()
            self.n_answered += out["rlast"]
        if not out["rvalid"] or rready:
            out["rvalid"] = int(bool(self.beats) and self.beats[0][0] <= self.cycle
                                and not self.pauses())
            if out["rvalid"]:
                _, out["rdata"], out["rresp"], out["rlast"] = self.beats.pop(0)
            else:  # noise on the wires while nothing is offered
                out["rdata"] = self.rng.getrandbits(8 * self.bus_bytes)
                out["rresp"], out["rlast"] = self.rng.getrandbits(2), self.rng.getrandbits(1)
        out["arready"] = int(self.n_open() < self.traffic.accepts and not self.pauses())
        return out


class WriteSlave(_Slave):
    """Takes AW and W, answers with B, in order. Data may come before its address."""

    channel = "AW"

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.stands_data = Stands("W")
        self.data = []  # beats without a complete burst yet
        self.responses = []  # (cycle it may be given in, response)
        self.n_answered = self.n_empty_beats = 0
        self.outputs = {"awready": 0, "wready": 0, "bvalid": 0, "bresp": 0}

    def signals(self):
        b = self.bus
        return [b.awvalid, b.awaddr, b.awlen, b.awsize, b.awburst, b.awid,
                b.wvalid, b.wdata, b.wstrb, b.wlast, b.bready]

    def n_open(self):
        return self.n_bursts - self.n_answered

    def opened(self, address, n_beats):
        self.bursts.append((address, n_beats))

    def _commit(self):
        """Write the oldest burst once all its beats are here."""
        while self.bursts and any(last for *_, last in self.data):
            (address, n_beats) = self.bursts.pop(0)
            beats, self.data = self.data[:n_beats], self.data[n_beats:]
            lasts = [last for *_, last in beats]
            assert lasts == [0] * (n_beats - 1) + [1], f"W: last at {lasts} of {n_beats} beats"
            code = OKAY
            for k, (data, strobes, _) in enumerate(beats):
                at = address + k * self.bus_bytes
                code = max(code, self.memory.response(at, self.bus_bytes))
                full = (1 << self.bus_bytes) - 1
                assert strobes in (0, full), f"W: strobes {strobes:#x}"
                self.n_empty_beats += not strobes
                if strobes and not self.memory.response(at, self.bus_bytes):
                    self.memory.data[self.memory.span(at, self.bus_bytes)] = data.to_bytes(
                        self.bus_bytes, "little")
            due = max(self.due(self.cycle), self.responses[-1][0] if self.responses else 0)
            self.responses.append((due, code))

    def step(self, awvalid, awaddr, awlen, awsize, awburst, awid, wvalid, wdata, wstrb, wlast,
             bready):
        out = self.outputs
        self.cycle += 1
        self.address(awvalid, out["awready"], awaddr, awlen, awsize, awburst, awid)
        if self.stands_data(wvalid, out["wready"], wdata, wstrb, wlast):
            self.beat()
            self.data.append((wdata, wstrb, wlast))
        self._commit()
        if out["bvalid"] and bready:
            self.n_answered += 1
        if not out["bvalid"] or bready:
            out["bvalid"] = int(bool(self.responses) and self.responses[0][0] <= self.cycle
                                and not self.pauses())
            out["bresp"] = (self.responses.pop(0)[1] if out["bvalid"]
                            else self.rng.getrandbits(2))
        out["awready"] = int(self.n_open() < self.traffic.accepts and not self.pauses())
        out["wready"] = int(not self.pauses())
        return out

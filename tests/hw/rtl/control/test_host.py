# amaranth: UnusedElaboratable=no
"""The AXI4-Lite slave keeps the protocol's rules under random stalls on all five channels."""

import random

import pytest

from hw.rtl.control.host import OKAY, SLVERR, HostInterface
from tests.hw.rtl.dma.axi_slaves import Stands
from tests.hw.simulate import run_testbench

N_WORDS = 32  # addresses from here on are not allowed


class Master:
    """Writes and reads at once, each channel with its own pauses; checks what the slave gives."""

    def __init__(self, rng, stalls, n_accesses):
        self.rng, self.stalls = rng, stalls
        self.writes = [(4 * rng.randrange(N_WORDS + 8), rng.getrandbits(32), rng.getrandbits(4))
                       for _ in range(n_accesses)]
        self.reads = [4 * rng.randrange(N_WORDS + 8) for _ in range(n_accesses)]
        self.n = dict.fromkeys("aw w b ar r".split(), 0)
        self.inputs = {"awvalid": 0, "wvalid": 0, "arvalid": 0, "bready": 0, "rready": 0}
        self.stands_b, self.stands_r = Stands("B"), Stands("R")
        self.values = []  # (address, response, data) of the reads
        self.responses = []

    def pauses(self):
        return self.rng.random() < self.stalls

    def drive(self):
        """The inputs of the next cycle; what was offered and not taken stays."""
        for channel, items in (("aw", self.writes), ("w", self.writes), ("ar", self.reads)):
            if not self.inputs[channel + "valid"] and self.n[channel] < len(items):
                self.inputs[channel + "valid"] = int(not self.pauses())
        noise = self.rng.getrandbits
        aw, w, ar = (self.n[c] for c in ("aw", "w", "ar"))
        up = self.inputs
        up["awaddr"] = self.writes[aw][0] if up["awvalid"] else noise(32)
        up["wdata"], up["wstrb"] = self.writes[w][1:] if up["wvalid"] else (noise(32), noise(4))
        up["araddr"] = self.reads[ar] if up["arvalid"] else noise(32)
        up["bready"], up["rready"] = int(not self.pauses()), int(not self.pauses())
        return up

    def sample(self, awready, wready, arready, bvalid, bresp, rvalid, rresp, rdata):
        for channel, ready in (("aw", awready), ("w", wready), ("ar", arready)):
            if ready and self.inputs[channel + "valid"]:
                self.n[channel] += 1
                self.inputs[channel + "valid"] = 0
        if self.stands_b(bvalid, self.inputs["bready"], bresp):
            self.n["b"] += 1
            self.responses.append(bresp)
        if self.stands_r(rvalid, self.inputs["rready"], rresp, rdata):
            self.n["r"] += 1
            self.values.append((rresp, rdata))
        n = self.n
        assert n["b"] <= min(n["aw"], n["w"]), "B without its AW and W"
        assert n["r"] <= n["ar"], "R without its AR"

    @property
    def done(self):
        return self.n["b"] == len(self.writes) and self.n["r"] == len(self.reads)


def run(stalls, n_accesses=60, seed=0, late=0):
    """Returns the master and the accesses in the order in which they took place.

    late : further cycles that the data behind the slave takes, more than it allows.
    """
    dut, rng = HostInterface(), random.Random(f"{stalls} {seed}")
    master = Master(rng, stalls, n_accesses)
    words, order = [0] * N_WORDS, []

    async def testbench(ctx):
        b = dut.bus
        sampled = [b.awready, b.wready, b.arready, b.bvalid, b.bresp, b.rvalid, b.rresp, b.rdata]
        address, since, was_reading = None, 0, 0
        for cycle in range(200 * n_accesses):
            if master.done:
                return
            for name, value in master.drive().items():
                ctx.set(getattr(b, name), value)
            now, reading = ctx.get(dut.address), ctx.get(dut.reading)
            if now != address or (reading and not was_reading):
                address, since = now, cycle
            was_reading = reading
            inside = address < 4 * N_WORDS
            # Noise until the data has to be right.
            settled = cycle - since >= dut.READ_CYCLES + late
            ctx.set(dut.read_data, words[address // 4] if inside and settled
                    else rng.getrandbits(32))
            if cycle - since >= dut.SETTLE_CYCLES:
                ctx.set(dut.allowed, int(inside))
            else:
                ctx.set(dut.allowed, rng.getrandbits(1))
            _, _, write, data, strobe, at, *values = await ctx.tick().sample(
                dut.write, dut.write_data, dut.write_strobe, dut.address, *sampled)
            n_read = master.n["r"]
            master.sample(*(int(v) for v in values))
            if write:
                assert at < 4 * N_WORDS, "a write that is not allowed"
                for k in range(4):
                    if strobe >> k & 1:
                        mask = 255 << 8 * k
                        words[at // 4] = words[at // 4] & ~mask | data & mask
                order.append((at, data, strobe))
            if master.n["r"] > n_read:
                index = master.n["r"] - 1
                at = master.reads[index]
                inside = at < 4 * N_WORDS
                assert master.values[index] == (
                    (OKAY, words[at // 4]) if inside else (SLVERR, 0))
        raise AssertionError(f"stuck: {master.n}")

    run_testbench(dut, testbench)
    return master, order


@pytest.mark.parametrize("stalls", [0.0, 0.3, 0.8])
def test_random_stalls(stalls):
    master, order = run(stalls)
    allowed = [write for write in master.writes if write[0] < 4 * N_WORDS]
    assert order == allowed
    assert master.responses == [OKAY if w[0] < 4 * N_WORDS else SLVERR for w in master.writes]


def test_the_checks_see_data_that_comes_too_late():
    with pytest.raises(AssertionError):
        run(0.0, late=1)


def test_no_path_from_valid_to_ready():
    """AMBA forbids combinational paths between the inputs and the outputs of an interface."""
    dut = HostInterface()
    inputs = ("awvalid", "wvalid", "arvalid", "bready", "rready")
    outputs = ("awready", "wready", "arready", "bvalid", "rvalid", "rresp", "bresp", "rdata")
    rng = random.Random(5)
    seen = set()

    async def testbench(ctx):
        ctx.set(dut.allowed, 1)
        for _ in range(300):
            given = []
            for _ in range(4):
                for name in inputs:
                    ctx.set(getattr(dut.bus, name), rng.getrandbits(1))
                given.append(tuple(ctx.get(getattr(dut.bus, name)) for name in outputs))
            assert len(set(given)) == 1
            seen.add(given[0][:5])
            await ctx.tick()

    run_testbench(dut, testbench)
    assert len(seen) == 5  # nothing; a write, a read taken; a response, data offered

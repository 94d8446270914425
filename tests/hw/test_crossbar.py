# amaranth: UnusedElaboratable=no
"""The crossbar under random traffic of all ports at once, against an ordinary list of bytes."""

import random

import pytest
from amaranth.sim import Simulator

from hw.crossbar import Crossbar
from hw.targets import N_BANKS, Target

SMALL = {"name": "test", "rows": 2, "instruction_words": 64, "parameter_words": 4}
TARGETS = {
    4: Target(**SMALL, columns=4, bank_words=(8, 6, 4, 2)),
    8: Target(**SMALL, columns=8, bank_words=(6, 16, 10, 8)),
    16: Target(**SMALL, columns=16, bank_words=(16, 16, 8, 8)),
}
READS, WRITES = ("v", "w", "s", "h"), ("m", "l", "h_write")
# Cycles from what is seen outside to the RAM: a write to r; a response of a waiting read.
ENTRY_TO_RAM, RAM_TO_RESPONSE = 2, 4


def run(dut, script):
    async def testbench(ctx):
        await script(ctx)

    sim = Simulator(dut)
    sim.add_clock(1e-8)
    sim.add_testbench(testbench)
    sim.run()


class Traffic:
    """Drives all ports at random for a while, records what passes, then replays it on a model.

    share : by port, the chance that it asks in a cycle. banks : those that are used.
    """

    def __init__(self, dut, *, cycles, seed, share=None, banks=range(N_BANKS)):
        self.dut, self.cycles, self.rng = dut, cycles, random.Random(seed)
        self.word = dut.target.word_bytes
        self.share, self.banks = share or {}, list(banks)
        self.writes, self.reads = [], []  # (cycle of the RAM, what)
        self.asked = {name: [] for name in READS}
        self.accepted = {name: [] for name in WRITES}
        self.held = {}
        self.n_conflicts = 0

    def wants(self, name):
        return self.rng.random() < self.share.get(name, 0.5)

    def place(self, port=None):
        bank = self.rng.choice(self.banks)
        address = self.rng.randrange(self.dut.target.bank_words[bank])
        return bank, address & ~1 if port == "w" else address

    def write_fields(self):
        bank, address = self.place()
        return {"bank": bank, "address": address,
                "data": [self.rng.randrange(-128, 128) for _ in range(self.word)],
                "enable": self.rng.getrandbits(self.word),
                "progress": self.rng.randrange(1 << 16), "instruction_end": self.rng.randrange(2)}

    def drive(self, ctx, cycle):
        dut = self.dut
        a_bank, a_word = self.place()
        b_bank, b_word = self.place()
        a_address = min(a_word * self.word + self.rng.randrange(self.word),
                        (dut.target.bank_words[a_bank] - 1) * self.word)
        a_valid, b_valid = self.wants("a"), self.wants("b")
        if b_bank == a_bank and a_valid:
            b_valid = False
        for port, valid, bank, address in ((dut.a, a_valid, a_bank, a_address),
                                           (dut.b, b_valid, b_bank, b_word)):
            ctx.set(port.valid, int(valid))
            ctx.set(port.bank, bank)
            ctx.set(port.address, address)
        if a_valid:
            self.reads.append((cycle + ENTRY_TO_RAM, "a", a_bank, a_address, self.word, cycle))
        if b_valid:
            self.reads.append((cycle + ENTRY_TO_RAM, "b", b_bank, b_word * self.word, self.word,
                               cycle))
        r = self.write_fields()
        ctx.set(dut.r.valid, int(self.wants("r")))
        for key in ("bank", "address", "data", "enable"):
            ctx.set(getattr(dut.r, key), r[key])
        if ctx.get(dut.r.valid):
            self.writes.append((cycle + ENTRY_TO_RAM, r))
        for name in (*READS, *WRITES):
            port = getattr(dut, name)
            if name not in self.held and self.wants(name):
                if name in WRITES:
                    self.held[name] = self.write_fields()
                else:
                    bank, address = self.place(name)
                    self.held[name] = {"bank": bank, "address": address}
            ctx.set(port.valid, int(name in self.held))
            for key, value in self.held.get(name, {}).items():
                ctx.set(getattr(port, key), value)
        for name in (*READS, *WRITES):
            if name in self.held and ctx.get(getattr(dut, name).ready):
                (self.asked if name in READS else self.accepted)[name].append(self.held.pop(name))

    def watch(self, ctx, cycle, data):
        """What leaves the crossbar in this cycle."""
        dut = self.dut
        assert not ctx.get(dut.conflict) and not ctx.get(dut.address_error)
        data[cycle] = {"a": list(ctx.get(dut.a.data)), "b": list(ctx.get(dut.b.data))}
        for name in READS:
            port = getattr(dut, name)
            if ctx.get(port.response_valid):
                request = self.asked[name].pop(0)
                words = list(ctx.get(port.data))
                data[cycle][name] = [x for w in words for x in w] if name == "w" else words
                self.reads.append((cycle - RAM_TO_RESPONSE, name, request["bank"],
                                   request["address"] * self.word,
                                   self.word * (2 if name == "w" else 1), cycle))
        for name in WRITES:
            port = getattr(dut, name)
            tag = (ctx.get(port.written_progress), ctx.get(port.written_end))
            if ctx.get(port.written):
                write = self.accepted[name].pop(0)
                assert tag == (write["progress"], write["instruction_end"])
                self.writes.append((cycle, write))
            else:
                assert tag == (0, 0)

    def run(self):
        data = {}

        async def script(ctx):
            for cycle in range(self.cycles + 40):
                if cycle >= self.cycles:
                    self.share = dict.fromkeys(("a", "b", "r", *READS, *WRITES), 0)
                self.drive(ctx, cycle)
                self.watch(ctx, cycle, data)
                await ctx.tick()

        run(self.dut, script)
        assert not self.held and not any((*self.asked.values(), *self.accepted.values()))
        self.replay(data)

    def replay(self, data):
        """Every read gives what the writes before it left; a write in the same cycle is open."""
        cells = [[0] * (n * self.word) for n in self.dut.target.bank_words]
        writes = sorted(self.writes, key=lambda item: item[0])
        n_compared = 0
        for cycle, port, bank, first, count, seen in sorted(self.reads):
            while writes and writes[0][0] < cycle:
                self.apply(cells, writes.pop(0)[1])
            expected = cells[bank][first:first + count]
            delay = Crossbar.READ_LATENCY if port in "ab" else 0
            now = [list(row) for row in cells]
            for at, write in writes:
                if at == cycle:
                    self.apply(now, write)
            settled = [k for k in range(count) if now[bank][first + k] == expected[k]]
            actual = data[seen + delay][port]
            n_compared += len(settled)
            assert [actual[k] for k in settled] == [expected[k] for k in settled], (port, seen)
        assert n_compared > self.cycles

    def apply(self, cells, write):
        for k in range(self.word):
            if write["enable"] >> k & 1:
                cells[write["bank"]][write["address"] * self.word + k] = write["data"][k]


@pytest.mark.parametrize("columns", TARGETS)
@pytest.mark.parametrize("share", [0.1, 0.5])
def test_random_traffic_of_all_ports(columns, share):
    Traffic(Crossbar(TARGETS[columns]), cycles=300, seed=columns, share=dict.fromkeys(
        ("a", "b", "v", "w", "s", "h", "r", "m", "l", "h_write"), share)).run()


def test_two_banks_under_the_traffic_of_all_ports():
    Traffic(Crossbar(TARGETS[4]), cycles=400, seed=1, banks=(1, 2)).run()


class WithoutPriority(Crossbar):
    """A mutant in which v reads even where the array does."""

    def _grant(self, m, requests, suffix=""):
        without = {name: request for name, request in requests.items() if name != "v"}
        grants = super()._grant(m, without, suffix)
        if "v" in requests:
            valid, request, ready = requests["v"]
            m.d.comb += ready.eq(1)
            grants["v"] = request.banks & valid.replicate(N_BANKS)
        return grants


def test_a_mutant_is_noticed():
    with pytest.raises(AssertionError):
        Traffic(WithoutPriority(TARGETS[4]), cycles=100, seed=1, banks=(1, 2)).run()

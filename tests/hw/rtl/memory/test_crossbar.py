# amaranth: UnusedElaboratable=no
"""The crossbar under random traffic of all ports at once, against an ordinary list of bytes."""

import random

import pytest

from hw.rtl.memory.crossbar import Crossbar
from hw.targets import N_BANKS, Target
from tests.hw.simulate import component, run_testbench

pytestmark = pytest.mark.slow

SMALL = {"name": "test", "rows": 2, "instruction_words": 64, "parameter_words": 4}
TARGETS = {
    4: Target(**SMALL, columns=4, bank_words=(8, 6, 4, 2)),
    8: Target(**SMALL, columns=8, bank_words=(6, 16, 10, 8)),
    16: Target(**SMALL, columns=16, bank_words=(16, 16, 8, 8)),
}
READS, WRITES = ("v", "w", "s", "h"), ("m", "l", "h_write")
# Cycles between what is seen outside and the RAM.
ENTRY_TO_RAM, WRITTEN_TO_RAM, RAM_TO_RESPONSE = 4, 1, 4


def run(dut, script):
    async def testbench(ctx):
        await script(ctx)

    run_testbench(dut, testbench)


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
                self.writes.append((cycle + WRITTEN_TO_RAM, write))
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
    Traffic(component(Crossbar, TARGETS[columns]), cycles=300, seed=columns, share=dict.fromkeys(
        ("a", "b", "v", "w", "s", "h", "r", "m", "l", "h_write"), share)).run()


def test_two_banks_under_the_traffic_of_all_ports():
    Traffic(component(Crossbar, TARGETS[4]), cycles=400, seed=1, banks=(1, 2)).run()


class WithoutPriority(Crossbar):
    """A mutant in which v reads even where the array does."""

    def _grant(self, m, requests, *args):
        others = {name: request for name, request in requests.items() if name != "v"}
        alone = {name: request for name, request in requests.items() if name == "v"}
        return super()._grant(m, others, *args) | super()._grant(m, alone, *args)


def test_a_mutant_is_noticed():
    with pytest.raises(AssertionError):
        Traffic(WithoutPriority(TARGETS[4]), cycles=100, seed=1, banks=(1, 2)).run()


def drive(dut, cycles, script):
    """Run script(ctx, cycle), a plain function, in every cycle; returns what it returned."""
    seen = []

    async def testbench(ctx):
        for cycle in range(cycles):
            seen.append(script(ctx, cycle))
            await ctx.tick()

    run(dut, testbench)
    return seen


def request(ctx, port, valid=1, **fields):
    ctx.set(port.valid, valid)
    for name, value in fields.items():
        ctx.set(getattr(port, name), value)


def test_a_write_is_seen_after_write_to_read_cycles_and_a_read_takes_read_latency():
    dut, target = component(Crossbar, TARGETS[8]), TARGETS[8]
    word = list(range(-4, 4))

    def script(ctx, cycle):
        request(ctx, dut.r, cycle == 3, bank=1, address=9, data=word, enable=0xFF)
        request(ctx, dut.a, cycle == 3 + Crossbar.WRITE_TO_READ, bank=1,
                address=9 * target.word_bytes)
        request(ctx, dut.b, cycle == 4 + Crossbar.WRITE_TO_READ, bank=1, address=9)
        request(ctx, dut.w, cycle == 3 + Crossbar.WRITE_TO_READ, bank=1, address=8)
        return (list(ctx.get(dut.a.data)), list(ctx.get(dut.b.data)),
                [list(x) for x in ctx.get(dut.w.data)] if ctx.get(dut.w.response_valid) else None)

    seen = drive(dut, 24, script)
    first = 3 + Crossbar.WRITE_TO_READ + Crossbar.READ_LATENCY
    assert seen[first][0] == word != seen[first - 1][0]
    assert seen[first + 1][1] == word != seen[first][1]
    # The pair waits for both ports of the array.
    answered = [cycle for cycle, (*_, pair) in enumerate(seen) if pair]
    assert answered == [3 + Crossbar.WRITE_TO_READ + 2 + Crossbar.WAITING_READ_LATENCY]
    assert seen[answered[0]][2] == [[0] * 8, word]


@pytest.mark.parametrize(("bank_of_b", "expected"), [(1, 1), (2, 0)])
def test_both_ports_of_the_array_on_one_bank_are_a_conflict(bank_of_b, expected):
    dut = component(Crossbar, TARGETS[4])

    def script(ctx, cycle):
        request(ctx, dut.a, cycle == 2, bank=1, address=0)
        request(ctx, dut.b, cycle == 2, bank=bank_of_b, address=0)
        return ctx.get(dut.conflict)

    seen = drive(dut, 8, script)
    assert seen == [int(cycle == 4 and expected) for cycle in range(8)]


@pytest.mark.parametrize("name", ["a", "b", "v", "w", "s", "h", "r", "m", "l", "h_write"])
@pytest.mark.parametrize("columns", [4, 8])
def test_a_request_beyond_the_end_of_its_bank_is_an_error(name, columns):
    target = TARGETS[columns]
    dut = component(Crossbar, target)
    port = getattr(dut, name)
    cases = [(bank, address, int(address >= words)) for bank, words in enumerate(target.bank_words)
             for address in (words - 2, words, words + 2, (1 << 16) - 2)]
    unit = target.word_bytes if name == "a" else 1

    def script(ctx, cycle):
        bank, address, _ = cases[min(cycle, len(cases) - 1)]
        request(ctx, port, cycle < len(cases), bank=bank, address=address * unit)
        return (ctx.get(dut.address_error), ctx.get(getattr(dut.address_errors, name)),
                ctx.get(dut.address_errors.as_value()))

    seen = drive(dut, len(cases) + 4, script)
    for cycle, (*_, expected) in enumerate(cases):
        assert seen[cycle + 2][0] == expected, cases[cycle]
        assert seen[cycle + 1][1] == expected
    assert sum(error for error, *_ in seen) == sum(expected for *_, expected in cases)
    assert all(bool(mine) == bool(every) for _, mine, every in seen)


def test_a_refused_write_changes_nothing_and_a_refused_read_is_answered():
    target = TARGETS[4]
    dut = component(Crossbar, target)
    n_words = target.bank_words[3]

    def script(ctx, cycle):
        beyond = 3 <= cycle < 6
        for port in (dut.r, dut.m):
            request(ctx, port, beyond, bank=3, address=n_words, data=[1] * 4, enable=15)
        request(ctx, dut.v, 10 <= cycle < 10 + n_words + 1, bank=3, address=max(cycle - 10, 0))
        return (list(ctx.get(dut.v.data)) if ctx.get(dut.v.response_valid) else None,
                ctx.get(dut.m.written))

    seen = drive(dut, 30, script)
    answers = [word for word, _ in seen if word is not None]
    assert answers[:n_words] == [[0] * 4] * n_words and len(answers) == n_words + 1
    assert sum(written for _, written in seen) == 3


@pytest.mark.parametrize(("bank", "expected"), [(0, 0), (1, 20)])
def test_a_waiting_read_passes_in_every_cycle_in_which_its_bank_is_free(bank, expected):
    """Port a reads bank 0 without a pause."""
    dut = component(Crossbar, TARGETS[4])

    def script(ctx, cycle):
        request(ctx, dut.a, bank=0, address=4)
        request(ctx, dut.v, bank=bank, address=1)
        return ctx.get(dut.v.response_valid)

    seen = drive(dut, Crossbar.WAITING_READ_LATENCY + 20, script)
    assert sum(seen) == expected
    assert not any(seen[:Crossbar.WAITING_READ_LATENCY])


def test_the_first_of_the_waiting_ports_goes_first():
    dut = component(Crossbar, TARGETS[4])
    reads, writes = ("v", "w", "s", "h"), ("r", "m", "l", "h_write")

    def script(ctx, cycle):
        for name in reads:
            request(ctx, getattr(dut, name), cycle == 0, bank=2, address=2)
        for k, name in enumerate(writes):
            request(ctx, getattr(dut, name), cycle == 0, bank=1, address=1, data=[k] * 4,
                    enable=15)
        return ([name for name in reads if ctx.get(getattr(dut, name).response_valid)],
                [name for name in writes[1:] if ctx.get(getattr(dut, name).written)])

    seen = drive(dut, 16, script)
    assert [name for names, _ in seen for name in names] == list(reads)
    assert [name for _, names in seen for name in names] == list(writes[1:])
    assert all(len(names) <= 1 for both in seen for names in both)


def test_different_banks_serve_different_ports_in_one_cycle():
    dut = component(Crossbar, TARGETS[4])
    ports = {"v": 0, "w": 1, "s": 2}

    def script(ctx, cycle):
        for name, bank in ports.items():
            request(ctx, getattr(dut, name), bank=bank, address=0)
        return [ctx.get(getattr(dut, name).response_valid) for name in ports]

    assert drive(dut, 12, script)[-3:] == [[1, 1, 1]] * 3


@pytest.mark.parametrize("columns", TARGETS)
def test_an_unaligned_read_crosses_the_word_and_may_reach_over_the_end(columns):
    target = TARGETS[columns]
    dut = component(Crossbar, target)
    n_words = target.bank_words[1]
    content = [k % 251 - 125 for k in range(n_words * columns)]

    def script(ctx, cycle):
        request(ctx, dut.r, cycle < n_words, bank=1, address=min(cycle, n_words - 1),
                data=content[cycle * columns:][:columns] or [0] * columns,
                enable=(1 << columns) - 1)
        address = min(max(cycle - n_words - 2, 0), len(content) - 1)
        request(ctx, dut.a, bank=1, address=address)
        return list(ctx.get(dut.a.data)), ctx.get(dut.address_error)

    seen = drive(dut, n_words + 2 + len(content) + Crossbar.READ_LATENCY, script)
    assert not any(error for _, error in seen)
    for address in range(len(content)):
        word, _ = seen[n_words + 2 + address + Crossbar.READ_LATENCY]
        expected = content[address:address + columns]
        assert word[:len(expected)] == expected, address

# amaranth: UnusedElaboratable=no
"""Transfers that are refused, fail on the bus or are given up end clean, and the next one works."""

import random

import pytest

from hw.isa import ErrorCode, LocalMemory
from hw.rtl.dma import LoadEngine, StoreEngine, bursts
from hw.targets import Target, get_target
from tests.hw.rtl.dma.axi_slaves import DECERR, SLVERR, Traffic
from tests.hw.rtl.dma.test_dma import check_load, check_store, random_banks, target_of
from tests.hw.rtl.dma.transfers import BASE, expected_writes, filled, lines, load, run, store
from tests.hw.simulate import component, fresh_components

pytestmark = pytest.mark.slow

ENGINES = {"load": (LoadEngine, load), "store": (StoreEngine, store)}
SIZE = 1 << 16
FAST = Traffic(latency=8)


def small_target():
    """64-bit bus, 16-byte words: two beats a word."""
    return target_of("64 bit, 16 bytes")


def run_kind(kind, program, **options):
    target = small_target()
    dut = component(ENGINES[kind][0], target)
    options = {"memory": filled(SIZE), "banks": random_banks(target), "traffic": FAST, **options}
    return run(dut, program, **options)


def follow_up(kind):
    """An instruction that must work after whatever went wrong."""
    return ENGINES[kind][1](external_base=BASE + 512, line_words=5, n_lines=2, external_step=96,
                            local_base=100, local_step=7)


def check_follow_up(kind, log, memory, banks, n_before=0):
    _, fields = follow_up(kind)
    assert log.complete and len(log.complete) == n_before + 1
    target = small_target()
    if kind == "load":
        assert [w[1:] for w in log.writes[-10:]] == expected_writes(target, memory, fields)
    else:
        for outside, inside, n_words in lines(fields, target):
            for k in range(n_words):
                span = memory.span(outside + 16 * k, 16)
                assert memory.data[span] == banks[0][inside + k].to_bytes(16, "little")


FIELDS = {
    "no lines": {"n_lines": 0, "line_words": 1},
    "no words": {"n_lines": 1, "line_words": 0},
    "unaligned base": {"external_base": BASE + 8, "line_words": 1},
    "unaligned step": {"external_step": 8, "n_lines": 2, "line_words": 1},
    "unknown memory": {"local_memory": 6, "line_words": 1},
}


@pytest.mark.parametrize("case", FIELDS)
@pytest.mark.parametrize("kind", ENGINES)
def test_wrong_fields(kind, case):
    memory, banks = filled(SIZE), random_banks(small_target())
    log = run_kind(kind, [ENGINES[kind][1](**FIELDS[case]), follow_up(kind)], memory=memory,
                   banks=banks, go_on=True)
    assert [error[1:] for error in log.errors] == [(ErrorCode.FIELD, 0)]
    assert log.n_bytes == 160
    check_follow_up(kind, log, memory, banks)


def test_a_store_knows_banks_only():
    log = run_kind("store", [store(line_words=1, local_memory=LocalMemory.PARAMETERS)])
    assert [error[1] for error in log.errors] == [ErrorCode.FIELD]


def test_one_line_needs_no_step():
    check_load(small_target(), [load(line_words=3, external_step=5)], traffic=FAST)


OUTSIDE = {  # fields, and how many lines are still inside
    "first byte": ({"external_base": BASE - 16, "line_words": 2}, 0),
    "last word": ({"external_base": BASE + SIZE - 32, "line_words": 3}, 0),
    "far below": ({"external_base": 0, "line_words": 1}, 0),
    "far above": ({"external_base": 0xFFFF_FFF0, "line_words": 1}, 0),
    "over the top": ({"external_base": 0xFFFF_FFF0, "line_words": 0xFFFF}, 0),
    "third line": ({"external_base": BASE + SIZE - 64, "external_step": 32, "n_lines": 3,
                    "line_words": 2}, 2),
    "a step back": ({"external_base": BASE + 128, "external_step": (1 << 32) - 64, "n_lines": 2,
                     "line_words": 2}, 1),
    "bank": ({"local_base": 511, "line_words": 2}, 0),
    "shallow bank": ({"local_base": 255, "line_words": 2, "local_memory": 2}, 0),
    "third line in the bank": ({"local_base": 500, "line_words": 4, "n_lines": 9,
                                "local_step": 4}, 3),
    "a local step back": ({"local_base": 8, "line_words": 2, "n_lines": 2,
                           "local_step": 0xFFFC}, 1),
}
LOAD_ONLY = {
    "parameters": ({"local_memory": 4, "local_base": 510, "line_words": 1}, 0),
    "instructions": ({"local_memory": 5, "local_base": 1020, "local_step": 4, "line_words": 1,
                      "n_lines": 2}, 1),
    "many parameters": ({"local_memory": 4, "local_base": 0, "line_words": 129}, 0),
}


@pytest.mark.parametrize(("kind", "case"), [
    *(("load", case) for case in [*OUTSIDE, *LOAD_ONLY]), *(("store", case) for case in OUTSIDE)])
def test_lines_outside(kind, case):
    """The slave asserts that nothing outside the memory is ever named, run() the same of banks."""
    fields, n_inside = {**OUTSIDE, **LOAD_ONLY}[case]
    memory, banks = filled(SIZE), random_banks(small_target())
    program = [ENGINES[kind][1](**fields), follow_up(kind)]
    log = run_kind(kind, program, memory=memory, banks=banks, go_on=True)
    assert [error[1:] for error in log.errors] == [(ErrorCode.ADDRESS, 0)]
    inside = fields["line_words"] * n_inside
    assert log.n_bytes == 16 * (inside + 10)
    assert [words for _, words in log.progress] == [fields["line_words"]] * n_inside + [5, 5]
    check_follow_up(kind, log, memory, banks)


def test_the_region_is_narrower_than_the_memory():
    fields = {"external_base": BASE + 1024, "line_words": 64}
    region = BASE + 1024, BASE + 2048
    for kind in ENGINES:
        log = run_kind(kind, [ENGINES[kind][1](**fields)], region=region)
        assert not log.errors and len(log.complete) == 1
        for wrong in ({"external_base": BASE + 1008}, {"line_words": 65}):
            log = run_kind(kind, [ENGINES[kind][1](**fields | wrong)], region=region)
            assert [error[1] for error in log.errors] == [ErrorCode.ADDRESS]
            assert log.slave.n_bursts == 0


@pytest.mark.parametrize("code", [SLVERR, DECERR])
@pytest.mark.parametrize("traffic", [FAST, Traffic(latency=3, jitter=20, stalls=0.5)])
@pytest.mark.parametrize("memory_of", [0, 4])
def test_a_refused_read(memory_of, traffic, code):
    target = small_target()
    memory = filled(SIZE, refused=[(BASE + 0x2000 + 40 * 16, BASE + 0x2000 + 40 * 16, code)])
    fields = {"external_base": BASE + 0x2000, "line_words": 20, "n_lines": 4,
              "external_step": 320, "local_memory": memory_of, "local_step": 80}
    # The second instruction is under way already and falls with the first.
    log = run_kind("load", [load(**fields), load(line_words=2), follow_up("load")],
                   memory=memory, traffic=traffic, go_on=True)
    assert [error[1:] for error in log.errors] == [(ErrorCode.BUS_READ, 1)]
    size = 4 if memory_of else 1
    whole = expected_writes(target, memory, fields)[:40 * size]
    assert [w[1:] for w in log.writes[:-10]] == whole
    assert [words for _, words in log.progress] == [20, 20, 5, 5]
    check_follow_up("load", log, memory, None)


@pytest.mark.parametrize("code", [SLVERR, DECERR])
@pytest.mark.parametrize("traffic", [FAST, Traffic(latency=3, jitter=20, stalls=0.5)])
def test_a_refused_write(traffic, code):
    banks = random_banks(small_target())
    memory = filled(SIZE, refused=[(BASE + 0x2000 + 900, BASE + 0x2000 + 900, code)])
    fields = {"external_base": BASE + 0x2000, "line_words": 100, "n_lines": 4,
              "external_step": 1600, "local_step": 100}
    log = run_kind("store", [store(**fields), follow_up("store")], memory=memory, banks=banks,
                   traffic=traffic, go_on=True)
    assert [error[1:] for error in log.errors] == [(ErrorCode.BUS_WRITE, 0)]
    assert [words for _, words in log.progress] == [5, 5]
    check_follow_up("store", log, memory, banks)


@pytest.mark.parametrize("kind", ENGINES)
@pytest.mark.parametrize("fails", [0, 1])
def test_whose_error_it_is(kind, fails):
    """Two instructions are under way; the older one fails, or the younger."""
    at = BASE + 0x1000 + 0x1000 * fails
    program = [ENGINES[kind][1](external_base=BASE + 0x1000 * (1 + k), line_words=16)
               for k in range(3)]

    def fail(start):
        """The instruction behind the failing one starts in this cycle."""
        return run_kind(kind, program, memory=filled(SIZE, refused=[(at, at, SLVERR)]),
                        not_before={fails: 200, fails + 1: start})
    (alone, _, previous), = fail(10_000).errors
    assert previous == 0
    seen = set()
    for start in [0, *range(alone - 3, alone + 3)]:
        log = fail(start)
        (cycle, code, previous), = log.errors
        assert code in (ErrorCode.BUS_READ, ErrorCode.BUS_WRITE)
        assert len(log.complete) == fails
        assert previous == sum(start <= cycle for start in log.starts) - 1 - fails
        seen.add((previous, cycle in log.starts))
    assert seen == {(0, False), (1, False), (1, True)}


@pytest.mark.parametrize("kind", ENGINES)
def test_a_refused_line_behind_a_failing_one(kind):
    """The bus error comes first in program order."""
    memory = filled(SIZE, refused=[(BASE, BASE, DECERR)])
    program = [ENGINES[kind][1](line_words=16), ENGINES[kind][1](line_words=0)]
    log = run_kind(kind, program, memory=memory, traffic=Traffic(latency=60))
    assert len(log.starts) == 2
    assert [error[2] for error in log.errors] == [1]
    assert log.errors[0][1] in (ErrorCode.BUS_READ, ErrorCode.BUS_WRITE)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_refused_instruction_behind_a_good_one(kind):
    program = [ENGINES[kind][1](line_words=16), ENGINES[kind][1](line_words=0)]
    log = run_kind(kind, program, traffic=Traffic(latency=60))
    assert len(log.complete) == 1
    (cycle, code, previous), = log.errors
    assert (code, previous) == (ErrorCode.FIELD, 0)
    assert cycle > log.complete[0]


@pytest.mark.parametrize(("stalls", "n_random"), [
    (0.5, 3), pytest.param(0.1, 5, marks=pytest.mark.slow),
    *(pytest.param(share, 25, marks=pytest.mark.long) for share in (0.0, 0.1, 0.5))])
@pytest.mark.parametrize("kind", ENGINES)
def test_abort_at_any_time(kind, stalls, n_random):
    """Nothing but open bursts and at most the words in flight comes after an abort."""
    rng = random.Random(f"{kind} {stalls}")
    target = small_target()
    banks = random_banks(target)
    fields = [{"local_memory": 0, "external_base": BASE + 0x1000, "line_words": 30, "n_lines": 3,
               "external_step": 0x1000 - 64, "local_step": 30},
              {"local_memory": 0, "external_base": BASE + 0x5000, "line_words": 2, "n_lines": 9,
               "external_step": 64, "local_step": 2, "local_base": 90}]
    program = [ENGINES[kind][1](**f) for f in fields] + [follow_up(kind)]
    early = [3, 4, 7, 9, 11] if n_random < 10 else range(3, 20)
    for abort_at in [*early, *rng.sample(range(20, 260), n_random)]:
        memory = filled(SIZE)
        before = bytes(memory.data)
        log = run_kind(kind, program, memory=memory, banks=banks, stalls=stalls,
                       traffic=Traffic(latency=20, stalls=stalls, seed=abort_at),
                       abort_at=abort_at, abort_cycles=rng.choice([1, 2, 50]), go_on=True)
        assert log.errors == []
        resumed = next((s for s in log.starts if s > abort_at), None)
        n_started = sum(s <= abort_at for s in log.starts)
        if resumed is None:
            assert n_started == len(program), f"abort at {abort_at}"
            continue
        pulses = log.done + log.complete + [c for c, _ in log.progress] + log.units
        late = [c for c in pulses if abort_at + 1 < c < resumed]
        assert late == [], f"abort at {abort_at}"
        n_left = len(program) - n_started
        assert len([c for c in log.complete if c > resumed]) == n_left
        if kind == "load":
            expected = [w for f in fields[:n_started] for w in
                        expected_writes(target, memory, f)]
            written = [w[1:] for w in log.writes if w[0] < resumed]
            assert written == expected[:len(written)]
        else:
            for f in fields[:n_started]:
                for outside, inside, n_words in lines(f, target):
                    for k in range(n_words):
                        span = memory.span(outside + 16 * k, 16)
                        for half in 0, 8:
                            got = memory.data[span][half:half + 8]
                            new = banks[0][inside + k].to_bytes(16, "little")[half:half + 8]
                            assert got in (before[span][half:half + 8], new)
        if n_left:
            check_follow_up(kind, log, memory, banks,
                            n_before=len([c for c in log.complete if c <= abort_at + 1])
                            + n_left - 1)


@pytest.mark.parametrize("kind", ENGINES)
def test_a_line_waits_for_its_unit(kind):
    released = {0: 30, 1: 31, 2: 150, 3: 400, 4: 401}
    check = {"load": check_load, "store": check_store}[kind]
    fields = {"line_words": 6, "n_lines": 5, "external_step": 96, "local_step": 6}
    log = check(small_target(), [ENGINES[kind][1](**fields)], traffic=FAST,
                ready=lambda instruction, unit, cycle: cycle >= released.get(unit, 0))
    for unit, cycle in enumerate(log.units):
        assert released[unit] < cycle <= released[unit] + 12


@pytest.mark.parametrize("kind", ENGINES)
def test_units_that_are_ready_at_random(kind):
    rng = random.Random(kind)
    check = {"load": check_load, "store": check_store}[kind]
    fields = {"line_words": 3, "n_lines": 40, "external_step": 48, "local_step": 3}
    check(small_target(), [ENGINES[kind][1](**fields)] * 2, traffic=FAST, stalls=0.3,
          ready=lambda instruction, unit, cycle: rng.random() < 0.3)


def test_wrong_sizes():
    with pytest.raises(ValueError, match="Target 'sim-4x4' has no external bus"):
        LoadEngine(get_target("sim-4x4"))
    with pytest.raises(ValueError, match="Burst length must be a power of two in 2..256, not 24"):
        StoreEngine(small_target(), max_beats=24)
    with pytest.raises(ValueError, match="Outstanding bursts must be a power of two .* not 1"):
        LoadEngine(small_target(), outstanding=1)
    with pytest.raises(ValueError, match="Bus bits must be one of"):
        Target(name="x", rows=2, columns=16, bus_bits=32)


def test_the_slave_sees_a_burst_across_4_kb(monkeypatch):
    monkeypatch.setattr(bursts, "BOUNDARY", 8192)
    with fresh_components(), pytest.raises(AssertionError, match="crosses a 4 KB boundary"):
        run_kind("load", [load(external_base=BASE + 4096 - 32, line_words=4)])


def test_the_slave_sees_a_forgotten_region():
    with pytest.raises(AssertionError, match="outside the memory"):
        run_kind("store", [store(external_base=BASE + SIZE - 32, line_words=4)],
                 region=(0, 0xFFFF_FFFF))

# amaranth: UnusedElaboratable=no
"""Transfers move every word, keep the AXI4 rules, and reach the bus rate."""

import random

import pytest

from hw.rtl.dma import LoadEngine, StoreEngine
from hw.targets import Target
from tests.hw.rtl.dma.axi_slaves import Traffic
from tests.hw.rtl.dma.transfers import BASE, expected_writes, filled, lines, load, run, store
from tests.hw.simulate import component

pytestmark = pytest.mark.slow

SHAPES = {"64 bit, 8 bytes": (8, 64), "64 bit, 16 bytes": (16, 64), "128 bit": (16, 128)}
KIB = 1024


def target_of(shape, **sizes):
    columns, bus_bits = SHAPES[shape]
    sizes = {"bank_words": (512, 512, 256, 256), "parameter_words": 32,
             "instruction_words": 1024, **sizes}
    return Target(name="test", rows=2, columns=columns, bus_bits=bus_bits, **sizes)


def random_banks(target, seed=0):
    rng = random.Random(f"banks {seed}")
    return [[rng.getrandbits(8 * target.word_bytes) for _ in range(depth)]
            for depth in target.bank_words]


def check_load(target, program, *, memory=None, engine=None, **options):
    memory = memory or filled(64 * KIB)
    log = run(component(LoadEngine, target, **engine or {}), program, memory=memory, **options)
    expected = [w for _, fields in program for w in expected_writes(target, memory, fields)]
    assert [w[1:] for w in log.writes] == expected
    check_ends(target, program, log)
    return log


def check_store(target, program, *, engine=None, **options):
    memory, banks = filled(64 * KIB), random_banks(target)
    expected = bytearray(memory.data)
    for _, fields in program:
        for outside, inside, n_words in lines(fields, target):
            for k in range(n_words):
                word = banks[fields["local_memory"]][inside + k]
                expected[memory.span(outside + k * target.word_bytes, target.word_bytes)] = (
                    word.to_bytes(target.word_bytes, "little"))
    log = run(component(StoreEngine, target, **engine or {}), program, memory=memory, banks=banks,
              **options)
    assert memory.data == expected
    check_ends(target, program, log)
    return log


def check_ends(target, program, log):
    assert log.errors == []
    assert len(log.done) == len(log.complete) == len(program)
    every_line = [n for _, fields in program for _, _, n in lines(fields, target)]
    assert [words for _, words in log.progress] == every_line
    assert len(log.units) == len(every_line)
    assert log.n_bytes == sum(every_line) * target.word_bytes


CHECKS = {"load": (check_load, load), "store": (check_store, store)}


def random_program(kind, target, rng, n=6):
    """Instructions whose lines neither overlap nor leave the memories, some across 4 KB."""
    make, word = CHECKS[kind][1], target.word_bytes
    program, at = [], 0
    for _ in range(n):
        where = rng.choice([0, 1, 2, 3] + [4, 5] * (kind == "load"))
        n_lines, n_words = rng.choice([1, 1, 2, 5]), rng.choice([1, 2, 3, 7, 16, 33, 60])
        step = n_words + rng.choice([0, 0, 1, 9])
        nibbles = int(kind == "load" and where < 4 and rng.random() < 0.4)
        size = 1 + nibbles if where < 4 else word // 4
        depth = [*target.bank_words, 16 * target.parameter_words, target.instruction_words][where]
        local_step = n_words * size + rng.choice([0, 3])
        span = (n_lines - 1) * local_step + n_words * size
        if span > depth:
            continue
        at += rng.choice([0, 1, 30])
        program.append(make(
            external_base=BASE + at * word, external_step=step * word, n_lines=n_lines,
            line_words=n_words, local_memory=where, local_step=local_step,
            nibbles=nibbles, nibble_shift=rng.randrange(5),
            local_base=rng.choice([0, depth - span, rng.randrange(depth - span + 1)])))
        at += n_lines * step
    return program


@pytest.mark.parametrize("stalls", [
    0.3, *(pytest.param(share, marks=pytest.mark.long) for share in (0.0, 0.7))])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("kind", CHECKS)
def test_moves_every_word_whatever_the_stalls(kind, shape, stalls):
    target, rng = target_of(shape), random.Random(f"{kind} {shape} {stalls}")
    traffic = Traffic(latency=rng.choice([0, 5, 40]), jitter=rng.choice([0, 30]), stalls=stalls,
                      accepts=rng.choice([1, 8, 32]))
    log = CHECKS[kind][0](target, random_program(kind, target, rng), traffic=traffic,
                          stalls=stalls)
    assert log.slave.most_open <= traffic.accepts


@pytest.mark.parametrize("max_beats", [2, 16, 256])
@pytest.mark.parametrize("kind", CHECKS)
def test_burst_lengths(kind, max_beats):
    target = target_of("64 bit, 16 bytes")
    fields = {"external_base": BASE + 4096 - 48, "line_words": 300}
    log = CHECKS[kind][0](target, [CHECKS[kind][1](**fields)], engine={"max_beats": max_beats},
                          traffic=Traffic(latency=3, accepts=32))
    in_page = [6, 512, 82]  # beats on each side of the 4 KB boundaries
    assert log.slave.n_bursts == sum(-(-n // max_beats) for n in in_page)


@pytest.mark.parametrize("shape", [pytest.param(
    shape, marks=pytest.mark.slow if shape == "128 bit" else pytest.mark.long)
    for shape in SHAPES])
@pytest.mark.parametrize("kind", CHECKS)
def test_long_lines_reach_the_bus_rate(kind, shape):
    target = target_of(shape, bank_words=(8192, 2, 2, 2))
    n_words = 16 * KIB // target.word_bytes
    fields = {"line_words": n_words, "n_lines": 4, "external_step": 16 * KIB + 4096 - 64,
              "local_step": n_words}
    if kind == "load":
        log = check_load(target, [load(**fields)], memory=filled(80 * KIB))
    else:
        memory, banks = filled(80 * KIB), random_banks(target)
        log = run(component(StoreEngine, target), [store(**fields)], memory=memory, banks=banks)
    assert log.n_bytes == 64 * KIB
    n_beats = 64 * KIB // (target.bus_bits // 8)
    assert log.slave.n_beats == n_beats
    assert n_beats / (log.complete[0] - log.starts[0]) >= 0.95


@pytest.mark.parametrize("kind", CHECKS)
def test_short_lines_overlap(kind):
    """64-byte lines: 16 bursts of 4 beats hide the latency; 8 are all that the slave takes."""
    target = target_of("128 bit")
    program = [CHECKS[kind][1](line_words=4, n_lines=100, external_step=64 + 512, local_step=4)]
    for accepts, rate in ((16, 0.85), (8, 0.55)):
        log = CHECKS[kind][0](target, program, engine={"outstanding": 16},
                              traffic=Traffic(accepts=accepts))
        assert 400 / (log.complete[0] - log.starts[0]) >= rate


@pytest.mark.parametrize("kind", CHECKS)
def test_the_next_instruction_overlaps(kind):
    target = target_of("128 bit")
    program = [CHECKS[kind][1](line_words=128, external_base=BASE + 2048 * k) for k in range(4)]
    log = CHECKS[kind][0](target, program, traffic=Traffic(accepts=16))
    assert log.starts[1] < log.complete[0]
    assert 512 / (log.complete[-1] - log.starts[0]) >= 0.85

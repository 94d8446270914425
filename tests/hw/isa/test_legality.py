# amaranth: UnusedElaboratable=no
"""What a record refuses with FIELD the gateware of its engine refuses, and nothing else."""

import functools

import numpy as np
import pytest

from hw.isa import FORMAT_WORDS, INSTRUCTIONS, Engine, ErrorCode, Opcode, encode
from hw.isa.instructions.linear import LinearInstruction
from hw.rtl.array.engine import ArrayEngine
from hw.rtl.dma.lines import LineWalker
from hw.rtl.vector import VectorEngine
from hw.targets import Target
from sim.random_programs import ProgramMaker
from tests.hw.simulate import run_testbench

pytestmark = pytest.mark.slow

TARGET = Target(name="legality", rows=3, columns=8, bank_words=(1 << 10,) * 4, bus_bits=64)
ANSWER, QUIET = 16, 24  # cycles until an error is seen, and of an abort
N_RANDOM = 12
ENGINES = {
    Engine.ARRAY: lambda record: ArrayEngine(TARGET), Engine.VECTOR: lambda record: VectorEngine(
        TARGET),
    Engine.LOAD: lambda record: LineWalker(TARGET, n_memories=record.n_memories)}
ENGINES[Engine.STORE] = ENGINES[Engine.LOAD]


def instructions(record):
    """Random ones, and those with one count that is 0, odd, or any value at all."""
    maker = ProgramMaker(TARGET, np.random.default_rng(int(record.opcode)), 1 << 12)
    zero = {field.name: 0 for field in record.fields}

    def draw(**changes):
        return zero | maker.instruction(record.opcode) | changes

    yield draw()
    yield from (draw(**{name: 0}) for name in record.nonzero)
    yield from (draw(**{name: 2 * maker.rng.integers(1, 9) + 1}) for name in record.even)
    limits = [field for field in record.fields if field.name in record.uses]
    for field in maker.rng.choice(limits, N_RANDOM):
        yield draw(**{field.name: maker.any_value(field)})


def refused(dut, format_, several):
    """[whether the engine ends with FIELD]; no unit of any instruction may begin."""
    control, answers = getattr(dut, "control", dut), []
    stop = control.stop if hasattr(control, "stop") else control.abort

    async def testbench(ctx):
        if hasattr(dut, "region_limit"):
            ctx.set(dut.region_limit, (1 << 32) - 1)
        for f in several:
            ctx.set(control.words, encode(**f | {"chase": 1})[:FORMAT_WORDS[format_]])
            seen = set()
            for cycle in range(ANSWER + QUIET):
                ctx.set(control.start, cycle == 0)
                ctx.set(stop, cycle >= ANSWER)
                seen.add(ctx.get(control.error))
                await ctx.tick()
            answers.append(ErrorCode.FIELD in seen)
            ctx.set(stop, 0)

    run_testbench(dut, testbench)
    return answers


@functools.cache
def answered(engine):
    """[(record, fields, whether the gateware refuses them)]."""
    records = [record for record in INSTRUCTIONS.values() if record.engine == engine]
    several = [(record, f) for record in records for f in instructions(record)]
    answers = refused(ENGINES[engine](records[0]), records[0].format, [f for _, f in several])
    assert any(answers) and not all(answers)
    return [(*case, answer) for case, answer in zip(several, answers)]


def check(engine):
    for record, f, answer in answered(engine):
        assert answer == record.is_refused(f, TARGET), (record.name, f)


@pytest.mark.parametrize("engine", Engine)
def test_the_gateware_refuses_what_the_record_refuses(engine):
    check(engine)


def test_a_rule_that_is_missing_is_seen(monkeypatch):
    right = LinearInstruction.is_refused
    for rules in {"even": ("n_inputs",)}, {"nonzero": ("n_chunks",)}:
        with monkeypatch.context() as patch:
            patch.setattr(LinearInstruction, "is_refused",
                          lambda self, f, target, rules=rules: right(
                              type("Other", (LinearInstruction,), rules)(), f, target))
            with pytest.raises(AssertionError, match="LINEAR"):
                check(Engine.VECTOR)
    assert INSTRUCTIONS[Opcode.LINEAR].even == ("n_inputs", "w_base")

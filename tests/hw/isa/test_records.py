"""The records: every operation has one, and it uses exactly the fields that it says."""

import copy

import numpy as np
import pytest

from hw.isa import (
    ENGINE_OF,
    FIELDS,
    INSTRUCTIONS,
    SYNC_FIELDS,
    Engine,
    Format,
    Opcode,
    encode,
    registry,
)
from hw.isa.instructions import lookup
from hw.isa.instructions.windows import WindowInstruction
from hw.machine import Machine, MachineError
from hw.targets import Target
from sim.random_programs import ProgramMaker, random_parameters

TARGET = Target(name="records", rows=3, columns=4, bank_words=(160,) * 4, parameter_words=32)
WITH_BUS = Target(name="records", rows=3, columns=8, bank_words=(160,) * 4, parameter_words=32,
                  bus_bits=64)
EXTERNAL_BYTES = 1 << 10
MOST_ROUNDS = 400
HALF_WAY = {"zero_point": 0, "low": -128, "high": 127, "multiplier_2": 1 << 30, "shift_2": 33}


def test_every_operation_that_an_engine_runs_has_a_record():
    assert set(INSTRUCTIONS) | {Opcode.HALT, Opcode.SYNC} == set(Opcode)
    for opcode, record in INSTRUCTIONS.items():
        assert record.opcode == opcode and ENGINE_OF[opcode] == record.engine
        assert record.doc and record.unit
        names = {field.name for field in record.fields}
        assert record.uses <= names - {"opcode", *SYNC_FIELDS}
        assert {*record.nonzero, *record.even} <= record.uses


def test_two_records_of_one_opcode_are_refused(monkeypatch):
    twin = type("Twin", (lookup.LookupInstruction,), {})
    monkeypatch.setattr(lookup, "Twin", twin, raising=False)
    with pytest.raises(TypeError, match="Opcode LOOKUP must have one instruction, not Lookup"):
        registry._records()


def test_every_field_is_used_by_some_record():
    for format_ in Format:
        used = {*SYNC_FIELDS, "opcode"}.union(*(
            record.uses for record in INSTRUCTIONS.values()))
        assert {field.name for field in FIELDS[format_]} <= used
    assert {record.engine for record in INSTRUCTIONS.values()} == set(Engine)


class Observer:
    """What an instruction does, seen from outside.

    Codes are small and factors powers of two where ``seed`` is odd: there results lie half way
    between codes, and the two kinds of rounding differ.
    """

    def __init__(self, target, seed):
        rng, half_way = np.random.default_rng(seed), seed % 2
        self.machine = machine = Machine(target, external_bytes=EXTERNAL_BYTES)
        machine.region_limit = EXTERNAL_BYTES
        for bank in machine.banks:
            bank[:] = rng.integers(-4, 5, bank.shape) if half_way else rng.integers(
                -128, 128, bank.shape)
        machine.parameters[:] = [0, 1 << 30, 33] if half_way else random_parameters(
            rng, len(machine.parameters))
        machine.external[:] = rng.integers(0, 256, EXTERNAL_BYTES)

    def __call__(self, f):
        machine = copy.deepcopy(self.machine)
        try:
            machine.execute(encode(**f))
        except MachineError as error:
            return error.code
        memories = b"".join(memory.tobytes() for memory in (
            *machine.banks, machine.parameters, machine.instructions, machine.external,
            machine.staged_parameters))
        record = INSTRUCTIONS[f["opcode"]]
        full = {field.name: 0 for field in record.fields} | f
        done = record.footprint(full, machine.target)
        extents = [(extent.memory, extent.words.tobytes(), extent.first.tobytes(),
                    extent.last.tobytes()) for extent in (*done.reads, *done.writes)]
        return memories, done.progress.tobytes(), extents, record.cost(full, machine.target)


def fields_that_matter(record, names, n_rounds):
    """Those of some fields whose value changed something for some random instruction."""
    target = WITH_BUS if record.format is Format.TRANSFER else TARGET
    maker = ProgramMaker(target, np.random.default_rng(int(record.opcode)), EXTERNAL_BYTES)
    found = set()
    for seed in range(n_rounds):
        f, observe = maker.instruction(record.opcode), Observer(target, seed)
        if seed % 2:
            f |= {name: value for name, value in HALF_WAY.items() if name in record.uses}
        before = observe(f)
        for field in record.fields:
            if field.name in names - found:
                changed = f | {field.name: maker.any_value(field)}
                if maker.is_small(changed) and observe(changed) != before:
                    found.add(field.name)
        if found == names:
            break
    return found


@pytest.mark.parametrize("record", INSTRUCTIONS.values(), ids=lambda record: record.name)
def test_a_record_uses_exactly_the_fields_that_it_says(record):
    others = {field.name for field in record.fields} - {"opcode", *SYNC_FIELDS} - record.uses
    assert fields_that_matter(record, others, 6) == set()
    assert fields_that_matter(record, set(record.uses), MOST_ROUNDS) == record.uses


def test_a_field_too_many_or_too_few_is_seen(monkeypatch):
    record = INSTRUCTIONS[Opcode.WINDOW]
    for uses in record.uses - {"pad"}, record.uses | {"n_inputs"}:
        monkeypatch.setattr(WindowInstruction, "uses", uses)
        monkeypatch.setitem(globals(), "MOST_ROUNDS", 30)
        with pytest.raises(AssertionError):
            test_a_record_uses_exactly_the_fields_that_it_says(record)

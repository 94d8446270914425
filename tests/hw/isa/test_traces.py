# amaranth: UnusedElaboratable=no
"""The extents of the records equal what the gateware reads and writes, unit by unit.

This is the second model of the extents: recorded, not written. Addresses wrap in half of the cases.
"""

import numpy as np
import pytest

from hw.isa import INSTRUCTIONS, Engine, LocalMemory, Opcode, fields_of, vector, walk
from hw.isa.instructions import linear, matmul, windows
from hw.targets import Target
from sim.random_programs import ProgramMaker
from tests.hw.isa.traces import array_traces, line_traces, vector_traces

pytestmark = pytest.mark.slow

DEPTH = 1 << 16
TARGET = Target(name="traces", rows=3, columns=8, bank_words=(DEPTH,) * 4, bus_bits=64)
MATMUL, DEPTHWISE = INSTRUCTIONS[Opcode.MATMUL], INSTRUCTIONS[Opcode.DEPTHWISE]
VECTOR = [record for record in INSTRUCTIONS.values()
          if record.engine == Engine.VECTOR]
N_OF_EACH = 2
AT_THE_END = {
    **dict.fromkeys(("x_base", "y_base", "w_base", "out_base", "parameter_base"), DEPTH - 2),
    "a_base": -5, "b_base": (1 << 23) - 3, "n_channels": 2 * TARGET.columns, "first_channel": 0,
    "n_inputs": 5 * TARGET.columns, "width": 4, "height": 4, "line_step": 5, "left": 0, "top": 0,
    "n_pixels": 2 * TARGET.rows, "out_step": 2, "out_width": 3}
#: Columns between the windows, which DEPTHWISE reads all the same.
FAR_WINDOWS = {"stride_x": 5, "out_width": 2, "width": 12, "left": 0, "line_step": 12,
               "n_chunks": 1, "height": 3, "top": 0, "out_height": 1, "n_channels": 8}


def instruction(record, seed, **changes):
    """Random fields; the addresses of odd seeds leave the address space."""
    maker = ProgramMaker(TARGET, np.random.default_rng([record.opcode, seed]), 1 << 20)
    while True:
        f = dict.fromkeys((field.name for field in fields_of(record.opcode)), 0)
        f |= maker.instruction(record.opcode)
        if seed % 2:
            f |= {name: value for name, value in AT_THE_END.items() if name in record.uses}
        if record is MATMUL:
            f |= {"n_pixels": max(1, f["n_pixels"]), "wide": int(seed % 4 == 3)}
        f |= changes
        if not record.is_refused(f, TARGET):
            return f


@pytest.fixture(scope="module")
def vector_cases():
    """[(fields, trace)] of every operation of the vector engine."""
    cases = [instruction(record, seed) for record in VECTOR for seed in range(N_OF_EACH)]
    cases.append(instruction(DEPTHWISE, 0, **FAR_WINDOWS))
    return list(zip(cases, vector_traces(TARGET, cases)))


@pytest.fixture(scope="module")
def array_cases():
    """[(fields, trace)] of products."""
    cases = [instruction(MATMUL, seed) for seed in range(8)]
    return list(zip(cases, array_traces(TARGET, cases)))


def until(extents, unit):
    """{(memory, word)} that extents have been touched up to a unit."""
    return {(extent.memory, int(word)) for extent in extents
            for word in extent.words[extent.first <= unit]}


def parameter_words(record, f):
    """Words of the parameters of all channels that are written."""
    return {(LocalMemory.PARAMETERS, int(channel) // TARGET.lanes)
            for access in record.reads(f, TARGET, needed=True)
            if access.memory == LocalMemory.PARAMETERS for channel in access.words.ravel()}


def split(reads):
    """(reads of the parameters, the others)."""
    parameters = {read for read in reads if read[0] == LocalMemory.PARAMETERS}
    return parameters, reads - parameters


def check_writes(trace, done):
    for unit in range(done.n_units):
        assert trace.writes[unit] == until(done.writes, unit), f"written in unit {unit}"
    assert trace.progress == done.progress.tolist()


def check_vector(f, trace):
    record = INSTRUCTIONS[f["opcode"]]
    done = record.footprint(f, TARGET)
    extents = [extent for extent in done.reads if extent.memory != LocalMemory.PARAMETERS]
    assert trace.early <= until([extent for extent in extents if extent.is_early], 0)
    for unit in range(done.n_units):
        parameters, reads = split(trace.reads[unit])
        assert reads == until(extents, unit), f"read in unit {unit}"
        assert parameters == parameter_words(record, f)
    check_writes(trace, done)


def check_array(f, trace):
    done = MATMUL.footprint(f, TARGET)
    named, over, b, *_ = MATMUL.reads(f, TARGET)
    for unit in range(done.n_units):
        parameters, reads = split(trace.reads[unit])
        words = {port: {(bank, signed(address) // size) for its, bank, address in reads
                        if its == port} for port, size in (("a", TARGET.word_bytes), ("b", 1))}
        assert words["a"] == {(f["a_bank"], int(word)) for word in named.words[named.steps <= unit]}
        # The crossbar gives the word behind each, too, of which some bytes are looked at or none.
        assert words["a"] >= {(f["a_bank"], int(word) - 1)
                              for word in over.words[over.steps <= unit]}
        assert words["b"] == {(f["b_bank"], int(word)) for word in b.words.ravel()}
        assert parameters == parameter_words(MATMUL, f)
    check_writes(trace, done)


def signed(address):
    """An address of the walkers."""
    return address - (1 << 24) if address >> 23 else address


def test_extents_of_the_vector_engine(vector_cases):
    for f, trace in vector_cases:
        check_vector(f, trace)


def test_extents_of_the_array(array_cases):
    for f, trace in array_cases:
        check_array(f, trace)


@pytest.mark.parametrize("opcode", [Opcode.LOAD, Opcode.STORE])
def test_lines_of_transfers(opcode):
    record = INSTRUCTIONS[opcode]
    cases = [instruction(record, 2 * seed) for seed in range(4)]
    for f, trace in zip(cases, line_traces(TARGET, cases, record.n_memories)):
        lines = [(int(external), int(local), f["line_words"])
                 for external, local in zip(*record.lines(f))]
        assert trace.reads == [set(lines[:k + 1]) for k in range(f["n_lines"])]


# Planted faults: records that are wrong are told from the gateware.


def differs(check, cases, opcode):
    with pytest.raises(AssertionError):
        for f, trace in cases:
            if f["opcode"] == opcode:
                check(f, trace)


@pytest.mark.parametrize(("module", "opcode"), [
    (vector, Opcode.ADD), (vector, Opcode.WINDOW), (windows, Opcode.MAXPOOL),
    (linear, Opcode.LINEAR), (vector, Opcode.LINEAR)])
def test_an_address_that_does_not_wrap_is_seen(vector_cases, monkeypatch, module, opcode):
    monkeypatch.setattr(module, "WORD_MASK", (1 << 20) - 1)
    differs(check_vector, vector_cases, opcode)


@pytest.mark.parametrize(("module", "name", "fault"), [
    (walk, "wrap", lambda values, width: values), (matmul, "WORD_MASK", (1 << 20) - 1),
    (matmul, "N_PLANES", 3)])
def test_a_walk_that_is_wrong_is_seen(array_cases, monkeypatch, module, name, fault):
    monkeypatch.setattr(module, name, fault)
    differs(check_array, array_cases, Opcode.MATMUL)


def test_columns_between_windows_that_are_left_out_are_seen(vector_cases, monkeypatch):
    monkeypatch.setattr(windows.DepthwiseInstruction, "columns_read",
                        lambda self, f, needed: np.unique(self.positions(f)[1]))
    differs(check_vector, vector_cases, Opcode.DEPTHWISE)


def test_units_that_begin_too_early_are_seen(vector_cases, monkeypatch):
    """Of a window whose rows are said to be read a line later than they are."""
    right = windows.WindowInstruction.positions
    monkeypatch.setattr(windows._OverImage, "positions",
                        lambda self, f: (right(self, f | {"top": f["top"] + 1})[0],
                                         right(self, f)[1]))
    differs(check_vector, vector_cases, Opcode.WINDOW)

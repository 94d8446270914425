"""Instructions survive encoding; the C header and the table say what the Python says."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.isa import (
    COMMON_FIELDS,
    ENGINE_OF,
    FIELDS,
    FORMAT_OF,
    FORMAT_WORDS,
    MAGIC,
    N_WORDS,
    AddressWindow,
    Counter,
    ErrorCode,
    Feed,
    Format,
    LocalMemory,
    Opcode,
    Register,
    c_header,
    decode,
    encode,
    fields_of,
    markdown_table,
)

#: A field of each format, and an operation that has it.
ALL_FIELDS = [(Opcode.HALT, field) for field in COMMON_FIELDS if field.name != "opcode"] + [
    (next(opcode for opcode, its in FORMAT_OF.items() if its == format_), field)
    for format_ in Format for field in FIELDS[format_][len(COMMON_FIELDS):]]


@st.composite
def any_instruction(draw):
    """The fields of an instruction, unknown operations included."""
    opcode = draw(st.integers(0, 15))
    return {field.name: draw(st.integers(field.low, field.high))
            for field in fields_of(opcode)} | {"opcode": opcode}


@given(any_instruction())
def test_decode_inverts_encode(values):
    words = encode(**values)
    assert len(words) == N_WORDS
    assert all(0 <= word < 1 << 32 for word in words)
    assert decode(words) == values


@pytest.mark.parametrize("format_", list(Format))
def test_fields_share_no_bit(format_):
    used = [0] * FORMAT_WORDS[format_]
    for field in FIELDS[format_]:
        bits = (1 << field.width) - 1 << field.offset
        assert bits < 1 << 32 and not used[field.word] & bits, field.name
        used[field.word] |= bits
    assert len({field.name for field in FIELDS[format_]}) == len(FIELDS[format_])
    assert max(FORMAT_WORDS.values()) == N_WORDS


def test_every_operation_has_an_engine_or_none():
    assert set(ENGINE_OF) | {Opcode.HALT, Opcode.SYNC} == set(Opcode)
    assert set(FORMAT_OF) == set(ENGINE_OF)


@pytest.mark.parametrize(("opcode", "field"), ALL_FIELDS,
                         ids=[f"{opcode.name}-{field.name}" for opcode, field in ALL_FIELDS])
def test_a_value_that_does_not_fit_names_its_field(opcode, field):
    for value in field.low - 1, field.high + 1:
        with pytest.raises(ValueError, match=f"'{field.name}' must be in "
                                             f"{field.low}..{field.high}, not {value}"):
            encode(opcode, **{field.name: value})
    for value in field.low, field.high:
        assert decode(encode(opcode, **{field.name: value}))[field.name] == value


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="Unknown instruction field 'colour'"):
        encode(Opcode.MATMUL, colour=3)
    with pytest.raises(ValueError, match="Unknown instruction field 'n_lines'"):
        encode(Opcode.MATMUL, n_lines=3)


def header_numbers():
    return {name: int(value.rstrip("u"), 0) for name, value in
            re.findall(r"^#define LOCKSTEP_(\w+) (\S+)", c_header(), re.MULTILINE)}


def test_the_header_holds_the_numbers_of_python():
    expected = {"MAGIC": MAGIC, "INSTRUCTION_WORDS": N_WORDS}
    for kind, prefix in ((Register, "REG"), (AddressWindow, "WINDOW"), (Opcode, "OP"),
                         (Feed, "FEED"), (LocalMemory, "LOCAL"), (Counter, "COUNTER"),
                         (ErrorCode, "ERROR")):
        expected |= {f"{prefix}_{item.name}": item.value for item in kind}
    groups = {"": COMMON_FIELDS} | {f"{format_.name}_": FIELDS[format_][len(COMMON_FIELDS):]
                                    for format_ in Format}
    for prefix, fields in groups.items():
        for field in fields:
            for what in "word", "offset", "width":
                name = f"FIELD_{prefix}{field.name.upper()}_{what.upper()}"
                expected[name] = getattr(field, what)
    numbers = header_numbers()
    assert numbers.pop("VERSION") >= 1
    assert numbers == expected


@pytest.mark.skipif(shutil.which("gcc") is None, reason="gcc is not in PATH")
def test_the_header_compiles(tmp_path):
    (tmp_path / "lockstep_isa.h").write_text(c_header())
    (tmp_path / "check.c").write_text(
        '#include "lockstep_isa.h"\n#include "lockstep_isa.h"\n'
        f"_Static_assert(LOCKSTEP_INSTRUCTION_WORDS == {N_WORDS}, \"words\");\n"
        f"_Static_assert(LOCKSTEP_REG_STATUS == {Register.STATUS.value}, \"status\");\n")
    subprocess.run(["gcc", "-fsyntax-only", "-std=c11", "-Wall", "-Wextra", "-Werror", "-pedantic",
                    "check.c"], cwd=tmp_path, check=True)


def test_the_tables_have_a_row_for_every_field():
    fields = [*COMMON_FIELDS, *(field for format_ in Format
                                for field in FIELDS[format_][len(COMMON_FIELDS):])]
    rows = [row.split(" | ") for row in markdown_table().splitlines() if re.match(r"\| \d", row)]
    assert [row[2] for row in rows] == [f"`{field.name}`" for field in fields]
    for field, (word, bits, _, _, meaning) in zip(fields, rows):
        assert word == f"| {field.word}"
        assert bits == f"{field.offset + field.width - 1}:{field.offset}"
        assert field.doc in meaning
        assert ("(signed)" in meaning) == field.signed


def test_the_tables_name_the_instructions_that_a_field_is_for():
    rows = [row.split(" | ") for row in markdown_table().splitlines()]
    users = {row[2]: row[3] for row in rows if len(row) == 5}
    assert users["`broadcast`"] == "MUL" and users["`same_weights`"] == "WINDOW"
    assert users["`opcode`"] == users["`chase`"] == users["`a_base`"] == "all"
    assert {row[0] for row in rows} >= {f"| `{opcode.name}`" for opcode in ENGINE_OF}

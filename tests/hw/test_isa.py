"""Instructions survive encoding; the C header and the table say what the Python says."""

import re
import shutil
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hw.isa import (
    FIELDS,
    MAGIC,
    N_WORDS,
    ErrorCode,
    Feed,
    Opcode,
    Register,
    Window,
    c_header,
    decode,
    encode,
    markdown_table,
)

ANY_INSTRUCTION = st.fixed_dictionaries(
    {field.name: st.integers(field.low, field.high) for field in FIELDS})


@given(ANY_INSTRUCTION)
def test_decode_inverts_encode(values):
    words = encode(**values)
    assert len(words) == N_WORDS
    assert all(0 <= word < 1 << 32 for word in words)
    assert decode(words) == values


def test_fields_share_no_bit():
    for field in FIELDS:
        for other in FIELDS:
            if field is not other and field.word == other.word:
                assert (field.offset + field.width <= other.offset
                        or other.offset + other.width <= field.offset)
    assert len({field.name for field in FIELDS}) == len(FIELDS)


@pytest.mark.parametrize("field", FIELDS, ids=lambda field: field.name)
def test_a_value_that_does_not_fit_names_its_field(field):
    for value in field.low - 1, field.high + 1:
        with pytest.raises(ValueError, match=f"'{field.name}' must be in "
                                             f"{field.low}..{field.high}, not {value}"):
            encode(**{field.name: value})
    for value in field.low, field.high:
        assert decode(encode(**{field.name: value}))[field.name] == value


def test_an_unknown_field_is_named():
    with pytest.raises(ValueError, match="Unknown instruction field 'colour'"):
        encode(opcode=1, colour=3)


def header_numbers():
    return {name: int(value.rstrip("u"), 0) for name, value in
            re.findall(r"^#define LOCKSTEP_(\w+) (\S+)", c_header(), re.MULTILINE)}


def test_the_header_holds_the_numbers_of_python():
    expected = {"MAGIC": MAGIC, "INSTRUCTION_WORDS": N_WORDS}
    for kind, prefix in ((Register, "REG"), (Window, "WINDOW"), (Opcode, "OP"), (Feed, "FEED"),
                         (ErrorCode, "ERROR")):
        expected |= {f"{prefix}_{item.name}": item.value for item in kind}
    for field in FIELDS:
        for what in "word", "offset", "width":
            expected[f"FIELD_{field.name.upper()}_{what.upper()}"] = getattr(field, what)
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


def test_the_table_has_a_row_for_every_field():
    rows = [row.split(" | ") for row in markdown_table().splitlines()[2:]]
    assert [row[2] for row in rows] == [f"`{field.name}`" for field in FIELDS]
    for field, (word, bits, _, meaning) in zip(FIELDS, rows):
        assert word == f"| {field.word}"
        assert bits == f"{field.offset + field.width - 1}:{field.offset}"
        assert field.doc in meaning
        assert ("(signed)" in meaning) == field.signed
